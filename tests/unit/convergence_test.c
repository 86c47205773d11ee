// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: no switchover that is not expected to make it; a guest that writes little pays
 * little; a moment that does not get better is taken; a stall is seen.
 * Seen to fail: without the bound's steps a round at half the limit switches at once;
 * without "shrinks" the minimum is never taken before the bound has come up to it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "decide/convergence.h"

#define MS 1000000ULL

static void begin(struct convergence *c, uint64_t limit_ms, unsigned int steps, bool may_throttle)
{
	struct convergence_config cfg = { .limit_ns = limit_ms * MS, .data_ns = UINT64_MAX, .steps = steps,
					  .may_throttle = may_throttle };

	convergence_init(c, &cfg);
}

static enum converge_advice round_of(struct convergence *c, uint64_t ms)
{
	struct convergence_round now = { ms * MS, 0 };

	return convergence_round(c, &now);
}

static void switches_only_within_the_limit(void **state)
{
	struct convergence c;

	(void)state;
	begin(&c, 10, 1, false);
	assert_int_equal(round_of(&c, 11), CONVERGE_GO_ON);
	assert_int_equal(round_of(&c, 10), CONVERGE_SWITCH);
}

static void an_idle_guest_pays_little_whatever_the_limit(void **state)
{
	struct convergence c;

	(void)state;
	begin(&c, 300, 5, false); /* steps at 30, 97, 165, 232, 300 ms */
	assert_int_equal(round_of(&c, 150), CONVERGE_GO_ON); /* would do, but it shrinks */
	assert_int_equal(round_of(&c, 40), CONVERGE_SWITCH); /* the second step is at 97 */
}

static void steps_end_at_the_limit(void **state)
{
	struct convergence c;

	(void)state;
	begin(&c, 300, 5, false);
	for (int i = 0; i < 9; i++)
		assert_int_not_equal(round_of(&c, 301), CONVERGE_SWITCH);
	assert_true(c.bound_ns == 300 * MS);
	assert_int_equal(round_of(&c, 300), CONVERGE_SWITCH);
}

static void a_local_minimum_is_taken(void **state)
{
	struct convergence c;

	(void)state;
	begin(&c, 300, 5, false);
	assert_int_equal(round_of(&c, 290), CONVERGE_GO_ON);
	assert_int_equal(round_of(&c, 200), CONVERGE_GO_ON); /* shrinks, above the step */
	assert_int_equal(round_of(&c, 210), CONVERGE_SWITCH); /* not any more: as good as it gets */
}

static void a_bad_moment_is_waited_out(void **state)
{
	struct convergence c;

	(void)state;
	begin(&c, 300, 9, false);
	round_of(&c, 200);
	assert_int_equal(round_of(&c, 280), CONVERGE_GO_ON); /* within the limit, far above the best */
	assert_int_equal(round_of(&c, 205), CONVERGE_SWITCH);
}

static void bytes_may_take_their_share_only(void **state)
{
	struct convergence_config cfg = { .limit_ns = 100 * MS, .data_ns = 50 * MS, .steps = 1 };
	struct convergence_round much = { 90 * MS, 60 * MS }, less = { 90 * MS, 50 * MS };
	struct convergence c;

	(void)state;
	convergence_init(&c, &cfg);
	assert_int_equal(convergence_round(&c, &much), CONVERGE_GO_ON);
	assert_int_equal(convergence_round(&c, &less), CONVERGE_SWITCH);
}

static void three_rounds_without_progress_are_a_stall(void **state)
{
	struct convergence c;

	(void)state;
	begin(&c, 1, 1, false);
	assert_int_equal(round_of(&c, 100), CONVERGE_GO_ON);
	assert_int_equal(round_of(&c, 99), CONVERGE_GO_ON);
	assert_int_equal(round_of(&c, 99), CONVERGE_GO_ON);
	assert_int_equal(round_of(&c, 99), CONVERGE_STALLED);
	assert_int_equal(round_of(&c, 50), CONVERGE_GO_ON); /* progress */
}

static void throttling_grows_step_by_step_to_99(void **state)
{
	struct convergence c;
	unsigned int last = 0, steps = 0;

	(void)state;
	begin(&c, 1, 1, true);
	for (int i = 0; i < 100; i++)
		if (round_of(&c, 100) == CONVERGE_THROTTLE) {
			assert_true(c.throttle > last && c.throttle <= 99);
			last = c.throttle;
			steps++;
		}
	assert_int_equal(last, 99);
	assert_in_range(steps, 8, 10);
	assert_int_equal(round_of(&c, 100), CONVERGE_STALLED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(switches_only_within_the_limit),
		cmocka_unit_test(an_idle_guest_pays_little_whatever_the_limit),
		cmocka_unit_test(steps_end_at_the_limit),
		cmocka_unit_test(a_local_minimum_is_taken),
		cmocka_unit_test(a_bad_moment_is_waited_out),
		cmocka_unit_test(bytes_may_take_their_share_only),
		cmocka_unit_test(three_rounds_without_progress_are_a_stall),
		cmocka_unit_test(throttling_grows_step_by_step_to_99),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
