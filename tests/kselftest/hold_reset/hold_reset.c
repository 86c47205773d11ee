// SPDX-License-Identifier: GPL-2.0-only
/*
 * Test instrument: holds a KVM_RESET_DIRTY_RINGS up where it has moved a ring's index and has not yet
 * write-protected the pages, so that a test can look at what is published meanwhile. Never for a host in use.
 */
#include <linux/delay.h>
#include <linux/kprobes.h>
#include <linux/module.h>

static unsigned int hold_ms;
module_param(hold_ms, uint, 0600);
MODULE_PARM_DESC(hold_ms, "Arms: the next call is held up for so long, or until this is written again");

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

static int __init hold_reset_init(void)
{
	return register_kprobe(&protect_probe);
}

static void __exit hold_reset_exit(void)
{
	unregister_kprobe(&protect_probe);
}

module_init(hold_reset_init);
module_exit(hold_reset_exit);
MODULE_DESCRIPTION("Test instrument: holds resets of KVM's dirty rings up");
MODULE_LICENSE("GPL");
