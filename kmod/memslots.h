/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef VMFERRY_MEMSLOTS_H
#define VMFERRY_MEMSLOTS_H

#include <linux/rcupdate.h>
#include <linux/types.h>
#include <vmferry.h>

struct attachment;

#define MEMSLOTS_MAX (2 * VMFERRY_MAX_REGIONS) /* x86 has a second address space, for SMM */

/**
 * struct memslot - one KVM memslot as it was when we looked
 * @slot: as_id << 16 | id
 * @region: index of its region in the area; of another slot's, if both show the same RAM
 * @owns_region: the region goes when this slot does
 * @turned_on: we turned its dirty logging on, and turn it off again
 * @was_seen: by a harvest: it is no new one
 */
struct memslot {
	u32 slot;
	u32 flags;
	u64 base_gfn;
	u64 npages;
	unsigned long hva;
	int region;
	bool owns_region;
	bool turned_on;
	bool was_seen;
};

/** struct memslots - @generation: KVM's, of the last look; the thread's */
struct memslots {
	u64 generation;
	unsigned int nr;
	struct memslot slot[MEMSLOTS_MAX];
};

int memslots_look(struct attachment *a, bool *changed);
int memslots_log(struct attachment *a);
void memslots_restore(struct attachment *a);
int memslots_region(const struct memslots *m, u32 slot, u64 page);

#endif
