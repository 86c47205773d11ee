// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The shared area as its producer sees it: lays it out over a memfd and sets bits.
 * Twin of kmod/area.c.
 */
#include "area.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

static uint64_t align_page(uint64_t off)
{
	return (off + VMFERRY_PAGE_SIZE - 1) & ~(VMFERRY_PAGE_SIZE - 1);
}

static uint64_t div_up(uint64_t n, uint64_t by)
{
	return (n + by - 1) / by;
}

/* Gives each region its bitmaps from @off on; returns the end. */
static uint64_t lay_out(struct vmferry_region *to, const struct vmferry_region *from,
			unsigned int nr, uint64_t off)
{
	for (unsigned int i = 0; i < nr; i++) {
		struct vmferry_region r = from[i];

		r.bitmap_words = div_up(r.size >> VMFERRY_PAGE_SHIFT, 64);
		r.summary_words = div_up(r.bitmap_words, 64);
		r.bitmap_off = off;
		off = align_page(off + r.bitmap_words * 8);
		r.summary_off = off;
		off = align_page(off + r.summary_words * 8);
		if (to)
			to[i] = r;
	}
	return off;
}

/**
 * area_init() - make and lay out an area
 * @regions: id, slot, gpa and size of each; the offsets are worked out here
 * Return: 0 or a negative errno, with nothing left behind
 */
int area_init(struct area *a, const struct vmferry_region *regions, unsigned int nr_regions,
	      unsigned int nr_vcpus)
{
	uint64_t region_off = VMFERRY_PAGE_SIZE;
	uint64_t vcpu_off = align_page(region_off + VMFERRY_MAX_REGIONS * sizeof(struct vmferry_region));
	uint64_t device_off = align_page(vcpu_off + VMFERRY_MAX_VCPUS * sizeof(struct vmferry_vcpu));
	uint64_t maps_off =
		align_page(device_off + VMFERRY_MAX_DEVICES * sizeof(struct vmferry_device));
	int err;

	*a = (struct area){ .fd = -1, .map = NULL };
	if (nr_regions > VMFERRY_MAX_REGIONS || nr_vcpus > VMFERRY_MAX_VCPUS)
		return -E2BIG;
	a->size = lay_out(NULL, regions, nr_regions, maps_off);
	a->fd = memfd_create("vmferry-area", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (a->fd < 0)
		return -errno;
	/* Sealed: the daemon maps it and must not be killed by a file that shrinks. */
	if (ftruncate(a->fd, (off_t)a->size) || fcntl(a->fd, F_ADD_SEALS, F_SEAL_SHRINK))
		goto fail;
	a->map = mmap(NULL, a->size, PROT_READ | PROT_WRITE, MAP_SHARED, a->fd, 0);
	if (a->map == MAP_FAILED) {
		a->map = NULL;
		goto fail;
	}
	a->header = (void *)a->map;
	a->regions = (void *)(a->map + region_off);
	a->vcpus = (void *)(a->map + vcpu_off);
	lay_out(a->regions, regions, nr_regions, maps_off);
	*a->header = (struct vmferry_area_header){
		.version = VMFERRY_AREA_VERSION,
		.header_size = sizeof(*a->header),
		.total_size = a->size,
		.generation = 2,
		.region_off = region_off,
		.vcpu_off = vcpu_off,
		.device_off = device_off,
		.nr_regions = nr_regions,
		.nr_vcpus = nr_vcpus,
	};
	/* Pairs with the acquire in area_view_open(): a reader that sees the magic sees the tables. */
	__atomic_store_n(&a->header->magic, VMFERRY_AREA_MAGIC, __ATOMIC_RELEASE);
	return 0;
fail:
	err = -errno;
	area_fini(a);
	return err;
}

/** area_fini() - give everything back; fine on a half-made area */
void area_fini(struct area *a)
{
	if (a->map)
		munmap(a->map, a->size);
	if (a->fd >= 0)
		close(a->fd);
	*a = (struct area){ .fd = -1 };
}

/**
 * area_publish() - make pages visible to the consumer
 * @region: index in the table; @word: 64-bit word of its bitmap; @bits: pages of that word
 *
 * Only for pages that are write-protected again: see harvest.c.
 */
void area_publish(struct area *a, unsigned int region, uint64_t word, uint64_t bits)
{
	const struct vmferry_region *r = &a->regions[region];
	uint64_t *bitmap = (void *)(a->map + r->bitmap_off);
	uint64_t *summary = (void *)(a->map + r->summary_off);
	uint64_t old = __atomic_fetch_or(&bitmap[word], bits, __ATOMIC_RELEASE);

	area_count(&a->header->published, (uint64_t)__builtin_popcountll(bits & ~old));
	/*
	 * Pairs with the exchange in dirty_collect(): who takes the summary bit sees the
	 * word. Else the word's bits wait for a summary bit that nobody sets again.
	 */
	__atomic_fetch_or(&summary[word / 64], 1ULL << (word % 64), __ATOMIC_RELEASE);
}

/** area_count() - add to one of the area's counters */
void area_count(__u64 *counter, uint64_t n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

/** area_set_flag() - set or clear one VMFERRY_AREA_* flag */
void area_set_flag(struct area *a, uint64_t flag, int on)
{
	if (on)
		__atomic_fetch_or(&a->header->flags, flag, __ATOMIC_RELEASE);
	else
		__atomic_fetch_and(&a->header->flags, ~flag, __ATOMIC_RELEASE);
}
