/* SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause */
/*
 * What the blackout probe's two halves share: the record of a vCPU, the record of a gap,
 * and the knobs. Times are CLOCK_MONOTONIC nanoseconds of the host, no time namespace.
 */
#ifndef BLACKOUT_H
#define BLACKOUT_H

#define BLACKOUT_SLOTS 64 /* processes watched at once */
#define BLACKOUT_VCPUS 64 /* a process; further ones are counted as lost */

/**
 * struct blackout_vcpu - one vCPU, written by its own thread only, read without a lock
 * @exit_ns, @entry_ns: last guest exit and entry (kvm_exit, kvm_entry)
 * @return_ns, @run_ns: KVM_RUN returned last (kvm_userspace_exit), was about to enter last (kvm_fpu)
 * @blocked_ns: it last came out of a halt
 * @out_ns: it lost its processor within KVM_RUN, and has not been in the guest since
 * @first_entry_ns, @first_run_ns: the first since the slot's epoch changed
 * @entries: guest entries seen; 0 where this kernel shows none
 * @faults, @fault_ns: page faults, time from the exit to the next entry
 * @pushes: pages that KVM logged as dirty
 * @fulls, @full_ns: returns for a full dirty ring, time until KVM_RUN was called again
 * @tid: its thread; 0: this record is unused
 * @entry_epoch, @run_epoch: of the slot, when the first ones above were taken
 * @slot, @index: which record this is
 * @in_fault, @in_full, @has_returned: since the last entry
 */
struct blackout_vcpu {
	unsigned long long exit_ns, entry_ns;
	unsigned long long return_ns, run_ns;
	unsigned long long blocked_ns, out_ns;
	unsigned long long first_entry_ns, first_run_ns;
	unsigned long long entries;
	unsigned long long faults, fault_ns;
	unsigned long long pushes;
	unsigned long long fulls, full_ns;
	unsigned int tid;
	unsigned int entry_epoch, run_epoch;
	unsigned char slot, index;
	unsigned char in_fault, in_full, has_returned, reserved[7];
};
_Static_assert(sizeof(struct blackout_vcpu) == 136, "both sides");

/**
 * struct blackout_gap - a vCPU was out of the guest, in user space, for longer than the knob says
 * @exit_ns, @entry_ns: how long
 * @tgid, @tid, @index: which vCPU
 * @by_entry: 1: from guest exits and entries; 0: from KVM_RUN
 */
struct blackout_gap {
	unsigned long long exit_ns, entry_ns;
	unsigned int tgid, tid;
	unsigned int index;
	unsigned int by_entry;
};
_Static_assert(sizeof(struct blackout_gap) == 32, "both sides");

#endif
