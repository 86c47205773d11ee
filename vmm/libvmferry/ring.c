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

/**
 * ring_collect() - copy out the dirty entries and hand them back to KVM for reset
 * @to: room for @max entries
 * Return: entries copied. Their pages stay writable until KVM_RESET_DIRTY_RINGS.
 */
uint32_t ring_collect(struct ring *r, struct ring_entry *to, uint32_t max)
{
	uint32_t n = 0;

	while (n < max) {
		struct kvm_dirty_gfn *gfn = &r->gfns[r->next & (r->entries - 1)];
		/* Pairs with KVM's release in kvm_dirty_gfn_set_dirtied(): slot and offset are valid. */
		uint32_t flags = __atomic_load_n(&gfn->flags, __ATOMIC_ACQUIRE);

		if (!(flags & KVM_DIRTY_GFN_F_DIRTY) || (flags & KVM_DIRTY_GFN_F_RESET))
			break;
		to[n].slot = gfn->slot;
		to[n].page = gfn->offset;
		n++;
		/* Pairs with KVM's acquire in kvm_dirty_gfn_harvested(): our copy is done before reuse. */
		__atomic_store_n(&gfn->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
		r->next++;
	}
	return n;
}
