// SPDX-License-Identifier: GPL-2.0-only
/*
 * Knows which calls of KVM_RESET_DIRTY_RINGS run, whoever makes them.
 *
 * Theory of operation: a kretprobe of KVM's VM ioctl lists a call as it enters, and unlists it as
 * it leaves. KVM moves a ring's reset index before it write-protects the pages, and flushes the
 * TLBs after the last ring, without a lock. So what a call has taken off a ring is writable without
 * a new entry until that call is over, and only then may it be published: see watch.c.
 */
#include "resets.h"

#include <linux/delay.h>
#include <linux/kprobes.h>
#include <linux/kvm_host.h>

#include "compat.h"

static bool has_probe; /* the caller's lock: see resets_list() */
static void (*resets_cut)(const struct kvm *kvm);

/* One that is under way. */
struct reset_call {
	struct list_head node;
	const struct kvm *kvm;
	u64 nr;
};

/*
 * Who enters is who leaves, whatever is attached meanwhile. The lock is the order, too: a
 * call is listed before it moves an index, and unlisted after it has flushed the TLBs; so
 * who sees an index moved finds the call here, or all that it did done.
 */
static DEFINE_RAW_SPINLOCK(calls_lock);
static LIST_HEAD(calls); /* oldest first */
static u64 calls_begun;

static int on_vm_ioctl(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct reset_call *call = (void *)ri->data;
	struct file *file = (void *)regs_get_kernel_argument(regs, 0);
	unsigned long flags;

	if ((unsigned int)regs_get_kernel_argument(regs, 1) != KVM_RESET_DIRTY_RINGS)
		return 1; /* its return does not interest us */
	call->kvm = file->private_data;
	raw_spin_lock_irqsave(&calls_lock, flags);
	call->nr = ++calls_begun;
	list_add_tail(&call->node, &calls);
	raw_spin_unlock_irqrestore(&calls_lock, flags);
	return 0;
}

static int on_vm_ioctl_done(struct kretprobe_instance *ri, struct pt_regs *regs)
{
	struct reset_call *call = (void *)ri->data;
	unsigned long flags;

	/* Whether the signal came in time to cut it nobody can tell any more. */
	if (compat_reset_minds_signals() && signal_pending(current))
		resets_cut(call->kvm);
	raw_spin_lock_irqsave(&calls_lock, flags);
	list_del(&call->node);
	raw_spin_unlock_irqrestore(&calls_lock, flags);
	return 0;
}

/** resets_last() - the last call that has begun, of any VM */
u64 resets_last(void)
{
	u64 nr;

	raw_spin_lock_irq(&calls_lock);
	nr = calls_begun;
	raw_spin_unlock_irq(&calls_lock);
	return nr;
}

/** resets_run() - does one of @kvm's calls still run that had begun when @nr was the last one? */
bool resets_run(const struct kvm *kvm, u64 nr)
{
	const struct reset_call *call;
	bool found = false;

	raw_spin_lock_irq(&calls_lock);
	list_for_each_entry(call, &calls, node) {
		if (call->nr > nr)
			break;
		found |= call->kvm == kvm;
	}
	raw_spin_unlock_irq(&calls_lock);
	return found;
}

static struct kretprobe reset_probe = {
	.kp.symbol_name = "kvm_vm_ioctl",
	.entry_handler = on_vm_ioctl,
	.handler = on_vm_ioctl_done,
	.data_size = sizeof(struct reset_call),
	.maxactive = 256,
};

/**
 * resets_list() - from now on calls are listed
 * @cut: told of a VM of whose pages a signal may have left some writable; from KVM's ioctl
 *
 * The caller serializes this and resets_forget().
 * Return: are they?
 */
bool resets_list(void (*cut)(const struct kvm *kvm))
{
	resets_cut = cut;
	if (!has_probe)
		has_probe = !register_kretprobe(&reset_probe);
	return has_probe;
}

/* A probe of code that has gone would count nothing in code that comes in its place. */
void resets_forget(void)
{
	if (!has_probe)
		return;
	unregister_kretprobe(&reset_probe);
	reset_probe.kp.addr = NULL;
	reset_probe.kp.flags = 0;
	reset_probe.nmissed = 0;
	has_probe = false;
}

/** resets_were_missed() - was there no room to list one? */
bool resets_were_missed(void)
{
	return READ_ONCE(reset_probe.nmissed);
}

/** resets_wait() - until each call of @kvm that runs now is over, its TLB flush included */
void resets_wait(const struct kvm *kvm)
{
	u64 nr = resets_last();

	while (resets_run(kvm, nr))
		usleep_range(10, 50);
}
