// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: of a flood a burst is said and one summary a period, no message is forgotten, and a quiet
 * time ends it. Seen to fail with said = 0 in ratelimit_sum_up(), and with kept left as it was there.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/ratelimit.h"

#define S 1000000000ULL

static void a_flood_costs_a_burst_and_a_line_a_period(void **state)
{
	struct ratelimit r = { .burst = 10, .period_ns = 10 * S };
	unsigned int said = 0, summed = 0, lines = 0;
	uint64_t now = 3 * S;

	(void)state;
	for (int i = 0; i < 100000; i++, now += S / 1000) {
		unsigned int n;

		said += ratelimit_may_say(&r, now);
		n = ratelimit_sum_up(&r, now);
		summed += n;
		lines += !!n;
	}
	assert_int_equal(said, 10);
	assert_in_range(lines, 9, 10);
	now += 10 * S;
	summed += ratelimit_sum_up(&r, now);
	assert_int_equal(said + summed, 100000);
	assert_int_equal(ratelimit_due_ns(&r), 0);
	assert_int_equal(ratelimit_sum_up(&r, now + 100 * S), 0);
}

static void after_a_quiet_period_there_is_a_burst_again(void **state)
{
	struct ratelimit r = { .burst = 3, .period_ns = 10 * S };

	(void)state;
	for (uint64_t now = S; now < 100 * S; now += 10 * S) {
		for (int i = 0; i < 3; i++)
			assert_true(ratelimit_may_say(&r, now + (uint64_t)i));
		assert_int_equal(ratelimit_due_ns(&r), 0);
	}
}

static void a_summary_is_due_at_the_end_of_its_period(void **state)
{
	struct ratelimit r = { .burst = 1, .period_ns = 10 * S };

	(void)state;
	assert_true(ratelimit_may_say(&r, 5 * S));
	assert_false(ratelimit_may_say(&r, 6 * S));
	assert_false(ratelimit_may_say(&r, 7 * S));
	assert_int_equal(ratelimit_due_ns(&r), 15 * S);
	assert_int_equal(ratelimit_sum_up(&r, 15 * S - 1), 0);
	/* Nobody looked in time: what comes late is in the summary, too. */
	assert_false(ratelimit_may_say(&r, 16 * S));
	assert_int_equal(ratelimit_sum_up(&r, 17 * S), 3);
	assert_false(ratelimit_may_say(&r, 18 * S));
	assert_int_equal(ratelimit_sum_up(&r, 27 * S), 1);
	assert_true(ratelimit_may_say(&r, 37 * S));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_flood_costs_a_burst_and_a_line_a_period),
		cmocka_unit_test(after_a_quiet_period_there_is_a_burst_again),
		cmocka_unit_test(a_summary_is_due_at_the_end_of_its_period),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
