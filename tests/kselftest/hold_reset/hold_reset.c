// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test instrument: holds a KVM_RESET_DIRTY_RINGS up, so that a test can look at what is done meanwhile: where it has
 * moved a ring's index and has not yet write-protected the pages, or where it has and has not yet flushed the TLBs.
 * And holds vmferry up between any two instructions of its looks at a ring that KVM goes on with meanwhile.
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

/* Long enough for the beginning of each: the loads of the ring's indices. */
#define LOOK_BYTES 64
#define LOOK_STEPS 24 /* as many instructions are held up, and then no more */

static struct kprobe look_probes[2 * LOOK_BYTES];
static unsigned int look_hold_ms;
static atomic_t look_steps;

static int on_look(struct kprobe *p, struct pt_regs *regs)
{
	if (atomic_dec_if_positive(&look_steps) >= 0)
		mdelay(READ_ONCE(look_hold_ms));
	return 0;
}

static void forget_looks(void)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(look_probes); i++)
		if (look_probes[i].addr)
			unregister_kprobe(&look_probes[i]);
	memset(look_probes, 0, sizeof(look_probes));
}

/* Only while it is armed, for vmferry comes and goes. Where no instruction begins there can be no probe. */
static int set_look_hold(const char *text, const struct kernel_param *param)
{
	static const char *const looks[] = { "ring_each_unreset", "ring_hand_back" };
	int err = param_set_uint(text, param);

	forget_looks();
	if (err || !look_hold_ms)
		return err;
	atomic_set(&look_steps, LOOK_STEPS);
	for (unsigned int i = 0; i < ARRAY_SIZE(look_probes); i++) {
		look_probes[i].symbol_name = looks[i / LOOK_BYTES];
		look_probes[i].offset = i % LOOK_BYTES;
		look_probes[i].pre_handler = on_look;
		if (register_kprobe(&look_probes[i]))
			look_probes[i].addr = NULL;
	}
	return look_probes[0].addr || look_probes[4].addr ? 0 : -ENOENT; /* 4: after an endbr64 */
}

static const struct kernel_param_ops look_hold_ops = { .set = set_look_hold, .get = param_get_uint };
module_param_cb(look_hold_ms, &look_hold_ops, &look_hold_ms, 0600);
MODULE_PARM_DESC(look_hold_ms, "Arms: vmferry is held up at each instruction of its next look at a ring, for so long; 0: disarms");

static struct kprobe *probes[] = { &protect_probe, &flush_probe };

static int __init hold_reset_init(void)
{
	return register_kprobes(probes, ARRAY_SIZE(probes));
}

static void __exit hold_reset_exit(void)
{
	forget_looks();
	unregister_kprobes(probes, ARRAY_SIZE(probes));
}

module_init(hold_reset_init);
module_exit(hold_reset_exit);
MODULE_DESCRIPTION("Test instrument: holds resets of KVM's dirty rings up");
MODULE_LICENSE("GPL");
