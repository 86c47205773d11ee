/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A guest small enough to know every write of: it adds one to the first word of each page
 * of its memory, over and over. And a consumer that keeps a copy of that memory up to date
 * by what an attachment publishes: at the end both must be the same.
 */
#ifndef VMFERRY_SELFTEST_VM_H
#define VMFERRY_SELFTEST_VM_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <vmferry.h>

/* The harness ends a test after 30 s: too early in an emulated machine that shares its host. */
#ifdef TEST_TIMEOUT_DEFAULT
#undef TEST_TIMEOUT_DEFAULT
#define TEST_TIMEOUT_DEFAULT 150
#endif

#define VM_PAGE 4096UL
#define VM_MAX_VCPUS 4

/** enum vm_reaper - who resets the VM's rings besides the module */
enum vm_reaper { REAP_NEVER, REAP_WHEN_FULL, REAP_ALWAYS };

/**
 * struct vm - a VM of this process
 * @ram: its memory, slot 0 at 0; page 0 to 15 are code and parameters
 */
struct vm {
	int kvm_fd, vm_fd, vcpu_fd[VM_MAX_VCPUS];
	void *run[VM_MAX_VCPUS];
	void *ring[VM_MAX_VCPUS];
	uint32_t next[VM_MAX_VCPUS];
	pthread_t thread[VM_MAX_VCPUS], reaper_thread;
	unsigned int nr_vcpus, ring_entries;
	uint8_t *ram;
	size_t size;
	enum vm_reaper reaper;
	pthread_mutex_t reap_lock;
	volatile bool stop, reaper_stop;
	volatile int failed;
	volatile uint64_t full;	  /* exits for a full ring */
	void *volatile full_hook; /* who is then asked: see vm_harvest_full_ring() */
};

int vm_make(struct vm *vm, size_t size, unsigned int nr_vcpus, unsigned int ring_entries);
int vm_add_vcpu(struct vm *vm);
int vm_set_slot(struct vm *vm, uint32_t slot, uint64_t gpa, size_t size, uint8_t *at, uint32_t flags);
int vm_set_steal_time(struct vm *vm, unsigned int vcpu, uint64_t gpa);
int vm_set_base(struct vm *vm, uint64_t gpa);
int vm_run(struct vm *vm, enum vm_reaper reaper);
void vm_reap(struct vm *vm);
void vm_pause(struct vm *vm);
void vm_set_share(struct vm *vm, unsigned int vcpu, uint32_t first_page, uint32_t end_page);
uint32_t vm_passes(const struct vm *vm, unsigned int vcpu);
void vm_free(struct vm *vm);

/* A program may have one: called by a vCPU whose ring is full, with vm.full_hook if that is set. */
void vm_harvest_full_ring(void *hook) __attribute__((weak));

/** struct storm - signals that a thread gets all the while; they do nothing but wait and arrive */
struct storm {
	pthread_t thread, target;
	volatile bool stop;
};

int storm_begin(struct storm *s, pthread_t target);
void storm_end(struct storm *s);

/** struct consumer - an attachment's area, and the copy that it keeps up to date */
struct consumer {
	int fd;
	uint8_t *area;
	size_t area_size;
	const uint8_t *ram;
	uint8_t *copy;
	size_t size;
	uint64_t base; /* where @ram is in the guest */
	uint64_t taken;
};

int attach(int dev, int vm_fd, int pid, uint32_t flags);
int consumer_open(struct consumer *c, int fd, const uint8_t *ram, size_t size);
void consumer_copy_all(struct consumer *c);
uint64_t consumer_collect(struct consumer *c);
long consumer_first_difference(const struct consumer *c);
void consumer_close(struct consumer *c);
int harvest(int fd, uint32_t flags);
int harvest_when_asked_only(int fd);
int attachment_thread(void);
int vm_go_to_processor(int thread, int nr);

#endif
