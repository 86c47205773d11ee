/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef VMFERRY_MEMSLOTS_H
#define VMFERRY_MEMSLOTS_H

#include <linux/rcupdate.h>
#include <linux/types.h>
#include <vmferry.h>

struct attachment;

#define MEMSLOTS_MAX (2 * VMFERRY_MAX_REGIONS) /* x86 has a second address space, for SMM */

/**
 * struct memslot - one KVM memslot as the last look saw it
 * @slot: as_id << 16 | id
 * @identity: KVM's own object, which every change of the slot replaces; compared, never followed
 * @region: index of its region in the area; slots that show the same RAM have the same one
 * @owns_region: the region table names this slot
 * @turned_on: we turned its dirty logging on, and turn it off again
 * @begins_anew: its log has a gap: its region becomes all dirty once logging is on
 */
struct memslot {
	u32 slot;
	u32 flags;
	u64 base_gfn;
	u64 npages;
	unsigned long hva;
	const void *identity;
	int region;
	bool owns_region;
	bool turned_on;
	bool begins_anew;
};

/**
 * struct memslots - KVM's slots as the last look saw them; the thread's
 * @generation: KVM's, of that look
 * @is_complete: every slot of that look has its region; else the next look begins again
 * @nr, @slot: the slots that have a region
 * @seen: room for what a look reads
 */
struct memslots {
	u64 generation;
	bool is_complete;
	unsigned int nr;
	struct memslot slot[MEMSLOTS_MAX];
	struct memslot seen[MEMSLOTS_MAX];
};

int memslots_look(struct attachment *a);
int memslots_log(struct attachment *a);
bool memslots_have_changed(struct attachment *a);
void memslots_restore(struct attachment *a);
int memslots_region(const struct memslots *m, u32 slot, u64 page);

#endif
