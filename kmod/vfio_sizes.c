// SPDX-License-Identifier: GPL-2.0-only
/*
 * Migration sizes of VFIO devices -> the area's device table.
 *
 * Theory of operation: what the VMM would ask by ioctl is asked here by the same ioctl,
 * with its arguments in scratch memory of the VMM's: VFIO_DEVICE_FEATURE_MIG_DATA_SIZE of
 * the device (since 6.2), VFIO_MIG_GET_PRECOPY_INFO of its migration data fd. A driver
 * that refuses is recorded with its errno, not guessed for.
 */
#include "vfio_sizes.h"

#include <linux/file.h>
#include <linux/uaccess.h>
#include <linux/vfio.h>

#include "attach.h"
#include "compat.h"

/*
 * The thread asks @file with rights that the caller may not have: nothing but a device
 * that VFIO itself has made will do. Not the container, which is called "vfio".
 */
static bool is_vfio_device(struct file *file)
{
	const struct module *owner = file->f_op->owner;
	const char *name = file->f_path.dentry->d_name.name;

	if (!owner || strcmp(owner->name, "vfio") || !file->f_op->unlocked_ioctl)
		return false;
	return !strcmp(name, "[vfio-device]") || (!strncmp(name, "vfio", 4) && name[4]);
}

/** vfio_sizes_add() - Return: index in the device table, or a negative errno */
int vfio_sizes_add(struct attachment *a, const struct vmferry_vfio *req)
{
	struct file *device = fget(req->device_fd), *data = NULL;
	struct vfio_sizes *v = &a->vfio;
	unsigned int i;
	int err = -EBADF;

	if (!device)
		return -EBADF;
	if (!is_vfio_device(device))
		goto out_put;
	if (req->data_fd >= 0) {
		data = fget(req->data_fd);
		if (!data)
			goto out_put;
	}
	mutex_lock(&a->lock);
	for (i = 0; i < v->nr && strcmp(v->dev[i].name, req->name); i++)
		;
	err = READ_ONCE(a->dead) ? -ESRCH : i == VMFERRY_MAX_DEVICES ? -ENOSPC : 0;
	if (err) {
		mutex_unlock(&a->lock);
		goto out_put;
	}
	if (i == v->nr) {
		v->nr++;
	} else {
		fput(v->dev[i].device);
		if (v->dev[i].data)
			fput(v->dev[i].data);
	}
	v->dev[i].device = device;
	v->dev[i].data = data;
	strscpy(v->dev[i].name, req->name, sizeof(v->dev[i].name));
	strscpy(a->area.devices[i].name, req->name, sizeof(a->area.devices[i].name));
	WRITE_ONCE(a->area.header->nr_devices, v->nr);
	mutex_unlock(&a->lock);
	return i;

out_put:
	if (data)
		fput(data);
	fput(device);
	return err;
}

/* Unused where the kernel knows no migration sizes yet (6.1). */
static int __maybe_unused ask(struct file *file, unsigned int cmd, void *arg, size_t len,
			      void __user *at)
{
	long ret;

	if (copy_to_user(at, arg, len))
		return -EFAULT;
	ret = file->f_op->unlocked_ioctl(file, cmd, (unsigned long)at);
	if (ret < 0)
		return ret;
	return copy_from_user(arg, at, len) ? -EFAULT : 0;
}

static int read_stop_copy(struct file *device, void __user *at, u64 *size)
{
#ifdef VFIO_DEVICE_FEATURE_MIG_DATA_SIZE
	struct {
		struct vfio_device_feature feature;
		struct vfio_device_feature_mig_data_size size;
	} __packed q = {
		.feature = { .argsz = sizeof(q),
			     .flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIG_DATA_SIZE },
	};
	int err = ask(device, VFIO_DEVICE_FEATURE, &q, sizeof(q), at);

	if (!err)
		*size = q.size.stop_copy_length;
	return err;
#else
	return -EOPNOTSUPP;
#endif
}

static int read_precopy(struct file *data, void __user *at, u64 *initial, u64 *dirty)
{
#ifdef VFIO_MIG_GET_PRECOPY_INFO
	struct vfio_precopy_info q = { .argsz = sizeof(q) };
	int err = data->f_op->unlocked_ioctl ?
			  ask(data, VFIO_MIG_GET_PRECOPY_INFO, &q, sizeof(q), at) : -ENOTTY;

	if (!err) {
		*initial = q.initial_bytes;
		*dirty = q.dirty_bytes;
	}
	return err;
#else
	return -EOPNOTSUPP;
#endif
}

/** vfio_sizes_refresh() - read all devices; the thread, adopted */
void vfio_sizes_refresh(struct attachment *a)
{
	struct vfio_sizes *v = &a->vfio;
	void __user *at;

	if (!v->nr || attach_scratch(a, PAGE_SIZE, 0, &at, NULL))
		return;
	mutex_lock(&a->lock);
	for (unsigned int i = 0; i < v->nr; i++) {
		struct vmferry_device *d = &a->area.devices[i];
		u64 size = 0, initial = 0, dirty = 0;
		int err = read_stop_copy(v->dev[i].device, at, &size);

		if (!err && v->dev[i].data)
			err = read_precopy(v->dev[i].data, at, &initial, &dirty);
		WRITE_ONCE(d->stop_copy_size, size);
		WRITE_ONCE(d->precopy_initial, initial);
		WRITE_ONCE(d->precopy_dirty, dirty);
		WRITE_ONCE(d->error, err);
		/* Pairs with the reader's acquire: a new stamp comes with its sizes. */
		smp_store_release(&d->stamp_ns, ktime_get_ns());
	}
	v->read_ns = ktime_get_ns();
	mutex_unlock(&a->lock);
}

bool vfio_sizes_are_due(struct attachment *a, u64 now)
{
	u32 period_us = READ_ONCE(a->tune.vfio_period_us);

	return a->vfio.nr && period_us && now - a->vfio.read_ns >= (u64)period_us * NSEC_PER_USEC;
}

void vfio_sizes_fini(struct vfio_sizes *v)
{
	for (unsigned int i = 0; i < v->nr; i++) {
		fput(v->dev[i].device);
		if (v->dev[i].data)
			fput(v->dev[i].data);
	}
	v->nr = 0;
}
