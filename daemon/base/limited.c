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

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
	[LIMITED_GUEST] = "messages were about guests of VMMs that had registered",
	[LIMITED_LOST] = "messages were about guests that may run twice, or are lost",
	[LIMITED_CLIENT] = "clients of the control socket were refused or disconnected",
};

#define BURST_OF(n) { .burst = (n), .period_ns = PERIOD_NS }

static const struct ratelimit limits[LIMITED_NR] = {
	[LIMITED_REFUSED] = BURST_OF(10),
	[LIMITED_INCOMING] = BURST_OF(20),
	[LIMITED_MISPLACED] = BURST_OF(10),
	[LIMITED_VMM] = BURST_OF(10),
	[LIMITED_REGISTERED] = BURST_OF(100), /* a host that starts has that many */
	[LIMITED_GUEST] = BURST_OF(100),
	[LIMITED_LOST] = BURST_OF(100),
	[LIMITED_CLIENT] = BURST_OF(10),
};

/** struct limited - of one daemon; the loop's. @last: of each kind the last message that was kept back */
struct limited {
	struct loop_timer timer;
	struct ratelimit limit[LIMITED_NR];
	char last[LIMITED_NR][1000]; /* a line of the log has not much more */
	bool is_error[LIMITED_NR];
};

static void set_timer(struct limited *l)
{
	uint64_t first = 0;

	for (int i = 0; i < LIMITED_NR; i++) {
		uint64_t due = ratelimit_due_ns(&l->limit[i]);

		if (due && (!first || due < first))
			first = due;
	}
	loop_timer_at(&l->timer, first);
}

static void sum_up(struct limited *l, int kind, uint64_t now)
{
	unsigned int kept = ratelimit_sum_up(&l->limit[kind], now);

	if (!kept)
		return;
	if (l->is_error[kind])
		error_report("%u more %s within %llu s; the last: %s", kept, what[kind], PERIOD_NS / NS_PER_S,
			     l->last[kind]);
	else
		notice_report("%u more %s within %llu s; the last: %s", kept, what[kind], PERIOD_NS / NS_PER_S,
			      l->last[kind]);
	l->is_error[kind] = false;
}

static void on_timer(void *owner)
{
	struct limited *l = owner;
	uint64_t now = now_ns();

	for (int i = 0; i < LIMITED_NR; i++)
		sum_up(l, i, now);
	set_timer(l);
}

/** limited_open() - summaries are said on @loop */
int limited_open(struct loop *loop, struct limited **out)
{
	struct limited *l = calloc(1, sizeof(*l));
	int err = l ? loop_timer_init(&l->timer, loop, on_timer, l) : -ENOMEM;

	if (err) {
		free(l);
		return err;
	}
	memcpy(l->limit, limits, sizeof(l->limit));
	*out = l;
	return 0;
}

/** limited_flush() - say what was kept back, whatever the time; NULL is fine */
void limited_flush(struct limited *l)
{
	for (int i = 0; l && i < LIMITED_NR; i++)
		sum_up(l, i, UINT64_MAX);
}

/** limited_close() - as limited_flush(); nothing is said through @l any more; NULL is fine */
void limited_close(struct limited *l)
{
	if (!l)
		return;
	limited_flush(l);
	loop_timer_fini(&l->timer);
	free(l);
}

static void report(struct limited *l, enum limited_kind kind, bool is_error, const char *fmt, va_list ap)
{
	char text[sizeof(l->last[0])];

	vsnprintf(text, sizeof(text), fmt, ap);
	if (!ratelimit_may_say(&l->limit[kind], now_ns())) {
		snprintf(l->last[kind], sizeof(l->last[kind]), "%s", text);
		l->is_error[kind] |= is_error;
		set_timer(l);
	} else if (is_error) {
		error_report("%s", text);
	} else {
		notice_report("%s", text);
	}
}

/** limited_error() - as error_report(), for what others can provoke; the loop's thread */
void limited_error(struct limited *l, enum limited_kind kind, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	report(l, kind, true, fmt, ap);
	va_end(ap);
}

/** limited_notice() - as notice_report(), for what others can provoke; the loop's thread */
void limited_notice(struct limited *l, enum limited_kind kind, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	report(l, kind, false, fmt, ap);
	va_end(ap);
}
