// SPDX-License-Identifier: GPL-2.0-only
/*
 * Takes dirty pages from KVM, re-arms them, and publishes them: the order that loses
 * no write. It has a twin of the same name in libvmferry.
 *
 * Theory of operation
 *
 *   own ring:  collect into staging -> KVM_RESET_DIRTY_RINGS -> publish
 *   watched:   see watch.c: somebody else resets, and we publish what a reset has passed
 *   no rings:  KVM_GET_DIRTY_LOG (and _CLEAR_, where the VMM chose that) -> publish
 *
 * Between collect and reset the guest may still write the page without a new entry. Were
 * the bit visible then, the consumer could take it and copy the page before that write:
 * the write would be lost. With the parameter debug_publish_early, a test instrument, it
 * is done in that order all the same, and tests/kselftest sees the guest lose a write.
 *
 * All of it runs on the attachment's thread, with the VMM's address space adopted.
 */
#include "harvest.h"

#include <linux/delay.h>
#include <linux/kvm_host.h>
#include <linux/module.h>
#include <linux/uaccess.h>

#include "attach.h"
#include "compat.h"
#include "resets.h"
#include "trace.h"

bool debug_publish_early;
module_param_unsafe(debug_publish_early, bool, 0600);
MODULE_PARM_DESC(debug_publish_early, "Test instrument: publish before the reset, which loses writes of the guest");

static u32 publish_stage(struct attachment *a, u32 n)
{
	u64 word = 0, bits = 0;
	int region = -1;
	u32 fresh = 0;

	/* Neighbours in one word go out together: sequential writers are the common case. */
	for (u32 i = 0; i < n; i++) {
		const struct ring_entry *e = &a->rings.stage[i];
		int r = memslots_region(&a->slots, e->slot, e->page);

		if (r < 0)
			continue;
		if (r != region || e->page / 64 != word) {
			fresh += area_found(&a->area, region, word, bits);
			region = r;
			word = e->page / 64;
			bits = 0;
		}
		bits |= 1ULL << (e->page % 64);
	}
	fresh += area_found(&a->area, region, word, bits);
	trace_vmferry_publish(a->id, fresh);
	return fresh;
}

static u32 collect(struct attachment *a)
{
	u32 n = 0, room = min(a->tune.batch, a->rings.room);

	for (unsigned int i = 0; i < a->rings.known && n < room; i++) {
		struct kvm_dirty_ring *ring = &kvm_get_vcpu(a->kvm, i)->dirty_ring;
		u32 got = ring_collect(ring, &a->rings.next[i], a->rings.until[i],
				       a->rings.stage + n, room - n);

		if (ring_is_shared(ring, a->rings.next[i]))
			attach_break(a);
		vcpus_dirtied(&a->vcpus, i, got);
		n += got;
	}
	return n;
}

static int reset_rings(struct attachment *a)
{
	int cleared = attach_vm_ioctl(a, KVM_RESET_DIRTY_RINGS, 0);

	if (cleared < 0)
		return cleared;
	/* Somebody's call at the same time may have reset ours, and still have to flush TLBs. */
	resets_wait(a->kvm);
	for (unsigned int i = 0; i < a->rings.known; i++)
		if (!ring_is_reset_to(&kvm_get_vcpu(a->kvm, i)->dirty_ring, a->rings.next[i]))
			return -EIO;
	atomic64_inc(&a->resets);
	trace_vmferry_reset(a->id, cleared);
	return 0;
}

static int harvest_own(struct attachment *a, u32 *fresh)
{
	int err = ring_cursors_grow(&a->rings, a->kvm, a->tune.batch);
	u32 n;

	/*
	 * What comes while we are at it is the next harvest's. Each reset costs a flush of the
	 * vCPUs' TLBs: to run after a guest that writes would cost both of us dear.
	 */
	ring_cursors_set_until(&a->rings, a->kvm);
	while (!err && (n = collect(a))) {
		atomic64_add(n, &a->area.harvested);
		trace_vmferry_harvest(a->id, n);
		if (READ_ONCE(debug_publish_early)) {
			*fresh += publish_stage(a, n);
			msleep(20);
			err = reset_rings(a);
			continue;
		}
		err = reset_rings(a);
		/* After an error pages may still be unprotected: the attachment is broken. */
		if (!err)
			*fresh += publish_stage(a, n);
	}
	return err;
}

static int harvest_slot_log(struct attachment *a, const struct memslot *s, u32 *fresh)
{
	u64 words = DIV_ROUND_UP(s->npages, 64);
	struct kvm_dirty_log get = { .slot = s->slot };
	struct kvm_clear_dirty_log clear = { .slot = s->slot, .num_pages = s->npages };
	void __user *at, *tail;
	u64 __user *bitmap;
	int err = attach_scratch(a, sizeof(get), words * 8, &at, &tail);

	if (err)
		return err;
	/* At the very end: KVM fills in as many words as the slot has by now. */
	bitmap = tail;
	get.dirty_bitmap = bitmap;
	clear.dirty_bitmap = bitmap;
	if (copy_to_user(at, &get, sizeof(get)))
		return -EFAULT;
	err = attach_vm_ioctl(a, KVM_GET_DIRTY_LOG, (unsigned long)at);
	if (!err && a->kvm->manual_dirty_log_protect) {
		if (copy_to_user(at, &clear, sizeof(clear)))
			return -EFAULT;
		err = attach_vm_ioctl(a, KVM_CLEAR_DIRTY_LOG, (unsigned long)at);
	}
	for (u64 w = 0; w < words && !err; w++) {
		u64 bits;

		if (get_user(bits, &bitmap[w]))
			return -EFAULT;
		if (!bits)
			continue;
		/* The room is the VMM's to write as well. */
		if (w == s->npages / 64)
			bits &= (1ULL << (s->npages % 64)) - 1;
		atomic64_add(hweight64(bits), &a->area.harvested);
		*fresh += area_found(&a->area, s->region, w, bits);
	}
	return err;
}

static int harvest_logs(struct attachment *a, u32 *fresh)
{
	int err = 0;

	for (unsigned int i = 0; i < a->slots.nr && !err; i++)
		err = harvest_slot_log(a, &a->slots.slot[i], fresh);
	/* A slot that has gone or changed is no error: the next look finds it gone or all dirty. */
	return err && memslots_have_changed(a) ? -EAGAIN : err;
}

/* Slots as they are now: logging on, and all dirty after that where the log begins anew. */
static int follow_slots(struct attachment *a, u32 *fresh)
{
	int err = memslots_look(a);

	if (!err)
		err = memslots_log(a);
	if (err)
		return err;
	for (unsigned int i = 0; i < a->slots.nr; i++) {
		struct memslot *s = &a->slots.slot[i];

		if (!s->begins_anew)
			continue;
		if (a->has_rings && !a->own_ring)
			watch_fill(&a->watch, s->region);
		else
			*fresh += area_publish_all(&a->area, s->region);
		s->begins_anew = false;
	}
	return 0;
}

static int take(struct attachment *a, bool final, u32 *fresh)
{
	if (!a->has_rings)
		return harvest_logs(a, fresh);
	if (a->own_ring)
		return harvest_own(a, fresh);
	*fresh += final ? watch_publish_tail(&a->watch) : watch_advance(&a->watch);
	return 0;
}

/* -EAGAIN: the VMM changes its slots all the while. What the rings hold is taken all the same. */
static int follow_and_take(struct attachment *a, bool final, u32 *fresh)
{
	int err;

	for (int tries = 0; tries < 8; tries++) {
		err = follow_slots(a, fresh);
		if (!err || err == -EAGAIN) {
			int taken = take(a, final, fresh);

			err = taken ? taken : err;
		}
		if (err != -EAGAIN)
			break;
	}
	return err;
}

/* Empties the rings for nothing: a guest must not stand before a full one that nobody harvests. */
static void hand_back(struct attachment *a)
{
	struct kvm_vcpu *vcpu;
	unsigned long i;

	if (!a->has_rings || !a->own_ring)
		return;
	kvm_for_each_vcpu(i, vcpu, a->kvm)
		ring_hand_back(&vcpu->dirty_ring);
	attach_vm_ioctl(a, KVM_RESET_DIRTY_RINGS, 0);
}

/** harvest_is_due() - is there anything to harvest? False only if surely not; adopts nothing */
bool harvest_is_due(struct attachment *a)
{
	if (!a->has_rings || compat_memslots_generation(a->kvm) != a->slots.generation)
		return true;
	if (a->own_ring)
		return !ring_cursors_are_at_end(&a->rings, a->kvm);
	return watch_has_more(&a->watch);
}

/**
 * harvest_run() - harvest now
 * @a: the attachment
 * @final: the vCPUs stand still; when it returns 0, all that is dirty is published
 *
 * Return: 0; -EIO: writes may have been missed: the attachment is broken, and its logging is as it
 * was before; -EAGAIN: the last harvest found the slots changing all the while
 */
int harvest_run(struct attachment *a, bool final)
{
	u64 start = ktime_get_ns();
	u32 fresh = 0;
	int err;

	area_begin_harvest(&a->area);
	err = follow_and_take(a, final, &fresh);
	if (err == -EAGAIN && !final)
		err = 0; /* the next harvest looks again */
	if (a->has_rings)
		watch_check(&a->watch);
	if (err && err != -EAGAIN)
		attach_break(a);
	atomic64_inc(&a->area.harvests);
	atomic64_set(&a->area.ring_full, atomic64_read(&a->watch.ring_full));
	atomic64_add(ktime_get_ns() - start, &a->area.harvest_ns);
	vcpus_publish(&a->vcpus, a->kvm, &a->area);
	area_copy_counters(&a->area);
	attach_published(a, fresh);
	if (!a->broken)
		return err;
	harvest_stop(a);
	return -EIO;
}

static int start_logging(struct attachment *a)
{
	int err;

	for (int tries = 0; tries < 8; tries++) {
		err = memslots_look(a);
		if (!err)
			err = memslots_log(a);
		if (err != -EAGAIN)
			break;
	}
	for (unsigned int i = 0; i < a->slots.nr && !err; i++)
		a->slots.slot[i].begins_anew = false;
	if (err || !a->has_rings || !a->own_ring)
		return err;
	/* What a reset took before the rings were ours may be written unseen until it is over. */
	resets_wait(a->kvm);
	a->rings.known = 0; /* cursors begin where the rings are now */
	return ring_cursors_grow(&a->rings, a->kvm, a->tune.batch);
}

/**
 * harvest_start() - log from now on; what was dirty before is not reported
 * @a: the attachment
 *
 * Return: 0; -EIO: the attachment is broken; another errno: nothing has changed, try again
 */
int harvest_start(struct attachment *a)
{
	int err;

	if (a->logging)
		return 0;
	err = start_logging(a);
	if (!err && a->has_rings && !a->own_ring)
		watch_begin(&a->watch);
	a->logging = true;
	if (err == -EIO)
		attach_break(a);
	else if (!err && a->has_rings)
		watch_check(&a->watch);
	if (err || a->broken) {
		harvest_stop(a);
		return a->broken ? -EIO : err;
	}
	vcpus_publish(&a->vcpus, a->kvm, &a->area);
	area_set_flags(&a->area, VMFERRY_AREA_LOGGING, 0);
	return 0;
}

/** harvest_stop() - logging as it was; what is still in the rings is handed back */
void harvest_stop(struct attachment *a)
{
	/*
	 * First no more entries come, then what is there is handed back: a ring left full
	 * would keep its vCPU out of the guest, and nobody would come to empty it.
	 */
	memslots_restore(a);
	if (!a->logging)
		return;
	hand_back(a);
	if (a->has_rings && !a->own_ring)
		watch_end(&a->watch);
	a->logging = false;
	area_set_flags(&a->area, 0, VMFERRY_AREA_LOGGING);
}

/** harvest_next_period() - half the time when rings fill, twice when they are nearly empty */
u32 harvest_next_period(struct attachment *a)
{
	u32 period = a->period_us, fullest = 0, size = 0;
	unsigned int nr = a->own_ring ? a->rings.known : atomic_read(&a->kvm->online_vcpus);

	if (!a->has_rings)
		return a->tune.period_max_us;
	for (unsigned int i = 0; i < nr; i++) {
		struct kvm_dirty_ring *ring = &kvm_get_vcpu(a->kvm, i)->dirty_ring;
		u32 used = ring_used(ring);

		if (a->own_ring) { /* all of it is reset by now: what the last harvest took */
			used = a->rings.next[i] - a->rings.before[i];
			a->rings.before[i] = a->rings.next[i];
		}
		size = ring->size;
		fullest = max(fullest, used);
	}
	if (fullest > size / 4)
		period /= 2;
	else if (fullest < size / 16)
		period *= 2;
	return clamp(period, a->tune.period_min_us, a->tune.period_max_us);
}
