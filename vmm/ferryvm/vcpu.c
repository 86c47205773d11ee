// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * vCPU threads: run, park, resume, throttle.
 *
 * Theory of operation
 *
 *   parked --(run_wanted)--> in guest --(kick: immediate_exit + signal)--> parked
 *
 * A kick sets kvm_run.immediate_exit before it sends the signal: a thread that is just
 * about to enter comes back at once, so no kick is lost. Before a thread parks it enters
 * once more with immediate_exit set, so that KVM finishes the I/O instruction of the
 * last exit and the registers are whole. All vCPUs are kicked first, then waited for.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "../guest/guest_stats.h"
#include "output.h"
#include "vm.h"

#define KICK_SIGNAL SIGUSR1
#define THROTTLE_PERIOD_NS 10000000ULL
#define MAX_CPUID_ENTRIES 256
#define WRITES_MANY 16 /* pages a period above which a vCPU counts as writing */

uint64_t vm_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

static void kick_locked(struct vcpu *c)
{
	if (!c->thread_is_up)
		return;
	__atomic_store_n(&c->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	pthread_kill(c->thread, KICK_SIGNAL);
}

static void sleep_locked(struct vcpu *c, uint64_t until_ns)
{
	struct timespec ts = { (time_t)(until_ns / 1000000000), (long)(until_ns % 1000000000) };

	while (c->vm->run_wanted && !c->vm->quit && vm_now_ns() < until_ns)
		if (pthread_cond_timedwait(&c->vm->go, &c->vm->lock, &ts) == ETIMEDOUT)
			return;
}

static void sleep_throttled(struct vcpu *c, uint64_t until)
{
	uint64_t start = vm_now_ns();

	pthread_mutex_lock(&c->vm->lock);
	c->exit_ns = start;
	sleep_locked(c, until);
	pthread_mutex_unlock(&c->vm->lock);
	vmferry_add_throttled(c->vm->ferry, c->index, vm_now_ns() - start);
	__atomic_store_n(&c->throttle_until, 0, __ATOMIC_RELAXED);
}

static void guest_sleep(struct vcpu *c, uint64_t us)
{
	pthread_mutex_lock(&c->vm->lock);
	sleep_locked(c, vm_now_ns() + us * 1000);
	pthread_mutex_unlock(&c->vm->lock);
}

/* Parks until the guest may run; false: the process ends. */
static bool wait_for_go(struct vcpu *c)
{
	struct vm *vm = c->vm;
	bool quit;

	pthread_mutex_lock(&vm->lock);
	if (!vm->run_wanted) {
		c->parked = true;
		pthread_cond_broadcast(&vm->changed);
		while (!vm->run_wanted && !vm->quit)
			pthread_cond_wait(&vm->go, &vm->lock);
		c->parked = false;
	}
	/* Under the lock: a kick after this sets it again. */
	__atomic_store_n(&c->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	quit = vm->quit;
	if (!quit && c->entered != vm->incarnation) {
		c->entered = vm->incarnation;
		c->entry_ns = vm_now_ns();
		pthread_cond_broadcast(&vm->changed);
	}
	pthread_mutex_unlock(&vm->lock);
	return !quit;
}

static void handle_io(struct vcpu *c)
{
	struct kvm_run *run = c->run;
	uint8_t *at = (uint8_t *)run + run->io.data_offset;

	for (uint32_t i = 0; i < run->io.count; i++, at += run->io.size) {
		uint32_t value = 0;

		if (run->io.direction == KVM_EXIT_IO_IN) {
			value = devices_in(c->vm, run->io.port);
			memcpy(at, &value, run->io.size);
			continue;
		}
		memcpy(&value, at, run->io.size);
		if (run->io.port == GUEST_PORT_SLEEP)
			guest_sleep(c, value);
		else
			devices_out(c->vm, run->io.port, value);
	}
}

static void guest_is_broken(struct vcpu *c, const char *what)
{
	struct kvm_sregs s = { 0 };
	struct kvm_regs r = { 0 };

	ioctl(c->fd, KVM_GET_REGS, &r);
	ioctl(c->fd, KVM_GET_SREGS, &s);
	output_say("ferryvm: vm %s: vcpu %u: %s (exit reason %u; rip 0x%llx cs 0x%x cr0 0x%llx cr2 0x%llx "
		   "cr3 0x%llx); the guest cannot go on\n",
		   c->vm->opt.name, c->index, what, c->run->exit_reason, r.rip, s.cs.selector, s.cr0, s.cr2, s.cr3);
	output_flush();
	_exit(70);
}

static void handle_exit(struct vcpu *c)
{
	switch (c->run->exit_reason) {
	case KVM_EXIT_IO:
		handle_io(c);
		break;
	case KVM_EXIT_DIRTY_RING_FULL:
		if (vmferry_ring_full(c->vm->ferry, c->index))
			guest_is_broken(c, "its dirty ring is full and cannot be reset");
		break;
	case KVM_EXIT_HLT:
		guest_sleep(c, 1000);
		break;
	case KVM_EXIT_INTR:
		break;
	default:
		guest_is_broken(c, "unexpected exit");
	}
}

static void *vcpu_thread(void *arg)
{
	struct vcpu *c = arg;
	char name[16];

	snprintf(name, sizeof(name), "vcpu%u", c->index);
	pthread_setname_np(pthread_self(), name);
	while (wait_for_go(c)) {
		for (;;) {
			uint64_t throttle = __atomic_load_n(&c->throttle_until, __ATOMIC_RELAXED);
			int r;

			if (throttle)
				sleep_throttled(c, throttle);
			r = ioctl(c->fd, KVM_RUN, 0);
			if (r < 0) {
				if (errno != EINTR && errno != EAGAIN)
					guest_is_broken(c, "KVM_RUN failed");
				c->exit_ns = vm_now_ns();
				break;
			}
			c->exit_ns = vm_now_ns();
			handle_exit(c);
		}
	}
	return NULL;
}

static void on_kick(int sig)
{
	(void)sig;
}

static void *throttle_thread(void *arg)
{
	struct vm *vm = arg;

	pthread_mutex_lock(&vm->lock);
	while (!vm->quit) {
		struct timespec ts;

		if (!vm->throttle || !vm->run_wanted) {
			pthread_cond_wait(&vm->go, &vm->lock);
			continue;
		}
		for (unsigned int i = 0; i < vm->opt.nr_vcpus; i++) {
			struct vcpu *c = &vm->vcpus[i];
			uint64_t dirtied = vmferry_vcpu_dirtied(vm->ferry, i);
			/* Without rings nobody knows who writes: all are slowed. */
			bool writes = !vm->opt.ring || dirtied == VMFERRY_DIRTIED_UNKNOWN ||
				      dirtied - c->dirtied_before > WRITES_MANY;

			c->dirtied_before = dirtied;
			if (!writes && vm->throttle < 99)
				continue;
			__atomic_store_n(&c->throttle_until,
					 vm_now_ns() + THROTTLE_PERIOD_NS * vm->throttle / 100,
					 __ATOMIC_RELAXED);
			kick_locked(c);
		}
		clock_gettime(CLOCK_MONOTONIC, &ts);
		ts.tv_nsec += (long)THROTTLE_PERIOD_NS;
		ts.tv_sec += ts.tv_nsec / 1000000000;
		ts.tv_nsec %= 1000000000;
		while (!vm->quit && pthread_cond_timedwait(&vm->go, &vm->lock, &ts) != ETIMEDOUT)
			;
	}
	pthread_mutex_unlock(&vm->lock);
	return NULL;
}

static int set_cpuid(struct vm *vm, struct vcpu *c)
{
	struct kvm_cpuid2 *cpuid =
		calloc(1, sizeof(*cpuid) + MAX_CPUID_ENTRIES * sizeof(cpuid->entries[0]));
	int err = 0;

	if (!cpuid)
		return -ENOMEM;
	cpuid->nent = MAX_CPUID_ENTRIES;
	if (ioctl(vm->kvm, KVM_GET_SUPPORTED_CPUID, cpuid)) {
		err = -errno;
	} else {
		for (uint32_t i = 0; i < cpuid->nent; i++)
			if (cpuid->entries[i].function == 1)
				cpuid->entries[i].ebx = (cpuid->entries[i].ebx & 0x00ffffff) |
							c->index << 24;
		if (ioctl(c->fd, KVM_SET_CPUID2, cpuid))
			err = -errno;
	}
	free(cpuid);
	return err;
}

/** vcpus_create() - make the vCPUs; their threads come with vcpus_start() */
int vcpus_create(struct vm *vm)
{
	int size = ioctl(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0), err;

	for (unsigned int i = 0; i < vm->opt.nr_vcpus; i++) {
		struct vcpu *c = &vm->vcpus[i];

		c->vm = vm;
		c->index = i;
		c->fd = ioctl(vm->fd, KVM_CREATE_VCPU, i);
		if (c->fd < 0)
			return -errno;
		c->run = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
		if (c->run == MAP_FAILED)
			return -errno;
		err = set_cpuid(vm, c);
		if (err)
			return err;
	}
	vm->tsc_khz = (uint32_t)ioctl(vm->vcpus[0].fd, KVM_GET_TSC_KHZ, 0);
	return 0;
}

/** vcpus_start() - start all threads; they park until vcpus_resume() */
int vcpus_start(struct vm *vm)
{
	struct sigaction sa = { .sa_handler = on_kick };
	int err = 0;

	sigaction(KICK_SIGNAL, &sa, NULL);
	for (unsigned int i = 0; i < vm->opt.nr_vcpus && !err; i++) {
		pthread_mutex_lock(&vm->lock);
		err = -pthread_create(&vm->vcpus[i].thread, NULL, vcpu_thread, &vm->vcpus[i]);
		vm->vcpus[i].thread_is_up = !err;
		pthread_mutex_unlock(&vm->lock);
	}
	return err ? err : -pthread_create(&vm->throttle_thread, NULL, throttle_thread, vm);
}

static bool all_parked_locked(const struct vm *vm)
{
	for (unsigned int i = 0; i < vm->opt.nr_vcpus; i++)
		if (!vm->vcpus[i].parked)
			return false;
	return true;
}

/** vcpus_pause() - kick all, wait once; *last_exit_ns: the last guest exit of any */
int vcpus_pause(struct vm *vm, uint64_t *last_exit_ns)
{
	*last_exit_ns = 0;
	pthread_mutex_lock(&vm->lock);
	vm->run_wanted = false;
	for (unsigned int i = 0; i < vm->opt.nr_vcpus; i++)
		kick_locked(&vm->vcpus[i]);
	pthread_cond_broadcast(&vm->go); /* sleepers */
	while (!all_parked_locked(vm))
		pthread_cond_wait(&vm->changed, &vm->lock);
	for (unsigned int i = 0; i < vm->opt.nr_vcpus; i++)
		if (vm->vcpus[i].exit_ns > *last_exit_ns)
			*last_exit_ns = vm->vcpus[i].exit_ns;
	vm->last_exit_ns = *last_exit_ns;
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

/* Time of the first entry in this incarnation, 0: none yet. */
static uint64_t first_entry_locked(const struct vm *vm)
{
	uint64_t first = 0;

	for (unsigned int i = 0; i < vm->opt.nr_vcpus; i++) {
		const struct vcpu *c = &vm->vcpus[i];

		if (c->entered == vm->incarnation && (!first || c->entry_ns < first))
			first = c->entry_ns;
	}
	return first;
}

/** vcpus_resume() - let all run; *first_entry_ns: when the first was let in */
int vcpus_resume(struct vm *vm, uint64_t *first_entry_ns)
{
	pthread_mutex_lock(&vm->lock);
	vm->incarnation++;
	vm->run_wanted = true;
	pthread_cond_broadcast(&vm->go);
	while (!(*first_entry_ns = first_entry_locked(vm)))
		pthread_cond_wait(&vm->changed, &vm->lock);
	vm->first_entry_ns = *first_entry_ns;
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

/** vcpus_set_throttle() - writing vCPUs sleep @percent of each 10 ms; 0 ends it */
int vcpus_set_throttle(struct vm *vm, unsigned int percent)
{
	pthread_mutex_lock(&vm->lock);
	vm->throttle = percent > 99 ? 99 : percent;
	pthread_cond_broadcast(&vm->go);
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

/** vcpus_quit() - end all threads and wait for them */
void vcpus_quit(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->quit = true;
	vm->run_wanted = false;
	for (unsigned int i = 0; i < vm->opt.nr_vcpus; i++)
		kick_locked(&vm->vcpus[i]);
	pthread_cond_broadcast(&vm->go);
	pthread_mutex_unlock(&vm->lock);
	for (unsigned int i = 0; i < vm->opt.nr_vcpus; i++)
		if (vm->vcpus[i].thread_is_up)
			pthread_join(vm->vcpus[i].thread, NULL);
	pthread_join(vm->throttle_thread, NULL);
}
