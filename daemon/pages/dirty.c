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
 *
 * Where the kernel module harvests there are two areas: the module's, for what vCPUs
 * write, and the VMM's, for what it writes itself. A page in either is dirty.
 */
#include "dirty.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct view {
	uint64_t *words, *summary;
	uint64_t nr_words, nr_summary;
	uint64_t last_mask; /* valid bits of the last word */
	const uint8_t *heat; /* one per 2 MiB, or NULL */
};

/* One producer's area, mapped and checked. */
struct area {
	uint8_t *map;
	uint64_t size;
	struct vmferry_area_header *header;
	struct vmferry_vcpu *vcpus;
	unsigned int nr_vcpus;
	uint64_t generation;
	struct view *views; /* of our regions, in our order */
};

/*
 * struct dirty_kmod - the kernel module's area
 * @fd: of the attachment, to map the area again when it has grown
 * @gpas: of our regions
 */
struct dirty_kmod {
	struct area area;
	int fd;
	uint64_t *gpas;
};

/*
 * @vmm: the VMM's area: all, or, where the kernel module harvests, its own writes
 * @kmod: NULL: the module does not harvest
 * @sizes: of our regions
 */
struct dirty {
	struct area vmm;
	struct dirty_kmod *kmod;
	uint64_t *sizes;
	unsigned int nr;
};

static const struct area *kmod_area(const struct dirty *d)
{
	return d->kmod && d->kmod->area.map ? &d->kmod->area : NULL;
}

/* Do @nr items of @each bytes lie in the area at @off, aligned to 8? */
static bool lies_within(uint64_t size, uint64_t off, uint64_t nr, uint64_t each)
{
	uint64_t len, end;

	return off % 8 == 0 && !__builtin_mul_overflow(nr, each, &len) &&
	       !__builtin_add_overflow(off, len, &end) && end <= size;
}

static int check_region(const struct area *a, const struct vmferry_region *r, uint64_t want_size,
			struct view *v)
{
	uint64_t pages = want_size >> VMFERRY_PAGE_SHIFT, heat = (want_size + (2 << 20) - 1) >> 21;

	if (r->size != want_size || r->bitmap_words != (pages + 63) / 64 ||
	    r->summary_words != (r->bitmap_words + 63) / 64 ||
	    !lies_within(a->size, r->bitmap_off, r->bitmap_words, 8) ||
	    !lies_within(a->size, r->summary_off, r->summary_words, 8) ||
	    (r->heat_off && !lies_within(a->size, r->heat_off, heat, 1)))
		return -EBADMSG;
	*v = (struct view){ .words = (void *)(a->map + r->bitmap_off),
			    .summary = (void *)(a->map + r->summary_off),
			    .nr_words = r->bitmap_words,
			    .nr_summary = r->summary_words,
			    .last_mask = pages % 64 ? (1ULL << (pages % 64)) - 1 : ~0ULL,
			    .heat = r->heat_off ? a->map + r->heat_off : NULL };
	return 0;
}

static int map_area(struct area *a, int fd, uint64_t size)
{
	void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (map == MAP_FAILED)
		return -errno;
	a->map = map;
	a->size = size;
	a->header = map;
	return 0;
}

static void unmap_area(struct area *a)
{
	if (a->map)
		munmap(a->map, a->size);
	free(a->views);
	*a = (struct area){ 0 };
}

/* Copies the header and what it says of the region table. */
static int read_header(struct area *a, struct vmferry_area_header *h)
{
	/* Pairs with the release in area_init(): the tables are laid out. */
	if (__atomic_load_n(&a->header->magic, __ATOMIC_ACQUIRE) != VMFERRY_AREA_MAGIC)
		return -EBADMSG;
	*h = *(const volatile struct vmferry_area_header *)a->header;
	if (h->version != VMFERRY_AREA_VERSION)
		return -EPROTONOSUPPORT;
	if (h->header_size < sizeof(*h) || h->total_size != a->size ||
	    h->nr_regions > VMFERRY_MAX_REGIONS || h->nr_vcpus > VMFERRY_MAX_VCPUS ||
	    !lies_within(a->size, h->region_off, h->nr_regions, sizeof(struct vmferry_region)) ||
	    !lies_within(a->size, h->vcpu_off, h->nr_vcpus, sizeof(struct vmferry_vcpu)))
		return -EBADMSG;
	a->vcpus = (void *)(a->map + h->vcpu_off);
	a->nr_vcpus = h->nr_vcpus;
	return 0;
}

static struct vmferry_region read_region(const struct area *a, uint64_t off, unsigned int i)
{
	const struct vmferry_region *table = (const void *)(a->map + off);

	return *(const volatile struct vmferry_region *)&table[i];
}

static int check_vmm_area(struct dirty *d)
{
	struct vmferry_area_header h;
	int err = read_header(&d->vmm, &h);

	if (!err && h.nr_regions != d->nr)
		err = -EBADMSG;
	d->vmm.generation = h.generation;
	for (unsigned int i = 0; i < d->nr && !err; i++) {
		struct vmferry_region r = read_region(&d->vmm, h.region_off, i);

		err = check_region(&d->vmm, &r, d->sizes[i], &d->vmm.views[i]);
	}
	return err;
}

/**
 * dirty_open() - map and check the VMM's area
 * @area_fd: stays the caller's; must not be able to shrink under us or be large enough now
 * @region_sizes: bytes of each region as registered
 * Return: 0, -EBADMSG for an area that contradicts itself or the registration
 */
int dirty_open(int area_fd, uint64_t size, const uint64_t *region_sizes, unsigned int nr_regions,
	       struct dirty **out)
{
	off_t end = lseek(area_fd, 0, SEEK_END);
	struct dirty *d;
	int err = -ENOMEM;

	if (size < sizeof(struct vmferry_area_header) || end < 0 || (uint64_t)end < size)
		return -EBADMSG;
	d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	d->nr = nr_regions;
	d->sizes = calloc(nr_regions, sizeof(*d->sizes));
	d->vmm.views = calloc(nr_regions, sizeof(*d->vmm.views));
	if (d->sizes && d->vmm.views) {
		memcpy(d->sizes, region_sizes, nr_regions * sizeof(*d->sizes));
		err = map_area(&d->vmm, area_fd, size);
	}
	if (!err)
		err = check_vmm_area(d);
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
	unmap_area(&d->vmm);
	dirty_free_kmod(d->kmod);
	free(d->sizes);
	free(d);
}

static uint64_t generation_of(const struct area *a)
{
	return __atomic_load_n(&a->header->generation, __ATOMIC_ACQUIRE);
}

/* A read that writes what it read: no read before it can come after it. */
static uint64_t generation_after(const struct area *a)
{
	return __atomic_fetch_or(&a->header->generation, 0, __ATOMIC_ACQ_REL);
}

/* ---- the kernel module's area, whose regions may come and go ---- */

static int map_kmod(struct dirty_kmod *k)
{
	struct vmferry_area_header *h = mmap(NULL, VMFERRY_PAGE_SIZE, PROT_READ, MAP_SHARED, k->fd, 0);
	uint64_t size;

	if (h == MAP_FAILED)
		return -errno;
	size = __atomic_load_n(&h->total_size, __ATOMIC_ACQUIRE);
	munmap(h, VMFERRY_PAGE_SIZE);
	if (k->area.map && k->area.size == size)
		return 0;
	if (k->area.map)
		munmap(k->area.map, k->area.size);
	k->area.map = NULL;
	return map_area(&k->area, k->fd, size);
}

/* -EAGAIN: the table was being written */
static int read_kmod_table(const struct dirty *d, struct dirty_kmod *k, struct view *views)
{
	struct area *a = &k->area;
	struct vmferry_area_header h;
	uint64_t generation;
	unsigned int found = 0;
	int err = map_kmod(k);

	if (err)
		return err;
	/* Pairs with the release in area_changed(): the table is whole. */
	generation = __atomic_load_n(&a->header->generation, __ATOMIC_ACQUIRE);
	if (generation & 1)
		return -EAGAIN;
	err = read_header(a, &h);
	for (unsigned int n = 0; !err && n < h.nr_regions; n++) {
		struct vmferry_region r = read_region(a, h.region_off, n);

		for (unsigned int i = 0; i < d->nr && !err; i++)
			if (k->gpas[i] == r.gpa && d->sizes[i] == r.size) {
				err = check_region(a, &r, d->sizes[i], &views[i]);
				found++;
			}
	}
	/* Pairs with the barrier after its first store in area_changed(). */
	if (generation_after(a) != generation)
		return -EAGAIN;
	if (!err && found != d->nr)
		err = -ESTALE;
	if (!err)
		a->generation = generation;
	return err;
}

/*
 * Reads the table anew. A region that has another place now is all dirty in @to: bits of
 * its old place may have been another region's when we took them, or went with it.
 * @may_wait: for the module to have written all of it: 100 ms
 */
static int follow_kmod(const struct dirty *d, struct dirty_kmod *k, struct page_set *to, bool may_wait)
{
	struct view *views = calloc(d->nr, sizeof(*views));
	const uint8_t *map = k->area.map;
	int err = views ? -EAGAIN : -ENOMEM;

	for (int tries = 0; err == -EAGAIN && tries < 1000; tries++) {
		err = read_kmod_table(d, k, views);
		if (err == -EAGAIN && may_wait)
			usleep(100);
	}
	for (unsigned int i = 0; !err && to && i < d->nr; i++)
		if ((uint8_t *)views[i].words - k->area.map != (uint8_t *)k->area.views[i].words - map)
			page_set_add(to, i, 0, d->sizes[i] >> VMFERRY_PAGE_SHIFT);
	if (!err)
		memcpy(k->area.views, views, d->nr * sizeof(*views));
	free(views);
	return err;
}

/**
 * dirty_map_kmod() - map and check what the kernel module publishes; dirty_use_kmod() follows
 * @fd: the attachment; taken over, also on failure
 * @gpas: guest-physical address of each region
 *
 * Context: may block; any thread: it only reads what of @d does not change.
 * Return: 0, -ESTALE: KVM has no slot for one of the regions
 */
int dirty_map_kmod(const struct dirty *d, int fd, const uint64_t *gpas, struct dirty_kmod **out)
{
	struct dirty_kmod *k = calloc(1, sizeof(*k));
	int err = -ENOMEM;

	if (!k) {
		close(fd);
		return -ENOMEM;
	}
	k->fd = fd;
	k->gpas = calloc(d->nr, sizeof(*k->gpas));
	k->area.views = calloc(d->nr, sizeof(*k->area.views));
	if (k->gpas && k->area.views) {
		memcpy(k->gpas, gpas, d->nr * sizeof(*gpas));
		err = follow_kmod(d, k, NULL, true);
	}
	if (err)
		dirty_free_kmod(k);
	else
		*out = k;
	return err;
}

/** dirty_use_kmod() - collect from @k, too; it is @d's now */
void dirty_use_kmod(struct dirty *d, struct dirty_kmod *k)
{
	d->kmod = k;
}

/** dirty_take_kmod() - collect no more from the module's area; the caller's to free; NULL if there was none */
struct dirty_kmod *dirty_take_kmod(struct dirty *d)
{
	struct dirty_kmod *k = d->kmod;

	d->kmod = NULL;
	return k;
}

/** dirty_free_kmod() - nothing of it is mapped any more; may block: it may be the last to let go; NULL is fine */
void dirty_free_kmod(struct dirty_kmod *k)
{
	if (!k)
		return;
	unmap_area(&k->area);
	close(k->fd);
	free(k->gpas);
	free(k);
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

static uint64_t collect_area(const struct area *a, unsigned int nr, struct page_set *to)
{
	uint64_t n = 0;

	for (unsigned int i = 0; i < nr; i++)
		n += collect_region(&a->views[i], i, to);
	return n;
}

static int collect_kmod(struct dirty *d, struct page_set *to, uint64_t *taken, bool may_wait)
{
	struct area *a = &d->kmod->area;
	int err = 0;

	if (generation_of(a) != a->generation)
		err = follow_kmod(d, d->kmod, to, may_wait);
	if (!err)
		*taken += collect_area(a, d->nr, to);
	/* A table that changed while we took them is seen now. */
	if (!err && generation_after(a) != a->generation)
		err = follow_kmod(d, d->kmod, to, may_wait);
	if (!err && __atomic_load_n(&a->header->flags, __ATOMIC_ACQUIRE) & VMFERRY_AREA_BROKEN)
		err = -EIO;
	return err;
}

static int collect(struct dirty *d, struct page_set *to, uint64_t *taken, bool may_wait)
{
	uint64_t n = 0;
	int err = 0;

	if (generation_of(&d->vmm) != d->vmm.generation)
		return -ESTALE;
	n += collect_area(&d->vmm, d->nr, to);
	if (kmod_area(d))
		err = collect_kmod(d, to, &n, may_wait);
	if (taken)
		*taken = n;
	return err;
}

/**
 * dirty_collect() - move all visible dirty pages into @to (which may hold some already)
 * @taken: pages moved, may be NULL
 *
 * Context: may block, for milliseconds where much is dirty.
 * Return: 0; -ESTALE: a region has gone; -EIO: the module may have missed writes
 */
int dirty_collect(struct dirty *d, struct page_set *to, uint64_t *taken)
{
	return collect(d, to, taken, true);
}

/** dirty_collect_now() - the same while the guest stands still; -EAGAIN: its memory layout is just being changed */
int dirty_collect_now(struct dirty *d, struct page_set *to)
{
	return collect(d, to, NULL, false);
}

/**
 * dirty_peek() - pages of a bitmap word that the next dirty_collect() will take, at least
 * Context: any thread, while nobody collects
 */
uint64_t dirty_peek(const struct dirty *d, unsigned int region, uint64_t word)
{
	uint64_t bits = __atomic_load_n(&d->vmm.views[region].words[word], __ATOMIC_RELAXED);

	if (kmod_area(d))
		bits |= __atomic_load_n(&kmod_area(d)->views[region].words[word], __ATOMIC_RELAXED);
	return bits;
}

/** dirty_heat() - how often the 2 MiB around @page were found dirty of late; 0 where nobody counts */
uint8_t dirty_heat(const struct dirty *d, unsigned int region, uint64_t page)
{
	const uint8_t *heat = kmod_area(d) ? kmod_area(d)->views[region].heat : NULL;

	return heat ? __atomic_load_n(&heat[page >> 9], __ATOMIC_RELAXED) : 0;
}

/** dirty_drop() - forget what is visible now */
int dirty_drop(struct dirty *d)
{
	return dirty_collect(d, NULL, NULL);
}

/** dirty_throttled_ns() - how long the VMM has held @vcpu back */
uint64_t dirty_throttled_ns(const struct dirty *d, unsigned int vcpu)
{
	return vcpu < d->vmm.nr_vcpus ? __atomic_load_n(&d->vmm.vcpus[vcpu].throttled_ns, __ATOMIC_RELAXED) : 0;
}

/** dirty_read_counters() - the harvester's figures; they need not agree with each other */
void dirty_read_counters(const struct dirty *d, struct dirty_counters *c)
{
	const struct vmferry_area_header *h = kmod_area(d) ? kmod_area(d)->header : d->vmm.header;

	c->flags = __atomic_load_n(&h->flags, __ATOMIC_RELAXED);
	c->harvests = __atomic_load_n(&h->harvests, __ATOMIC_RELAXED);
	c->harvested = __atomic_load_n(&h->harvested, __ATOMIC_RELAXED);
	c->ring_full = __atomic_load_n(&h->ring_full, __ATOMIC_RELAXED);
	c->harvest_ns = __atomic_load_n(&h->harvest_ns, __ATOMIC_RELAXED);
	c->throttled_ns = 0;
	for (unsigned int i = 0; i < d->vmm.nr_vcpus; i++)
		c->throttled_ns += dirty_throttled_ns(d, i);
}
