// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: a time of the peer's is on our clock within the error that is stated, whatever
 * the network does to a message and however the clocks drift.
 * Seen to fail: with the newest sample for the one with the shortest trip; without the
 * drift in the error.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "decide/clock.h"

#define US 1000ULL
#define SECOND 1000000000ULL

static uint64_t seed = 4747;

static uint64_t draw(uint64_t below)
{
	seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
	return (seed >> 33) % below;
}

/* Theirs runs @ppm faster, and is @ahead of ours at 0. */
static uint64_t theirs(uint64_t ours, uint64_t ahead, uint64_t ppm)
{
	return ours + ahead + ours / 1000000 * ppm;
}

static void the_error_covers_the_truth(void **state)
{
	(void)state;
	for (int run = 0; run < 200; run++) {
		uint64_t ahead = draw(1 << 30) * 1000, ppm = draw(CLOCK_DRIFT_PPM + 1), now = SECOND;
		struct clock_pair c;

		clock_init(&c);
		for (int i = 0; i < 100; i++) {
			uint64_t out = 10 * US + (draw(4) ? 0 : draw(20000 * US)), back = 10 * US + (draw(4) ? 0 : draw(20000 * US));
			uint64_t there = draw(50 * US), error;
			int64_t offset, truth;

			clock_learn(&c, now, theirs(now + out, ahead, ppm), theirs(now + out + there, ahead, ppm),
				    now + out + there + back);
			now += out + there + back + draw(SECOND);
			assert_true(clock_offset(&c, now, &offset, &error));
			truth = (int64_t)(theirs(now, ahead, ppm) - now);
			assert_true((uint64_t)llabs(truth - offset) <= error + 1000);
		}
	}
}

static void the_shortest_trip_is_believed(void **state)
{
	struct clock_pair c;
	int64_t offset;
	uint64_t error;

	(void)state;
	clock_init(&c);
	clock_learn(&c, 1000 * US, 5020 * US, 5020 * US, 1040 * US);
	clock_learn(&c, 2000 * US, 9000 * US, 9000 * US, 5000 * US); /* 3 ms of it one way */
	assert_true(clock_offset(&c, 5000 * US, &offset, &error));
	assert_true(offset == 4000 * (int64_t)US && error <= 21 * US);
	assert_true(clock_trip_ns(&c) == 3000 * US);
}

static void what_cannot_be_is_left_out(void **state)
{
	struct clock_pair c;
	int64_t offset;
	uint64_t error;

	(void)state;
	clock_init(&c);
	assert_false(clock_offset(&c, 0, &offset, &error));
	clock_learn(&c, 1000, 500, 400, 2000);	 /* answered before it came */
	clock_learn(&c, 2000, 500, 600, 1000);	 /* back before it left */
	clock_learn(&c, 1000, 500, 9500, 2000); /* longer there than away */
	assert_false(clock_offset(&c, 0, &offset, &error));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_error_covers_the_truth),
		cmocka_unit_test(the_shortest_trip_is_believed),
		cmocka_unit_test(what_cannot_be_is_left_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
