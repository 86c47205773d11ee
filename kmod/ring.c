// SPDX-License-Identifier: GPL-2.0-only
/*
 * One vCPU's ring: the only file that knows struct kvm_dirty_gfn.
 * It has a twin of the same name in libvmferry.
 *
 * Theory of operation: KVM fills an entry and sets DIRTY; we copy it and set RESET;
 * KVM_RESET_DIRTY_RINGS takes RESET entries back in order, write-protects their pages
 * again and clears the flags. An entry belongs to us from DIRTY until RESET is set.
 * The ring lies in pages that the VMM can write as well: what is in an entry is checked
 * by whoever uses it, and our cursors follow KVM's indices, which nobody else can write.
 */
#include "ring.h"

#include <linux/slab.h>
#include <linux/vmalloc.h>

/** ring_cursors_grow() - a cursor for each vCPU there is now, room for @room entries */
int ring_cursors_grow(struct ring_cursors *r, struct kvm *kvm, u32 room)
{
	unsigned int nr = atomic_read(&kvm->online_vcpus);

	if (room > r->room) {
		struct ring_entry *stage = vmalloc_array(room, sizeof(*stage));

		if (!stage)
			return -ENOMEM;
		vfree(r->stage);
		r->stage = stage;
		r->room = room;
	}
	if (nr > r->known) {
		u32 *next = krealloc_array(r->next, nr, sizeof(*next), GFP_KERNEL), *before, *until;

		if (!next)
			return -ENOMEM;
		r->next = next;
		before = krealloc_array(r->before, nr, sizeof(*before), GFP_KERNEL);
		if (!before)
			return -ENOMEM;
		r->before = before;
		until = krealloc_array(r->until, nr, sizeof(*until), GFP_KERNEL);
		if (!until)
			return -ENOMEM;
		r->until = until;
		for (; r->known < nr; r->known++) {
			struct kvm_dirty_ring *ring = &kvm_get_vcpu(kvm, r->known)->dirty_ring;

			next[r->known] = READ_ONCE(ring->reset_index);
			before[r->known] = next[r->known];
			until[r->known] = next[r->known];
		}
	}
	return 0;
}

void ring_cursors_fini(struct ring_cursors *r)
{
	kfree(r->next);
	kfree(r->before);
	kfree(r->until);
	vfree(r->stage);
	*r = (struct ring_cursors){ 0 };
}

/** ring_cursors_set_until() - a harvest begins: all that is in the rings now is its own */
void ring_cursors_set_until(struct ring_cursors *r, struct kvm *kvm)
{
	for (unsigned int i = 0; i < r->known; i++)
		r->until[i] = READ_ONCE(kvm_get_vcpu(kvm, i)->dirty_ring.dirty_index);
}

/** ring_cursors_are_at_end() - is there nothing to collect, and no vCPU that came? */
bool ring_cursors_are_at_end(const struct ring_cursors *r, struct kvm *kvm)
{
	if (atomic_read(&kvm->online_vcpus) != r->known)
		return false;
	for (unsigned int i = 0; i < r->known; i++)
		if (READ_ONCE(kvm_get_vcpu(kvm, i)->dirty_ring.dirty_index) != r->next[i])
			return false;
	return true;
}

/**
 * ring_collect() - copy out the dirty entries and hand them back to KVM for reset
 * @ring: the vCPU's ring
 * @to: room for the copies
 * @max: how many at most
 * @next: our cursor, moved on
 * @until: where to end, in KVM's own counting
 * Return: entries copied, @max at most. Their pages stay writable until the reset.
 */
u32 ring_collect(struct kvm_dirty_ring *ring, u32 *next, u32 until, struct ring_entry *to, u32 max)
{
	u32 n = 0;

	while (n < max && *next != until) {
		struct kvm_dirty_gfn *gfn = &ring->dirty_gfns[*next & (ring->size - 1)];
		/* Pairs with the barrier in kvm_dirty_ring_push(): slot and offset are valid. */
		u32 flags = smp_load_acquire(&gfn->flags);

		if (!(flags & KVM_DIRTY_GFN_F_DIRTY))
			break;
		to[n].slot = READ_ONCE(gfn->slot);
		to[n].page = READ_ONCE(gfn->offset);
		n++;
		/* Pairs with KVM's acquire in kvm_dirty_gfn_harvested(): copied before reuse. */
		smp_store_release(&gfn->flags, KVM_DIRTY_GFN_F_RESET);
		(*next)++;
	}
	return n;
}

/**
 * ring_is_shared() - has somebody else collected what was ours to collect?
 * @ring: the vCPU's ring
 * @next: our cursor, after a collect
 */
bool ring_is_shared(const struct kvm_dirty_ring *ring, u32 next)
{
	u32 flags = READ_ONCE(ring->dirty_gfns[next & (ring->size - 1)].flags);

	if ((s32)(READ_ONCE(ring->reset_index) - next) > 0)
		return true;
	return next != READ_ONCE(ring->dirty_index) && flags & KVM_DIRTY_GFN_F_RESET;
}

/** ring_is_reset_to() - has every entry before @index been taken back by KVM? */
bool ring_is_reset_to(const struct kvm_dirty_ring *ring, u32 index)
{
	return (s32)(READ_ONCE(ring->reset_index) - index) >= 0;
}

/*
 * Entries pushed and not reset from @from on, which was the reset index a moment ago. KVM moves both
 * indices meanwhile, and each entry is seen dirty, and may be reset, before KVM has moved the push
 * index over it: so the push index can be behind @from, or further ahead than the ring is large.
 */
static u32 unreset_from(const struct kvm_dirty_ring *ring, u32 from)
{
	s32 n = READ_ONCE(ring->dirty_index) - from;

	return n < 0 ? 0 : min_t(u32, n, ring->size);
}

/** ring_hand_back() - mark all there is for reset, and look at none of it; needs no memory */
void ring_hand_back(struct kvm_dirty_ring *ring)
{
	u32 first = READ_ONCE(ring->reset_index), nr = unreset_from(ring, first);

	for (u32 n = 0; n < nr; n++) {
		struct kvm_dirty_gfn *gfn = &ring->dirty_gfns[(first + n) & (ring->size - 1)];

		if (!(READ_ONCE(gfn->flags) & KVM_DIRTY_GFN_F_DIRTY))
			continue;
		/* Pairs with KVM's acquire in kvm_dirty_gfn_harvested(), as in ring_collect(). */
		smp_store_release(&gfn->flags, KVM_DIRTY_GFN_F_RESET);
	}
}

/** ring_used() - entries pushed and not reset */
u32 ring_used(const struct kvm_dirty_ring *ring)
{
	return READ_ONCE(ring->dirty_index) - READ_ONCE(ring->reset_index);
}

/** ring_each_unreset() - what was pushed before we watched and may still be writable */
void ring_each_unreset(const struct kvm_dirty_ring *ring,
		       void (*found)(void *arg, u32 slot, u64 page), void *arg)
{
	u32 first = READ_ONCE(ring->reset_index), nr = unreset_from(ring, first);

	for (u32 n = 0; n < nr; n++) {
		const struct kvm_dirty_gfn *gfn = &ring->dirty_gfns[(first + n) & (ring->size - 1)];

		found(arg, READ_ONCE(gfn->slot), READ_ONCE(gfn->offset));
	}
}
