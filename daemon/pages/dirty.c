// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The shared area as its consumer sees it: checked once, then dirty pages are taken out.
 *
 * Theory of operation
 *
 * The producer may be wrong or hostile, and may go on writing to the area while we read.
 * So the tables are copied once into our own memory and checked there; later accesses
 * use only checked offsets. Bits beyond the end of a region are ignored.
 *
 *   taking: exchange summary word with 0 -> for each bit exchange the bitmap word with 0
 *   (both acquire) -> only then may anyone read the page
 *
 * Were the page read before its bit is taken, a write between the two would be marked
 * by a bit that we then clear: lost. A set bit whose summary comes later stays for the
 * next time.
 */
#include "dirty.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct view {
	uint64_t *words, *summary;
	uint64_t nr_words, nr_summary;
	uint64_t last_mask; /* valid bits of the last word */
};

struct dirty {
	uint8_t *map;
	uint64_t size;
	struct vmferry_area_header *header;
	struct vmferry_vcpu *vcpus;
	unsigned int nr_vcpus;
	uint64_t generation;
	struct view *views;
	unsigned int nr_views;
};

/* Do @nr items of @each bytes lie in the area at @off, aligned to 8? */
static bool lies_within(uint64_t size, uint64_t off, uint64_t nr, uint64_t each)
{
	uint64_t len, end;

	return off % 8 == 0 && !__builtin_mul_overflow(nr, each, &len) &&
	       !__builtin_add_overflow(off, len, &end) && end <= size;
}

static int check_region(struct dirty *d, unsigned int i, uint64_t off, uint64_t want_size)
{
	const struct vmferry_region *table = (const void *)(d->map + off);
	struct vmferry_region r = *(const volatile struct vmferry_region *)&table[i];
	struct view *v = &d->views[i];
	uint64_t pages = want_size >> VMFERRY_PAGE_SHIFT;

	if (r.size != want_size || r.bitmap_words != (pages + 63) / 64 ||
	    r.summary_words != (r.bitmap_words + 63) / 64 ||
	    !lies_within(d->size, r.bitmap_off, r.bitmap_words, 8) ||
	    !lies_within(d->size, r.summary_off, r.summary_words, 8))
		return -EBADMSG;
	v->words = (void *)(d->map + r.bitmap_off);
	v->summary = (void *)(d->map + r.summary_off);
	v->nr_words = r.bitmap_words;
	v->nr_summary = r.summary_words;
	v->last_mask = pages % 64 ? (1ULL << (pages % 64)) - 1 : ~0ULL;
	return 0;
}

static int check_area(struct dirty *d, const uint64_t *sizes, unsigned int nr_regions)
{
	struct vmferry_area_header h;
	int err = 0;

	/* Pairs with the release in area_init(): the tables are laid out. */
	if (__atomic_load_n(&d->header->magic, __ATOMIC_ACQUIRE) != VMFERRY_AREA_MAGIC)
		return -EBADMSG;
	h = *(const volatile struct vmferry_area_header *)d->header;
	if (h.version != VMFERRY_AREA_VERSION)
		return -EPROTONOSUPPORT;
	if (h.header_size < sizeof(h) || h.total_size != d->size || h.nr_regions != nr_regions ||
	    h.nr_vcpus > VMFERRY_MAX_VCPUS ||
	    !lies_within(d->size, h.region_off, nr_regions, sizeof(struct vmferry_region)) ||
	    !lies_within(d->size, h.vcpu_off, h.nr_vcpus, sizeof(struct vmferry_vcpu)))
		return -EBADMSG;
	d->generation = h.generation;
	d->vcpus = (void *)(d->map + h.vcpu_off);
	d->nr_vcpus = h.nr_vcpus;
	for (unsigned int i = 0; i < nr_regions && !err; i++)
		err = check_region(d, i, h.region_off, sizes[i]);
	return err;
}

/**
 * dirty_open() - map and check an area
 * @area_fd: stays the caller's; must not be able to shrink under us or be large enough now
 * @region_sizes: bytes of each region as registered
 * Return: 0, -EBADMSG for an area that contradicts itself or the registration
 */
int dirty_open(int area_fd, uint64_t size, const uint64_t *region_sizes, unsigned int nr_regions,
	       struct dirty **out)
{
	off_t end = lseek(area_fd, 0, SEEK_END);
	struct dirty *d;
	int err;

	if (size < sizeof(struct vmferry_area_header) || end < 0 || (uint64_t)end < size)
		return -EBADMSG;
	d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	d->size = size;
	d->map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, area_fd, 0);
	d->views = calloc(nr_regions, sizeof(*d->views));
	d->nr_views = nr_regions;
	if (d->map == MAP_FAILED) {
		err = -errno;
		d->map = NULL;
	} else {
		d->header = (void *)d->map;
		err = d->views ? check_area(d, region_sizes, nr_regions) : -ENOMEM;
	}
	if (err) {
		dirty_close(d);
		return err;
	}
	*out = d;
	return 0;
}

void dirty_close(struct dirty *d)
{
	if (!d)
		return;
	if (d->map)
		munmap(d->map, d->size);
	free(d->views);
	free(d);
}

static uint64_t take_word(const struct view *v, uint64_t w)
{
	/* Pairs with the OR in area_publish(): the page is protected again. */
	uint64_t bits = __atomic_exchange_n(&v->words[w], 0, __ATOMIC_ACQUIRE);

	return w + 1 == v->nr_words ? bits & v->last_mask : bits;
}

static uint64_t collect_region(const struct view *v, unsigned int region, struct page_set *to)
{
	uint64_t taken = 0;

	for (uint64_t u = 0; u < v->nr_summary; u++) {
		uint64_t sum;

		if (!__atomic_load_n(&v->summary[u], __ATOMIC_RELAXED))
			continue;
		/* Pairs with the summary's OR in area_publish(). */
		for (sum = __atomic_exchange_n(&v->summary[u], 0, __ATOMIC_ACQUIRE); sum;
		     sum &= sum - 1) {
			uint64_t w = u * 64 + (uint64_t)__builtin_ctzll(sum), bits;

			if (w >= v->nr_words)
				break;
			bits = take_word(v, w);
			taken += (uint64_t)__builtin_popcountll(bits);
			if (to && bits)
				page_set_or(to, region, w, bits);
		}
	}
	return taken;
}

/**
 * dirty_collect() - move all visible dirty pages into @to (which may hold some already)
 * @taken: pages moved, may be NULL
 * Return: 0, -ESTALE if the region table changed: the VM must be registered anew
 */
int dirty_collect(struct dirty *d, struct page_set *to, uint64_t *taken)
{
	uint64_t n = 0;

	if (__atomic_load_n(&d->header->generation, __ATOMIC_ACQUIRE) != d->generation)
		return -ESTALE;
	for (unsigned int i = 0; i < d->nr_views; i++)
		n += collect_region(&d->views[i], i, to);
	if (taken)
		*taken = n;
	return 0;
}

/** dirty_drop() - forget what is visible now */
int dirty_drop(struct dirty *d)
{
	return dirty_collect(d, NULL, NULL);
}

/** dirty_read_counters() - the producer's figures; they need not agree with each other */
void dirty_read_counters(const struct dirty *d, struct dirty_counters *c)
{
	const struct vmferry_area_header *h = d->header;

	c->flags = __atomic_load_n(&h->flags, __ATOMIC_RELAXED);
	c->harvests = __atomic_load_n(&h->harvests, __ATOMIC_RELAXED);
	c->harvested = __atomic_load_n(&h->harvested, __ATOMIC_RELAXED);
	c->ring_full = __atomic_load_n(&h->ring_full, __ATOMIC_RELAXED);
	c->harvest_ns = __atomic_load_n(&h->harvest_ns, __ATOMIC_RELAXED);
	c->throttled_ns = 0;
	for (unsigned int i = 0; i < d->nr_vcpus; i++)
		c->throttled_ns += __atomic_load_n(&d->vcpus[i].throttled_ns, __ATOMIC_RELAXED);
}
