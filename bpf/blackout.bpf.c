// SPDX-License-Identifier: GPL-2.0-only
/*
 * The blackout probe: notes when vCPUs leave and enter the guest.
 *
 * Theory of operation
 *
 *   kvm_exit ............ last guest exit          kvm_entry ... guest entry, ends the gap
 *   kvm_userspace_exit .. KVM_RUN returns          kvm_fpu ..... KVM_RUN is about to enter,
 *   kvm_vcpu_wakeup ..... a halt is over                         where there is no kvm_entry
 *                                                  sched_switch: a vCPU that is kicked while it
 *                                                  waits for a processor had left before
 *   kvm_page_fault, kvm_dirty_ring_push .......... what dirty tracking costs the vCPU
 *
 * All of them run on the vCPU's own thread, so a record has one writer. User space reads
 * the records in place: the section of them is mapped, and nothing is copied or asked for
 * while a guest stands still.
 *
 * A slot's epoch says "the first entry from here on": user space raises it once all vCPUs
 * stand still, and each vCPU's next entry finds it changed and keeps its time.
 *
 * Linux 7 lets a program be put aside for another thread, and drops what the same program
 * would have to see on that processor until it goes on. Guest exits and entries are not
 * touched by that, for interrupts are off there; the other events may be too few, and a
 * blackout by KVM_RUN too long, never too short. The kernel counts them: probe_missed().
 *
 * Raw tracepoints, for they are found by name when they are attached: one that a kernel
 * lacks costs only itself. Types are declared here, with only the fields that are read;
 * libbpf finds their places in the running kernel and its modules.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#include <bpf/bpf_core_read.h>

#include "blackout.h"

#define EXIT_DIRTY_RING_FULL 31

struct kvm_vcpu {
	int vcpu_idx;
} __attribute__((preserve_access_index));

struct pt_regs {
	unsigned long di;
} __attribute__((preserve_access_index));

struct file {
	void *private_data;
} __attribute__((preserve_access_index));

struct fdtable {
	struct file **fd;
} __attribute__((preserve_access_index));

struct files_struct {
	struct fdtable *fdt;
} __attribute__((preserve_access_index));

struct sigpending {
	struct {
		unsigned long sig[1];
	} signal;
} __attribute__((preserve_access_index));

struct task_struct {
	struct files_struct *files;
	struct sigpending pending;
	unsigned int __state;
	int pid;
} __attribute__((preserve_access_index));

struct raw_args {
	__u64 arg[4];
};

/* Watched processes -> slot; threads seen -> slot and vCPU. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, BLACKOUT_SLOTS);
	__type(key, __u32);
	__type(value, __u32);
} targets SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, BLACKOUT_SLOTS * BLACKOUT_VCPUS);
	__type(key, __u32);
	__type(value, __u32);
} threads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 256 * 1024);
} gaps SEC(".maps");

struct blackout_vcpu vcpus[BLACKOUT_SLOTS * BLACKOUT_VCPUS];
__u32 epoch[BLACKOUT_SLOTS];
__u64 lost; /* gaps and vCPUs for which there was no room */
__u64 min_gap_ns = ~0ULL; /* none is told of, until somebody asks */

/* The compiler drops a check that it can prove; the verifier needs one that it can see. */
static struct blackout_vcpu *record(__u64 at)
{
	asm volatile("%0 &= %1" : "+r"(at) : "i"(BLACKOUT_SLOTS * BLACKOUT_VCPUS - 1));
	return &vcpus[at];
}

static struct blackout_vcpu *known(__u32 tid)
{
	__u32 *at = bpf_map_lookup_elem(&threads, &tid);

	return at ? record(*at) : NULL;
}

static struct blackout_vcpu *current_vcpu(void)
{
	return known((__u32)bpf_get_current_pid_tgid());
}

/* Takes the current thread into the table, if its process is watched. */
static struct blackout_vcpu *meet(const struct kvm_vcpu *vcpu)
{
	__u64 ids = bpf_get_current_pid_tgid();
	__u32 tgid = ids >> 32, tid = (__u32)ids, at;
	struct blackout_vcpu *v;
	__u32 *slot = bpf_map_lookup_elem(&targets, &tgid);
	int index = -1;

	if (!slot || *slot >= BLACKOUT_SLOTS)
		return NULL;
	if (vcpu && bpf_core_field_exists(vcpu->vcpu_idx))
		index = BPF_CORE_READ(vcpu, vcpu_idx);
	if (index < 0 || index >= BLACKOUT_VCPUS) {
		__sync_fetch_and_add(&lost, 1);
		return NULL;
	}
	at = *slot * BLACKOUT_VCPUS + index;
	if (bpf_map_update_elem(&threads, &tid, &at, BPF_ANY))
		return NULL;
	v = record(at);
	v->slot = *slot;
	v->index = index;
	v->tid = tid;
	return v;
}

static __u32 epoch_of(const struct blackout_vcpu *v)
{
	return epoch[v->slot % BLACKOUT_SLOTS];
}

static void note_gap(struct blackout_vcpu *v, __u64 from, __u64 now, __u32 by_entry)
{
	struct blackout_gap *g;

	if (!from || now - from < min_gap_ns)
		return;
	g = bpf_ringbuf_reserve(&gaps, sizeof(*g), 0);
	if (!g) {
		__sync_fetch_and_add(&lost, 1);
		return;
	}
	g->exit_ns = from;
	g->entry_ns = now;
	g->tgid = bpf_get_current_pid_tgid() >> 32;
	g->tid = v->tid;
	g->index = v->index;
	g->by_entry = by_entry;
	bpf_ringbuf_submit(g, 0);
}

static void end_full(struct blackout_vcpu *v, __u64 now)
{
	if (!v->in_full)
		return;
	v->full_ns += now - v->return_ns;
	v->in_full = 0;
}

SEC("raw_tp/kvm_exit")
int on_exit(struct raw_args *ctx)
{
	struct blackout_vcpu *v = current_vcpu();

	if (v)
		v->exit_ns = bpf_ktime_get_ns();
	return 0;
}

SEC("raw_tp/kvm_entry")
int on_entry(struct raw_args *ctx)
{
	struct blackout_vcpu *v = current_vcpu();
	__u64 now;

	if (!v)
		v = meet((const struct kvm_vcpu *)ctx->arg[0]);
	if (!v)
		return 0;
	now = bpf_ktime_get_ns();
	if (v->entry_epoch != epoch_of(v)) {
		v->first_entry_ns = now;
		v->entry_epoch = epoch_of(v);
	}
	if (v->in_fault) {
		v->fault_ns += now - v->exit_ns;
		v->in_fault = 0;
	}
	end_full(v, now);
	if (v->has_returned) {
		note_gap(v, v->exit_ns > v->blocked_ns ? v->exit_ns : v->blocked_ns, now, 1);
		v->has_returned = 0;
	}
	v->entry_ns = now;
	v->entries++;
	return 0;
}

SEC("raw_tp/kvm_userspace_exit")
int on_return(struct raw_args *ctx)
{
	struct blackout_vcpu *v = current_vcpu();

	if (!v)
		return 0;
	v->return_ns = v->out_ns ? v->out_ns : bpf_ktime_get_ns();
	v->out_ns = 0;
	v->has_returned = 1;
	v->in_full = 0;
	if ((__u32)ctx->arg[0] == EXIT_DIRTY_RING_FULL && !(int)ctx->arg[1]) {
		v->in_full = 1;
		v->fulls++;
	}
	return 0;
}

/* The vCPU behind the fd of the ioctl that this thread is in. */
static const struct kvm_vcpu *running_vcpu(void)
{
	struct task_struct *task = (struct task_struct *)bpf_get_current_task_btf();
	const struct pt_regs *regs = (const struct pt_regs *)bpf_task_pt_regs(task);
	struct file **table = BPF_CORE_READ(task, files, fdt, fd), *file = NULL;

	bpf_probe_read_kernel(&file, sizeof(file), table + (__u32)BPF_CORE_READ(regs, di));
	return BPF_CORE_READ(file, private_data);
}

/* KVM_RUN takes the guest's FPU registers, microseconds before it enters: on every kernel, whatever enters it. */
SEC("raw_tp/kvm_fpu")
int on_run(struct raw_args *ctx)
{
	struct blackout_vcpu *v;
	__u64 now;

	if (!(__u32)ctx->arg[0]) /* puts them back */
		return 0;
	v = current_vcpu();
	if (!v) {
		__u32 tgid = bpf_get_current_pid_tgid() >> 32;

		if (bpf_map_lookup_elem(&targets, &tgid))
			v = meet(running_vcpu());
	}
	if (!v)
		return 0;
	now = bpf_ktime_get_ns();
	v->run_ns = now;
	end_full(v, now);
	if (v->run_epoch != epoch_of(v)) {
		v->first_run_ns = now;
		v->run_epoch = epoch_of(v);
	}
	if (v->has_returned && !v->entries) {
		note_gap(v, v->return_ns, now, 0);
		v->has_returned = 0;
	}
	return 0;
}

/*
 * Where no exits are shown: a vCPU that lost its processor and got it back only to be kicked out of
 * KVM_RUN has not been in the guest since.
 */
SEC("raw_tp/sched_switch")
int on_switch(struct raw_args *ctx)
{
	struct task_struct *prev = (struct task_struct *)ctx->arg[1], *next = (struct task_struct *)ctx->arg[2];
	struct blackout_vcpu *v = known(BPF_CORE_READ(prev, pid));

	/* In a halt it waits for an interrupt, not for a processor. */
	if (v && !v->entries && v->run_ns > v->return_ns && !BPF_CORE_READ(prev, __state))
		v->out_ns = bpf_ktime_get_ns();
	v = known(BPF_CORE_READ(next, pid));
	if (v && v->out_ns && !BPF_CORE_READ(next, pending.signal.sig[0]))
		v->out_ns = 0;
	return 0;
}

SEC("raw_tp/kvm_vcpu_wakeup")
int on_wakeup(struct raw_args *ctx)
{
	struct blackout_vcpu *v = current_vcpu();

	if (v)
		v->blocked_ns = bpf_ktime_get_ns();
	return 0;
}

SEC("raw_tp/kvm_page_fault")
int on_fault(struct raw_args *ctx)
{
	struct blackout_vcpu *v = current_vcpu();

	if (v) {
		v->faults++;
		v->in_fault = 1;
	}
	return 0;
}

SEC("raw_tp/kvm_dirty_ring_push")
int on_push(struct raw_args *ctx)
{
	struct blackout_vcpu *v = current_vcpu();

	if (v)
		v->pushes++;
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
