/* SPDX-License-Identifier: GPL-2.0-or-later */
/* ferryvm's VM: memory, vCPUs and devices, as its files share them. */
#ifndef FERRYVM_VM_H
#define FERRYVM_VM_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "libvmferry.h"

#define VM_MAX_VCPUS 8
#define VM_MAX_RAM 3
#define VM_MAX_MSRS 512
#define VM_MAX_APPEND 3700 /* bytes of --append */

/** struct options - what the command line asked for; @device_state in bytes, costs in ms */
struct options {
	const char *name;
	const char *daemon;
	const char *kernel;
	const char *append;
	const char *disk;
	const char *stats;
	uint8_t uuid[16];
	uint64_t ram;
	unsigned int nr_vcpus;
	uint32_t ring;
	bool incoming, stay, prealloc, hugetlb, hash, quiet;
	uint64_t device_state;
	unsigned int save_cost_ms, load_cost_ms, die_after_run_ms;
	const char *device_name;
	const char *untracked;
};

struct vm;

/**
 * struct vcpu - one vCPU and its thread
 * @parked: out of the guest and waiting; @exit_ns: its last guest exit; vm->lock
 * @entered: incarnation in which it last entered; vm->lock
 * @throttle_until: CLOCK_MONOTONIC ns up to which it must sleep, 0: not; atomic
 */
struct vcpu {
	struct vm *vm;
	unsigned int index;
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	bool thread_is_up;
	bool parked;
	uint64_t exit_ns;
	uint64_t entry_ns;
	uint64_t entered;
	uint64_t throttle_until;
	uint64_t dirtied_before;
};

/**
 * struct vm - everything of one guest
 * @lock: covers @run_wanted, @incarnation, @quit and the vCPUs' fields that name it
 * @changed: a vCPU parked or entered; @go: run_wanted or quit changed
 * @awaits_daemon: the user was told that it is not registered; written by libvmferry's session thread
 * @incarnation: how often the guest was let run; it reads it at a port
 */
struct vm {
	struct options opt;
	bool awaits_daemon;
	int kvm, fd;
	uint32_t tsc_khz;
	struct vmferry_ram ram[VM_MAX_RAM];
	unsigned int nr_ram;
	struct vcpu vcpus[VM_MAX_VCPUS];
	uint32_t msr_index[VM_MAX_MSRS];
	unsigned int nr_msrs;
	int disk_fd;
	int stats_fd; /* listens at opt.stats */
	uint8_t *device_state;
	void *state_buf;
	uint64_t state_len;

	pthread_mutex_t lock;
	pthread_cond_t go, changed;
	bool run_wanted;
	bool quit;
	bool has_guest;
	uint64_t incarnation;
	unsigned int throttle; /* percent; @lock */
	pthread_t throttle_thread;
	uint64_t hash_at_pause, hash_at_run;
	uint64_t first_entry_ns, last_exit_ns;

	struct vmferry *ferry;
};

uint64_t vm_now_ns(void);
void *vm_at(struct vm *vm, uint64_t gpa, uint64_t len);

int memory_init(struct vm *vm);
int memory_empty(struct vm *vm);
uint64_t memory_hash(struct vm *vm);

int boot_load(struct vm *vm);

int vcpus_create(struct vm *vm);
int vcpus_start(struct vm *vm);
int vcpus_pause(struct vm *vm, uint64_t *last_exit_ns);
int vcpus_resume(struct vm *vm, uint64_t *first_entry_ns);
int vcpus_set_throttle(struct vm *vm, unsigned int percent);
void vcpus_quit(struct vm *vm);

int devices_init(struct vm *vm);
void devices_out(struct vm *vm, uint16_t port, uint32_t value);
uint32_t devices_in(struct vm *vm, uint16_t port);

/**
 * struct saved_clock - the guest's time when it was saved, and the host's beside it
 * @tsc: the host's counter at @real_ns, its CLOCK_REALTIME; the guest's is @tsc plus @tsc_offset
 */
struct saved_clock {
	struct kvm_clock_data kvm;
	uint64_t tsc;
	uint64_t real_ns;
	uint64_t tsc_offset[VM_MAX_VCPUS];
};

int clock_save(struct vm *vm, struct saved_clock *to);
int clock_load(struct vm *vm, const struct saved_clock *from);

int state_init(struct vm *vm);
int state_save(struct vm *vm, int fd, uint64_t *len);
int state_load(struct vm *vm, int fd, uint64_t len);

int stats_start(struct vm *vm);

#endif
