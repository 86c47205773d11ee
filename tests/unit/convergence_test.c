// SPDX-License-Identifier: GPL-2.0-or-later
/* Promise: no switchover that is not expected to make it; a stall is seen and named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "decide/convergence.h"
#include "decide/predictor.h"

#define MS 1000000ULL

static void switches_only_within_the_limit(void **state)
{
	struct convergence c;

	(void)state;
	convergence_init(&c, false);
	assert_int_equal(convergence_round(&c, 11 * MS, 10 * MS), CONVERGE_GO_ON);
	assert_int_equal(convergence_round(&c, 10 * MS, 10 * MS), CONVERGE_SWITCH);
}

static void three_rounds_without_progress_are_a_stall(void **state)
{
	struct convergence c;

	(void)state;
	convergence_init(&c, false);
	assert_int_equal(convergence_round(&c, 100 * MS, MS), CONVERGE_GO_ON);
	assert_int_equal(convergence_round(&c, 99 * MS, MS), CONVERGE_GO_ON);
	assert_int_equal(convergence_round(&c, 99 * MS, MS), CONVERGE_GO_ON);
	assert_int_equal(convergence_round(&c, 99 * MS, MS), CONVERGE_STALLED);
	assert_int_equal(convergence_round(&c, 50 * MS, MS), CONVERGE_GO_ON); /* progress */
}

static void throttling_grows_step_by_step_to_99(void **state)
{
	struct convergence c;
	unsigned int last = 0, steps = 0;

	(void)state;
	convergence_init(&c, true);
	for (int i = 0; i < 100; i++)
		if (convergence_round(&c, 100 * MS, MS) == CONVERGE_THROTTLE) {
			assert_true(c.throttle > last && c.throttle <= 99);
			last = c.throttle;
			steps++;
		}
	assert_int_equal(last, 99);
	assert_in_range(steps, 8, 10);
	assert_int_equal(convergence_round(&c, 100 * MS, MS), CONVERGE_GO_ON);
}

static void prediction_grows_with_what_is_left_and_with_slower_links(void **state)
{
	struct predictor p;
	struct prediction few, many, slow;

	(void)state;
	predictor_init(&p);
	predictor_learn_goodput(&p, 1000 << 20, 1000 * MS);
	predictor_predict(&p, 1 << 20, 0, &few);
	predictor_predict(&p, 100 << 20, 0, &many);
	assert_true(many.upper_ns > few.upper_ns + 90 * MS);
	predictor_learn_goodput(&p, 100 << 20, 1000 * MS);
	predictor_predict(&p, 100 << 20, 0, &slow);
	assert_true(slow.upper_ns > many.upper_ns + 50 * MS);
}

static void state_and_every_part_count(void **state)
{
	struct predictor p;
	struct prediction a, b;

	(void)state;
	predictor_init(&p);
	predictor_learn_goodput(&p, 1000 << 20, 1000 * MS);
	predictor_predict(&p, 0, 0, &a);
	predictor_predict(&p, 0, 200 << 20, &b);
	assert_in_range(b.upper_ns - a.upper_ns, 190 * MS, 210 * MS);
	predictor_learn(&p, PART_LOAD, 150 * MS);
	predictor_predict(&p, 0, 0, &b);
	assert_true(b.upper_ns > a.upper_ns + 140 * MS);
	assert_true(b.part_ns[PART_LOAD] >= 150 * MS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(switches_only_within_the_limit),
		cmocka_unit_test(three_rounds_without_progress_are_a_stall),
		cmocka_unit_test(throttling_grows_step_by_step_to_99),
		cmocka_unit_test(prediction_grows_with_what_is_left_and_with_slower_links),
		cmocka_unit_test(state_and_every_part_count),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
