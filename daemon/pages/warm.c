// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Fills the daemon's page tables for RAM that has data, ahead of any migration.
 *
 * Theory of operation: a page that the VMM has faulted in still costs the daemon a fault
 * at its first touch, a microsecond or so, half a second for 2 GiB, and it would be paid
 * on the way of the pages. So a thread of the lowest priority touches, when a VM
 * registers, what has data by then. Holes are not touched: nothing is allocated.
 */
#include "warm.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>

#define CHUNK (16ULL << 20)

struct warm {
	const struct region *regions;
	unsigned int nr_regions;
	pthread_t thread;
	bool quit; /* atomic */
};

struct place_in {
	struct warm *w;
	const struct region *r;
};

static void touch(void *arg, uint64_t off, uint64_t len)
{
	struct place_in *p = arg;

	while (len && !__atomic_load_n(&p->w->quit, __ATOMIC_RELAXED)) {
		uint64_t n = len < CHUNK ? len : CHUNK;

		/* Only a wish: where it fails, the page is faulted in when it is needed. */
		madvise(p->r->map + off, n, MADV_POPULATE_READ);
		off += n;
		len -= n;
	}
}

static void *warm_thread(void *arg)
{
	struct warm *w = arg;
	struct sched_param none = { 0 };

	pthread_setname_np(pthread_self(), "warm");
	pthread_setschedparam(pthread_self(), SCHED_IDLE, &none);
	for (unsigned int i = 0; i < w->nr_regions; i++) {
		struct place_in p = { w, &w->regions[i] };

		region_each_data(p.r, touch, &p);
	}
	return NULL;
}

/** warm_start() - @regions stay mapped until warm_stop() */
int warm_start(const struct region *regions, unsigned int nr_regions, struct warm **out)
{
	struct warm *w = calloc(1, sizeof(*w));
	int err;

	if (!w)
		return -ENOMEM;
	w->regions = regions;
	w->nr_regions = nr_regions;
	err = -pthread_create(&w->thread, NULL, warm_thread, w);
	if (err) {
		free(w);
		return err;
	}
	*out = w;
	return 0;
}

/** warm_stop() - waits for at most one chunk; NULL is fine */
void warm_stop(struct warm *w)
{
	if (!w)
		return;
	__atomic_store_n(&w->quit, true, __ATOMIC_RELAXED);
	pthread_join(w->thread, NULL);
	free(w);
}
