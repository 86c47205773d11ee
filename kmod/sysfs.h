/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef VMFERRY_SYSFS_H
#define VMFERRY_SYSFS_H

struct attachment;
struct kobject;

void sysfs_set_parent(struct kobject *parent);
void sysfs_add(struct attachment *a);
void sysfs_remove(struct attachment *a);

#endif
