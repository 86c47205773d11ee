// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: a blackout is foreseen part by part, with what is left and with slower links it
 * grows, a device is named, a cold start is careful and says so.
 * Seen to fail: with no half trip for GO; with the mean of rounds for the low quartile; without the devices; with a
 * trip that knows nothing of bytes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "decide/predictor.h"

#define US 1000ULL
#define MS 1000000ULL

/* @times blackouts of 8 parts of @part_us each */
static void live_through(struct predictor *p, int times, uint64_t part_us)
{
	for (int n = 0; n < times; n++)
		for (int i = 0; i < PART_NR; i++)
			predictor_learn_part(p, (enum predictor_part)i, 0, part_us * US);
}

static void a_cold_start_is_careful_and_says_so(void **state)
{
	struct prediction cold, warm;
	struct predictor p;

	(void)state;
	predictor_init(&p);
	predictor_predict(&p, 0, 0, &cold);
	assert_true(cold.is_cold && cold.whole.upper_ns >= 2 * cold.whole.mean_ns);
	/* that one part is late is likely, that all are is not */
	assert_true(cold.whole.likely_ns == cold.whole.mean_ns + cold.part[PART_START].mean_ns / 2);
	live_through(&p, 20, 50);
	predictor_predict(&p, 0, 0, &warm);
	assert_true(!warm.is_cold && warm.whole.upper_ns < cold.whole.upper_ns);
	assert_true(warm.sum_ns == 7 * 50 * US); /* saving goes on beside the pages */
}

static void a_cold_start_knows_how_far_the_peer_is(void **state)
{
	struct prediction near, far;
	struct predictor p;

	(void)state;
	predictor_init(&p);
	predictor_predict(&p, 0, 0, &near);
	predictor_guess_trip(&p, 20 * MS);
	predictor_predict(&p, 0, 0, &far);
	assert_true(far.whole.mean_ns == near.whole.mean_ns + 30 * MS); /* state and READY; GO */
	/* What was measured is not guessed any more. */
	live_through(&p, 20, 50);
	predictor_predict(&p, 0, 0, &near);
	predictor_guess_trip(&p, 40 * MS);
	predictor_predict(&p, 0, 0, &far);
	assert_true(far.whole.mean_ns == near.whole.mean_ns);
}

static void it_grows_with_what_is_left_and_with_slower_links(void **state)
{
	struct prediction few, many, slow;
	struct predictor p;

	(void)state;
	predictor_init(&p);
	predictor_learn_goodput(&p, 1000000000, 1000 * MS);
	predictor_predict(&p, 1 << 20, 0, &few);
	predictor_predict(&p, 100 << 20, 0, &many);
	assert_in_range(many.data_ns - few.data_ns, 103 * MS, 105 * MS);
	predictor_learn_goodput(&p, 100000000, 1000 * MS);
	predictor_predict(&p, 100 << 20, 0, &slow);
	assert_in_range(slow.data_ns, 1040 * MS, 1060 * MS);
}

static void what_is_on_its_way_is_waited_for(void **state)
{
	struct prediction few, many, unheard;
	struct predictor p;

	(void)state;
	predictor_init(&p);
	live_through(&p, 20, 50);
	predictor_learn_goodput(&p, 1000000000, 1000 * MS);
	for (int n = 0; n < ESTIMATE_SAMPLES; n++) /* a link that takes 50 KB at once, and of 200 KB keeps 150 for a while */
		predictor_learn_part(&p, PART_TRIP, n % 2 ? 50000 : 200000, n % 2 ? 60 * US : 1260 * US);
	predictor_predict(&p, 40000, 10000, &few);
	predictor_predict(&p, 190000, 10000, &many);
	predictor_predict(&p, 100 << 20, 10000, &unheard);
	assert_in_range(few.part[PART_TRIP].mean_ns, 50 * US, 70 * US);
	assert_in_range(many.part[PART_TRIP].mean_ns, 1200 * US, 1300 * US);
	/* more than the link was ever seen to keep is sent, not kept */
	assert_in_range(unheard.part[PART_TRIP].mean_ns, 1200 * US, 1300 * US);
	assert_in_range(unheard.part[PART_PAGES].mean_ns, 103 * MS, 106 * MS);
}

static void one_good_round_promises_nothing(void **state)
{
	struct predictor p;

	(void)state;
	predictor_init(&p);
	for (int i = 0; i < 12; i++)
		predictor_learn_goodput(&p, i % 3 ? 3000000000 : 1000000000, 1000 * MS);
	assert_true(predictor_goodput(&p) == 1000000000);
	predictor_learn_goodput(&p, 1000, 1); /* too short to tell */
	assert_true(predictor_goodput(&p) == 1000000000);
}

static void the_device_that_costs_most_is_named(void **state)
{
	struct prediction x;
	struct predictor p;

	(void)state;
	predictor_init(&p);
	predictor_add_device(&p, "disk0", "disk", 4096);
	predictor_add_device(&p, "nic0", "nic", 50 << 20);
	live_through(&p, 20, 50);
	for (int i = 0; i < 20; i++) {
		estimate_learn(&p.device[0].save, 4096, 10 * US);
		estimate_learn(&p.device[0].load, 4096, 20 * US);
		estimate_learn(&p.device[1].save, 50 << 20, 5 * MS);
		estimate_learn(&p.device[1].load, 50 << 20, 61 * MS);
	}
	predictor_predict(&p, 0, 50 << 20, &x);
	assert_int_equal(x.device, 1);
	assert_true(x.device_ns == 66 * MS && !x.is_cold);
	assert_in_range(x.part[PART_LOAD].mean_ns, 61 * MS, 62 * MS);
	assert_in_range(x.part[PART_SAVE].mean_ns, 4900 * US, 5100 * US);
}

static void whole_blackouts_teach_what_the_parts_cannot(void **state)
{
	struct prediction x;
	struct predictor p;

	(void)state;
	predictor_init(&p);
	live_through(&p, 30, 100);
	for (int i = 0; i < 30; i++) { /* always a fifth more than the parts say, at most half */
		predictor_predict(&p, 0, 0, &x);
		predictor_learn_total(&p, x.sum_ns, x.sum_ns * (i % 10 ? 12 : 15) / 10);
	}
	predictor_predict(&p, 0, 0, &x);
	assert_true(x.whole.mean_ns == x.sum_ns * 12 / 10);
	assert_in_range(x.whole.upper_ns, x.sum_ns * 11 / 10, x.sum_ns * 16 / 10);
}

static void what_is_still_to_come_is_the_sum_of_the_parts_left(void **state)
{
	struct prediction x;
	struct predictor p;

	(void)state;
	predictor_init(&p);
	live_through(&p, 30, 100);
	predictor_predict(&p, 0, 0, &x);
	assert_true(predictor_from(&x, PART_STOP) == x.sum_ns);
	assert_true(predictor_from(&x, PART_START) == 100 * US);
	assert_true(predictor_from(&x, PART_NR) == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_cold_start_is_careful_and_says_so),
		cmocka_unit_test(a_cold_start_knows_how_far_the_peer_is),
		cmocka_unit_test(it_grows_with_what_is_left_and_with_slower_links),
		cmocka_unit_test(what_is_on_its_way_is_waited_for),
		cmocka_unit_test(one_good_round_promises_nothing),
		cmocka_unit_test(the_device_that_costs_most_is_named),
		cmocka_unit_test(whole_blackouts_teach_what_the_parts_cannot),
		cmocka_unit_test(what_is_still_to_come_is_the_sum_of_the_parts_left),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
