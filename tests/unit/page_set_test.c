// SPDX-License-Identifier: GPL-2.0-or-later
/* Promise: a set holds what was added, no more, and is empty after a clear. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "pages/page_set.h"

static uint64_t count(const struct page_set *s)
{
	uint64_t n = 0;

	for (unsigned int r = 0; r < s->nr_regions; r++)
		for (uint64_t w = 0; w < s->regions[r].nr_words; w++) {
			uint64_t bits = s->regions[r].words[w];

			n += (uint64_t)__builtin_popcountll(bits);
			/* a word with pages has its summary bit */
			if (bits)
				assert_true(s->regions[r].summary[w / 64] & 1ULL << (w % 64));
		}
	return n;
}

static void runs_are_added_whole(void **state)
{
	const uint64_t sizes[] = { 100 << 20, 8 << 12 };
	struct page_set s;

	(void)state;
	assert_int_equal(page_set_init(&s, sizes, 2), 0);
	page_set_add(&s, 0, 60, 200);
	assert_int_equal(count(&s), 200);
	page_set_add(&s, 0, 100, 200); /* overlaps */
	page_set_add(&s, 1, 7, 1);
	assert_int_equal(count(&s), 241);
	assert_int_equal(s.nr_set, 241);
	assert_false(s.regions[0].words[0] & 1ULL << 59);
	assert_true(s.regions[0].words[0] & 1ULL << 60);
	page_set_clear(&s);
	assert_int_equal(count(&s), 0);
	assert_int_equal(s.nr_set, 0);
	page_set_fini(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(runs_are_added_whole) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
