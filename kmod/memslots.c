// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memslots that come and go -> the region table; their dirty logging on, and as it was.
 *
 * Theory of operation: the thread compares KVM's slots with those it knows whenever their
 * generation has moved.
 *
 *   slot gone      its region goes, or passes to another slot that shows the same RAM
 *   slot new       a region, or the region of a slot that shows the same RAM
 *   slot changed   unlogged and logged again, or deleted and made anew: its log begins anew
 *
 * A slot whose log begins anew is all dirty: what the guest wrote to it before its logging was on,
 * or what a log held that KVM has dropped, is in nobody's record. The same holds for a region that
 * lost one of several slots: that slot took its last log along. The pages become visible only after
 * logging is on.
 *
 * KVM replaces its object of a slot with each change, but the address of an object that was freed
 * may be used again, at the second change at the earliest. So the steps of the generation are
 * counted, too: if there were two or more besides those that the differences explain, any slot may
 * have been changed and changed back, and all of them begin anew.
 *
 * A look that fails leaves every known slot with a valid region and counts as not done:
 * @is_complete is false, and the next one begins again. Regions are never used unchecked:
 * area_found() and the watch compare a page with the size of its region at each use.
 *
 * Turning logging on sets the slot anew with what it had plus a flag, by the ioctl that
 * the VMM would use: what sets it under KVM's own lock is not exported any more. A VMM
 * that changes slots in that very moment could see a slot come back that it just removed;
 * KVM's generation shows that there was another change, and the attachment is then broken
 * for good instead of wrong.
 */
#include "memslots.h"

#include <linux/delay.h>
#include <linux/kvm_host.h>
#include <linux/uaccess.h>

#include "attach.h"
#include "compat.h"

/* What a look reads besides the slots. */
struct look {
	unsigned int nr;
	u64 generation;
	bool is_amid_change;
};

/* Reads KVM's slots; those that the guest cannot write, or that KVM keeps for itself, left out. */
static int read_slots(struct kvm *kvm, struct memslot *to, struct look *l)
{
	int srcu = srcu_read_lock(&kvm->srcu), err = 0;

	*l = (struct look){ 0 };
	for (int as = 0; as < compat_nr_address_spaces(kvm); as++) {
		struct kvm_memslots *slots = __kvm_memslots(kvm, as);
		struct kvm_memory_slot *s;
		int bkt;

		l->generation += compat_settled_generation(kvm, slots);
		kvm_for_each_memslot(s, bkt, slots) {
			l->is_amid_change |= !!(s->flags & KVM_MEMSLOT_INVALID);
			if (s->id >= KVM_USER_MEM_SLOTS ||
			    s->flags & (KVM_MEM_READONLY | KVM_MEMSLOT_INVALID))
				continue;
			if (l->nr == MEMSLOTS_MAX) {
				err = -E2BIG;
				continue;
			}
			to[l->nr++] = (struct memslot){
				.slot = as << 16 | s->id,
				.flags = s->flags,
				.base_gfn = s->base_gfn,
				.npages = s->npages,
				.hva = s->userspace_addr,
				.identity = s,
				.region = -1,
			};
		}
	}
	srcu_read_unlock(&kvm->srcu, srcu);
	return err;
}

/* A slot that is just being deleted or moved is as good as gone for some microseconds. */
static int read_settled_slots(struct kvm *kvm, struct memslot *to, struct look *l)
{
	int err = read_slots(kvm, to, l);

	for (int tries = 0; l->is_amid_change && tries < 20; tries++) {
		usleep_range(50, 100);
		err = read_slots(kvm, to, l);
	}
	return err;
}

static bool is_same(const struct memslot *a, const struct memslot *b)
{
	return a->slot == b->slot && a->base_gfn == b->base_gfn && a->npages == b->npages &&
	       a->hva == b->hva;
}

static struct memslot *find_same(struct memslot *in, unsigned int nr, const struct memslot *s)
{
	for (unsigned int i = 0; i < nr; i++)
		if (is_same(&in[i], s))
			return &in[i];
	return NULL;
}

static struct memslot *find_id(struct memslot *in, unsigned int nr, u32 slot)
{
	for (unsigned int i = 0; i < nr; i++)
		if (in[i].slot == slot)
			return &in[i];
	return NULL;
}

/* Another slot's view of RAM that has a region already. */
static struct memslot *find_alias(struct memslot *in, unsigned int nr, const struct memslot *s)
{
	for (unsigned int i = 0; i < nr; i++)
		if (in[i].owns_region && in[i].hva == s->hva && in[i].npages == s->npages)
			return &in[i];
	return NULL;
}

/* Steps of KVM's generation that turn @old into @now, at least; NULL: there is no such slot. */
static u64 steps_between(const struct memslot *old, const struct memslot *now)
{
	if (!old)
		return 1;
	if (!now)
		return 2;
	if (is_same(old, now)) {
		if (old->identity == now->identity)
			return 0;
		return (old->flags ^ now->flags) & KVM_MEM_LOG_DIRTY_PAGES ? 1 : 2;
	}
	return old->hva == now->hva && old->npages == now->npages ? 2 : 3;
}

/* May a slot that looks unchanged have been changed and changed back? */
static bool may_hide_changes(struct attachment *a, const struct look *l)
{
	struct memslots *m = &a->slots;
	u64 steps = div_u64(l->generation - m->generation, compat_nr_address_spaces(a->kvm));

	if (l->is_amid_change)
		return true;
	for (unsigned int i = 0; i < m->nr; i++)
		steps -= steps_between(&m->slot[i], find_id(m->seen, l->nr, m->slot[i].slot));
	for (unsigned int i = 0; i < l->nr; i++)
		if (!find_id(m->slot, m->nr, m->seen[i].slot))
			steps--;
	/* Fewer than were counted, which wraps, is a doubt as well. */
	return steps >= 2;
}

/* What is known of slots that are still there. */
static void carry_over(struct memslots *m, unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i++) {
		struct memslot *now = &m->seen[i], *old = find_same(m->slot, m->nr, now);

		if (!old)
			continue;
		now->region = old->region;
		now->owns_region = old->owns_region;
		now->begins_anew = old->begins_anew || now->identity != old->identity;
		/* Whoever changed it since has set its logging, too. */
		now->turned_on = old->turned_on && now->identity == old->identity;
	}
}

/*
 * @gone shows RAM no more: its region goes, or passes to another slot that shows the same RAM.
 * Return: does the region table change?
 */
static bool drop(struct attachment *a, const struct memslot *gone, unsigned int nr, bool *lost_map)
{
	struct memslot *seen = a->slots.seen, *heir = NULL;

	for (unsigned int i = 0; i < nr; i++) {
		if (seen[i].region != gone->region)
			continue;
		seen[i].begins_anew = true; /* what was in the log of @gone went with it */
		if (!heir)
			heir = &seen[i];
	}
	if (!gone->owns_region)
		return false;
	if (heir) {
		heir->owns_region = true;
		area_rename_region(&a->area, heir->region, heir->slot,
				   heir->base_gfn << PAGE_SHIFT);
		return true;
	}
	*lost_map |= watch_remove_region(&a->watch, gone->region);
	area_remove_region(&a->area, gone->region);
	return true;
}

static void all_begin_anew(struct memslots *m)
{
	for (unsigned int i = 0; i < m->nr; i++)
		m->slot[i].begins_anew = true;
}

static int give_region(struct attachment *a, struct memslot *s)
{
	struct memslots *m = &a->slots;
	struct memslot *alias = find_alias(m->slot, m->nr, s);
	int region, err;

	s->begins_anew = true;
	if (alias) {
		s->region = alias->region;
		return 0;
	}
	region = area_add_region(&a->area, s->slot, s->base_gfn << PAGE_SHIFT, s->npages);
	if (region < 0)
		return region;
	err = watch_add_region(&a->watch, region, s->npages);
	if (err) {
		area_remove_region(&a->area, region);
		return err;
	}
	s->region = region;
	s->owns_region = true;
	return 0;
}

/* Takes over @nr slots that a look has seen; each that has no region gets one. */
static int take_over(struct attachment *a, unsigned int nr, bool *changed)
{
	struct memslots *m = &a->slots;
	int err = 0;

	m->nr = 0;
	for (unsigned int i = 0; i < nr; i++)
		if (m->seen[i].region >= 0)
			m->slot[m->nr++] = m->seen[i];
	for (unsigned int i = 0; i < nr && !err; i++) {
		if (m->seen[i].region >= 0)
			continue;
		err = give_region(a, &m->seen[i]);
		if (err)
			break;
		m->slot[m->nr++] = m->seen[i];
		*changed = true;
	}
	return err;
}

/**
 * memslots_look() - bring the region table up to date with KVM's slots
 * @a: the attachment
 *
 * Context: the attachment's thread, or its maker before there is one
 * Return: 0, -E2BIG or -ENOSPC: too many slots or regions, -ENOMEM. After an error the next look
 * begins again; until then the slots that are known can be used
 */
int memslots_look(struct attachment *a)
{
	struct memslots *m = &a->slots;
	bool changed = false, lost_map = false;
	struct look l;
	int err;

	if (m->is_complete && compat_memslots_generation(a->kvm) == m->generation)
		return 0;
	m->is_complete = false;
	err = read_settled_slots(a->kvm, m->seen, &l);
	if (err)
		return err;
	if (may_hide_changes(a, &l))
		all_begin_anew(m);
	carry_over(m, l.nr);
	for (unsigned int i = 0; i < m->nr; i++)
		if (!find_same(m->seen, l.nr, &m->slot[i]))
			changed |= drop(a, &m->slot[i], l.nr, &lost_map);
	m->generation = l.generation;
	err = take_over(a, l.nr, &changed);
	if (lost_map)
		all_begin_anew(m);
	if (!err)
		err = watch_set_slots(&a->watch, m);
	m->is_complete = !err;
	if (changed)
		area_changed(&a->area);
	return err;
}

/** memslots_have_changed() - since the last look */
bool memslots_have_changed(struct attachment *a)
{
	return !a->slots.is_complete || compat_memslots_generation(a->kvm) != a->slots.generation;
}

/* KVM's object of slot @slot, NULL: there is none; and the generation that goes with it. */
static const void *identity_of(struct kvm *kvm, u32 slot, u64 *generation)
{
	int srcu = srcu_read_lock(&kvm->srcu);
	const void *identity = NULL;

	*generation = 0;
	for (int as = 0; as < compat_nr_address_spaces(kvm); as++) {
		struct kvm_memslots *slots = __kvm_memslots(kvm, as);

		*generation += compat_settled_generation(kvm, slots);
		if (as == slot >> 16)
			identity = id_to_memslot(slots, (u16)slot);
	}
	srcu_read_unlock(&kvm->srcu, srcu);
	return identity;
}

/*
 * Sets the flags of a slot that is still as it was seen. -EAGAIN: it is not; -EIO: another change
 * came at the same time, so that a slot may have come back that the VMM had just removed.
 */
static int set_flags(struct attachment *a, struct memslot *s, u32 flags)
{
	struct kvm_userspace_memory_region region = {
		.slot = s->slot,
		.flags = flags,
		.guest_phys_addr = s->base_gfn << PAGE_SHIFT,
		.memory_size = s->npages << PAGE_SHIFT,
		.userspace_addr = s->hva,
	};
	u64 before, after, step = compat_nr_address_spaces(a->kvm);
	void __user *at;
	int err = attach_scratch(a, sizeof(region), 0, &at, NULL);

	if (err)
		return err;
	if (copy_to_user(at, &region, sizeof(region)))
		return -EFAULT;
	if (identity_of(a->kvm, s->slot, &before) != s->identity)
		return -EAGAIN;
	err = attach_vm_ioctl(a, KVM_SET_USER_MEMORY_REGION, (unsigned long)at);
	if (err)
		return err;
	s->identity = identity_of(a->kvm, s->slot, &after);
	s->flags = flags;
	a->slots.generation += step;
	return after - before == step ? 0 : -EIO;
}

/**
 * memslots_log() - turn dirty logging on wherever it is off
 * @a: the attachment
 * Return: 0; -EAGAIN: the slots have changed, look again; -EIO: writes may be missed
 */
int memslots_log(struct attachment *a)
{
	struct memslots *m = &a->slots;

	for (unsigned int i = 0; i < m->nr; i++) {
		int err;

		if (m->slot[i].flags & KVM_MEM_LOG_DIRTY_PAGES)
			continue;
		if (memslots_have_changed(a))
			return -EAGAIN;
		err = set_flags(a, &m->slot[i], m->slot[i].flags | KVM_MEM_LOG_DIRTY_PAGES);
		m->slot[i].turned_on = !err || err == -EIO;
		if (err)
			return err;
	}
	return 0;
}

/**
 * memslots_restore() - turn off what memslots_log() turned on; best effort
 * @a: the attachment
 *
 * A slot that somebody has set anew meanwhile is his. One that KVM refuses is tried again by the
 * next call.
 */
void memslots_restore(struct attachment *a)
{
	struct memslots *m = &a->slots;

	for (unsigned int i = 0; i < m->nr; i++) {
		int err;

		if (!m->slot[i].turned_on)
			continue;
		err = set_flags(a, &m->slot[i], m->slot[i].flags & ~KVM_MEM_LOG_DIRTY_PAGES);
		if (!err || err == -EAGAIN || err == -EIO)
			m->slot[i].turned_on = false;
		if (err == -EIO)
			attach_break(a);
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
