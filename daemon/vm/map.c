// SPDX-License-Identifier: GPL-2.0-or-later
/* What a VM registered with, mapped: its RAM and its shared area; and the judgement of their files. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "pages/dirty.h"
#include "pages/warm.h"
#include "vm.h"

/* A file that can shrink would kill us with SIGBUS: its owner must have sealed that. */
static bool cannot_shrink(int fd)
{
	int seals = fcntl(fd, F_GET_SEALS);

	return seals >= 0 && seals & F_SEAL_SHRINK;
}

static bool is_same_file(int one, int other)
{
	struct stat a, b;

	return !fstat(one, &a) && !fstat(other, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* A page that is in two regions, or in the area, would be written behind the back of one of them. */
static int judge_files(const struct vm *vm, char *why, size_t why_len)
{
	for (unsigned int i = 0; i < vm->nr_regions; i++) {
		const struct region *one = &vm->regions[i];

		if (is_same_file(one->fd, vm->area_fd)) {
			snprintf(why, why_len, "region %u is in the memfd of the shared area", i);
			return -EINVAL;
		}
		for (unsigned int k = 0; k < i; k++) {
			const struct region *other = &vm->regions[k];

			if (one->fd_off >= other->fd_off + other->size || other->fd_off >= one->fd_off + one->size ||
			    !is_same_file(one->fd, other->fd))
				continue;
			snprintf(why, why_len, "regions %u and %u are the same part of one memfd", k, i);
			return -EINVAL;
		}
	}
	return 0;
}

/* First: only a memfd has seals, and any other file may hang in a call. */
static int judge_seals(const struct vm *vm, char *why, size_t why_len)
{
	for (unsigned int i = 0; i < vm->nr_regions; i++)
		if (!cannot_shrink(vm->regions[i].fd)) {
			snprintf(why, why_len, "region %u: its memfd needs F_SEAL_SHRINK", i);
			return -EPERM;
		}
	if (!cannot_shrink(vm->area_fd)) {
		snprintf(why, why_len, "the shared area's memfd needs F_SEAL_SHRINK");
		return -EPERM;
	}
	return 0;
}

static int map_regions(struct vm *vm, char *why, size_t why_len)
{
	int err = 0;

	for (unsigned int i = 0; i < vm->nr_regions && !err; i++) {
		err = region_map(&vm->regions[i]);
		if (err)
			snprintf(why, why_len, "region %u: cannot map %llu bytes of its memfd: %s", i,
				 (unsigned long long)vm->regions[i].size, strerror(-err));
	}
	return err;
}

/**
 * vm_map() - map and check what a VM registered with: its RAM, its shared area
 * @why: words for the log on failure
 *
 * Context: may block; a thread that has @vm for itself. vm_put() is owed also after a failure.
 */
int vm_map(struct vm *vm, char *why, size_t why_len)
{
	int err;

	fault_point_of("vm-map", vm->name);
	snprintf(why, why_len, "out of memory");
	err = judge_seals(vm, why, why_len);
	if (!err)
		err = judge_files(vm, why, why_len);
	if (!err)
		err = map_regions(vm, why, why_len);
	if (!err) {
		err = dirty_open(vm->area_fd, vm->area_size, vm->sizes, vm->nr_regions, &vm->dirty);
		if (err)
			snprintf(why, why_len, "the shared area contradicts itself or the regions");
	}
	cleanup_close_fd(&vm->area_fd);
	return err ? err : warm_start(vm->regions, vm->nr_regions, &vm->warm);
}
