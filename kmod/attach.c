// SPDX-License-Identifier: GPL-2.0-only
/*
 * One attachment fd: what it references, adopts and gives back; its thread.
 *
 * Theory of operation
 *
 * ATTACH pins the VM by its file and nothing else of the VMM. The thread adopts the VMM's
 * address space for each harvest and lets go of it afterwards, so the VMM can exit at any
 * time: the next harvest finds that out, drops the VM, and the attachment stays as an area
 * to be read, with VMFERRY_AREA_DEAD and POLLHUP. Closing the fd (and unmapping the area)
 * stops the thread after it has put the logging back as it was.
 *
 * Ioctls hand the thread a request and wait; see attach.h for the locks.
 */
#include "attach.h"

#include <linux/anon_inodes.h>
#include <linux/eventfd.h>
#include <linux/file.h>
#include <linux/kthread.h>
#include <linux/magic.h>
#include <linux/mman.h>
#include <linux/poll.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "compat.h"
#include "harvest.h"
#include "ioctl.h"
#include "sysfs.h"
#include "trace.h"

/* Between looks of a thread without work whether the VMM has exited. */
#define EXIT_LOOK_NS (4ULL * NSEC_PER_SEC)

static DEFINE_MUTEX(attach_lock);
static LIST_HEAD(attachments);
static unsigned int next_id;

static const struct vmferry_tunables default_tunables = {
	.size = sizeof(struct vmferry_tunables),
	.mask = VMFERRY_TUNE_PERIOD | VMFERRY_TUNE_BATCH | VMFERRY_TUNE_WAKE | VMFERRY_TUNE_VFIO |
		VMFERRY_TUNE_ENABLED,
	.period_min_us = 500,
	.period_max_us = 100000,
	.batch = 8192,
	.wake_pages = 1,
	.vfio_period_us = 100000,
	.enabled = 1,
};

/* ---- the VMM's address space ---- */

/** attach_adopt() - -ESRCH: the VMM has exited */
int attach_adopt(struct attachment *a)
{
	if (!a->vm_file)
		return -ESRCH;
	if (!mmget_not_zero(a->kvm->mm))
		return -ESRCH;
	kthread_use_mm(a->kvm->mm);
	return 0;
}

void attach_unadopt(struct attachment *a)
{
	struct mm_struct *mm = a->kvm->mm;

	kthread_unuse_mm(mm);
	mmput(mm);
}

/** attach_vm_ioctl() - one of KVM's VM ioctls, as the VMM would do it; adopted */
int attach_vm_ioctl(struct attachment *a, unsigned int cmd, unsigned long arg)
{
	return a->vm_file->f_op->unlocked_ioctl(a->vm_file, cmd, arg);
}

static void drop_scratch(struct attachment *a)
{
	if (a->scratch)
		vm_munmap(a->scratch, a->scratch_len + PAGE_SIZE);
	a->scratch = 0;
	a->scratch_len = 0;
}

static int make_scratch(struct attachment *a, size_t len)
{
	unsigned long all, addr;

	all = vm_mmap(NULL, 0, len + PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, 0);
	if (IS_ERR_VALUE(all))
		return (int)all;
	addr = vm_mmap(NULL, all, len, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, 0);
	if (IS_ERR_VALUE(addr)) {
		vm_munmap(all, len + PAGE_SIZE);
		return (int)addr;
	}
	a->scratch = addr;
	a->scratch_len = len;
	return 0;
}

/**
 * attach_scratch() - room in the VMM for the arguments of KVM's ioctls; adopted
 * @a: the attachment
 * @len: bytes wanted at the beginning, a page at most
 * @tail_len: bytes wanted at the end
 * @at: out: the beginning, in the VMM
 * @tail: out: the last @tail_len bytes; may be NULL
 *
 * Anonymous memory of the VMM's: whatever it writes there hurts nobody but itself. A page that
 * cannot be touched follows: what KVM writes past the end of @tail gets -EFAULT, and does not
 * reach memory that the VMM uses.
 */
int attach_scratch(struct attachment *a, size_t len, size_t tail_len, void __user **at,
		   void __user **tail)
{
	size_t all = PAGE_ALIGN(len) + PAGE_ALIGN(tail_len);
	int err;

	if (all > a->scratch_len) {
		drop_scratch(a);
		err = make_scratch(a, all);
		if (err)
			return err;
	}
	*at = (void __user *)a->scratch;
	if (tail)
		*tail = (void __user *)(a->scratch + a->scratch_len - tail_len);
	return 0;
}

static void wake_readers(struct attachment *a)
{
	wake_up_all(&a->readers);
	mutex_lock(&a->lock);
	if (a->eventfd)
		compat_eventfd_signal(a->eventfd);
	mutex_unlock(&a->lock);
}

/* The VMM has exited: let go of the VM, and of its devices, which the next one cannot open before. */
static void bury(struct attachment *a)
{
	if (!a->vm_file)
		return;
	watch_stop(&a->watch);
	fput(a->vm_file);
	a->vm_file = NULL;
	a->logging = false;
	area_set_flags(&a->area, VMFERRY_AREA_DEAD, VMFERRY_AREA_LOGGING);
	/* In this order: vfio_sizes_add() takes no device that nobody would let go of. */
	WRITE_ONCE(a->dead, true);
	mutex_lock(&a->lock);
	vfio_sizes_fini(&a->vfio);
	mutex_unlock(&a->lock);
	wake_readers(a);
}

/* ---- the consumer ---- */

static bool is_readable(struct attachment *a)
{
	u64 unread = atomic64_read(&a->unread);
	u32 pages = READ_ONCE(a->tune.wake_pages), us = READ_ONCE(a->tune.wake_us);

	if (!unread)
		return false;
	if (pages && unread >= pages)
		return true;
	return us && ktime_get_ns() - READ_ONCE(a->unread_since_ns) >= (u64)us * NSEC_PER_USEC;
}

/** attach_published() - @pages more for the consumer to take */
void attach_published(struct attachment *a, u32 pages)
{
	if (pages && !atomic64_read(&a->unread))
		WRITE_ONCE(a->unread_since_ns, ktime_get_ns());
	atomic64_add(pages, &a->unread);
	if (is_readable(a))
		wake_readers(a);
}

/** attach_break() - writes may have been missed: for good, and loudly for the consumer */
void attach_break(struct attachment *a)
{
	if (a->broken)
		return;
	WRITE_ONCE(a->broken, true);
	area_set_flags(&a->area, VMFERRY_AREA_BROKEN, 0);
	wake_readers(a);
}

static ssize_t attach_read(struct file *file, char __user *to, size_t len, loff_t *pos)
{
	struct attachment *a = file->private_data;
	u64 n;

	if (len < sizeof(n))
		return -EINVAL;
	n = atomic64_xchg(&a->unread, 0);
	return copy_to_user(to, &n, sizeof(n)) ? -EFAULT : sizeof(n);
}

static __poll_t attach_poll(struct file *file, poll_table *pt)
{
	struct attachment *a = file->private_data;
	__poll_t events = 0;

	poll_wait(file, &a->readers, pt);
	if (is_readable(a))
		events |= EPOLLIN | EPOLLRDNORM;
	if (READ_ONCE(a->dead))
		events |= EPOLLHUP;
	if (READ_ONCE(a->broken))
		events |= EPOLLERR;
	return events;
}

static int attach_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct attachment *a = file->private_data;

	return area_mmap(&a->area, vma);
}

/* ---- the thread ---- */

/**
 * attach_kick() - have the thread look for work soon
 * @a: the attachment; its thread exists
 *
 * Context: any that may wake a task, hard interrupts of PREEMPT_RT included; never under a run
 * queue's lock, which the wake-up takes
 */
void attach_kick(struct attachment *a)
{
	WRITE_ONCE(a->kick, true);
	wake_up_process(a->thread);
}

/**
 * attach_wants_kick() - is an entry that a vCPU pushed a reason for attach_kick()?
 * @a: the attachment
 * @is_half_full: the ring is
 *
 * Context: KVM's tracepoint, after the push index was moved; any, a run queue's lock held included
 */
bool attach_wants_kick(struct attachment *a, bool is_half_full)
{
	/*
	 * Pairs with the barriers of doze() and of the thread's exchange of @kick. We see that it
	 * dozes, or it sees the push; we see that it took the last kick, or its look after that
	 * sees the push. Else it would sleep on beside a ring that fills.
	 */
	smp_mb();
	if (!READ_ONCE(a->heeds_kicks) || (!READ_ONCE(a->dozes) && !is_half_full))
		return false;
	WRITE_ONCE(a->dozes, false);
	return !READ_ONCE(a->kick);
}

/*
 * A guest that writes nothing is left alone: no harvests until a push, and a look now and
 * then whether the VMM is still there. Return: whether it does.
 */
static bool doze(struct attachment *a)
{
	if (!a->has_rings || (a->vfio.nr && READ_ONCE(a->tune.vfio_period_us)) || harvest_is_due(a))
		return false;
	WRITE_ONCE(a->dozes, true);
	smp_mb(); /* pairs with attach_wants_kick() */
	if (!harvest_is_due(a))
		return true;
	WRITE_ONCE(a->dozes, false);
	return false;
}

static int carry_out(struct attachment *a, enum attach_op op)
{
	int err = attach_adopt(a);

	if (err) {
		bury(a);
		return err;
	}
	if (a->broken && (op == OP_START || op == OP_HARVEST || op == OP_HARVEST_FINAL)) {
		attach_unadopt(a);
		return -EIO;
	}
	switch (op) {
	case OP_START:
		err = harvest_start(a);
		break;
	case OP_STOP:
		harvest_stop(a);
		break;
	case OP_HARVEST:
	case OP_HARVEST_FINAL:
		err = a->logging ? harvest_run(a, op == OP_HARVEST_FINAL) : -EINVAL;
		break;
	case OP_REFRESH_VFIO:
		vfio_sizes_refresh(a);
		break;
	case OP_NONE:
		break;
	}
	if (op == OP_STOP)
		drop_scratch(a);
	attach_unadopt(a);
	return err;
}

/* An attachment that does nothing must not keep a VM whose VMM has exited. */
static void look_for_exit(struct attachment *a)
{
	if (a->vm_file && !atomic_read(&a->kvm->mm->mm_users))
		bury(a);
}

static void harvest_by_itself(struct attachment *a)
{
	u64 now = ktime_get_ns();

	if (!harvest_is_due(a)) {
		look_for_exit(a);
		a->period_us = min(a->period_us * 2, READ_ONCE(a->tune.period_max_us));
	} else if (!carry_out(a, OP_HARVEST) && a->vm_file) {
		a->period_us = harvest_next_period(a);
	}
	if (now - a->cooled_ns > NSEC_PER_SEC) {
		for (u64 s = min_t(u64, div_u64(now - a->cooled_ns, NSEC_PER_SEC), 8); s; s--)
			area_cool(&a->area);
		vcpus_rate(&a->vcpus, now);
		a->cooled_ns = now;
	}
	if (a->vm_file && vfio_sizes_are_due(a, now))
		carry_out(a, OP_REFRESH_VFIO);
}

static bool has_work(struct attachment *a)
{
	return READ_ONCE(a->op) != OP_NONE || READ_ONCE(a->kick) || kthread_should_stop();
}

/*
 * There is no wait queue: its lock sleeps on PREEMPT_RT, and attach_kick() comes from hard
 * interrupts. Whoever has work stores it and then wakes the thread, which sees it before it
 * sleeps, or is woken: set_current_state() and wake_up_process() are full barriers.
 */
static void wait_for_work(struct attachment *a, u64 ns)
{
	ktime_t most = ns_to_ktime(ns);

	set_current_state(TASK_INTERRUPTIBLE);
	if (!has_work(a))
		schedule_hrtimeout(&most, HRTIMER_MODE_REL);
	__set_current_state(TASK_RUNNING);
}

static int attach_thread(void *arg)
{
	struct attachment *a = arg;

	while (!kthread_should_stop()) {
		bool by_itself = a->logging && READ_ONCE(a->tune.enabled);
		enum attach_op op;

		WRITE_ONCE(a->heeds_kicks, by_itself);
		if (by_itself && !doze(a))
			wait_for_work(a, (u64)a->period_us * NSEC_PER_USEC);
		else
			wait_for_work(a, EXIT_LOOK_NS);
		/* A full barrier before whatever is looked at: see attach_wants_kick(). */
		xchg(&a->kick, false);
		/* Pairs with the release in attach_ask(): the completion has been made anew. */
		op = smp_load_acquire(&a->op);
		if (op != OP_NONE) {
			a->op_result = carry_out(a, op);
			WRITE_ONCE(a->op, OP_NONE);
			complete(&a->op_done);
		} else if (by_itself && !kthread_should_stop()) {
			harvest_by_itself(a);
		} else {
			look_for_exit(a);
		}
	}
	/* Nobody wakes this task any more when it ends. */
	watch_stop(&a->watch);
	return 0;
}

/** attach_ask() - have the thread do @op, and wait for it */
int attach_ask(struct attachment *a, enum attach_op op)
{
	int err;

	mutex_lock(&a->ask);
	reinit_completion(&a->op_done);
	/* Pairs with the thread's acquire: it sees the completion made anew. */
	smp_store_release(&a->op, op);
	wake_up_process(a->thread);
	wait_for_completion(&a->op_done);
	err = a->op_result;
	mutex_unlock(&a->ask);
	return err;
}

/* ---- coming and going ---- */

static void free_attachment(struct attachment *a)
{
	if (a->thread) {
		attach_ask(a, OP_STOP);
		kthread_stop(a->thread);
	}
	watch_stop(&a->watch); /* if there never was a thread */
	if (a->vm_file)
		fput(a->vm_file);
	vfio_sizes_fini(&a->vfio);
	if (a->eventfd)
		eventfd_ctx_put(a->eventfd);
	ring_cursors_fini(&a->rings);
	vcpus_fini(&a->vcpus);
	area_fini(&a->area);
	/*
	 * On PREEMPT_RT irq_work_sync() returns before the work's interrupt has read the work for
	 * the last time. That runs with interrupts off, which is a reader's section of RCU.
	 */
	kvfree_rcu(a, rcu);
}

static int attach_release(struct inode *inode, struct file *file)
{
	struct attachment *a = file->private_data;

	sysfs_remove(a);
	mutex_lock(&attach_lock);
	list_del(&a->node);
	mutex_unlock(&attach_lock);
	free_attachment(a);
	return 0;
}

static const struct file_operations attach_fops = {
	.owner = THIS_MODULE,
	.release = attach_release,
	.read = attach_read,
	.poll = attach_poll,
	.mmap = attach_mmap,
	.unlocked_ioctl = attach_ioctl,
	.llseek = noop_llseek,
};

/*
 * May the caller trace the VMM? The kernel's own answer is not exported, but opening
 * /proc/PID/mem asks for it, and such a file knows whose memory it is.
 */
static bool shows_right_to_trace(int mem_fd, struct mm_struct *mm)
{
	struct file *file = fget(mem_fd);
	bool ok;

	if (!file)
		return false;
	ok = file_inode(file)->i_sb->s_magic == PROC_SUPER_MAGIC &&
	     !strcmp(file->f_path.dentry->d_name.name, "mem") && file->private_data == mm;
	fput(file);
	return ok;
}

static int check_request(const struct vmferry_attach *req, struct file *vm_file)
{
	struct kvm *kvm;

	if (!compat_file_is_vm(vm_file))
		return -EBADF;
	kvm = vm_file->private_data;
	if (!shows_right_to_trace(req->mem_fd, kvm->mm))
		return -EPERM;
	if (kvm->dirty_ring_size && !watch_sees_pushes())
		return -ENODEV;
	return 0;
}

/* attach_lock held */
static bool rings_are_taken(struct kvm *kvm)
{
	struct attachment *a;

	list_for_each_entry(a, &attachments, node)
		if (a->kvm == kvm && a->own_ring && !READ_ONCE(a->dead))
			return true;
	return false;
}

/* attach_lock held */
static struct attachment *make(const struct vmferry_attach *req, struct file *vm_file, int *err)
{
	struct attachment *a = kvzalloc(sizeof(*a), GFP_KERNEL);

	*err = -ENOMEM;
	if (!a)
		return NULL;
	mutex_init(&a->ask);
	mutex_init(&a->lock);
	init_completion(&a->op_done);
	init_completion(&a->kobj_gone);
	init_waitqueue_head(&a->readers);
	a->id = next_id++;
	a->tune = default_tunables;
	a->period_us = a->tune.period_max_us;
	a->kvm = vm_file->private_data;
	a->has_rings = a->kvm->dirty_ring_size != 0;
	a->own_ring = req->flags & VMFERRY_ATTACH_OWN_RING;
	a->vm_file = get_file(vm_file);
	*err = area_init(&a->area);
	if (!*err)
		*err = vcpus_init(&a->vcpus);
	if (*err)
		goto out_free;
	watch_init_one(&a->watch, a);
	*err = memslots_look(a);
	if (*err)
		goto out_free;
	area_set_flags(&a->area, (a->has_rings ? VMFERRY_AREA_RING : 0) |
		       (a->has_rings && !a->own_ring ? VMFERRY_AREA_WATCH : 0), 0);
	a->thread = kthread_create(attach_thread, a, "vmferry/%d", a->kvm->userspace_pid);
	if (IS_ERR(a->thread)) {
		*err = PTR_ERR(a->thread);
		a->thread = NULL;
		goto out_free;
	}
	watch_start(&a->watch); /* from here on the thread may be woken */
	return a;

out_free:
	free_attachment(a);
	return NULL;
}

/**
 * attach_create() - VMFERRY_ATTACH; @req has been checked for what is not of the VM
 * @req: the request
 * Return: an attachment fd of the caller, or a negative errno
 */
int attach_create(const struct vmferry_attach *req)
{
	struct file *vm_file = fget(req->vm_fd), *file;
	struct attachment *a;
	int fd, err;

	if (!vm_file)
		return -EBADF;
	err = check_request(req, vm_file);
	if (err)
		goto out_put_vm;
	fd = get_unused_fd_flags(O_CLOEXEC | O_RDWR);
	if (fd < 0) {
		err = fd;
		goto out_put_vm;
	}
	mutex_lock(&attach_lock);
	if (req->flags & VMFERRY_ATTACH_OWN_RING && rings_are_taken(vm_file->private_data)) {
		err = -EBUSY;
		goto out_unlock;
	}
	a = make(req, vm_file, &err);
	if (!a)
		goto out_unlock;
	file = anon_inode_getfile("vmferry", &attach_fops, a, O_RDWR);
	if (IS_ERR(file)) {
		err = PTR_ERR(file);
		goto out_free;
	}
	wake_up_process(a->thread);
	list_add(&a->node, &attachments);
	mutex_unlock(&attach_lock);
	sysfs_add(a); /* its figures; without them it works as well */
	trace_vmferry_attach(a->id, a->kvm->userspace_pid, a->slots.nr);
	fput(vm_file);
	fd_install(fd, file);
	return fd;

out_free:
	free_attachment(a);
out_unlock:
	mutex_unlock(&attach_lock);
	put_unused_fd(fd);
out_put_vm:
	fput(vm_file);
	return err;
}
