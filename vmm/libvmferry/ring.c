// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * One vCPU's dirty ring: the only file here that knows struct kvm_dirty_gfn.
 * Twin of kmod/ring.c.
 *
 * Theory of operation: KVM fills an entry and sets DIRTY; we copy it and set RESET;
 * KVM_RESET_DIRTY_RINGS takes RESET entries back, write-protects their pages again
 * and clears the flags. An entry belongs to us from DIRTY until RESET is set.
 */
#include "ring.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <sys/mman.h>

/** ring_init() - map the ring of @vcpu_fd */
int ring_init(struct ring *r, int vcpu_fd, uint32_t entries)
{
	void *map = mmap(NULL, entries * sizeof(struct kvm_dirty_gfn), PROT_READ | PROT_WRITE,
			 MAP_SHARED, vcpu_fd,
			 (off_t)KVM_DIRTY_LOG_PAGE_OFFSET * 4096);

	*r = (struct ring){ .gfns = NULL };
	if (map == MAP_FAILED)
		return -errno;
	r->gfns = map;
	r->entries = entries;
	return 0;
}

/** ring_fini() - unmap; fine on a ring never mapped */
void ring_fini(struct ring *r)
{
	if (r->gfns)
		munmap(r->gfns, r->entries * sizeof(struct kvm_dirty_gfn));
	r->gfns = NULL;
}

static bool is_dirty(const struct ring *r, uint32_t i)
{
	/* Pairs with KVM's release in kvm_dirty_gfn_set_dirtied(): slot and offset are valid. */
	uint32_t flags = __atomic_load_n(&r->gfns[i & (r->entries - 1)].flags, __ATOMIC_ACQUIRE);

	return flags & KVM_DIRTY_GFN_F_DIRTY && !(flags & KVM_DIRTY_GFN_F_RESET);
}

/** ring_lose() - the kernel module collected for a while: our place in the ring is unknown */
void ring_lose(struct ring *r)
{
	r->is_lost = true;
}

/*
 * Dirty entries are one run, and KVM keeps some room before it: the entry before the run's
 * first is not dirty. KVM sets them in order, so one seen dirty has those before it dirty.
 */
static void find_place(struct ring *r)
{
	uint32_t i, steps;

	for (i = 0; i < r->entries && !is_dirty(r, i); i++)
		;
	if (i == r->entries)
		return; /* none yet */
	for (steps = 0; steps < r->entries && is_dirty(r, i - 1); steps++)
		i--;
	r->next = i;
	r->is_lost = false;
}

/** ring_is_reset() - has KVM taken back all that was collected? It does so in order: the last one tells */
bool ring_is_reset(const struct ring *r)
{
	const struct kvm_dirty_gfn *last = &r->gfns[(r->next - 1) & (r->entries - 1)];

	return r->is_lost || !(__atomic_load_n(&last->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_RESET);
}

/**
 * ring_collect() - copy out the dirty entries and hand them back to KVM for reset
 * @to: room for @max entries
 * Return: entries copied. Their pages stay writable until KVM_RESET_DIRTY_RINGS.
 */
uint32_t ring_collect(struct ring *r, struct ring_entry *to, uint32_t max)
{
	uint32_t n = 0;

	if (r->is_lost)
		find_place(r);
	while (n < max && is_dirty(r, r->next)) {
		struct kvm_dirty_gfn *gfn = &r->gfns[r->next & (r->entries - 1)];

		to[n].slot = gfn->slot;
		to[n].page = gfn->offset;
		n++;
		/* Pairs with KVM's acquire in kvm_dirty_gfn_harvested(): our copy is done before reuse. */
		__atomic_store_n(&gfn->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
		r->next++;
	}
	return n;
}
