/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libvmferry: what a VMM links so that vmferryd can move its guest.
 *
 * The VMM describes its VM once (vmferry_open), tells of full rings and of its own
 * writes into guest RAM, and answers callbacks. All functions return 0 or a
 * negative errno. Callbacks run on the library's session thread, one at a time; it has
 * SCHED_FIFO's lowest priority while a guest may be waiting for it, if the process may.
 */
#ifndef LIBVMFERRY_H
#define LIBVMFERRY_H

#include <stdbool.h>
#include <stdint.h>

#include <vmferry_vmm.h>

#ifdef __cplusplus
extern "C" {
#endif

struct vmferry;

/**
 * struct vmferry_ram - one region of guest RAM: one memslot on one memfd range
 * @name: the same at both ends of a migration; a name, as @name of struct vmferry_config
 * @slot: KVM memslot; the library toggles its KVM_MEM_LOG_DIRTY_PAGES flag
 * @gpa: guest-physical address, bytes
 * @size: bytes
 * @hva: where the VMM has mapped it; what the memslot was set to
 * @memfd: the file behind it; stays the caller's
 * @fd_off: offset in @memfd, bytes
 * @page_size: bytes of the file's pages
 */
struct vmferry_ram {
	const char *name;
	uint32_t slot;
	uint64_t gpa;
	uint64_t size;
	void *hva;
	int memfd;
	uint64_t fd_off;
	uint32_t page_size;
};

/**
 * struct vmferry_vmm_device - a device whose state takes time to save and load
 * @name: as messages to the owner call it; a name of 31 bytes at most
 * @kind: what it is: devices of one kind and size cost much the same on the same hosts
 * @state_size: bytes at most
 */
struct vmferry_vmm_device {
	const char *name;
	const char *kind;
	uint64_t state_size;
};

/**
 * struct vmferry_ops - what the library asks of the VMM
 * @pause: stop all vCPUs and the VMM's own writers; *last_exit_ns: CLOCK_MONOTONIC
 *	time at which the last vCPU left the guest
 * @resume: run the guest on; *first_entry_ns: when the first vCPU was let in
 * @save: write the state of vCPUs and devices to @fd from offset 0; *len bytes
 * @load: read it back; the guest must not run before @resume is called
 * @set_throttle: make writing vCPUs sleep @percent of the time; 0 ends it
 * @release: the guest now runs elsewhere; it must never run here again
 * @discard: an incoming migration came to nothing: empty the RAM, be ready for another
 * @refused: NULL, or told when the daemon does not let the VM register, with the reason in words; once for each reason
 *	until it is registered. The guest is not touched. Registering is tried again after 1, 2, 4, 8, 8, ... s
 * @unreachable: NULL, or told with a negative errno when an attempt to register gets no answer: no daemon listens, or it hangs up;
 *	once until the VM is registered. The guest is not touched. Registering is tried again 20 times a second
 * @registered: NULL, or told each time the VM was registered
 */
struct vmferry_ops {
	int (*pause)(void *vmm, uint64_t *last_exit_ns);
	int (*resume)(void *vmm, uint64_t *first_entry_ns);
	int (*save)(void *vmm, int fd, uint64_t *len);
	int (*load)(void *vmm, int fd, uint64_t len);
	int (*set_throttle)(void *vmm, unsigned int percent);
	void (*release)(void *vmm);
	void (*discard)(void *vmm);
	void (*refused)(void *vmm, const char *why);
	void (*unreachable)(void *vmm, int err);
	void (*registered)(void *vmm);
};

/**
 * struct vmferry_config - a VM as the VMM describes it; copied by vmferry_open()
 * @socket: path of the daemon's VMM socket, NULL for the default
 * @name: VM's name: 1 to 63 printable ASCII characters without blanks
 * @uuid: 16 bytes, NULL for none
 * @vm_fd: KVM vm
 * @vcpu_fds: KVM vCPUs, @nr_vcpus of them
 * @ring_entries: what vmferry_enable_ring() returned; 0: use KVM's bitmaps
 * @ram: regions, @nr_ram of them
 * @incoming: no guest yet, waiting for one
 * @state_size: upper estimate of what @ops->save writes, bytes
 * @devices: those worth telling apart in a prediction, @nr_devices of them, 16 at most
 * @untracked: NULL, or the name of a device whose writes no tracker sees
 * @ops: callbacks
 * @vmm: handed to them
 */
struct vmferry_config {
	const char *socket;
	const char *name;
	const uint8_t *uuid;
	int vm_fd;
	const int *vcpu_fds;
	unsigned int nr_vcpus;
	uint32_t ring_entries;
	const struct vmferry_ram *ram;
	unsigned int nr_ram;
	bool incoming;
	uint64_t state_size;
	const struct vmferry_vmm_device *devices;
	unsigned int nr_devices;
	const char *untracked;
	const struct vmferry_ops *ops;
	void *vmm;
};

/**
 * vmferry_enable_ring() - turn on KVM's dirty rings; before the first vCPU is made
 * @vm_fd: KVM vm
 * @entries: wanted size, a power of two; made smaller if KVM allows less
 * Return: entries of each ring, 0 if this kernel has none, negative errno
 */
int vmferry_enable_ring(int vm_fd, uint32_t entries);

/**
 * vmferry_open() - describe the VM, connect in the background and keep connected
 * @cfg: the VM
 * @out: the session
 * Return: 0, -EINVAL for numbers out of range and for names that are none, or another negative errno
 */
int vmferry_open(const struct vmferry_config *cfg, struct vmferry **out);

/** vmferry_close() - end the session; logging is turned off. NULL is fine. */
void vmferry_close(struct vmferry *v);

/**
 * vmferry_mark_dirty() - the VMM itself wrote to guest RAM
 * @gpa: guest-physical address; @len: bytes
 *
 * Call it after the write and before the guest is told of it. Any thread; cheap when
 * no migration runs. Return: 0, or -EFAULT if the range is not RAM.
 */
int vmferry_mark_dirty(struct vmferry *v, uint64_t gpa, uint64_t len);

/**
 * vmferry_ring_full() - a vCPU came back with KVM_EXIT_DIRTY_RING_FULL
 * @vcpu: its index in vcpu_fds
 *
 * Harvests at once; when it returns the vCPU can be entered again.
 */
int vmferry_ring_full(struct vmferry *v, unsigned int vcpu);

/**
 * vmferry_is_called_off() - within save(): does the daemon want the guest to run again already?
 *
 * Then save() should return at once, with any error: RESUME waits for it, and so does the guest,
 * whose owner has set a limit. To be asked every fraction of a millisecond; it costs a system call.
 */
bool vmferry_is_called_off(struct vmferry *v);

/** vmferry_device_took() - within save() or load(): device @device of cfg.devices took @ns of it */
void vmferry_device_took(struct vmferry *v, unsigned int device, uint64_t ns);

/** vmferry_add_throttled() - account @ns that vCPU @vcpu slept for throttling */
void vmferry_add_throttled(struct vmferry *v, unsigned int vcpu, uint64_t ns);

/* The kernel module harvests: which vCPU wrote is not known here. */
#define VMFERRY_DIRTIED_UNKNOWN UINT64_MAX

/**
 * vmferry_vcpu_dirtied() - ring entries harvested from @vcpu so far, for choosing whom to throttle
 * Return: the number, or VMFERRY_DIRTIED_UNKNOWN: take every vCPU for one that writes
 */
uint64_t vmferry_vcpu_dirtied(struct vmferry *v, unsigned int vcpu);

#ifdef __cplusplus
}
#endif
#endif
