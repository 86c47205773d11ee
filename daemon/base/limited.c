// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Messages that others can provoke: the first of each kind one by one, the rest as a count.
 *
 * Theory of operation: whatever may come from outside without end (connections, messages,
 * failed requests) is reported through here, on the loop's thread. Of each kind a burst is
 * said; then, as long as it goes on, one line every ten seconds tells how many there were and
 * has the last of them. A timer says it also when the flood has ended.
 */
#include "limited.h"

#include <stdarg.h>
#include <stdio.h>

#include "deadline.h"
#include "error.h"
#include "ratelimit.h"

#define PERIOD_NS (10 * NS_PER_S)

/* "N more ... within 10 s" */
static const char *const what[LIMITED_NR] = {
	[LIMITED_REFUSED] = "connections of peers were refused",
	[LIMITED_INCOMING] = "migrations did not arrive",
	[LIMITED_MISPLACED] = "messages of peers came out of place",
	[LIMITED_VMM] = "connections of VMMs were refused",
	[LIMITED_REGISTERED] = "VMMs came or went",
	[LIMITED_CLIENT] = "clients of the control socket were refused or disconnected",
};

#define BURST_OF(n) { .burst = (n), .period_ns = PERIOD_NS }

static struct {
	struct loop_timer timer;
	struct ratelimit limit[LIMITED_NR];
	char last[LIMITED_NR][600]; /* the last message that was kept back */
	bool is_error[LIMITED_NR];
} limited = {
	.limit = {
		[LIMITED_REFUSED] = BURST_OF(10),
		[LIMITED_INCOMING] = BURST_OF(20),
		[LIMITED_MISPLACED] = BURST_OF(10),
		[LIMITED_VMM] = BURST_OF(10),
		[LIMITED_REGISTERED] = BURST_OF(100), /* a host that starts has that many */
		[LIMITED_CLIENT] = BURST_OF(10),
	},
};

static void set_timer(void)
{
	uint64_t first = 0;

	for (int i = 0; i < LIMITED_NR; i++) {
		uint64_t due = ratelimit_due_ns(&limited.limit[i]);

		if (due && (!first || due < first))
			first = due;
	}
	loop_timer_at(&limited.timer, first);
}

static void sum_up(int kind, uint64_t now)
{
	unsigned int kept = ratelimit_sum_up(&limited.limit[kind], now);

	if (!kept)
		return;
	if (limited.is_error[kind])
		error_report("%u more %s within %llu s; the last: %s", kept, what[kind], PERIOD_NS / NS_PER_S,
			     limited.last[kind]);
	else
		notice_report("%u more %s within %llu s; the last: %s", kept, what[kind], PERIOD_NS / NS_PER_S,
			      limited.last[kind]);
	limited.is_error[kind] = false;
}

static void on_timer(void *owner)
{
	uint64_t now = now_ns();

	(void)owner;
	for (int i = 0; i < LIMITED_NR; i++)
		sum_up(i, now);
	set_timer();
}

/** limited_open() - summaries are said on @l; without it only bursts are said */
int limited_open(struct loop *l)
{
	return loop_timer_init(&limited.timer, l, on_timer, NULL);
}

/** limited_close() - say what was kept back, before the log ends */
void limited_close(void)
{
	for (int i = 0; i < LIMITED_NR; i++)
		sum_up(i, UINT64_MAX);
	loop_timer_fini(&limited.timer);
}

static void report(enum limited_kind kind, bool is_error, const char *fmt, va_list ap)
{
	char text[sizeof(limited.last[0])];

	vsnprintf(text, sizeof(text), fmt, ap);
	if (!ratelimit_may_say(&limited.limit[kind], now_ns())) {
		snprintf(limited.last[kind], sizeof(limited.last[kind]), "%s", text);
		limited.is_error[kind] |= is_error;
		set_timer();
	} else if (is_error) {
		error_report("%s", text);
	} else {
		notice_report("%s", text);
	}
}

/** limited_error() - as error_report(), for what others can provoke; the loop's thread */
void limited_error(enum limited_kind kind, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	report(kind, true, fmt, ap);
	va_end(ap);
}

/** limited_notice() - as notice_report(), for what others can provoke; the loop's thread */
void limited_notice(enum limited_kind kind, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	report(kind, false, fmt, ap);
	va_end(ap);
}
