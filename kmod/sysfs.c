// SPDX-License-Identifier: GPL-2.0-only
/*
 * /sys/class/misc/vmferry/attachN: tunables and figures of one attachment.
 * Described in Documentation of the ABI: packaging/ABI/sysfs-class-misc-vmferry.
 */
#include "sysfs.h"

#include <linux/kobject.h>
#include <linux/sysfs.h>

#include "attach.h"

static struct kobject *parent;

struct attach_attribute {
	struct attribute attr;
	ssize_t (*show)(struct attachment *a, char *to);
	int (*store)(struct vmferry_tunables *t, u32 value);
};

static ssize_t attr_show(struct kobject *kobj, struct attribute *attr, char *to)
{
	struct attachment *a = container_of(kobj, struct attachment, kobj);

	return container_of(attr, struct attach_attribute, attr)->show(a, to);
}

static ssize_t attr_store(struct kobject *kobj, struct attribute *attr, const char *from,
			  size_t len)
{
	struct attachment *a = container_of(kobj, struct attachment, kobj);
	struct attach_attribute *aa = container_of(attr, struct attach_attribute, attr);
	struct vmferry_tunables t;
	u32 value;
	int err;

	if (!aa->store)
		return -EIO;
	err = kstrtou32(from, 0, &value);
	if (err)
		return err;
	mutex_lock(&a->lock);
	t = a->tune;
	mutex_unlock(&a->lock);
	aa->store(&t, value);
	err = tunables_set(a, &t);
	return err ? err : len;
}

#define TUNABLE(field)                                                          \
	static ssize_t field##_show(struct attachment *a, char *to)             \
	{                                                                       \
		return sysfs_emit(to, "%u\n", READ_ONCE(a->tune.field));        \
	}                                                                       \
	static int field##_store(struct vmferry_tunables *t, u32 value)         \
	{                                                                       \
		t->field = value;                                               \
		return 0;                                                       \
	}                                                                       \
	static struct attach_attribute field##_attr = {                         \
		.attr = { .name = #field, .mode = 0644 },                       \
		.show = field##_show,                                           \
		.store = field##_store,                                         \
	}

#define FIGURE(name_, format, value)                                            \
	static ssize_t name_##_show(struct attachment *a, char *to)             \
	{                                                                       \
		return sysfs_emit(to, format "\n", value);                      \
	}                                                                       \
	static struct attach_attribute name_##_attr = {                         \
		.attr = { .name = #name_, .mode = 0444 },                       \
		.show = name_##_show,                                           \
	}

TUNABLE(period_min_us);
TUNABLE(period_max_us);
TUNABLE(batch);
TUNABLE(enabled);
TUNABLE(wake_pages);
TUNABLE(wake_us);
TUNABLE(vfio_period_us);
FIGURE(harvests, "%lld", atomic64_read(&a->area.harvests));
FIGURE(harvested, "%lld", atomic64_read(&a->area.harvested));
FIGURE(published, "%lld", atomic64_read(&a->area.published));
FIGURE(resets, "%lld", atomic64_read(&a->resets));
FIGURE(ring_full_exits, "%lld", atomic64_read(&a->watch.ring_full));
FIGURE(consumer_lag, "%lld", atomic64_read(&a->unread));
FIGURE(period_us, "%u", READ_ONCE(a->period_us));

static ssize_t ns_per_page_show(struct attachment *a, char *to)
{
	u64 pages = atomic64_read(&a->area.harvested);

	if (!pages)
		pages = atomic64_read(&a->area.published);
	return sysfs_emit(to, "%llu\n",
			  pages ? div64_u64(atomic64_read(&a->area.harvest_ns), pages) : 0);
}

static struct attach_attribute ns_per_page_attr = {
	.attr = { .name = "ns_per_page", .mode = 0444 },
	.show = ns_per_page_show,
};

/* One line a vCPU; what does not fit into a page is left out. */
#define VCPU_FIGURE(name_, field)                                               \
	static ssize_t name_##_show(struct attachment *a, char *to)             \
	{                                                                       \
		ssize_t n = 0;                                                  \
										\
		for (unsigned int i = 0; i < READ_ONCE(a->vcpus.nr); i++)       \
			n += sysfs_emit_at(to, n, "%u %llu\n", i,               \
					   READ_ONCE(a->vcpus.count[i].field)); \
		return n;                                                       \
	}                                                                       \
	static struct attach_attribute name_##_attr = {                         \
		.attr = { .name = #name_, .mode = 0444 },                       \
		.show = name_##_show,                                           \
	}

VCPU_FIGURE(vcpu_dirtied, dirtied);
VCPU_FIGURE(vcpu_dirty_rate, rate);
VCPU_FIGURE(vcpu_ring_full_exits, ring_full);

static struct attribute *attach_attrs[] = {
	&period_min_us_attr.attr,
	&period_max_us_attr.attr,
	&batch_attr.attr,
	&enabled_attr.attr,
	&wake_pages_attr.attr,
	&wake_us_attr.attr,
	&vfio_period_us_attr.attr,
	&harvests_attr.attr,
	&harvested_attr.attr,
	&published_attr.attr,
	&resets_attr.attr,
	&ring_full_exits_attr.attr,
	&consumer_lag_attr.attr,
	&period_us_attr.attr,
	&ns_per_page_attr.attr,
	&vcpu_dirtied_attr.attr,
	&vcpu_dirty_rate_attr.attr,
	&vcpu_ring_full_exits_attr.attr,
	NULL,
};
ATTRIBUTE_GROUPS(attach);

static void kobj_release(struct kobject *kobj)
{
	complete(&container_of(kobj, struct attachment, kobj)->kobj_gone);
}

static const struct sysfs_ops attach_sysfs_ops = { .show = attr_show, .store = attr_store };

static const struct kobj_type attach_ktype = {
	.release = kobj_release,
	.sysfs_ops = &attach_sysfs_ops,
	.default_groups = attach_groups,
};

/** sysfs_set_parent() - the device's directory; attachments are made below it */
void sysfs_set_parent(struct kobject *dir)
{
	parent = dir;
}

/** sysfs_add() - a directory for @a; what fails is only not seen there */
void sysfs_add(struct attachment *a)
{
	if (kobject_init_and_add(&a->kobj, &attach_ktype, parent, "attach%u", a->id))
		return;
	kobject_uevent(&a->kobj, KOBJ_ADD);
}

/** sysfs_remove() - nobody reads or writes its files any more when it returns */
void sysfs_remove(struct attachment *a)
{
	if (a->kobj.state_in_sysfs) /* else adding it failed */
		kobject_del(&a->kobj);
	kobject_put(&a->kobj);
	wait_for_completion(&a->kobj_gone);
}
