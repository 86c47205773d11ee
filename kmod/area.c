// SPDX-License-Identifier: GPL-2.0-only
/*
 * The shared area as its producer sees it: lays it out, sets bits, bumps the generation.
 * It has a twin of the same name in libvmferry.
 *
 * Theory of operation: the area is a row of chunks of vmalloc memory, the first one
 * header and tables, then one for each region's bitmap, summary and heat. A chunk stays
 * where it is for as long as the area lives, for the consumer may have it mapped; a
 * region that goes leaves its chunk to a later one of the same size. Pages reach the
 * consumer's mapping one by one, by fault, each with a reference of its own.
 */
#include "area.h"

#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "compat.h"

#define HEAT_SHIFT (21 - VMFERRY_PAGE_SHIFT)

static int add_chunk(struct area *a, u64 len)
{
	struct area_chunk *c = &a->chunks[a->nr_chunks];

	if (a->nr_chunks == AREA_MAX_CHUNKS)
		return -ENOSPC;
	c->len = PAGE_ALIGN(len);
	c->off = a->size;
	c->mem = vzalloc(c->len);
	if (!c->mem)
		return -ENOMEM;
	a->nr_chunks++;
	a->size += c->len;
	return 0;
}

/**
 * area_init() - make the header and the tables; there are no regions yet
 * @a: the area
 */
int area_init(struct area *a)
{
	u64 region_off = PAGE_SIZE;
	u64 vcpu_off = PAGE_ALIGN(region_off + VMFERRY_MAX_REGIONS * sizeof(struct vmferry_region));
	u64 device_off = PAGE_ALIGN(vcpu_off + VMFERRY_MAX_VCPUS * sizeof(struct vmferry_vcpu));
	u64 end = PAGE_ALIGN(device_off + VMFERRY_MAX_DEVICES * sizeof(struct vmferry_device));
	void *mem;
	int err;

	mutex_init(&a->lock);
	err = add_chunk(a, end);
	if (err)
		return err;
	mem = a->chunks[0].mem;
	a->header = mem;
	a->regions = mem + region_off;
	a->vcpus = mem + vcpu_off;
	a->devices = mem + device_off;
	a->flags = VMFERRY_AREA_KMOD;
	*a->header = (struct vmferry_area_header){
		.version = VMFERRY_AREA_VERSION,
		.header_size = sizeof(*a->header),
		.total_size = a->size,
		.flags = a->flags,
		.region_off = region_off,
		.vcpu_off = vcpu_off,
		.device_off = device_off,
	};
	/* Pairs with the acquire of a reader: who sees the magic sees the tables. */
	smp_store_release(&a->header->magic, VMFERRY_AREA_MAGIC);
	return 0;
}

void area_fini(struct area *a)
{
	for (unsigned int i = 0; i < VMFERRY_MAX_REGIONS; i++)
		vfree(a->region[i].heated);
	while (a->nr_chunks)
		vfree(a->chunks[--a->nr_chunks].mem);
}

/* A chunk for a region of @nr_pages: one that a removed region left, or a new one. */
static struct area_chunk *find_chunk(struct area *a, u64 len)
{
	for (unsigned int i = 1; i < a->nr_chunks; i++) {
		bool used = false;

		if (a->chunks[i].len != PAGE_ALIGN(len))
			continue;
		for (unsigned int r = 0; r < VMFERRY_MAX_REGIONS; r++)
			used |= a->region[r].used &&
				a->region[r].desc.bitmap_off == a->chunks[i].off;
		if (!used) {
			memset(a->chunks[i].mem, 0, a->chunks[i].len);
			return &a->chunks[i];
		}
	}
	return add_chunk(a, len) ? NULL : &a->chunks[a->nr_chunks - 1];
}

/**
 * area_add_region() - a region with clean pages; area_changed() tells the consumer
 * @a: the area
 * @slot: KVM slot, as_id << 16 | id
 * @gpa: guest-physical address
 * @nr_pages: pages of 4 KiB
 * Return: its index, or a negative errno
 */
int area_add_region(struct area *a, u32 slot, u64 gpa, u64 nr_pages)
{
	u64 words = DIV_ROUND_UP(nr_pages, 64), summary = DIV_ROUND_UP(words, 64);
	u64 heat = DIV_ROUND_UP(nr_pages, 1ULL << HEAT_SHIFT);
	struct area_region *r;
	struct area_chunk *c;
	unsigned int i;
	u8 *heated;

	for (i = 0; i < VMFERRY_MAX_REGIONS && a->region[i].used; i++)
		;
	if (i == VMFERRY_MAX_REGIONS)
		return -ENOSPC;
	heated = vzalloc(heat);
	if (!heated)
		return -ENOMEM;
	mutex_lock(&a->lock);
	c = find_chunk(a, PAGE_ALIGN(words * 8) + PAGE_ALIGN(summary * 8) + heat);
	mutex_unlock(&a->lock);
	if (!c) {
		vfree(heated);
		return -ENOMEM;
	}
	r = &a->region[i];
	*r = (struct area_region){
		.used = true,
		.nr_pages = nr_pages,
		.nr_heat = heat,
		.heated = heated,
		.bitmap = c->mem,
		.summary = c->mem + PAGE_ALIGN(words * 8),
		.heat = c->mem + PAGE_ALIGN(words * 8) + PAGE_ALIGN(summary * 8),
		.desc = {
			.id = i,
			.slot = slot,
			.gpa = gpa,
			.size = nr_pages << VMFERRY_PAGE_SHIFT,
			.bitmap_off = c->off,
			.bitmap_words = words,
			.summary_off = c->off + PAGE_ALIGN(words * 8),
			.summary_words = summary,
			.heat_off = c->off + PAGE_ALIGN(words * 8) + PAGE_ALIGN(summary * 8),
		},
	};
	return i;
}

/** area_rename_region() - another slot shows its RAM now; area_changed() tells the consumer */
void area_rename_region(struct area *a, unsigned int region, u32 slot, u64 gpa)
{
	a->region[region].desc.slot = slot;
	a->region[region].desc.gpa = gpa;
}

/** area_remove_region() - its bits are dropped; area_changed() tells the consumer */
void area_remove_region(struct area *a, unsigned int region)
{
	a->region[region].used = false;
	vfree(a->region[region].heated);
	a->region[region].heated = NULL;
}

/** area_changed() - write the tables anew; the generation is odd meanwhile */
void area_changed(struct area *a)
{
	unsigned int nr = 0;

	WRITE_ONCE(a->header->generation, ++a->generation);
	/* Pairs with the reader's fence: who sees any of the new table sees that it was odd. */
	smp_wmb();
	for (unsigned int i = 0; i < VMFERRY_MAX_REGIONS; i++)
		if (a->region[i].used)
			a->regions[nr++] = a->region[i].desc;
	a->nr_regions = nr;
	WRITE_ONCE(a->header->nr_regions, nr);
	WRITE_ONCE(a->header->total_size, a->size);
	/* Pairs with the reader's acquire: who sees the generation sees the table. */
	smp_store_release(&a->header->generation, ++a->generation);
}

/**
 * publish() - make pages visible to the consumer
 * @a: the area
 * @region: index of the region
 * @word: 64-bit word of its bitmap
 * @bits: pages of 64-bit word @word of @region's bitmap
 *
 * Only for pages that are write-protected again: see harvest.c.
 * Return: how many were not set before
 */
static u32 publish(struct area *a, unsigned int region, u64 word, u64 bits)
{
	struct area_region *r = &a->region[region];
	u64 old = atomic64_fetch_or(bits, (atomic64_t *)&r->bitmap[word]);
	u32 fresh = hweight64(bits & ~old);

	atomic64_add(fresh, &a->published);
	/*
	 * Pairs with the consumer's exchange: who takes the summary bit sees the word.
	 * Else the word's bits wait for a summary bit that nobody sets again.
	 */
	atomic64_fetch_or_release(1ULL << (word % 64), (atomic64_t *)&r->summary[word / 64]);
	return fresh;
}

/** area_publish_all() - every page of @region. Return: how many were not set before */
u32 area_publish_all(struct area *a, unsigned int region)
{
	u64 nr = a->region[region].nr_pages;
	u32 fresh = 0;

	for (u64 w = 0; w < nr / 64; w++)
		fresh += publish(a, region, w, ~0ULL);
	if (nr % 64)
		fresh += publish(a, region, nr / 64, (1ULL << (nr % 64)) - 1);
	return fresh;
}

/** area_begin_harvest() - heat grows by one at most until the next */
void area_begin_harvest(struct area *a)
{
	if (!++a->harvest)
		a->harvest = 1;
}

/* This harvest found pages of @word dirty; the counter stays at its most. */
static void heat(struct area *a, unsigned int region, u64 word)
{
	struct area_region *r = &a->region[region];
	u64 at = word >> (HEAT_SHIFT - 6);
	u8 old;

	if (r->heated[at] == a->harvest)
		return;
	r->heated[at] = a->harvest;
	old = READ_ONCE(r->heat[at]);
	if (old < U8_MAX)
		WRITE_ONCE(r->heat[at], old + 1);
}

/**
 * area_found() - this harvest found pages of @word dirty: they are published, the block is heated
 * @a: the area
 * @region: index of the region
 * @word: 64-bit word of its bitmap
 * @bits: pages of it, as for publish(); none: nothing happens
 *
 * What is in no region is left out: a slot may have changed since the region was made.
 * Return: how many were not set before
 */
u32 area_found(struct area *a, unsigned int region, u64 word, u64 bits)
{
	const struct area_region *r;

	if (region >= VMFERRY_MAX_REGIONS)
		return 0;
	r = &a->region[region];
	if (!r->used || word >= r->desc.bitmap_words)
		return 0;
	if (word == r->nr_pages / 64)
		bits &= (1ULL << (r->nr_pages % 64)) - 1;
	if (!bits)
		return 0;
	heat(a, region, word);
	return publish(a, region, word, bits);
}

/** area_cool() - half of all heat */
void area_cool(struct area *a)
{
	for (unsigned int i = 0; i < VMFERRY_MAX_REGIONS; i++)
		for (u64 k = 0; a->region[i].used && k < a->region[i].nr_heat; k++)
			WRITE_ONCE(a->region[i].heat[k], READ_ONCE(a->region[i].heat[k]) / 2);
}

void area_set_flags(struct area *a, u64 set, u64 clear)
{
	a->flags = (a->flags | set) & ~clear;
	/* Pairs with the reader's acquire: a flag is seen after what it stands for. */
	smp_store_release(&a->header->flags, a->flags);
}

void area_set_nr_vcpus(struct area *a, unsigned int nr)
{
	/* Pairs with the reader's acquire: who sees the number sees the entries. */
	smp_store_release(&a->header->nr_vcpus, nr);
}

/** area_copy_counters() - ours to the header, for the consumer */
void area_copy_counters(struct area *a)
{
	WRITE_ONCE(a->header->harvests, atomic64_read(&a->harvests));
	WRITE_ONCE(a->header->harvested, atomic64_read(&a->harvested));
	WRITE_ONCE(a->header->published, atomic64_read(&a->published));
	WRITE_ONCE(a->header->ring_full, atomic64_read(&a->ring_full));
	WRITE_ONCE(a->header->harvest_ns, atomic64_read(&a->harvest_ns));
}

static vm_fault_t area_fault(struct vm_fault *vmf)
{
	struct area *a = vmf->vma->vm_private_data;
	u64 off = (u64)vmf->pgoff << PAGE_SHIFT;
	vm_fault_t ret = VM_FAULT_SIGBUS;

	mutex_lock(&a->lock);
	for (unsigned int i = 0; i < a->nr_chunks; i++) {
		struct area_chunk *c = &a->chunks[i];

		if (off < c->off || off - c->off >= c->len)
			continue;
		vmf->page = vmalloc_to_page(c->mem + (off - c->off));
		get_page(vmf->page);
		ret = 0;
		break;
	}
	mutex_unlock(&a->lock);
	return ret;
}

static const struct vm_operations_struct area_vm_ops = {
	.fault = area_fault,
};

/** area_mmap() - the file that holds the area is pinned by the mapping */
int area_mmap(struct area *a, struct vm_area_struct *vma)
{
	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	vma->vm_private_data = a;
	vma->vm_ops = &area_vm_ops;
	compat_vm_flags_set(vma, VM_DONTEXPAND | VM_DONTDUMP);
	return 0;
}
