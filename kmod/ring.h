/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef VMFERRY_RING_H
#define VMFERRY_RING_H

#include <linux/kvm_host.h>
#include <linux/types.h>

/** struct ring_entry - a dirty page, copied out of a ring: KVM's slot and page in it */
struct ring_entry {
	u32 slot;
	u64 page;
};

/**
 * struct ring_cursors - where we are in each vCPU's ring; the thread's
 * @next: by vcpu_idx, the next entry to collect, in KVM's own counting
 * @before: @next as it was at the last harvest
 * @until: KVM's push index when this harvest began: what comes later is the next one's
 * @known: how many of them are set up; vCPUs come, and never go before the VM does
 */
struct ring_cursors {
	u32 *next;
	u32 *before;
	u32 *until;
	unsigned int known;
	struct ring_entry *stage;
	u32 room;
};

int ring_cursors_grow(struct ring_cursors *r, struct kvm *kvm, u32 room);
void ring_cursors_fini(struct ring_cursors *r);
void ring_cursors_set_until(struct ring_cursors *r, struct kvm *kvm);
bool ring_cursors_are_at_end(const struct ring_cursors *r, struct kvm *kvm);
u32 ring_collect(struct kvm_dirty_ring *ring, u32 *next, u32 until, struct ring_entry *to, u32 max);
bool ring_is_shared(const struct kvm_dirty_ring *ring, u32 next);
bool ring_is_reset_to(const struct kvm_dirty_ring *ring, u32 index);
void ring_hand_back(struct kvm_dirty_ring *ring);
u32 ring_used(const struct kvm_dirty_ring *ring);
void ring_each_unreset(const struct kvm_dirty_ring *ring,
		       void (*found)(void *arg, u32 slot, u64 page), void *arg);

#endif
