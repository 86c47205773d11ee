// SPDX-License-Identifier: GPL-2.0-only
/*
 * Sees every page that KVM pushes to a dirty ring, whoever resets it, and knows when it
 * may be published.
 *
 * Theory of operation
 *
 * KVM pushes an entry before the guest's write lands, and until the entry is reset the
 * guest may write that page again without a new one. So a page may be published only once
 * it is write-protected again:
 *
 *   push (tracepoint, on the vCPU) -> @pushed
 *   thread: @pushed -> @waiting; then the push index of each ring is noted in @until
 *   thread: every ring reset up to @until, and the resets over that ran then -> publish @waiting
 *
 * Order: first the bits are moved, then the index is read; so each bit in @waiting was
 * pushed before @until. The other way round a page could be published before its reset.
 *
 * A reset index that has passed is not enough: the call that moved it may not have protected
 * the pages yet. Once the index has passed, that call is one of those that run then (resets.c),
 * or is over. Later ones are not waited for: there may be no moment without any.
 *
 * At the last harvest the vCPUs stand still and all of @pushed and @waiting is published,
 * but also kept: if the guest goes on here after all, it may still write those pages
 * unseen until their reset, and so they are published once more after it.
 *
 * The tracepoint's side takes no lock and touches only the map (RCU), the bitmaps (atomic)
 * and counters. A VM is found by its struct kvm in a small hash.
 *
 * KVM pushes under a run queue's lock, too: when a vCPU is preempted, it marks the page of the
 * vCPU's steal time. A wake-up in the tracepoint would take a run queue's lock inside of another.
 * So the tracepoint's side at most queues an irq_work, whose interrupt comes when interrupts are on
 * again. It is a hard one: on PREEMPT_RT it runs in hard interrupt context as well, and there
 * wake_up_process() is allowed, for it takes raw locks only. (One that is not hard would run in a
 * thread there, and irq_work_sync() would wait for that thread while it still reads the work.)
 */
#include "watch.h"

#include <linux/hashtable.h>
#include <linux/slab.h>
#include <linux/tracepoint.h>
#include <linux/vmalloc.h>

#include "attach.h"
#include "compat.h"
#include "harvest.h"
#include "resets.h"

static DEFINE_HASHTABLE(watched, 6);
static DEFINE_MUTEX(watched_lock);

/* Both are set while the tracepoints are there; watched_lock. */
static struct tracepoint *push_tp, *full_tp;

static void set_bit_and_summary(struct watch_bits *b, u64 page)
{
	u64 word = page / BITS_PER_LONG;

	if (!test_and_set_bit(page, b->words))
		set_bit(word, b->summary);
}

static void note_push(struct watch *w, u32 slot, u64 page)
{
	const struct watch_map *map = rcu_dereference(w->map);
	struct watch_region *r;

	for (unsigned int i = 0; map && i < map->nr; i++) {
		if (map->slot[i].slot != slot)
			continue;
		r = w->region[map->slot[i].region];
		/* KVM may have changed the slot since: it begins all dirty when we know. */
		if (!r || page >= r->nr_pages)
			return;
		set_bit_and_summary(&r->pushed, page);
		/* Pairs with move_pushed(): it sees the bit, or we see its false. */
		smp_mb__after_atomic();
		if (!READ_ONCE(r->has_pushed))
			WRITE_ONCE(r->has_pushed, true);
		return;
	}
	/* A slot we do not know yet begins all dirty when we do. */
}

static void on_push(void *unused, struct kvm_dirty_ring *ring, u32 slot, u64 offset)
{
	struct kvm_vcpu *vcpu = container_of(ring, struct kvm_vcpu, dirty_ring);
	struct watch *w;

	rcu_read_lock();
	hash_for_each_possible_rcu(watched, w, node, (unsigned long)vcpu->kvm) {
		if (w->a->kvm != vcpu->kvm)
			continue;
		if (READ_ONCE(w->records)) {
			note_push(w, slot, offset);
			vcpus_dirtied(&w->a->vcpus, vcpu->vcpu_idx, 1);
		}
		if (attach_wants_kick(w->a, ring_used(ring) == ring->size / 2))
			irq_work_queue(&w->kick);
	}
	rcu_read_unlock();
}

static void on_full(void *unused, struct kvm_vcpu *vcpu)
{
	struct watch *w;

	rcu_read_lock();
	hash_for_each_possible_rcu(watched, w, node, (unsigned long)vcpu->kvm) {
		if (w->a->kvm != vcpu->kvm)
			continue;
		atomic64_inc(&w->ring_full);
		vcpus_ring_full(&w->a->vcpus, vcpu->vcpu_idx);
		if (attach_wants_kick(w->a, true))
			irq_work_queue(&w->kick);
	}
	rcu_read_unlock();
}

/* Pages of @kvm may be writable without an entry: who watches it must know. */
static void note_cut(const struct kvm *kvm)
{
	struct watch *w;

	rcu_read_lock();
	hash_for_each_possible_rcu(watched, w, node, (unsigned long)kvm)
		if (w->a->kvm == kvm)
			WRITE_ONCE(w->is_cut, true);
	rcu_read_unlock();
}

/* ---- coming and going with KVM's module ---- */

static void found_tracepoint(struct tracepoint *tp, void *unused)
{
	if (!strcmp(tp->name, "kvm_dirty_ring_push") && !push_tp &&
	    !tracepoint_probe_register(tp, on_push, NULL))
		push_tp = tp;
	if (!strcmp(tp->name, "kvm_dirty_ring_exit") && !full_tp &&
	    !tracepoint_probe_register(tp, on_full, NULL))
		full_tp = tp;
}

static void lost_tracepoint(struct tracepoint *tp)
{
	if (tp == push_tp) {
		tracepoint_probe_unregister(tp, on_push, NULL);
		push_tp = NULL;
		resets_forget();
	}
	if (tp == full_tp) {
		tracepoint_probe_unregister(tp, on_full, NULL);
		full_tp = NULL;
	}
}

static int on_module(struct notifier_block *nb, unsigned long what, void *arg)
{
	struct tp_module *tpm = arg;
	struct module *mod = tpm->mod;

	mutex_lock(&watched_lock);
	for (unsigned int i = 0; i < mod->num_tracepoints; i++) {
		struct tracepoint *tp = tracepoint_ptr_deref(&mod->tracepoints_ptrs[i]);

		if (what == MODULE_STATE_COMING)
			found_tracepoint(tp, NULL);
		else if (what == MODULE_STATE_GOING)
			lost_tracepoint(tp);
	}
	mutex_unlock(&watched_lock);
	return NOTIFY_OK;
}

static struct notifier_block module_nb = { .notifier_call = on_module };

/** watch_init() - look for KVM's tracepoints, now and whenever its module comes */
int watch_init(void)
{
	mutex_lock(&watched_lock);
	for_each_kernel_tracepoint(found_tracepoint, NULL);
	mutex_unlock(&watched_lock);
	return register_tracepoint_module_notifier(&module_nb);
}

void watch_exit(void)
{
	unregister_tracepoint_module_notifier(&module_nb);
	mutex_lock(&watched_lock);
	if (push_tp)
		lost_tracepoint(push_tp);
	if (full_tp)
		lost_tracepoint(full_tp);
	mutex_unlock(&watched_lock);
	tracepoint_synchronize_unregister();
}

/** watch_sees_pushes() - can a VM whose rings somebody else resets be watched here? */
bool watch_sees_pushes(void)
{
	bool sees;

	mutex_lock(&watched_lock);
	sees = push_tp && resets_list(note_cut);
	mutex_unlock(&watched_lock);
	return sees;
}

/* ---- one VM ---- */

static void on_kick(struct irq_work *work)
{
	attach_kick(container_of(work, struct watch, kick)->a);
}

/** watch_init_one() - nothing is seen yet */
void watch_init_one(struct watch *w, struct attachment *a)
{
	w->a = a;
	w->kick = IRQ_WORK_INIT_HARD(on_kick);
}

/**
 * watch_start() - from now on full rings of the VM are seen, and the attachment's thread is woken;
 * pushes are recorded from watch_begin() to watch_end()
 * @w: the watch
 */
void watch_start(struct watch *w)
{
	mutex_lock(&watched_lock);
	hash_add_rcu(watched, &w->node, (unsigned long)w->a->kvm);
	w->is_on = true;
	mutex_unlock(&watched_lock);
}

static void free_region(struct watch_region *r)
{
	if (!r)
		return;
	vfree(r->pushed.words);
	vfree(r->pushed.summary);
	vfree(r->waiting.words);
	vfree(r->waiting.summary);
	kfree(r);
}

/** watch_stop() - nothing is seen and nobody is woken any more when it returns; may be repeated */
void watch_stop(struct watch *w)
{
	struct watch_map *map;

	if (w->is_on) {
		mutex_lock(&watched_lock);
		hash_del_rcu(&w->node);
		w->is_on = false;
		mutex_unlock(&watched_lock);
		synchronize_rcu(); /* nothing queues @kick any more */
		irq_work_sync(&w->kick);
	}
	map = rcu_dereference_protected(w->map, true);
	RCU_INIT_POINTER(w->map, NULL);
	kfree(map);
	for (unsigned int i = 0; i < VMFERRY_MAX_REGIONS; i++) {
		free_region(w->region[i]);
		w->region[i] = NULL;
	}
	kfree(w->until);
	w->until = NULL;
	w->nr_until = 0;
}

static int alloc_bits(struct watch_bits *b, u64 nr_words)
{
	b->words = vzalloc(array_size(nr_words, sizeof(long)));
	b->summary = vzalloc(array_size(DIV_ROUND_UP(nr_words, BITS_PER_LONG), sizeof(long)));
	return b->words && b->summary ? 0 : -ENOMEM;
}

static void clear_bits(struct watch_bits *b, u64 nr_words)
{
	memset(b->words, 0, nr_words * sizeof(long));
	memset(b->summary, 0, DIV_ROUND_UP(nr_words, BITS_PER_LONG) * sizeof(long));
}

/** watch_fill() - all of @region counts as pushed: its log has a gap; logging is on */
void watch_fill(struct watch *w, int region)
{
	struct watch_region *r = w->region[region];

	if (!r)
		return;
	for (u64 p = 0; p < r->nr_pages; p++)
		set_bit_and_summary(&r->pushed, p);
	WRITE_ONCE(r->has_pushed, true);
}

/** watch_add_region() - it begins clean; watch_set_slots() makes it known to the tracepoint */
int watch_add_region(struct watch *w, int region, u64 nr_pages)
{
	struct watch_region *r;

	if (w->a->own_ring || !w->a->has_rings)
		return 0;
	r = kzalloc(sizeof(*r), GFP_KERNEL);
	if (!r)
		return -ENOMEM;
	r->nr_pages = nr_pages;
	r->nr_words = DIV_ROUND_UP(nr_pages, BITS_PER_LONG);
	if (alloc_bits(&r->pushed, r->nr_words) || alloc_bits(&r->waiting, r->nr_words)) {
		free_region(r);
		return -ENOMEM;
	}
	w->region[region] = r;
	return 0;
}

/**
 * watch_remove_region() - what is known of it is dropped
 * @w: the watch
 * @region: index of the region
 *
 * Return: true: until watch_set_slots() no push of any region is recorded
 */
bool watch_remove_region(struct watch *w, int region)
{
	struct watch_map *map = rcu_dereference_protected(w->map, true);

	if (w->a->own_ring || !w->a->has_rings)
		return false;
	/* The tracepoint must not find it any more before it is freed. */
	rcu_assign_pointer(w->map, NULL);
	synchronize_rcu();
	kfree(map);
	free_region(w->region[region]);
	w->region[region] = NULL;
	return true;
}

/**
 * watch_set_slots() - the tracepoint's map of slots, anew
 * @w: the watch
 * @m: KVM's slots
 */
int watch_set_slots(struct watch *w, const struct memslots *m)
{
	struct watch_map *map, *old = rcu_dereference_protected(w->map, true);

	if (w->a->own_ring || !w->a->has_rings)
		return 0;
	map = kzalloc(struct_size(map, slot, m->nr), GFP_KERNEL);
	if (!map)
		return -ENOMEM;
	map->nr = m->nr;
	for (unsigned int i = 0; i < m->nr; i++) {
		map->slot[i].slot = m->slot[i].slot;
		map->slot[i].region = m->slot[i].region;
	}
	rcu_assign_pointer(w->map, map);
	if (old)
		kfree_rcu(old, rcu);
	return 0;
}

static void note_unreset(void *arg, u32 slot, u64 page)
{
	rcu_read_lock();
	note_push(arg, slot, page);
	rcu_read_unlock();
}

/** watch_begin() - record pushes, beginning with what is in the rings already */
void watch_begin(struct watch *w)
{
	struct kvm_vcpu *vcpu;
	unsigned long i;

	/* From here on pushes are recorded; those before are still in the rings, or reset. */
	WRITE_ONCE(w->records, true);
	synchronize_rcu();
	kvm_for_each_vcpu(i, vcpu, w->a->kvm)
		ring_each_unreset(&vcpu->dirty_ring, note_unreset, w);
	/*
	 * What a reset had taken off a ring before that, but not protected yet, is in no ring: the
	 * guest may write it unseen until that reset is over.
	 */
	resets_wait(w->a->kvm);
}

void watch_end(struct watch *w)
{
	WRITE_ONCE(w->records, false);
	synchronize_rcu();
	for (unsigned int r = 0; r < VMFERRY_MAX_REGIONS; r++) {
		struct watch_region *wr = w->region[r];

		if (!wr)
			continue;
		clear_bits(&wr->pushed, wr->nr_words);
		clear_bits(&wr->waiting, wr->nr_words);
	}
	w->has_waiting = false;
	w->nr_waiting = 0;
}

/* @pushed -> @waiting. Return: pages that wait now */
static u64 move_pushed(struct watch_region *r)
{
	u64 n = 0;

	/* Cleared first: a push from here on sets it again, and is taken now or the next time. */
	WRITE_ONCE(r->has_pushed, false);
	smp_mb(); /* pairs with note_push() */
	for (u64 s = 0; s < DIV_ROUND_UP(r->nr_words, BITS_PER_LONG); s++) {
		unsigned long sum = READ_ONCE(r->pushed.summary[s]);

		if (sum)
			sum = xchg(&r->pushed.summary[s], 0);
		r->waiting.summary[s] |= sum;
		while (sum) {
			u64 w = s * BITS_PER_LONG + __ffs(sum);
			unsigned long bits = xchg(&r->pushed.words[w], 0);

			n += hweight_long(bits & ~r->waiting.words[w]);
			r->waiting.words[w] |= bits;
			sum &= sum - 1;
		}
	}
	return n;
}

static void move_all_pushed(struct watch *w)
{
	for (int r = 0; r < VMFERRY_MAX_REGIONS; r++)
		if (w->region[r])
			w->nr_waiting += move_pushed(w->region[r]);
}

static u32 publish_waiting(struct watch *w, int region, bool keep)
{
	struct watch_region *r = w->region[region];
	u32 n = 0;

	for (u64 s = 0; s < DIV_ROUND_UP(r->nr_words, BITS_PER_LONG); s++) {
		unsigned long sum = r->waiting.summary[s];

		while (sum) {
			u64 word = s * BITS_PER_LONG + __ffs(sum);

			n += area_found(&w->a->area, region, word, r->waiting.words[word]);
			if (!keep)
				r->waiting.words[word] = 0;
			sum &= sum - 1;
		}
		if (!keep)
			r->waiting.summary[s] = 0;
	}
	return n;
}

static u32 publish_all(struct watch *w, bool keep)
{
	u32 n = 0;

	for (int r = 0; r < VMFERRY_MAX_REGIONS; r++)
		if (w->region[r])
			n += publish_waiting(w, r, keep);
	return n;
}

static int note_until(struct watch *w)
{
	unsigned int nr = atomic_read(&w->a->kvm->online_vcpus);
	struct kvm_vcpu *vcpu;
	unsigned long i;

	if (nr > w->nr_until) {
		u32 *until = krealloc_array(w->until, nr, sizeof(*until), GFP_KERNEL);

		if (!until)
			return -ENOMEM;
		w->until = until;
		w->nr_until = nr;
	}
	w->has_passed = false;
	/* Pairs with KVM's push, which moves the index before it traces: see the top. */
	smp_mb();
	for (i = 0; i < nr; i++) {
		vcpu = kvm_get_vcpu(w->a->kvm, i);
		w->until[i] = READ_ONCE(vcpu->dirty_ring.dirty_index);
	}
	return 0;
}

/** watch_check() - may a write have been missed? Then the attachment is broken */
void watch_check(struct watch *w)
{
	/* A call for whose listing there was no room may have run unseen. */
	if (resets_were_missed() || READ_ONCE(w->is_cut))
		attach_break(w->a);
}

static bool resets_are_over(struct watch *w)
{
	struct kvm_vcpu *vcpu;
	unsigned long i;

	for (i = 0; i < w->nr_until && !w->has_passed; i++) {
		vcpu = kvm_get_vcpu(w->a->kvm, i);
		if (!ring_is_reset_to(&vcpu->dirty_ring, w->until[i]))
			return false;
	}
	if (!w->has_passed)
		w->last_call = resets_last();
	w->has_passed = true;
	return !resets_run(w->a->kvm, w->last_call);
}

/** watch_has_more() - does anything wait for a reset, or came since the last look? */
bool watch_has_more(struct watch *w)
{
	if (w->has_waiting)
		return true;
	for (unsigned int r = 0; r < VMFERRY_MAX_REGIONS; r++) {
		struct watch_region *wr = w->region[r];

		if (wr && READ_ONCE(wr->has_pushed))
			return true;
	}
	return false;
}

/**
 * watch_advance() - publish what is write-protected again; gather what came since
 * @w: the watch
 * Return: pages newly published
 */
u32 watch_advance(struct watch *w)
{
	u32 n = 0;

	if (w->has_waiting && (resets_are_over(w) || READ_ONCE(debug_publish_early))) {
		n = publish_all(w, false);
		w->has_waiting = false;
		w->nr_waiting = 0;
	}
	if (!w->has_waiting) {
		move_all_pushed(w);
		if (w->nr_waiting)
			w->has_waiting = !note_until(w);
		if (w->nr_waiting && !w->has_waiting)
			attach_break(w->a);
	}
	return n;
}

/** watch_publish_tail() - the vCPUs stand still: publish all there is, and keep it */
u32 watch_publish_tail(struct watch *w)
{
	move_all_pushed(w);
	if (!w->nr_waiting)
		return 0;
	if (READ_ONCE(debug_publish_early))
		return publish_all(w, false);
	w->has_waiting = true;
	if (note_until(w))
		attach_break(w->a);
	return publish_all(w, true);
}
