/* SPDX-License-Identifier: GPL-2.0-only */
/* Every difference between the kernels that vmferry is built for, and nowhere else. */
#ifndef VMFERRY_COMPAT_H
#define VMFERRY_COMPAT_H

#include <linux/eventfd.h>
#include <linux/fs.h>
#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/version.h>

/* eventfd_signal() lost its count in 6.8. */
static inline void compat_eventfd_signal(struct eventfd_ctx *ctx)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
	eventfd_signal(ctx);
#else
	eventfd_signal(ctx, 1);
#endif
}

/* vm_flags became read-only, with helpers, in 6.3. */
static inline void compat_vm_flags_set(struct vm_area_struct *vma, unsigned long flags)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
	vm_flags_set(vma, flags);
#else
	vma->vm_flags |= flags;
#endif
}

/*
 * file_is_kvm() is exported to KVM's own modules only since 6.18; and it is never enough,
 * for it knows VMs alone by their operations. What a name cannot tell, the owner does:
 * only KVM makes files whose operations belong to KVM.
 */
static inline bool compat_file_is_vm(struct file *file)
{
	const struct module *owner = file->f_op->owner;

	if (strcmp(file->f_path.dentry->d_name.name, "kvm-vm"))
		return false;
	return owner && (!strcmp(owner->name, "kvm") || !strcmp(owner->name, "kvm_amd") ||
			 !strcmp(owner->name, "kvm_intel"));
}

#endif
