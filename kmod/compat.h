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

/* The number of address spaces became the VM's own in 6.8. */
static inline int compat_nr_address_spaces(struct kvm *kvm)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 8, 0)
	return kvm_arch_nr_memslot_as_ids(kvm);
#else
	return KVM_ADDRESS_SPACE_NUM;
#endif
}

/*
 * The generation of one address space's slots. While KVM waits for the readers of old slots,
 * those seen are the new ones already, under the old number and a flag: they get the number they
 * are about to have.
 */
static inline u64 compat_settled_generation(struct kvm *kvm, const struct kvm_memslots *slots)
{
	u64 generation = READ_ONCE(slots->generation);

	if (!(generation & KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS))
		return generation;
	return (generation & ~KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS) + compat_nr_address_spaces(kvm);
}

/*
 * One number for KVM's slots of all address spaces. Each step moves it on by the number of these:
 * a slot that comes or whose flags change is one step, one that goes or moves is two.
 */
static inline u64 compat_memslots_generation(struct kvm *kvm)
{
	int srcu = srcu_read_lock(&kvm->srcu);
	u64 sum = 0;

	for (int as = 0; as < compat_nr_address_spaces(kvm); as++)
		sum += compat_settled_generation(kvm, __kvm_memslots(kvm, as));
	srcu_read_unlock(&kvm->srcu, srcu);
	return sum;
}

/*
 * Since 6.16 a signal ends KVM_RESET_DIRTY_RINGS early, and what it has taken off a ring without
 * protecting the pages yet, up to 64, is dropped: further writes to them make no entry. The change
 * is known by what else it changed.
 */
#define compat_reset_minds_signals() \
	(!__builtin_types_compatible_p(typeof(&kvm_dirty_ring_reset), \
				       int (*)(struct kvm *, struct kvm_dirty_ring *)))

/*
 * Is @file a KVM VM? Since 6.18 file_is_kvm() is exported to KVM's own modules only. There
 * the operations name their module (on older kernels they do not), and of the files that
 * KVM's module makes only VMs are called so.
 */
static inline bool compat_file_is_vm(struct file *file)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 18, 0)
	const struct module *owner = file->f_op->owner;

	return owner && !strcmp(file->f_path.dentry->d_name.name, "kvm-vm") &&
	       (!strcmp(owner->name, "kvm") || !strcmp(owner->name, "kvm_amd") ||
		!strcmp(owner->name, "kvm_intel"));
#else
	return file_is_kvm(file);
#endif
}

#endif
