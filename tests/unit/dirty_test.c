// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: no bit is lost or invented between producer and consumer, and no corrupt area
 * leads the reader outside of it.
 * Seen to fail: a consumer that takes the word before its summary bit; a reader without
 * the bound of summary_off; follow_kmod() without the check that the generation is even, or
 * without making a region all dirty that has another place.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "area.h"
#include "base/deadline.h"
#include "pages/dirty.h"

#define MIB (1ULL << 20)

static const uint64_t sizes[] = { 64 * MIB, 3 * MIB + 4096 * 5 };
static const struct vmferry_region regions[] = {
	{ .id = 0, .slot = 0, .gpa = 0, .size = 64 * MIB },
	{ .id = 1, .slot = 1, .gpa = 64 * MIB, .size = 3 * MIB + 4096 * 5 },
};

static void published_pages_are_collected_once(void **state)
{
	struct page_set set;
	struct area a;
	struct dirty *d;
	uint64_t n;

	(void)state;
	assert_int_equal(area_init(&a, regions, 2, 1), 0);
	assert_int_equal(dirty_open(a.fd, a.size, sizes, 2, &d), 0);
	assert_int_equal(page_set_init(&set, sizes, 2), 0);
	area_publish(&a, 0, 0, 1);
	area_publish(&a, 0, 255, 1ULL << 63);
	area_publish(&a, 1, 12, 1);	       /* page 768: within */
	area_publish(&a, 1, 12, 1ULL << 60);   /* page 828: behind the end, ignored */
	assert_int_equal(dirty_collect(d, &set, &n), 0);
	assert_int_equal(n, 3);
	assert_int_equal(set.nr_set, 3);
	assert_int_equal(dirty_collect(d, &set, &n), 0);
	assert_int_equal(n, 0);
	a.header->generation++;
	assert_int_equal(dirty_collect(d, &set, &n), -ESTALE);
	page_set_fini(&set);
	dirty_close(d);
	area_fini(&a);
}

struct race {
	struct area *area;
	bool stop;
	uint64_t *published;
};

#define RACE_PAGES 4096

static void *publish_all(void *arg)
{
	struct race *r = arg;

	for (int turn = 0; turn < 400; turn++)
		for (uint64_t p = 0; p < RACE_PAGES; p++) {
			__atomic_fetch_add(&r->published[p], 1, __ATOMIC_RELEASE);
			area_publish(r->area, 0, p / 64, 1ULL << (p % 64));
		}
	__atomic_store_n(&r->stop, true, __ATOMIC_RELEASE);
	return NULL;
}

/* Every published page is seen after its last publication, with producer and consumer racing. */
static void no_bit_is_lost_in_a_race(void **state)
{
	static uint64_t published[RACE_PAGES], seen[RACE_PAGES];
	struct race r = { .published = published };
	struct page_set set;
	struct area a;
	struct dirty *d;
	pthread_t thread;
	bool last = false;

	(void)state;
	assert_int_equal(area_init(&a, regions, 2, 1), 0);
	assert_int_equal(dirty_open(a.fd, a.size, sizes, 2, &d), 0);
	assert_int_equal(page_set_init(&set, sizes, 2), 0);
	r.area = &a;
	pthread_create(&thread, NULL, publish_all, &r);
	for (;;) {
		bool stop = __atomic_load_n(&r.stop, __ATOMIC_ACQUIRE);

		assert_int_equal(dirty_collect(d, &set, NULL), 0);
		for (uint64_t p = 0; p < RACE_PAGES; p++)
			if (set.regions[0].words[p / 64] & 1ULL << (p % 64))
				seen[p] = __atomic_load_n(&published[p], __ATOMIC_ACQUIRE);
		page_set_clear(&set);
		if (last)
			break;
		last = stop;
	}
	pthread_join(thread, NULL);
	for (uint64_t p = 0; p < RACE_PAGES; p++)
		assert_int_equal(seen[p], published[p]);
	page_set_fini(&set);
	dirty_close(d);
	area_fini(&a);
}

/* Random damage to header and tables. Opening may fail or not; reading must stay inside. */
static void corrupt_areas_are_refused_or_harmless(void **state)
{
	unsigned int seed = 77, accepted = 0;
	struct page_set set;
	struct area a;

	(void)state;
	print_message("seed %u\n", seed);
	srandom(seed);
	assert_int_equal(page_set_init(&set, sizes, 2), 0);
	for (int i = 0; i < 20000; i++) {
		struct dirty *d;

		if (i % 50 == 0) {
			if (i)
				area_fini(&a);
			assert_int_equal(area_init(&a, regions, 2, 1), 0);
		}
		if (random() % 2)
			((uint8_t *)a.header)[random() % 80] ^= (uint8_t)(1 << random() % 8);
		else
			((uint8_t *)a.regions)[random() % 128] ^= (uint8_t)(1 << random() % 8);
		if (dirty_open(a.fd, a.size, sizes, 2, &d))
			continue;
		accepted++;
		dirty_collect(d, &set, NULL);
		dirty_close(d);
	}
	area_fini(&a);
	page_set_fini(&set);
	assert_in_range(accepted, 1, 19000);
}

/* The module's area: another memfd of the same layout, with regions in its own order and one more. */
static const struct vmferry_region kmod_regions[] = {
	{ .id = 0, .slot = 7, .gpa = 1 << 30, .size = 64 * MIB },
	{ .id = 1, .slot = 1, .gpa = 64 * MIB, .size = 3 * MIB + 4096 * 5 },
	{ .id = 2, .slot = 0, .gpa = 0, .size = 64 * MIB },
};
static const uint64_t gpas[] = { 0, 64 * MIB };

struct two {
	uint64_t whole_ns; /* when finish_table() was done */
	struct area vmm, kmod;
	struct dirty *d;
	struct page_set set;
};

static int open_two(void **state)
{
	struct two *t = calloc(1, sizeof(*t));
	struct dirty_kmod *k;
	int err;

	*state = t;
	err = area_init(&t->vmm, regions, 2, 1) || area_init(&t->kmod, kmod_regions, 3, 1) ||
	       dirty_open(t->vmm.fd, t->vmm.size, sizes, 2, &t->d) || page_set_init(&t->set, sizes, 2) ||
	       dirty_map_kmod(t->d, dup(t->kmod.fd), gpas, &k);
	if (!err)
		dirty_use_kmod(t->d, k);
	return err;
}

static int close_two(void **state)
{
	struct two *t = *state;

	dirty_close(t->d);
	page_set_fini(&t->set);
	area_fini(&t->vmm);
	area_fini(&t->kmod);
	free(t);
	return 0;
}

static void both_areas_are_collected(void **state)
{
	struct two *t = *state;
	uint64_t n;

	area_publish(&t->kmod, 2, 5, 1 << 4); /* region 0 */
	area_publish(&t->vmm, 0, 5, 1 << 5);
	area_publish(&t->kmod, 1, 12, 1);     /* region 1 */
	area_publish(&t->kmod, 0, 9, ~0ULL);  /* none of ours */
	assert_int_equal(dirty_peek(t->d, 0, 5), 3 << 4);
	assert_int_equal(dirty_collect(t->d, &t->set, &n), 0);
	assert_int_equal(n, 3);
	assert_int_equal(t->set.regions[0].words[5], 3 << 4);
	assert_int_equal(t->set.regions[1].words[12], 1);
	assert_int_equal(t->set.nr_set, 3);
	dirty_free_kmod(dirty_take_kmod(t->d));
	area_publish(&t->kmod, 2, 6, 1);
	assert_int_equal(dirty_collect(t->d, &t->set, &n), 0);
	assert_int_equal(n, 0);
}

static void a_region_that_moved_in_the_area_is_all_dirty(void **state)
{
	struct two *t = *state;
	struct vmferry_region *r = t->kmod.regions, was = r[0];

	/* Its slot went and came: its bits lie where another region's were. */
	r[0].bitmap_off = r[2].bitmap_off;
	r[0].summary_off = r[2].summary_off;
	r[2].bitmap_off = was.bitmap_off;
	r[2].summary_off = was.summary_off;
	t->kmod.header->generation += 2;
	assert_int_equal(dirty_collect(t->d, &t->set, NULL), 0);
	assert_int_equal(t->set.nr_set, sizes[0] >> 12);
	page_set_clear(&t->set);
	area_publish(&t->kmod, 2, 5, 1);
	assert_int_equal(dirty_collect(t->d, &t->set, NULL), 0);
	assert_int_equal(t->set.nr_set, 1);
	assert_int_equal(t->set.regions[0].words[5], 1);
}

static void a_region_that_went_is_said(void **state)
{
	struct two *t = *state;

	t->kmod.header->nr_regions = 2; /* the last is region 0 */
	t->kmod.header->generation += 2;
	assert_int_equal(dirty_collect(t->d, &t->set, NULL), -ESTALE);
}

static void writes_that_may_be_missing_are_said(void **state)
{
	struct two *t = *state;

	t->kmod.header->flags |= VMFERRY_AREA_BROKEN;
	assert_int_equal(dirty_collect(t->d, &t->set, NULL), -EIO);
}

static void *finish_table(void *arg)
{
	struct two *t = arg;

	usleep(20000);
	((volatile struct vmferry_region *)t->kmod.regions)[2].size = sizes[0];
	__atomic_fetch_add(&t->kmod.header->generation, 1, __ATOMIC_RELEASE);
	t->whole_ns = now_ns();
	return NULL;
}

static void a_table_half_written_is_waited_for(void **state)
{
	struct two *t = *state;
	pthread_t thread;
	uint64_t began_ns;
	int err, tries = 0;

	/* It is waited for for 100 ms: on a busy machine the thread may be later than that. */
	do {
		began_ns = now_ns();
		t->kmod.header->generation++;
		t->kmod.regions[2].size = 4096;
		pthread_create(&thread, NULL, finish_table, t);
		err = dirty_collect(t->d, &t->set, NULL);
		pthread_join(thread, NULL);
	} while (err == -EAGAIN && t->whole_ns - began_ns > 99 * NS_PER_MS && ++tries < 50);
	assert_int_equal(err, 0);
	assert_int_equal(t->set.nr_set, 0);
}

static void sizes_that_contradict_are_refused(void **state)
{
	const uint64_t wrong[] = { 64 * MIB, 3 * MIB };
	struct area a;
	struct dirty *d;

	(void)state;
	assert_int_equal(area_init(&a, regions, 2, 1), 0);
	assert_int_equal(dirty_open(a.fd, a.size, wrong, 2, &d), -EBADMSG);
	assert_int_equal(dirty_open(a.fd, a.size, sizes, 1, &d), -EBADMSG);
	assert_int_equal(dirty_open(a.fd, a.size + 4096, sizes, 2, &d), -EBADMSG);
	assert_int_equal(dirty_open(a.fd, 64, sizes, 2, &d), -EBADMSG);
	a.header->version++;
	assert_int_equal(dirty_open(a.fd, a.size, sizes, 2, &d), -EPROTONOSUPPORT);
	area_fini(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(published_pages_are_collected_once),
		cmocka_unit_test(no_bit_is_lost_in_a_race),
		cmocka_unit_test(corrupt_areas_are_refused_or_harmless),
		cmocka_unit_test(sizes_that_contradict_are_refused),
		cmocka_unit_test_setup_teardown(both_areas_are_collected, open_two, close_two),
		cmocka_unit_test_setup_teardown(a_region_that_moved_in_the_area_is_all_dirty, open_two, close_two),
		cmocka_unit_test_setup_teardown(a_region_that_went_is_said, open_two, close_two),
		cmocka_unit_test_setup_teardown(writes_that_may_be_missing_are_said, open_two, close_two),
		cmocka_unit_test_setup_teardown(a_table_half_written_is_waited_for, open_two, close_two),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
