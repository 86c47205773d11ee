// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ferryvm's devices: console, incarnation port, disk on a raw file, and a test
 * instrument, a device with state of settable size and cost (state.c moves it).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "../guest/guest_stats.h"
#include "output.h"
#include "vm.h"

#define PAGE 4096

/* Carries out one request of the guest; reading writes guest RAM, which KVM does not log. */
static void disk_request(struct vm *vm, uint64_t gpa)
{
	struct guest_disk_request *req = vm_at(vm, gpa, sizeof(*req));
	struct guest_disk_request r;
	void *page;
	ssize_t n = -1;

	if (!req)
		return;
	r = *req; /* once: another vCPU may change it */
	page = vm_at(vm, r.gpa, PAGE);
	if (page && vm->disk_fd >= 0 && r.op == GUEST_DISK_WRITE)
		n = pwrite(vm->disk_fd, page, PAGE, (off_t)r.offset);
	if (page && vm->disk_fd >= 0 && r.op == GUEST_DISK_READ) {
		n = pread(vm->disk_fd, page, PAGE, (off_t)r.offset);
		vmferry_mark_dirty(vm->ferry, r.gpa, PAGE);
	}
	req->status = n == PAGE ? 0 : -EIO;
	vmferry_mark_dirty(vm->ferry, gpa, sizeof(r));
}

/** devices_out() - the guest wrote @value to @port; vCPU thread */
void devices_out(struct vm *vm, uint16_t port, uint32_t value)
{
	switch (port) {
	case GUEST_PORT_CONSOLE:
	case 0x3f8:
		if (!vm->opt.quiet)
			output_console((char)value);
		break;
	case GUEST_PORT_DISK:
		disk_request(vm, value);
		break;
	}
}

/** devices_in() - what the guest reads at @port; vCPU thread */
uint32_t devices_in(struct vm *vm, uint16_t port)
{
	uint32_t value = 0xffffffff;

	if (port == GUEST_PORT_INCARNATION) {
		pthread_mutex_lock(&vm->lock);
		value = (uint32_t)vm->incarnation;
		pthread_mutex_unlock(&vm->lock);
	}
	return value;
}

/** devices_init() - open the disk, make the state of the settable device */
int devices_init(struct vm *vm)
{
	vm->disk_fd = -1;
	if (vm->opt.disk) {
		vm->disk_fd = open(vm->opt.disk, O_RDWR | O_CLOEXEC);
		if (vm->disk_fd < 0)
			return -errno;
	}
	if (!vm->opt.device_state)
		return 0;
	vm->device_state = malloc(vm->opt.device_state);
	if (!vm->device_state)
		return -ENOMEM;
	for (uint64_t i = 0; i < vm->opt.device_state; i++)
		vm->device_state[i] = (uint8_t)(i * 2654435761u >> 13);
	return 0;
}
