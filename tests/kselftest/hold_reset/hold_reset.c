// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test instrument: holds a KVM_RESET_DIRTY_RINGS up, so that a test can look at what is done meanwhile: where it has
 * moved a ring's index and has not yet write-protected the pages, or where it has and has not yet flushed the TLBs.
 * Never for a host in use.
 */
#include <linux/delay.h>
#include <linux/kprobes.h>
#include <linux/kvm_host.h>
#include <linux/module.h>

static unsigned int hold_ms;
module_param(hold_ms, uint, 0600);
MODULE_PARM_DESC(hold_ms, "Arms: the next call is held up before it protects, for so long or until this is written again");

static unsigned int flush_hold_ms;
module_param(flush_hold_ms, uint, 0600);
MODULE_PARM_DESC(flush_hold_ms, "Arms: likewise before it flushes; it sleeps there, so that RCU and other tasks go on");

static bool holding;
module_param(holding, bool, 0400);
MODULE_PARM_DESC(holding, "A call is being held up");

static int on_protect(struct kprobe *p, struct pt_regs *regs)
{
	unsigned int ms = xchg(&hold_ms, 0);

	if (!ms)
		return 0;
	WRITE_ONCE(holding, true);
	for (; ms && !READ_ONCE(hold_ms); ms--)
		mdelay(1);
	WRITE_ONCE(hold_ms, 0);
	WRITE_ONCE(holding, false);
	return 0;
}

static struct kprobe protect_probe = {
	.symbol_name = "kvm_arch_mmu_enable_log_dirty_pt_masked",
	.pre_handler = on_protect,
};

static struct kprobe flush_probe;
static struct task_struct *flusher; /* has been held up, or cannot be */

/* Stands in for kvm_flush_remote_tlbs(). A reset calls that where it may sleep; others may not. */
static void held_flush(struct kvm *kvm)
{
	void (*flush)(struct kvm *kvm) = (void *)flush_probe.addr;

	if (!in_atomic()) {
		WRITE_ONCE(holding, true);
		for (unsigned int ms = READ_ONCE(flush_hold_ms); ms && READ_ONCE(flush_hold_ms) > 1; ms--)
			msleep(1);
		WRITE_ONCE(flush_hold_ms, 0);
	}
	WRITE_ONCE(flusher, current);
	flush(kvm);
	WRITE_ONCE(flusher, NULL);
	WRITE_ONCE(holding, false);
}

static int on_flush(struct kprobe *p, struct pt_regs *regs)
{
	if (READ_ONCE(flush_hold_ms) <= 1 || READ_ONCE(holding) || READ_ONCE(flusher) == current)
		return 0;
	instruction_pointer_set(regs, (unsigned long)held_flush);
	return 1;
}

static struct kprobe flush_probe = {
	.symbol_name = "kvm_flush_remote_tlbs",
	.pre_handler = on_flush,
};

static struct kprobe *probes[] = { &protect_probe, &flush_probe };

static int __init hold_reset_init(void)
{
	return register_kprobes(probes, ARRAY_SIZE(probes));
}

static void __exit hold_reset_exit(void)
{
	unregister_kprobes(probes, ARRAY_SIZE(probes));
}

module_init(hold_reset_init);
module_exit(hold_reset_exit);
MODULE_DESCRIPTION("Test instrument: holds resets of KVM's dirty rings up");
MODULE_LICENSE("GPL");
