// SPDX-License-Identifier: GPL-2.0-only
/*
 * Figures of each vCPU: what it dirtied, how fast, how often its ring was full.
 *
 * Theory of operation: the counts are the module's own; the consumer gets copies in the
 * area's vCPU table and can't lead us astray. Each count has one writer: the vCPU, where
 * its pushes are watched, else the attachment's thread.
 */
#include "vcpus.h"

#include <linux/slab.h>

#include "area.h"
#include "ring.h"

int vcpus_init(struct vcpus *v)
{
	v->count = kvcalloc(VMFERRY_MAX_VCPUS, sizeof(*v->count), GFP_KERNEL);
	return v->count ? 0 : -ENOMEM;
}

void vcpus_fini(struct vcpus *v)
{
	kvfree(v->count);
	v->count = NULL;
}

/** vcpus_dirtied() - @entries more from the ring of vCPU @idx; any context */
void vcpus_dirtied(struct vcpus *v, unsigned int idx, u32 entries)
{
	if (idx < VMFERRY_MAX_VCPUS)
		WRITE_ONCE(v->count[idx].dirtied, v->count[idx].dirtied + entries);
}

/** vcpus_ring_full() - vCPU @idx left the guest for its ring was full; any context */
void vcpus_ring_full(struct vcpus *v, unsigned int idx)
{
	if (idx < VMFERRY_MAX_VCPUS)
		WRITE_ONCE(v->count[idx].ring_full, v->count[idx].ring_full + 1);
}

/** vcpus_publish() - copy the counts to the area; vCPUs that came get their entry */
void vcpus_publish(struct vcpus *v, struct kvm *kvm, struct area *area)
{
	unsigned int nr = min(atomic_read(&kvm->online_vcpus), VMFERRY_MAX_VCPUS);

	for (unsigned int i = 0; i < nr; i++) {
		struct vmferry_vcpu *to = &area->vcpus[i];

		if (i >= v->nr) {
			struct kvm_vcpu *vcpu = kvm_get_vcpu(kvm, i);

			to->id = vcpu->vcpu_id;
			to->ring_entries = kvm->dirty_ring_size ? vcpu->dirty_ring.size : 0;
		}
		WRITE_ONCE(to->dirtied, READ_ONCE(v->count[i].dirtied));
		WRITE_ONCE(to->ring_full, READ_ONCE(v->count[i].ring_full));
	}
	if (nr == v->nr)
		return;
	WRITE_ONCE(v->nr, nr);
	area_set_nr_vcpus(area, nr);
}

/** vcpus_rate() - work out each vCPU's rate since the last time; every second or so */
void vcpus_rate(struct vcpus *v, u64 now_ns)
{
	u64 us = div_u64(now_ns - v->rated_ns, NSEC_PER_USEC);

	for (unsigned int i = 0; i < v->nr; i++) {
		struct vcpu_count *c = &v->count[i];
		u64 dirtied = READ_ONCE(c->dirtied);

		if (v->rated_ns && us)
			WRITE_ONCE(c->rate, div64_u64((dirtied - c->before) * USEC_PER_SEC, us));
		c->before = dirtied;
	}
	v->rated_ns = now_ns;
}
