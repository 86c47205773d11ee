/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef VMFERRY_ATTACH_H
#define VMFERRY_ATTACH_H

#include <linux/completion.h>
#include <linux/kobject.h>
#include <linux/kvm_host.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/wait.h>

#include "area.h"
#include "memslots.h"
#include "ring.h"
#include "vcpus.h"
#include "vfio_sizes.h"
#include "watch.h"

/* What the attachment's thread is asked to do. */
enum attach_op { OP_NONE, OP_START, OP_STOP, OP_HARVEST, OP_HARVEST_FINAL, OP_REFRESH_VFIO };

/**
 * struct attachment - one attachment fd: what it references, adopts and gives back
 * @node: attach_lock
 * @vm_file: pins the VM and KVM's module; NULL once the VMM has exited; the thread's
 * @kvm: valid while @vm_file is not NULL; the thread's
 * @own_ring: we collect and reset the rings; else somebody else may, and we watch
 * @logging, @broken: see uapi/vmferry.h; the thread's
 * @scratch, @scratch_len: room mapped in the VMM for the arguments of KVM's ioctls; the thread's
 * @heeds_kicks: it harvests by itself; the thread's
 * @kick: harvest soon; @dozes: nothing is pushed: the next push kicks; written by vCPUs, too
 * @ask: one request at a time; @op, @op_done, @op_result: that request
 * @lock: @tune, @eventfd, @vfio's fds; taken by the thread and by ioctls, never across
 * KVM's ioctls
 * @unread: pages published since the last read(); @dead: @vm_file is gone; atomic
 *
 * All that touches KVM is done by @thread, for only a kernel thread can adopt the VMM's
 * address space, which KVM's ioctls ask for. Whoever wants something asks it.
 *
 * Lock order: attach_lock, @ask, @lock, area.lock, KVM's own (inside its ioctls).
 */
struct attachment {
	struct list_head node;
	struct rcu_head rcu;
	unsigned int id;
	struct kobject kobj;
	struct completion kobj_gone;

	struct file *vm_file;
	struct kvm *kvm;
	bool own_ring;
	bool has_rings;
	bool logging;
	bool broken;
	unsigned long scratch;
	size_t scratch_len;

	struct area area;
	struct memslots slots;
	struct ring_cursors rings;
	struct watch watch;
	struct vcpus vcpus;
	struct vfio_sizes vfio;

	struct task_struct *thread;
	struct mutex ask; /* see above */
	enum attach_op op;
	int op_result;
	struct completion op_done;
	bool heeds_kicks;
	bool kick;
	bool dozes;
	u32 period_us;
	u64 cooled_ns;

	struct mutex lock; /* see above */
	struct vmferry_tunables tune;
	struct eventfd_ctx *eventfd;

	wait_queue_head_t readers;
	atomic64_t unread;
	u64 unread_since_ns;
	bool dead;
	atomic64_t resets;
};

int attach_create(const struct vmferry_attach *req);
int attach_ask(struct attachment *a, enum attach_op op);
int tunables_set(struct attachment *a, const struct vmferry_tunables *t);
void attach_kick(struct attachment *a);
bool attach_wants_kick(struct attachment *a, bool is_half_full);
void attach_published(struct attachment *a, u32 pages);
void attach_break(struct attachment *a);

/* The thread only: the VMM's address space, and KVM's ioctls in it. */
int attach_adopt(struct attachment *a);
void attach_unadopt(struct attachment *a);
int attach_vm_ioctl(struct attachment *a, unsigned int cmd, unsigned long arg);
int attach_scratch(struct attachment *a, size_t len, size_t tail_len, void __user **at,
		   void __user **tail);

#endif
