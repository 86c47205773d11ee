/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef VMFERRY_ATTACH_H
#define VMFERRY_ATTACH_H

#include <linux/kobject.h>
#include <linux/kvm_host.h>
#include <linux/mutex.h>
#include <linux/poll.h>
#include <linux/wait.h>

#include "area.h"
#include "memslots.h"
#include "ring.h"
#include "vfio_sizes.h"
#include "watch.h"

/**
 * struct attachment - one attachment fd: what it references, adopts and gives back
 * @lock: everything below it that is not marked otherwise
 * @vm_file: pins the VM and its module; NULL once the VMM has exited
 * @kvm: valid while @vm_file is; pinned by it
 * @mm: the VMM's, pinned as a struct (mmgrab), not as an address space
 * @own_ring: we collect and reset the rings; else somebody else may, and we watch
 * @logging: between START and STOP
 * @broken: writes may have been missed
 * @scratch: one page and, without rings, room for a bitmap, mapped in the VMM
 * @thread: harvests by itself
 * @published, @unread: pages since the attachment, since the last read(); atomic
 *
 * Lock order: attach_lock (attach.c), then @lock, then KVM's own inside its ioctls.
 */
struct attachment {
	struct mutex lock;
	struct list_head node; /* attach_lock */
	struct kobject kobj;
	struct completion kobj_gone;
	unsigned int id;

	struct file *vm_file;
	struct kvm *kvm;
	struct mm_struct *mm;
	bool own_ring;
	bool has_rings;
	bool logging;
	bool broken;

	struct area area;
	struct memslots slots;
	struct ring_cursors rings;
	struct watch watch;
	struct vfio_sizes vfio;

	unsigned long scratch;
	size_t scratch_len;

	struct task_struct *thread;
	wait_queue_head_t wake;	 /* of the thread */
	wait_queue_head_t readers;
	u32 period_us;
	u64 unread_since_ns;
	struct eventfd_ctx *eventfd;
	struct vmferry_tunables tune;

	atomic64_t unread;
	atomic64_t resets, harvest_errors;
};

int attach_create(const struct vmferry_attach *req);
void attach_wake_consumer(struct attachment *a);

/* The VMM's address space, and its KVM fd, for one use. @lock held. */
int attach_adopt(struct attachment *a);
void attach_unadopt(struct attachment *a);
int attach_vm_ioctl(struct attachment *a, unsigned int cmd, unsigned long arg);
int attach_scratch(struct attachment *a, size_t len, void __user **at);

#endif
