/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef VMFERRY_IOCTL_H
#define VMFERRY_IOCTL_H

#include <linux/fs.h>

#include "attach.h"

long attach_ioctl(struct file *file, unsigned int cmd, unsigned long arg);
int ioctl_copy_struct(void *to, size_t known, size_t first, const void __user *from);

#endif
