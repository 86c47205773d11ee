/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef VMFERRY_AREA_H
#define VMFERRY_AREA_H

#include <linux/mm_types.h>
#include <linux/mutex.h>
#include <vmferry.h>

/**
 * struct area_chunk - one allocation of the area; never moves or goes before the area does
 */
struct area_chunk {
	u64 off;
	u64 len;
	void *mem;
};

#define AREA_MAX_CHUNKS (1 + 4 * VMFERRY_MAX_REGIONS)

/**
 * struct area_region - the module's own record of a region: the shared one is not believed
 * @bitmap, @summary, @heat: in the shared area
 * @heated: by 2 MiB, the harvest that last added to the heat
 */
struct area_region {
	bool used;
	struct vmferry_region desc;
	u64 nr_pages;
	unsigned long *bitmap;
	unsigned long *summary;
	u8 *heat;
	u8 *heated;
	u64 nr_heat;
};

/**
 * struct area - the mmapped area: laid out in chunks, so that it can grow
 * @lock: chunks and tables; taken last
 *
 * The consumer can write all of it. Nothing is ever read back from it but bits that
 * atomic operations return, and those only count.
 */
struct area {
	struct mutex lock; /* see above */
	struct area_chunk chunks[AREA_MAX_CHUNKS];
	unsigned int nr_chunks;
	u64 size;
	struct vmferry_area_header *header;
	struct vmferry_region *regions;
	struct vmferry_vcpu *vcpus;
	struct vmferry_device *devices;
	struct area_region region[VMFERRY_MAX_REGIONS];
	unsigned int nr_regions;
	u64 generation;
	u64 flags;
	u8 harvest; /* of this one; never 0 */
	atomic64_t harvests, harvested, published, ring_full, harvest_ns;
};

int area_init(struct area *a);
void area_fini(struct area *a);
int area_add_region(struct area *a, u32 slot, u64 gpa, u64 nr_pages);
void area_rename_region(struct area *a, unsigned int region, u32 slot, u64 gpa);
void area_remove_region(struct area *a, unsigned int region);
void area_changed(struct area *a);
u32 area_publish_all(struct area *a, unsigned int region);
void area_begin_harvest(struct area *a);
u32 area_found(struct area *a, unsigned int region, u64 word, u64 bits);
void area_cool(struct area *a);
void area_set_flags(struct area *a, u64 set, u64 clear);
void area_set_nr_vcpus(struct area *a, unsigned int nr);
void area_copy_counters(struct area *a);
int area_mmap(struct area *a, struct vm_area_struct *vma);

#endif
