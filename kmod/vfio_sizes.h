/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef VMFERRY_VFIO_SIZES_H
#define VMFERRY_VFIO_SIZES_H

#include <linux/fs.h>
#include <vmferry.h>

struct attachment;

/** struct vfio_device_ref - @device, @data: pinned files; @data may be NULL */
struct vfio_device_ref {
	char name[VMFERRY_NAME_LEN];
	struct file *device;
	struct file *data;
};

/** struct vfio_sizes - the VFIO devices of an attachment; attachment.lock */
struct vfio_sizes {
	struct vfio_device_ref dev[VMFERRY_MAX_DEVICES];
	unsigned int nr;
	u64 read_ns;
};

int vfio_sizes_add(struct attachment *a, const struct vmferry_vfio *v);
void vfio_sizes_refresh(struct attachment *a);
bool vfio_sizes_are_due(struct attachment *a, u64 now);
void vfio_sizes_fini(struct vfio_sizes *v);

#endif
