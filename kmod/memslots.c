// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memslots that come and go -> the region table; their dirty logging on, and as it was.
 *
 * Theory of operation: the thread compares KVM's slots with those it knows whenever their
 * generation has moved. A slot that went takes its region along. A new one gets a region,
 * and, while logging, begins all dirty: what the guest wrote to it before its logging was
 * on is in nobody's record. All of its pages become visible only after logging is on.
 *
 * Turning logging on sets the slot anew with what it had plus a flag, by the ioctl that
 * the VMM would use: what sets it under KVM's own lock is not exported any more. A VMM
 * that changes slots in that very moment could see a slot come back that it just removed;
 * KVM's generation shows that there was another change, and the attachment is then broken
 * for good instead of wrong.
 */
#include "memslots.h"

#include <linux/kvm_host.h>
#include <linux/uaccess.h>

#include "attach.h"
#include "compat.h"

/* Reads KVM's slots; those that the guest cannot write, or that KVM keeps for itself, left out. */
static int read_slots(struct kvm *kvm, struct memslot *to, unsigned int *nr, u64 *generation)
{
	int srcu = srcu_read_lock(&kvm->srcu), err = 0;

	*nr = 0;
	*generation = compat_settled_generation(kvm);
	for (int as = 0; as < compat_nr_address_spaces(kvm); as++) {
		struct kvm_memslots *slots = __kvm_memslots(kvm, as);
		struct kvm_memory_slot *s;
		int bkt;

		kvm_for_each_memslot(s, bkt, slots) {
			if (s->id >= KVM_USER_MEM_SLOTS ||
			    s->flags & (KVM_MEM_READONLY | KVM_MEMSLOT_INVALID))
				continue;
			if (*nr == MEMSLOTS_MAX) {
				err = -E2BIG;
				continue;
			}
			to[(*nr)++] = (struct memslot){
				.slot = as << 16 | s->id,
				.flags = s->flags,
				.base_gfn = s->base_gfn,
				.npages = s->npages,
				.hva = s->userspace_addr,
				.region = -1,
			};
		}
	}
	srcu_read_unlock(&kvm->srcu, srcu);
	return err;
}

static struct memslot *find_same(struct memslot *in, unsigned int nr, const struct memslot *s)
{
	for (unsigned int i = 0; i < nr; i++)
		if (in[i].slot == s->slot && in[i].base_gfn == s->base_gfn &&
		    in[i].npages == s->npages && in[i].hva == s->hva)
			return &in[i];
	return NULL;
}

/* Another address space's view of RAM that has a region already. */
static struct memslot *find_alias(struct memslot *in, unsigned int nr, const struct memslot *s)
{
	for (unsigned int i = 0; i < nr; i++)
		if (in[i].owns_region && in[i].hva == s->hva && in[i].npages == s->npages)
			return &in[i];
	return NULL;
}

static int give_region(struct attachment *a, struct memslot *all, unsigned int nr,
		       struct memslot *s)
{
	struct memslot *alias = find_alias(all, nr, s);

	if (alias) {
		s->region = alias->region;
		return 0;
	}
	s->region = area_add_region(&a->area, s->slot, s->base_gfn << PAGE_SHIFT, s->npages);
	s->owns_region = s->region >= 0;
	return s->region < 0 ? s->region : 0;
}

/**
 * memslots_look() - bring the region table up to date with KVM's slots
 * @a: the attachment
 * @changed: a region came or went
 * Context: the attachment's thread
 */
int memslots_look(struct attachment *a, bool *changed)
{
	struct memslots *m = &a->slots;
	struct memslot *now;
	unsigned int nr;
	u64 generation;
	int err;

	*changed = false;
	if (m->nr && compat_memslots_generation(a->kvm) == m->generation)
		return 0;
	now = kcalloc(MEMSLOTS_MAX, sizeof(*now), GFP_KERNEL);
	if (!now)
		return -ENOMEM;
	err = read_slots(a->kvm, now, &nr, &generation);
	for (unsigned int i = 0; i < nr; i++) {
		struct memslot *old = find_same(m->slot, m->nr, &now[i]);

		if (old) {
			now[i].region = old->region;
			now[i].owns_region = old->owns_region;
			now[i].turned_on = old->turned_on;
			now[i].was_seen = old->was_seen;
		}
	}
	for (unsigned int i = 0; i < m->nr; i++) {
		if (m->slot[i].owns_region && !find_same(now, nr, &m->slot[i])) {
			watch_remove_region(&a->watch, m->slot[i].region);
			area_remove_region(&a->area, m->slot[i].region);
			*changed = true;
		}
	}
	for (unsigned int i = 0; i < nr && !err; i++) {
		if (now[i].region >= 0)
			continue;
		err = give_region(a, now, nr, &now[i]);
		if (!err && now[i].owns_region)
			err = watch_add_region(&a->watch, now[i].region, now[i].npages);
		*changed = true;
	}
	memcpy(m->slot, now, nr * sizeof(*now));
	m->nr = nr;
	m->generation = generation;
	kfree(now);
	if (!err)
		err = watch_set_slots(&a->watch, m);
	if (*changed)
		area_changed(&a->area);
	return err;
}

static int set_flags(struct attachment *a, const struct memslot *s, u32 flags)
{
	struct kvm_userspace_memory_region region = {
		.slot = s->slot,
		.flags = flags,
		.guest_phys_addr = s->base_gfn << PAGE_SHIFT,
		.memory_size = s->npages << PAGE_SHIFT,
		.userspace_addr = s->hva,
	};
	u64 before = compat_memslots_generation(a->kvm);
	void __user *at;
	int err = attach_scratch(a, sizeof(region), &at);

	if (err)
		return err;
	if (before != a->slots.generation)
		return -EAGAIN; /* it changed since we looked */
	if (copy_to_user(at, &region, sizeof(region)))
		return -EFAULT;
	err = attach_vm_ioctl(a, KVM_SET_USER_MEMORY_REGION, (unsigned long)at);
	if (err)
		return err;
	a->slots.generation = compat_memslots_generation(a->kvm);
	/* Ours was the only change, or slots may have been set that the VMM had just removed. */
	if (a->slots.generation - before != compat_nr_address_spaces(a->kvm))
		attach_break(a);
	return 0;
}

/**
 * memslots_log() - turn dirty logging on wherever it is off
 * @a: the attachment
 * Return: 0, or -EAGAIN: the slots changed meanwhile, look again
 */
int memslots_log(struct attachment *a)
{
	struct memslots *m = &a->slots;

	for (unsigned int i = 0; i < m->nr; i++) {
		int err;

		if (m->slot[i].flags & KVM_MEM_LOG_DIRTY_PAGES)
			continue;
		err = set_flags(a, &m->slot[i], m->slot[i].flags | KVM_MEM_LOG_DIRTY_PAGES);
		if (err)
			return err;
		m->slot[i].flags |= KVM_MEM_LOG_DIRTY_PAGES;
		m->slot[i].turned_on = true;
	}
	return 0;
}

/** memslots_restore() - turn off what memslots_log() turned on; best effort */
void memslots_restore(struct attachment *a)
{
	struct memslots *m = &a->slots;

	for (unsigned int i = 0; i < m->nr; i++) {
		if (!m->slot[i].turned_on)
			continue;
		if (set_flags(a, &m->slot[i], m->slot[i].flags & ~KVM_MEM_LOG_DIRTY_PAGES))
			continue;
		m->slot[i].flags &= ~KVM_MEM_LOG_DIRTY_PAGES;
		m->slot[i].turned_on = false;
	}
}

/** memslots_region() - where @page of KVM slot @slot belongs, or -ENOENT */
int memslots_region(const struct memslots *m, u32 slot, u64 page)
{
	for (unsigned int i = 0; i < m->nr; i++)
		if (m->slot[i].slot == slot)
			return page < m->slot[i].npages ? m->slot[i].region : -ENOENT;
	return -ENOENT;
}
