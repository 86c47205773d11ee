// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Fills the daemon's page tables for RAM that has data, ahead of any migration.
 *
 * Theory of operation: a page that the VMM has faulted in still costs the daemon a fault
 * at its first touch, a microsecond or so, half a second for 2 GiB, and it would be paid
 * on the way of the pages. So a thread of low priority touches what has data, when a VM
 * registers and again, ever more rarely, when its files have grown. Holes are not
 * touched: nothing is allocated.
 *
 * It ceases for good when its VM's migration begins, and waits while any VM of this daemon is migrated: while
 * it touches it holds the lock of our address space, and everybody who maps something waits for it, in a
 * blackout too; hence also the small chunks, and no SCHED_IDLE, under which it could be kept from letting go.
 */
#include "warm.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#define CHUNK (2ULL << 20)
#define NICE 10
#define FIRST_PERIOD_MS 500
#define LAST_PERIOD_MS 30000
#define HELD_PERIOD_MS 100 /* from the end of the last migration until it goes on, at most */

struct warm {
	const struct region *regions;
	unsigned int nr_regions;
	pthread_t thread;
	atomic_bool quit;
	sem_t wake; /* posted after @quit is set */
};

/* Migrations that are under way in this process: they wait for the lock of its address space. */
static atomic_uint holds;

struct place_in {
	struct warm *w;
	const struct region *r;
};

static void wait_ms(struct warm *w, uint64_t ms)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += (time_t)(ms / 1000);
	until.tv_nsec += (long)(ms % 1000) * 1000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	sem_timedwait(&w->wake, &until); /* posted when it shall quit, as the caller sees */
}

static void touch(void *arg, uint64_t off, uint64_t len)
{
	struct place_in *p = arg;

	while (len && !p->w->quit) {
		uint64_t n = len < CHUNK ? len : CHUNK;

		if (holds) {
			wait_ms(p->w, HELD_PERIOD_MS);
			continue;
		}
		/* Only a wish: where it fails, the page is faulted in when it is needed. */
		madvise(p->r->map + off, n, MADV_POPULATE_READ);
		off += n;
		len -= n;
	}
}

static uint64_t nr_blocks(const struct warm *w)
{
	uint64_t sum = 0;
	struct stat st;

	for (unsigned int i = 0; i < w->nr_regions; i++)
		if (!fstat(w->regions[i].fd, &st))
			sum += (uint64_t)st.st_blocks;
	return sum;
}

static void *warm_thread(void *arg)
{
	struct warm *w = arg;
	uint64_t seen = 0, period_ms = FIRST_PERIOD_MS;

	pthread_setname_np(pthread_self(), "warm");
	setpriority(PRIO_PROCESS, 0, NICE); /* on Linux: of this thread */
	while (!w->quit) {
		uint64_t blocks = nr_blocks(w);

		for (unsigned int i = 0; blocks != seen && i < w->nr_regions; i++) {
			struct place_in p = { w, &w->regions[i] };

			region_each_data(p.r, touch, &p);
		}
		period_ms = blocks != seen ? FIRST_PERIOD_MS : period_ms * 2;
		seen = blocks;
		wait_ms(w, period_ms < LAST_PERIOD_MS ? period_ms : LAST_PERIOD_MS);
	}
	return NULL;
}

/** warm_hold() - from the next chunk on no VM of this daemon is warmed, until as many warm_allow(). Any thread */
void warm_hold(void)
{
	atomic_fetch_add(&holds, 1);
}

void warm_allow(void)
{
	atomic_fetch_sub(&holds, 1);
}

/** warm_start() - @regions stay mapped until warm_stop(); may block: it makes a thread */
int warm_start(const struct region *regions, unsigned int nr_regions, struct warm **out)
{
	struct warm *w = calloc(1, sizeof(*w));
	int err;

	if (!w)
		return -ENOMEM;
	w->regions = regions;
	w->nr_regions = nr_regions;
	sem_init(&w->wake, 0, 0);
	err = -pthread_create(&w->thread, NULL, warm_thread, w);
	if (err) {
		sem_destroy(&w->wake);
		free(w);
		return err;
	}
	*out = w;
	return 0;
}

/** warm_cease() - touch nothing any more, from the next chunk on; takes no lock; NULL is fine */
void warm_cease(struct warm *w)
{
	if (!w)
		return;
	w->quit = true;
	sem_post(&w->wake);
}

/** warm_stop() - waits for the thread: for one chunk at most; NULL is fine */
void warm_stop(struct warm *w)
{
	if (!w)
		return;
	warm_cease(w);
	pthread_join(w->thread, NULL);
	sem_destroy(&w->wake);
	free(w);
}
