// SPDX-License-Identifier: GPL-2.0-or-later
/* A registered VM: its regions mapped, its dirty area checked, its life counted. */
#include "vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "pages/dirty.h"
#include "pages/warm.h"

bool vm_is_incoming(const struct vm *vm)
{
	return vm->run_state == VMFERRY_RUN_INCOMING || vm->run_state == VMFERRY_RUN_LOADED;
}

/** vm_find() - a VM can be here twice, once leaving and once arriving */
struct vm *vm_find(struct vm_list *l, const char *name, bool incoming)
{
	for (struct vm *vm = l->first; vm; vm = vm->next)
		if (!strcmp(vm->name, name) && vm_is_incoming(vm) == incoming)
			return vm;
	return NULL;
}

uint64_t vm_ram_size(const struct vm *vm)
{
	uint64_t size = 0;

	for (unsigned int i = 0; i < vm->nr_regions; i++)
		size += vm->sizes[i];
	return size;
}

const char *vm_state_name(const struct vm *vm)
{
	static const char *const names[] = { "unknown", "running",  "paused",
					     "inmigrate", "loaded", "postmigrate" };

	return vm->run_state < 6 ? names[vm->run_state] : names[0];
}

struct vm *vm_get(struct vm *vm)
{
	vm->refs++;
	return vm;
}

void vm_put(struct vm *vm)
{
	if (!vm || --vm->refs)
		return;
	warm_stop(vm->warm);
	dirty_close(vm->dirty);
	for (unsigned int i = 0; i < vm->nr_regions; i++) {
		region_unmap(&vm->regions[i]);
		if (vm->regions[i].fd >= 0)
			close(vm->regions[i].fd);
	}
	free(vm->regions);
	free(vm->sizes);
	free(vm);
}

/* A file that can shrink would kill us with SIGBUS: its owner must have sealed that. */
static bool cannot_shrink(int fd)
{
	int seals = fcntl(fd, F_GET_SEALS);

	return seals >= 0 && seals & F_SEAL_SHRINK;
}

static int add_region(struct vm *vm, unsigned int i, const struct vmferry_msg_region *from,
		      int *fd, char *why, size_t why_len)
{
	struct region *r = &vm->regions[i];
	int err;

	memcpy(r->name, from->name, sizeof(r->name));
	r->name[sizeof(r->name) - 1] = '\0';
	r->gpa = from->gpa;
	r->size = vm->sizes[i] = from->size;
	r->fd_off = from->fd_off;
	r->page_size = from->page_size;
	r->fd = take_fd(fd);
	if (!r->size || r->size % REGION_PAGE || r->gpa % REGION_PAGE || r->fd_off % REGION_PAGE) {
		snprintf(why, why_len, "region %u: size and addresses must be multiples of 4 KiB", i);
		return -EINVAL;
	}
	if (!cannot_shrink(r->fd)) {
		snprintf(why, why_len, "region %u: its memfd needs F_SEAL_SHRINK", i);
		return -EPERM;
	}
	err = region_map(r);
	if (err)
		snprintf(why, why_len, "region %u: cannot map %llu bytes: %s", i,
			 (unsigned long long)r->size, strerror(-err));
	return err;
}

/**
 * vm_make() - a VM from its registration; takes the fds it uses out of @fds
 * @why: words for the log on failure
 */
int vm_make(const struct vmferry_msg_register *reg, const struct vmferry_msg_region *regions,
	    int *fds, struct vm **out, char *why, size_t why_len)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	int err = 0;

	if (!vm)
		return -ENOMEM;
	vm->refs = 1;
	memcpy(vm->name, reg->name, sizeof(vm->name) - 1);
	memcpy(vm->uuid, reg->uuid, sizeof(vm->uuid));
	memcpy(vm->untracked, reg->untracked, sizeof(vm->untracked) - 1);
	vm->run_state = reg->run_state;
	vm->is_fresh = reg->flags & VMFERRY_REGISTER_FRESH;
	vm->nr_vcpus = reg->nr_vcpus;
	vm->pid = reg->pid;
	vm->state_size = reg->state_size;
	vm->regions = calloc(reg->nr_regions, sizeof(*vm->regions));
	vm->sizes = calloc(reg->nr_regions, sizeof(*vm->sizes));
	if (!vm->regions || !vm->sizes)
		err = -ENOMEM;
	for (unsigned int i = 0; i < reg->nr_regions && !err; i++) {
		vm->regions[i].fd = -1;
		vm->nr_regions++;
		err = add_region(vm, i, &regions[i], &fds[i + 1], why, why_len);
	}
	if (!err && !cannot_shrink(fds[0])) {
		snprintf(why, why_len, "the shared area's memfd needs F_SEAL_SHRINK");
		err = -EPERM;
	}
	if (!err) {
		err = dirty_open(fds[0], reg->area_size, vm->sizes, vm->nr_regions, &vm->dirty);
		if (err)
			snprintf(why, why_len, "the shared area contradicts itself or the regions");
	}
	if (!err)
		err = warm_start(vm->regions, vm->nr_regions, &vm->warm);
	if (err) {
		vm_put(vm);
		return err;
	}
	*out = vm;
	return 0;
}

/** vm_ask() - ask the VMM; @answer is always called: at once if the VMM is gone, else later */
void vm_ask(struct vm *vm, enum vm_request type, const void *body, uint32_t len, int fd,
	    vm_answer_fn answer, void *arg)
{
	int err = vm->sock ? vm_socket_send(vm->sock, type, body, len, fd, answer, arg) :
			     -ECONNRESET;

	if (err && answer)
		answer(arg, err, NULL, 0);
}
