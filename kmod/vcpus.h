/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef VMFERRY_VCPUS_H
#define VMFERRY_VCPUS_H

#include <linux/kvm_host.h>
#include <linux/types.h>

struct area;

/**
 * struct vcpu_count - figures of one vCPU
 * @dirtied: entries of its ring, harvested or seen pushed
 * @ring_full: exits because the ring was full
 * @before, @rate: @dirtied a while ago, and how many a second since
 */
struct vcpu_count {
	u64 dirtied;
	u64 ring_full;
	u64 before;
	u64 rate;
};

/**
 * struct vcpus - figures of a VM's vCPUs, by vcpu_idx, up to VMFERRY_MAX_VCPUS
 * @count: @dirtied and @ring_full are written by the vCPU itself or by the thread, never by both
 * @nr: vCPUs the consumer knows of; the thread's
 */
struct vcpus {
	struct vcpu_count *count;
	unsigned int nr;
	u64 rated_ns;
};

int vcpus_init(struct vcpus *v);
void vcpus_fini(struct vcpus *v);
void vcpus_dirtied(struct vcpus *v, unsigned int idx, u32 entries);
void vcpus_ring_full(struct vcpus *v, unsigned int idx);
void vcpus_publish(struct vcpus *v, struct kvm *kvm, struct area *area);
void vcpus_rate(struct vcpus *v, u64 now_ns);

#endif
