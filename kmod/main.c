// SPDX-License-Identifier: GPL-2.0-only
/* Module life, the device node, ATTACH; no logic. */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/uaccess.h>

#include "attach.h"
#include "ioctl.h"
#include "sysfs.h"
#include "watch.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

static long vmferry_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct vmferry_attach req;
	int err;

	if (cmd != VMFERRY_ATTACH)
		return -ENOTTY;
	err = ioctl_copy_struct(&req, sizeof(req), sizeof(req), (void __user *)arg);
	if (err)
		return err;
	if (req.flags & ~VMFERRY_ATTACH_OWN_RING ||
	    memchr_inv(req.reserved, 0, sizeof(req.reserved)))
		return -EINVAL;
	return attach_create(&req);
}

static const struct file_operations vmferry_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = vmferry_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice vmferry_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "vmferry",
	.fops = &vmferry_fops,
	.mode = 0600,
};

static int __init vmferry_init(void)
{
	int err = watch_init();

	if (err)
		return err;
	err = misc_register(&vmferry_device);
	if (err)
		goto out_watch;
	sysfs_set_parent(&vmferry_device.this_device->kobj);
	return 0;

out_watch:
	watch_exit();
	return err;
}

static void __exit vmferry_exit(void)
{
	misc_deregister(&vmferry_device);
	watch_exit();
}

module_init(vmferry_init);
module_exit(vmferry_exit);
MODULE_DESCRIPTION("Live migration accelerator: harvests dirty pages of KVM guests");
MODULE_LICENSE("GPL");
