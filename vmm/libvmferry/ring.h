/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VMM_RING_H
#define VMM_RING_H

#include <stdbool.h>
#include <stdint.h>

struct kvm_dirty_gfn;

/**
 * struct ring - one vCPU's dirty ring
 * @gfns: the mapped entries
 * @entries: how many, a power of two
 * @next: index of the next entry to collect (free running); the harvester's lock
 * @is_lost: somebody else collected: @next is to be found anew; the harvester's lock
 */
struct ring {
	struct kvm_dirty_gfn *gfns;
	uint32_t entries;
	uint32_t next;
	bool is_lost;
};

/** struct ring_entry - one page that the guest wrote: slot (with address space) and page in it */
struct ring_entry {
	uint32_t slot;
	uint64_t page;
};

int ring_init(struct ring *r, int vcpu_fd, uint32_t entries);
void ring_fini(struct ring *r);
void ring_lose(struct ring *r);
bool ring_is_reset(const struct ring *r);
uint32_t ring_collect(struct ring *r, struct ring_entry *to, uint32_t max);

#endif
