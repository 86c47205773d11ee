// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Where received pages go: straight into region memory, faulted in ahead of the receive;
 * zeros are not written where it is zero already.
 *
 * Theory of operation
 *
 * @written has one bit a page: set when the page may hold something other than zero,
 * that is, when the file had data there at the start or when we placed data. A zero page
 * whose bit is clear is left alone, so a hole stays a hole. Bits of different channels
 * share words, hence the atomic OR; a page belongs to one channel, so nobody else writes
 * the page itself.
 *
 * The fault-ahead thread populates the blocks of 2 MiB that the source expects to fill,
 * in order, so that receiving never faults. A block that has data already, or that the
 * receive has reached first, is left out: behind the receive this thread would only take
 * the processor from it, and from a switchover. Allocating by fallocate() and mapping
 * afterwards costs a fifth less than faulting in both at once (0.44 s against 0.55 s a
 * GiB of 4 KiB pages, Linux 6.18).
 *
 * The loop and that thread share no lock. Each region's list of blocks has its room from
 * the beginning, is filled once by the loop, and is published by is_told (release, acquire);
 * the semaphore only wakes. place_open() and place_close() may take long; the rest may be
 * called by the loop.
 */
#include "place.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/fault.h"
#include "page_codec.h"

/**
 * struct ahead - what the source expects to fill of a region
 * @blocks: a bit for each of @nr blocks; @most: room for so many
 * @is_told: atomic; @blocks and @nr do not change any more
 */
struct ahead {
	uint8_t *blocks;
	uint64_t nr, most;
	bool is_told;
};

struct place {
	struct region *regions;
	unsigned int nr_regions;
	uint64_t **written;
	enum place_huge huge;

	pthread_t thread;
	bool thread_is_up;
	sem_t wake;
	struct ahead *ahead; /* by region */
	bool quit;	     /* atomic */
	int error;	     /* atomic; first failure of the fault-ahead thread */
};

struct mark {
	struct place *p;
	unsigned int region;
};

static void mark_written(struct place *p, unsigned int region, uint64_t off, uint64_t len)
{
	uint64_t page = off / REGION_PAGE, end = (off + len + REGION_PAGE - 1) / REGION_PAGE;

	while (page < end) {
		uint64_t at = page % 64, n = 64 - at < end - page ? 64 - at : end - page;
		uint64_t bits = n == 64 ? ~0ULL : ((1ULL << n) - 1) << at;
		uint64_t *w = &p->written[region][page / 64];

		if ((__atomic_load_n(w, __ATOMIC_RELAXED) & bits) != bits)
			__atomic_fetch_or(w, bits, __ATOMIC_RELAXED);
		page += n;
	}
}

static void mark_found(void *arg, uint64_t off, uint64_t len)
{
	struct mark *m = arg;

	mark_written(m->p, m->region, off, len);
}

static bool shmem_has_huge_pages(void)
{
	char line[128] = "";
	FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "re");

	if (!f)
		return false;
	if (!fgets(line, sizeof(line), f))
		line[0] = '\0';
	fclose(f);
	return !strstr(line, "[never]") && !strstr(line, "[deny]");
}

/* Data from before the migration (warm.c has touched it), or the receive was here first. */
static bool has_data(const struct place *p, unsigned int region, uint64_t off)
{
	return __atomic_load_n(&p->written[region][off / REGION_PAGE / 64], __ATOMIC_RELAXED);
}

static int populate(const struct region *r, uint64_t off, uint64_t len)
{
	while (fallocate(r->fd, 0, (off_t)(r->fd_off + off), (off_t)len)) {
		if (errno == ENOSPC)
			return -ENOMEM; /* what a memfd says of a host, or huge page pool, that is full */
		if (errno != EINTR)
			break; /* only a wish; the next call decides */
	}
	while (madvise(r->map + off, len, MADV_POPULATE_WRITE)) {
		if (errno == EINVAL) /* before Linux 5.14: the receive faults instead */
			return 0;
		if (errno != EINTR && errno != EAGAIN)
			return -errno;
	}
	return 0;
}

static int populate_region(struct place *p, unsigned int i)
{
	struct region *r = &p->regions[i];
	struct ahead *a = &p->ahead[i];
	int err = 0;

	for (uint64_t b = 0; b < a->nr && !err; b++) {
		uint64_t off = b * REGION_BLOCK;
		uint64_t len = r->size - off < REGION_BLOCK ? r->size - off : REGION_BLOCK;

		if (__atomic_load_n(&p->quit, __ATOMIC_RELAXED))
			return 0;
		if (a->blocks[b / 8] & 1 << b % 8 && !has_data(p, i, off))
			err = populate(r, off, len);
	}
	return err;
}

/* false: nobody will tell */
static bool wait_until_told(struct place *p, unsigned int i)
{
	/* Pairs with the release in place_ahead(): the list is whole. */
	while (!__atomic_load_n(&p->ahead[i].is_told, __ATOMIC_ACQUIRE)) {
		if (__atomic_load_n(&p->quit, __ATOMIC_RELAXED))
			return false;
		while (sem_wait(&p->wake))
			;
	}
	return true;
}

static void *ahead_thread(void *arg)
{
	struct place *p = arg;
	int err = 0;

	pthread_setname_np(pthread_self(), "ahead");
	for (unsigned int i = 0; i < p->nr_regions && !err && wait_until_told(p, i); i++) {
		fault_point("fault-ahead");
		err = populate_region(p, i);
	}
	if (err)
		__atomic_store_n(&p->error, err, __ATOMIC_RELEASE);
	return NULL;
}

static int init_written(struct place *p, unsigned int i)
{
	struct region *r = &p->regions[i];
	struct mark m = { p, i };

	p->written[i] = calloc((r->size / REGION_PAGE + 63) / 64, 8);
	p->ahead[i].most = (r->size + REGION_BLOCK - 1) / REGION_BLOCK;
	p->ahead[i].blocks = calloc((p->ahead[i].most + 7) / 8, 1);
	if (!p->written[i] || !p->ahead[i].blocks)
		return -ENOMEM;
	return region_each_data(r, mark_found, &m);
}

/** place_open() - @regions stay the caller's and mapped until place_close(); looks at all files, may take long */
int place_open(struct region *regions, unsigned int nr_regions, struct place **out)
{
	struct place *p = calloc(1, sizeof(*p));
	int err = 0;

	if (!p)
		return -ENOMEM;
	p->regions = regions;
	p->nr_regions = nr_regions;
	p->huge = shmem_has_huge_pages() ? PLACE_THP : PLACE_SMALL;
	sem_init(&p->wake, 0, 0);
	p->written = calloc(nr_regions, sizeof(*p->written));
	p->ahead = calloc(nr_regions, sizeof(*p->ahead));
	if (!p->written || !p->ahead)
		err = -ENOMEM;
	for (unsigned int i = 0; i < nr_regions && !err; i++) {
		if (regions[i].page_size > REGION_PAGE)
			p->huge = PLACE_HUGETLB;
		err = init_written(p, i);
	}
	if (!err)
		err = -pthread_create(&p->thread, NULL, ahead_thread, p);
	if (err) {
		place_close(p);
		return err;
	}
	p->thread_is_up = true;
	*out = p;
	return 0;
}

/** place_cease() - fault in nothing more, from the next block on; waits for nothing; NULL is fine */
void place_cease(struct place *p)
{
	if (!p)
		return;
	__atomic_store_n(&p->quit, true, __ATOMIC_RELAXED);
	sem_post(&p->wake);
}

/** place_close() - waits for the fault-ahead thread, frees; may take long; NULL is fine */
void place_close(struct place *p)
{
	if (!p)
		return;
	place_cease(p);
	if (p->thread_is_up)
		pthread_join(p->thread, NULL);
	for (unsigned int i = 0; i < p->nr_regions; i++) {
		if (p->written)
			free(p->written[i]);
		if (p->ahead)
			free(p->ahead[i].blocks);
	}
	free(p->written);
	free(p->ahead);
	sem_destroy(&p->wake);
	free(p);
}

enum place_huge place_huge_pages(const struct place *p)
{
	return p->huge;
}

/** place_ahead() - bit b of @blocks: the source expects to fill block b of @region; a second list of a region is ignored */
int place_ahead(struct place *p, unsigned int region, const uint8_t *blocks, uint64_t nr_blocks)
{
	struct ahead *a;

	if (region >= p->nr_regions || nr_blocks > p->ahead[region].most)
		return -EBADMSG;
	a = &p->ahead[region];
	if (__atomic_load_n(&a->is_told, __ATOMIC_RELAXED))
		return 0;
	memcpy(a->blocks, blocks, (nr_blocks + 7) / 8);
	a->nr = nr_blocks;
	/* Pairs with the acquire in wait_until_told(). */
	__atomic_store_n(&a->is_told, true, __ATOMIC_RELEASE);
	sem_post(&p->wake);
	return 0;
}

/** place_at() - where [@off, @off + @len) of @region is to be received; bounds were checked */
uint8_t *place_at(struct place *p, unsigned int region, uint64_t off, uint32_t len)
{
	mark_written(p, region, off, len);
	return p->regions[region].map + off;
}

/** place_zero() - the range is zero at the source; make it so here at the least cost */
void place_zero(struct place *p, unsigned int region, uint64_t off, uint32_t len)
{
	for (uint64_t end = off + len; off < end; off += REGION_PAGE) {
		uint64_t page = off / REGION_PAGE;
		uint64_t w = __atomic_load_n(&p->written[region][page / 64], __ATOMIC_RELAXED);
		uint8_t *at = p->regions[region].map + off;

		if (w & 1ULL << page % 64 && !page_is_zero(at))
			memset(at, 0, REGION_PAGE);
	}
}

/** place_error() - 0, or why RAM could not be faulted in (-ENOMEM: the host has no more) */
int place_error(const struct place *p)
{
	return __atomic_load_n(&p->error, __ATOMIC_ACQUIRE);
}
