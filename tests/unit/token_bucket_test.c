// SPDX-License-Identifier: GPL-2.0-or-later
/* Promise: over any long time no more than the rate passes, however many take. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/token_bucket.h"

#define S 1000000000ULL

static void without_a_rate_nobody_waits(void **state)
{
	struct token_bucket b;

	(void)state;
	token_bucket_init(&b, 0, 0);
	assert_int_equal(token_bucket_take(&b, 1ULL << 40, 0), 0);
	token_bucket_fini(&b);
}

static void the_rate_is_kept_over_time(void **state)
{
	struct token_bucket b;
	uint64_t now = 5 * S, sent = 0;

	(void)state;
	token_bucket_init(&b, 1000000, now);
	while (now < 15 * S) {
		uint64_t wait = token_bucket_take(&b, 7000, now);

		sent += 7000;
		now += wait ? wait : 1000;
	}
	assert_in_range(sent, 9900000, 10100000);
	token_bucket_fini(&b);
}

static void savings_are_bounded(void **state)
{
	struct token_bucket b;

	(void)state;
	token_bucket_init(&b, 1000000, 0);
	/* after an hour of silence 20 ms worth may burst, no more */
	assert_int_equal(token_bucket_take(&b, 20000, 3600 * S), 0);
	assert_in_range(token_bucket_take(&b, 1000, 3600 * S), 900000, 1100000);
	token_bucket_fini(&b);
}

static void a_clock_that_stands_or_goes_back_does_no_harm(void **state)
{
	struct token_bucket b;

	(void)state;
	token_bucket_init(&b, 1000000, 10 * S);
	token_bucket_take(&b, 20000, 10 * S);
	assert_in_range(token_bucket_take(&b, 1000000, 9 * S), S - 1000, S + 1000);
	token_bucket_set_rate(&b, 0, 9 * S);
	assert_int_equal(token_bucket_take(&b, 1000000, 9 * S), 0);
	token_bucket_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_a_rate_nobody_waits),
		cmocka_unit_test(the_rate_is_kept_over_time),
		cmocka_unit_test(savings_are_bounded),
		cmocka_unit_test(a_clock_that_stands_or_goes_back_does_no_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
