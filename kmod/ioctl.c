// SPDX-License-Identifier: GPL-2.0-only
/* What an attachment fd is asked: arguments checked, then handed to its thread. */
#include "ioctl.h"

#include <linux/eventfd.h>
#include <linux/uaccess.h>

#include "attach.h"
#include "compat.h"

/**
 * ioctl_copy_struct() - a struct of the caller's that begins with its size
 * @to: room for @known bytes
 * @from: the caller's struct
 * @known: bytes that this module knows
 * @first: bytes of its first version
 * Return: 0, -EINVAL: too small, -E2BIG: more than we know, and not zero, -EFAULT
 */
int ioctl_copy_struct(void *to, size_t known, size_t first, const void __user *from)
{
	u32 size;

	if (get_user(size, (const u32 __user *)from))
		return -EFAULT;
	if (size < first || size > PAGE_SIZE)
		return -EINVAL;
	return copy_struct_from_user(to, known, from, size);
}

static int do_harvest(struct attachment *a, void __user *arg)
{
	struct vmferry_harvest h;
	u64 before = atomic64_read(&a->area.published);
	int err = ioctl_copy_struct(&h, sizeof(h), sizeof(h), arg);

	if (err)
		return err;
	if (h.flags & ~VMFERRY_HARVEST_FINAL || h.reserved)
		return -EINVAL;
	err = attach_ask(a, h.flags & VMFERRY_HARVEST_FINAL ? OP_HARVEST_FINAL : OP_HARVEST);
	if (err)
		return err;
	h.published = atomic64_read(&a->area.published) - before;
	h.waiting = READ_ONCE(a->watch.nr_waiting);
	return copy_to_user(arg, &h, sizeof(h)) ? -EFAULT : 0;
}

static int get_tunables(struct attachment *a, void __user *arg)
{
	struct vmferry_tunables t;
	int err = ioctl_copy_struct(&t, sizeof(t), sizeof(t), arg);

	if (err)
		return err;
	mutex_lock(&a->lock);
	t = a->tune;
	mutex_unlock(&a->lock);
	return copy_to_user(arg, &t, sizeof(t)) ? -EFAULT : 0;
}

static bool are_sane(const struct vmferry_tunables *t)
{
	return t->period_min_us >= 100 && t->period_min_us <= 1000000 &&
	       t->period_max_us >= t->period_min_us && t->period_max_us <= 10000000 &&
	       t->batch >= 64 && t->batch <= 65536 && t->enabled <= 1;
}

/** tunables_set() - those of @t that its mask names; -EINVAL if a result were out of bounds */
int tunables_set(struct attachment *a, const struct vmferry_tunables *t)
{
	struct vmferry_tunables now;
	int err = 0;

	mutex_lock(&a->lock);
	now = a->tune;
	if (t->mask & VMFERRY_TUNE_PERIOD) {
		now.period_min_us = t->period_min_us;
		now.period_max_us = t->period_max_us;
	}
	if (t->mask & VMFERRY_TUNE_BATCH)
		now.batch = t->batch;
	if (t->mask & VMFERRY_TUNE_WAKE) {
		now.wake_pages = t->wake_pages;
		now.wake_us = t->wake_us;
	}
	if (t->mask & VMFERRY_TUNE_VFIO)
		now.vfio_period_us = t->vfio_period_us;
	if (t->mask & VMFERRY_TUNE_ENABLED)
		now.enabled = t->enabled;
	if (are_sane(&now))
		a->tune = now;
	else
		err = -EINVAL;
	mutex_unlock(&a->lock);
	attach_kick(a);
	return err;
}

static int set_tunables(struct attachment *a, void __user *arg)
{
	struct vmferry_tunables t;
	int err = ioctl_copy_struct(&t, sizeof(t), sizeof(t), arg);

	if (err)
		return err;
	if (t.mask & ~(VMFERRY_TUNE_PERIOD | VMFERRY_TUNE_BATCH | VMFERRY_TUNE_WAKE |
		       VMFERRY_TUNE_VFIO | VMFERRY_TUNE_ENABLED) ||
	    memchr_inv(t.reserved, 0, sizeof(t.reserved)))
		return -EINVAL;
	return tunables_set(a, &t);
}

static int set_eventfd(struct attachment *a, void __user *arg)
{
	struct eventfd_ctx *new = NULL, *old;
	struct vmferry_eventfd e;
	int err = ioctl_copy_struct(&e, sizeof(e), sizeof(e), arg);

	if (err)
		return err;
	if (e.flags || e.reserved || e.fd < -1)
		return -EINVAL;
	if (e.fd >= 0) {
		new = eventfd_ctx_fdget(e.fd);
		if (IS_ERR(new))
			return PTR_ERR(new);
	}
	mutex_lock(&a->lock);
	old = a->eventfd;
	a->eventfd = new;
	/* What poll() says for good is told to who comes later, too. */
	if (new && (READ_ONCE(a->broken) || READ_ONCE(a->dead)))
		compat_eventfd_signal(new);
	mutex_unlock(&a->lock);
	if (old)
		eventfd_ctx_put(old);
	return 0;
}

static int add_vfio(struct attachment *a, void __user *arg)
{
	struct vmferry_vfio v;
	int err = ioctl_copy_struct(&v, sizeof(v), sizeof(v), arg);

	if (err)
		return err;
	if (v.flags || v.reserved[0] || v.reserved[1] || !v.name[0] ||
	    strnlen(v.name, sizeof(v.name)) == sizeof(v.name) || v.data_fd < -1)
		return -EINVAL;
	return vfio_sizes_add(a, &v);
}

long attach_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct attachment *a = file->private_data;
	void __user *argp = (void __user *)arg;

	switch (cmd) {
	case VMFERRY_START:
		return arg ? -EINVAL : attach_ask(a, OP_START);
	case VMFERRY_STOP:
		return arg ? -EINVAL : attach_ask(a, OP_STOP);
	case VMFERRY_HARVEST:
		return do_harvest(a, argp);
	case VMFERRY_GET_TUNABLES:
		return get_tunables(a, argp);
	case VMFERRY_SET_TUNABLES:
		return set_tunables(a, argp);
	case VMFERRY_SET_EVENTFD:
		return set_eventfd(a, argp);
	case VMFERRY_ADD_VFIO:
		return add_vfio(a, argp);
	case VMFERRY_REFRESH_VFIO:
		return arg ? -EINVAL : attach_ask(a, OP_REFRESH_VFIO);
	default:
		return -ENOTTY;
	}
}
