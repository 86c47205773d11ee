// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: who shares a processor is seen to wait for it, who sleeps is not, whatever it waited
 * before; another process's threads are not taken for ours.
 * Seen to fail: with what was waited before the first look counted in; without the share of time.
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "vm/runqueue.h"

#define WINDOWS 100

static void *spin(void *arg)
{
	for (;;)
		;
	return arg;
}

/* A process of @nr threads that want one processor; its first one sleeps. */
static pid_t on_one_processor(int nr)
{
	pid_t pid = fork();
	cpu_set_t one;
	pthread_t t;

	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	sched_setaffinity(0, sizeof(one), &one);
	for (int i = 0; i < nr; i++)
		pthread_create(&t, NULL, spin, NULL);
	for (;;)
		pause();
}

static void end(pid_t pid)
{
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static struct runqueue_look before, now;

/*
 * Looks at a process of @nr such threads, in one window after the other, until @accept is true of what it
 * waited in one. Other processes of a busy host may spoil a window, never all of them.
 */
static bool sees(int nr, bool (*accept)(uint64_t wait_ns))
{
	pid_t pid = on_one_processor(nr);
	bool seen = false;

	for (int i = 0; i < WINDOWS && !seen; i++) {
		usleep(50000);
		runqueue_look(&before, pid);
		usleep(200000);
		runqueue_look(&now, pid);
		assert_true(now.nr >= before.nr); /* a sanitizer has threads of its own */
		seen = now.nr > (unsigned int)nr && accept(runqueue_wait_ns(&before, &now));
	}
	end(pid);
	return seen;
}

/* A turn is never shorter than this on any kernel. */
static bool is_a_turn(uint64_t wait_ns)
{
	return wait_ns > 100000;
}

static bool is_nothing(uint64_t wait_ns)
{
	return !wait_ns;
}

static void who_shares_a_processor_waits(void **state)
{
	(void)state;
	assert_true(sees(2, is_a_turn));
}

static void what_was_waited_before_does_not_count(void **state)
{
	struct runqueue_look early = { .at_ns = 1000000000, .nr = 2, .thread = { { 7, 5000, 10 }, { 8, 90000000, 30 } } };
	struct runqueue_look late = { .at_ns = 1100000000, .nr = 3,
				      .thread = { { 8, 90000000, 31 }, { 7, 13005000, 14 }, { 9, 500000000, 20 } } };

	(void)state;
	/* 7: 13 ms in 4 turns; 8: nothing; 9: there was none before, and whoever it was then was not it */
	assert_true(runqueue_wait_ns(&early, &late) == 3250000);
	late.thread[0].waited_ns += 600000000; /* left on the queue, asleep */
	assert_true(runqueue_wait_ns(&early, &late) == 3250000);
	late.thread[0].waited_ns -= 450000000; /* a turn that it waited for since before */
	assert_true(runqueue_wait_ns(&early, &late) == 150000000);
	late.thread[0].waited_ns -= 150000000;
	late.thread[1].waited_ns = 5000 + 12000000; /* less than an eighth of 100 ms */
	assert_true(runqueue_wait_ns(&early, &late) == 0);
}

static void who_sleeps_waits_for_nothing(void **state)
{
	(void)state;
	assert_true(sees(0, is_nothing));
	runqueue_look(&now, 0x7fffffff); /* nobody */
	assert_true(now.nr == 0 && runqueue_wait_ns(&before, &now) == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_shares_a_processor_waits),
		cmocka_unit_test(what_was_waited_before_does_not_count),
		cmocka_unit_test(who_sleeps_waits_for_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
