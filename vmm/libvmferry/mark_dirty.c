// SPDX-License-Identifier: LGPL-2.1-or-later
/* The VMM's own part in tracking: its writes into guest RAM, full rings, throttled time. */
#include <time.h>

#include "libvmferry.h"
#include "session.h"

int vmferry_mark_dirty(struct vmferry *v, uint64_t gpa, uint64_t len)
{
	return harvest_mark(v->harvester, gpa, len);
}

int vmferry_ring_full(struct vmferry *v, unsigned int vcpu)
{
	area_count(&v->area.header->ring_full, 1);
	area_count(&v->area.vcpus[vcpu].ring_full, 1);
	if (harvest_is_by_kmod(v->harvester)) {
		/* The module has been woken by the same event; the vCPU tries again. */
		struct timespec ts = { 0, 20000 };

		nanosleep(&ts, NULL);
		return 0;
	}
	return harvest_run(v->harvester);
}

void vmferry_add_throttled(struct vmferry *v, unsigned int vcpu, uint64_t ns)
{
	area_count(&v->area.vcpus[vcpu].throttled_ns, ns);
}

uint64_t vmferry_vcpu_dirtied(struct vmferry *v, unsigned int vcpu)
{
	if (harvest_is_by_kmod(v->harvester))
		return VMFERRY_DIRTIED_UNKNOWN;
	return __atomic_load_n(&v->area.vcpus[vcpu].dirtied, __ATOMIC_RELAXED);
}
