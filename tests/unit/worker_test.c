// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: the loop goes on while works block; each work's done() runs once, on the loop, and sees
 * all that run() wrote. Seen failing with push_finished() relaxed under TSan, and with done() called
 * by the thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>

#include "base/deadline.h"
#include "base/worker.h"

#define MANY 1000
#define PATIENCE (60 * NS_PER_S)

struct job {
	struct work work;
	struct fixture *x;
	uint64_t result; /* plain: its order is the worker's promise */
	int again;
};

struct fixture {
	struct loop *loop;
	struct worker *worker;
	pthread_t loop_thread;
	sem_t gate;
	struct job jobs[MANY];
	int nr_done, wanted;
	int order[MANY];
};

static int set_up(void **state)
{
	struct fixture *x = calloc(1, sizeof(*x));

	x->loop = loop_new();
	x->loop_thread = pthread_self();
	sem_init(&x->gate, 0, 0);
	assert_int_equal(worker_open(x->loop, &x->worker), 0);
	*state = x;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *x = *state;

	worker_close(x->worker);
	loop_free(x->loop);
	sem_destroy(&x->gate);
	free(x);
	return 0;
}

static void square(struct work *w)
{
	struct job *j = w->owner;

	j->result *= j->result;
}

static void wait_at_gate(struct work *w)
{
	struct job *j = w->owner;

	while (sem_wait(&j->x->gate))
		;
}

static void count(struct work *w)
{
	struct job *j = w->owner;
	struct fixture *x = j->x;

	assert_true(pthread_equal(pthread_self(), x->loop_thread));
	assert_false(w->is_out);
	if (j->again-- > 0) {
		worker_do(x->worker, w);
		return;
	}
	x->order[x->nr_done++] = (int)(j - x->jobs);
	if (x->nr_done == x->wanted)
		loop_stop(x->loop);
}

static void give(struct fixture *x, int i, void (*run)(struct work *))
{
	x->jobs[i].x = x;
	x->jobs[i].work = (struct work){ .run = run, .done = count, .owner = &x->jobs[i] };
	worker_do(x->worker, &x->jobs[i].work);
}

static void every_work_is_done_once(void **state)
{
	struct fixture *x = *state;
	bool seen[MANY] = { false };

	x->wanted = MANY;
	for (int i = 0; i < MANY; i++) {
		x->jobs[i].result = (uint64_t)i;
		give(x, i, square);
	}
	assert_int_equal(loop_run(x->loop), 0);
	for (int i = 0; i < MANY; i++) {
		assert_int_equal(x->jobs[i].result, i * i);
		assert_false(seen[x->order[i]]);
		seen[x->order[i]] = true;
	}
}

/* A work that blocks holds up neither the loop nor the works after it. */
static void a_work_that_blocks_holds_nobody_up(void **state)
{
	struct fixture *x = *state;

	give(x, 0, wait_at_gate);
	x->wanted = 100;
	for (int i = 1; i <= 100; i++)
		give(x, i, square);
	assert_int_equal(loop_run(x->loop), 0);
	for (int i = 0; i < 100; i++)
		assert_int_not_equal(x->order[i], 0);
	x->wanted = 101;
	sem_post(&x->gate);
	assert_int_equal(loop_run(x->loop), 0);
	assert_int_equal(x->order[100], 0);
}

/* More works than threads, all of which block: the rest waits and loses nothing. */
static void works_wait_for_threads(void **state)
{
	struct fixture *x = *state;

	for (int i = 0; i < 200; i++)
		give(x, i, wait_at_gate);
	x->wanted = 200;
	for (int i = 0; i < 200; i++)
		sem_post(&x->gate);
	assert_int_equal(loop_run(x->loop), 0);
	assert_int_equal(x->nr_done, 200);
}

static void a_work_is_handed_out_again_by_its_done(void **state)
{
	struct fixture *x = *state;

	x->wanted = 8;
	for (int i = 0; i < 8; i++) {
		x->jobs[i].again = 50;
		give(x, i, square);
	}
	assert_int_equal(loop_run(x->loop), 0);
	assert_int_equal(x->nr_done, 8);
}

static void draining_ends_at_its_deadline_and_goes_on_later(void **state)
{
	struct fixture *x = *state;

	give(x, 0, wait_at_gate);
	give(x, 1, square);
	assert_false(worker_drain(x->worker, now_ns() + 20 * NS_PER_MS));
	sem_post(&x->gate);
	assert_true(worker_drain(x->worker, now_ns() + PATIENCE));
	assert_int_equal(x->nr_done, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(every_work_is_done_once, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_work_that_blocks_holds_nobody_up, set_up, tear_down),
		cmocka_unit_test_setup_teardown(works_wait_for_threads, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_work_is_handed_out_again_by_its_done, set_up, tear_down),
		cmocka_unit_test_setup_teardown(draining_ends_at_its_deadline_and_goes_on_later, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
