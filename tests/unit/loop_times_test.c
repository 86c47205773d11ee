// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: a quantile is never smaller than the true one and at most a sixteenth (and a unit of
 * 1024 ns) larger; the worst is exact and has its name. Seen to fail with end_of() that returns
 * the begin of a bucket, and with a restart that leaves the worst.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "base/loop_times.h"

#define NR 5000

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void check(const struct loop_span *s, const uint64_t *sorted, unsigned int per_mille)
{
	uint64_t is = sorted[(NR * per_mille + 999) / 1000 - 1], said = loop_span_quantile(s, per_mille);

	assert_true(said >= is);
	assert_true(said <= is + is / 16 + 1024);
}

static void quantiles_are_true_over_the_whole_range(void **state)
{
	static const unsigned int quantiles[] = { 1, 250, 500, 900, 990, 999, 1000 };
	static struct loop_times t;
	static uint64_t ns[NR];
	unsigned int seed = 7;

	(void)state;
	for (unsigned int bits = 8; bits < 40; bits++) {
		loop_times_begin(&t, 1);
		for (int i = 0; i < NR; i++) {
			ns[i] = (((uint64_t)rand_r(&seed) << 31) | (uint64_t)rand_r(&seed)) & ((1ULL << bits) - 1);
			loop_times_note(&t, "x", ns[i], 0);
		}
		qsort(ns, NR, sizeof(ns[0]), compare);
		for (unsigned int i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++)
			check(&t.all, ns, quantiles[i]);
		assert_int_equal(t.all.worst_ns, ns[NR - 1]);
		assert_int_equal(loop_span_quantile(&t.all, 1000), ns[NR - 1]);
	}
}

static void the_longest_imaginable_has_a_bucket(void **state)
{
	static struct loop_times t;

	(void)state;
	loop_times_note(&t, "for ever", UINT64_MAX, 0);
	assert_string_equal(t.all.worst_name, "for ever");
	assert_true(loop_span_quantile(&t.all, 500) > 1000000000ULL * 86400);
}

static void recent_figures_begin_anew_and_the_others_stay(void **state)
{
	static struct loop_times t;

	(void)state;
	loop_times_begin(&t, 5);
	assert_int_equal(loop_span_quantile(&t.all, 500), 0);
	loop_times_note(&t, "peer", 7000000, 300);
	loop_times_note(&t, "VMM", 5000, 0);
	loop_times_restart(&t, 9);
	loop_times_note(&t, "client", 80000, 20);
	assert_int_equal(t.all.since_ns, 5);
	assert_int_equal(t.all.count, 3);
	assert_int_equal(t.all.worst_ns, 7000000);
	assert_int_equal(t.all.worst_waited_ns, 300);
	assert_int_equal(t.all.waited_ns, 320);
	assert_string_equal(t.all.worst_name, "peer");
	assert_int_equal(t.recent.since_ns, 9);
	assert_int_equal(t.recent.count, 1);
	assert_int_equal(t.recent.worst_ns, 80000);
	assert_int_equal(t.recent.waited_ns, 20);
	assert_string_equal(t.recent.worst_name, "client");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(quantiles_are_true_over_the_whole_range),
		cmocka_unit_test(the_longest_imaginable_has_a_bucket),
		cmocka_unit_test(recent_figures_begin_anew_and_the_others_stay),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
