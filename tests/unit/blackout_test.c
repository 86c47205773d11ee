// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: works may have the probe watch a VMM: nothing is said, counted or timed from their threads, for the limits of
 * messages are the loop's. The loop says it afterwards, once, and nothing where there is no probe.
 * Seen to fail: with blackout_watch() calling limited_notice() itself.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <probe.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "control/blackout.h"

#define PID 4711

struct probe {
	int answer; /* to probe_watch() */
};

static struct probe probe;
static bool there_is_no_probe;
static pthread_t loop_thread;
static unsigned int nr_said, nr_said_elsewhere;
static char said[200];

/* ---- the probe: one that watches nobody ---- */

int probe_open(struct probe **out, char *why, size_t len)
{
	snprintf(why, len, "%s", there_is_no_probe ? "not here" : "");
	*out = there_is_no_probe ? NULL : &probe;
	return there_is_no_probe ? -EPERM : 0;
}

int probe_watch(struct probe *p, int pid)
{
	assert_int_equal(pid, PID);
	return p->answer;
}

void probe_close(struct probe *p)
{
	(void)p;
}

void probe_unwatch(struct probe *p, int slot)
{
	(void)p;
	(void)slot;
	fail();
}

void probe_arm(struct probe *p, int slot)
{
	(void)p;
	(void)slot;
	fail();
}

unsigned int probe_nr_vcpus(const struct probe *p, int slot)
{
	(void)p;
	(void)slot;
	return 0;
}

void probe_vcpu(const struct probe *p, int slot, unsigned int index, struct blackout_vcpu *to)
{
	(void)p;
	(void)slot;
	(void)index;
	(void)to;
}

bool probe_sees_entries(const struct probe *p, int slot)
{
	(void)p;
	(void)slot;
	return true;
}

uint64_t probe_last_exit_ns(const struct probe *p, int slot)
{
	(void)p;
	(void)slot;
	return 1;
}

uint64_t probe_first_entry_ns(const struct probe *p, int slot)
{
	(void)p;
	(void)slot;
	return 1;
}

uint64_t probe_missed(const struct probe *p)
{
	(void)p;
	return 0;
}

/* ---- the log and the limits of messages ---- */

void limited_notice(struct limited *l, enum limited_kind kind, const char *fmt, ...)
{
	va_list ap;

	(void)l;
	(void)kind;
	nr_said_elsewhere += !pthread_equal(pthread_self(), loop_thread);
	nr_said++;
	va_start(ap, fmt);
	vsnprintf(said, sizeof(said), fmt, ap);
	va_end(ap);
}

void notice_report(const char *fmt, ...)
{
	(void)fmt;
}

void scribe_append(struct scribe *s, const char *path, char *text)
{
	(void)s;
	(void)path;
	free(text);
}

void scribe_replace(struct scribe *s, const char *path, char *text)
{
	(void)s;
	(void)path;
	free(text);
}

/* ---- tests ---- */

struct watching {
	struct blackouts *b;
	int slot;
};

static void *watch(void *arg)
{
	struct watching *w = arg;

	w->slot = blackout_watch(w->b, PID);
	return NULL;
}

static int watch_on_another_thread(struct blackouts *b)
{
	struct watching w = { b, 99 };
	pthread_t t;

	assert_int_equal(pthread_create(&t, NULL, watch, &w), 0);
	pthread_join(t, NULL);
	return w.slot;
}

static struct blackouts *open_without(bool no_probe)
{
	struct blackouts *b;

	there_is_no_probe = no_probe;
	nr_said = nr_said_elsewhere = 0;
	loop_thread = pthread_self();
	assert_int_equal(blackouts_open(NULL, NULL, "/nonexistent/history", &b), 0);
	return b;
}

static void a_work_says_nothing_and_the_loop_says_it_once(void **state)
{
	struct blackouts *b = open_without(false);
	int slot;

	(void)state;
	probe.answer = -ENOSPC;
	slot = watch_on_another_thread(b);
	assert_int_equal(slot, -ENOSPC);
	assert_int_equal(nr_said + nr_said_elsewhere, 0);
	blackout_say_watched(b, slot, PID);
	assert_int_equal(nr_said, 1);
	assert_non_null(strstr(said, "4711"));
	/* What nobody watches is timed by its VMM, and nothing of the probe is asked. */
	blackout_arm(b, slot);
	blackout_unwatch(b, slot);
	assert_int_equal(blackout_by(b, slot), BLACKOUT_BY_VMM);
	assert_int_equal(blackout_last_exit_ns(b, slot), 0);
	assert_int_equal(blackout_first_entry_ns(b, slot), 0);
	blackouts_close(b);
}

static void what_is_watched_is_not_spoken_of(void **state)
{
	struct blackouts *b = open_without(false);

	(void)state;
	probe.answer = 3;
	assert_int_equal(watch_on_another_thread(b), 3);
	blackout_say_watched(b, 3, PID);
	assert_int_equal(nr_said, 0);
	assert_int_equal(blackout_first_entry_ns(b, 3), 1);
	blackouts_close(b);
}

static void without_a_probe_nobody_complains(void **state)
{
	struct blackouts *b = open_without(true);
	int slot = watch_on_another_thread(b);

	(void)state;
	assert_true(slot < 0);
	blackout_say_watched(b, slot, PID);
	assert_int_equal(nr_said, 0);
	blackouts_close(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_work_says_nothing_and_the_loop_says_it_once),
		cmocka_unit_test(what_is_watched_is_not_spoken_of),
		cmocka_unit_test(without_a_probe_nobody_complains),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
