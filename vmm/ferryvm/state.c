// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Saves and loads everything of the guest that is not RAM.
 *
 * Layout: struct saved_vm, then nr_vcpus of struct saved_vcpu, then the settable
 * device's bytes. Lengths are checked before anything is used. All room is made at
 * start-up: between stop and GO nothing is allocated.
 *
 * Order of loading: time (clock.c) before all that counts in it, special registers (modes)
 * before MSRs, MSRs before the LAPIC (its base), events and MP state after registers.
 */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "output.h"
#include "vm.h"

#define STATE_MAGIC 0x3174617473767966ULL
#define MSR_TSC 0x10
#define MAX_LISTED_MSRS 1024
#define CHUNK (256U << 10)
#define SLICE_NS 200000

/* struct kvm_msrs with room for its entries. */
struct saved_msrs {
	uint32_t nmsrs;
	uint32_t pad;
	struct kvm_msr_entry entry[VM_MAX_MSRS];
};
_Static_assert(offsetof(struct saved_msrs, entry) == sizeof(struct kvm_msrs), "KVM's layout");

struct saved_vm {
	uint64_t magic;
	uint32_t nr_vcpus;
	uint32_t vcpu_size;
	uint64_t device_len;
	uint64_t incarnation;
	struct saved_clock clock;
	struct kvm_irqchip irqchip[3];
};

struct saved_vcpu {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_xcrs xcrs;
	uint32_t xsave[sizeof(struct kvm_xsave) / sizeof(uint32_t)];
	struct kvm_debugregs debugregs;
	struct kvm_vcpu_events events;
	struct kvm_mp_state mp;
	struct kvm_lapic_state lapic;
	struct saved_msrs msrs;
};

static size_t fixed_len(const struct vm *vm)
{
	return sizeof(struct saved_vm) + vm->opt.nr_vcpus * sizeof(struct saved_vcpu);
}

/* KVM lists MSRs that this host can't read or write back; the rest is what we carry. */
static int choose_msrs(struct vm *vm)
{
	struct kvm_msr_list *list =
		calloc(1, sizeof(*list) + MAX_LISTED_MSRS * sizeof(list->indices[0]));
	int cpu = vm->vcpus[0].fd, err = 0;

	if (!list)
		return -ENOMEM;
	list->nmsrs = MAX_LISTED_MSRS;
	if (ioctl(vm->kvm, KVM_GET_MSR_INDEX_LIST, list))
		err = -errno;
	for (uint32_t i = 0; !err && i < list->nmsrs && vm->nr_msrs < VM_MAX_MSRS; i++) {
		struct saved_msrs one = { .nmsrs = 1 };

		if (list->indices[i] == MSR_TSC) /* clock.c */
			continue;
		one.entry[0].index = list->indices[i];
		if (ioctl(cpu, KVM_GET_MSRS, &one) == 1 && ioctl(cpu, KVM_SET_MSRS, &one) == 1)
			vm->msr_index[vm->nr_msrs++] = list->indices[i];
	}
	free(list);
	return err;
}

/** state_init() - learn what to carry, make room; after vcpus_create() */
int state_init(struct vm *vm)
{
	vm->state_buf = calloc(1, fixed_len(vm));
	if (!vm->state_buf)
		return -ENOMEM;
	memset(vm->state_buf, 1, fixed_len(vm)); /* touched now, not in the blackout */
	vm->state_len = fixed_len(vm) + vm->opt.device_state;
	return choose_msrs(vm);
}

static int save_vcpu(struct vm *vm, struct vcpu *c, struct saved_vcpu *s)
{
	int n;

	if (ioctl(c->fd, KVM_GET_REGS, &s->regs) || ioctl(c->fd, KVM_GET_SREGS, &s->sregs) ||
	    ioctl(c->fd, KVM_GET_XCRS, &s->xcrs) || ioctl(c->fd, KVM_GET_XSAVE, &s->xsave) ||
	    ioctl(c->fd, KVM_GET_DEBUGREGS, &s->debugregs) ||
	    ioctl(c->fd, KVM_GET_VCPU_EVENTS, &s->events) ||
	    ioctl(c->fd, KVM_GET_MP_STATE, &s->mp) || ioctl(c->fd, KVM_GET_LAPIC, &s->lapic))
		return -errno;
	s->msrs.nmsrs = vm->nr_msrs;
	for (unsigned int i = 0; i < vm->nr_msrs; i++)
		s->msrs.entry[i] = (struct kvm_msr_entry){ .index = vm->msr_index[i] };
	n = ioctl(c->fd, KVM_GET_MSRS, &s->msrs);
	if (n < 0)
		return -errno;
	return (unsigned int)n == vm->nr_msrs ? 0 : -EIO;
}

static int load_vcpu(struct vcpu *c, struct saved_vcpu *s)
{
	int n;

	if (s->msrs.nmsrs > VM_MAX_MSRS)
		return -EPROTO;
	if (ioctl(c->fd, KVM_SET_SREGS, &s->sregs) || ioctl(c->fd, KVM_SET_XCRS, &s->xcrs) ||
	    ioctl(c->fd, KVM_SET_XSAVE, &s->xsave))
		return -errno;
	n = ioctl(c->fd, KVM_SET_MSRS, &s->msrs);
	if (n < 0)
		return -errno;
	if ((uint32_t)n != s->msrs.nmsrs) {
		output_say("ferryvm: vm %s: vcpu %u: this host refuses MSR 0x%x\n",
			   c->vm->opt.name, c->index, s->msrs.entry[n].index);
		return -EIO;
	}
	if (ioctl(c->fd, KVM_SET_REGS, &s->regs) || ioctl(c->fd, KVM_SET_LAPIC, &s->lapic) ||
	    ioctl(c->fd, KVM_SET_DEBUGREGS, &s->debugregs) ||
	    ioctl(c->fd, KVM_SET_VCPU_EVENTS, &s->events) ||
	    ioctl(c->fd, KVM_SET_MP_STATE, &s->mp))
		return -errno;
	return 0;
}

/* A migration that was called off must not wait for the rest of it. */
static int write_all(struct vm *vm, int fd, const void *from, size_t len, off_t off)
{
	while (len) {
		ssize_t n = pwrite(fd, from, len < CHUNK ? len : CHUNK, off);

		if (n < 0)
			return -errno;
		if (vmferry_is_called_off(vm->ferry))
			return -ECANCELED;
		from = (const char *)from + n;
		len -= (size_t)n;
		off += n;
	}
	return 0;
}

static int read_all(int fd, void *to, size_t len, off_t off)
{
	while (len) {
		ssize_t n = pread(fd, to, len, off);

		if (n <= 0)
			return n ? -errno : -ENODATA;
		to = (char *)to + n;
		len -= (size_t)n;
		off += n;
	}
	return 0;
}

/* The settable device's slowness. @may_end: stop when the migration is called off. */
static int cost(struct vm *vm, unsigned int ms, bool may_end)
{
	uint64_t until = vm_now_ns() + ms * 1000000ULL;

	while (vm_now_ns() < until) {
		uint64_t left = until - vm_now_ns();
		struct timespec ts = { 0, (long)(left < SLICE_NS ? left : SLICE_NS) };

		nanosleep(&ts, NULL);
		if (may_end && vmferry_is_called_off(vm->ferry))
			return -ECANCELED;
	}
	return 0;
}

static bool has_device(const struct vm *vm)
{
	return vm->opt.device_state || vm->opt.save_cost_ms || vm->opt.load_cost_ms;
}

static int save_device(struct vm *vm, int fd)
{
	uint64_t start = vm_now_ns();
	int err;

	err = cost(vm, vm->opt.save_cost_ms, true);
	if (!err)
		err = write_all(vm, fd, vm->device_state, vm->opt.device_state, (off_t)fixed_len(vm));
	vmferry_device_took(vm->ferry, 0, vm_now_ns() - start);
	return err;
}

/** state_save() - write all to @fd from 0; the vCPUs are parked */
int state_save(struct vm *vm, int fd, uint64_t *len)
{
	struct saved_vm *sv = vm->state_buf;
	struct saved_vcpu *sc = (void *)(sv + 1);
	int err = 0;

	*sv = (struct saved_vm){ .magic = STATE_MAGIC,
				 .nr_vcpus = vm->opt.nr_vcpus,
				 .vcpu_size = sizeof(*sc),
				 .device_len = vm->opt.device_state,
				 .incarnation = vm->incarnation };
	err = clock_save(vm, &sv->clock);
	if (err)
		return err;
	for (uint32_t i = 0; i < 3; i++) {
		sv->irqchip[i].chip_id = i;
		if (ioctl(vm->fd, KVM_GET_IRQCHIP, &sv->irqchip[i]))
			return -errno;
	}
	for (unsigned int i = 0; i < vm->opt.nr_vcpus && !err; i++)
		err = vmferry_is_called_off(vm->ferry) ? -ECANCELED : save_vcpu(vm, &vm->vcpus[i], &sc[i]);
	if (!err)
		err = write_all(vm, fd, vm->state_buf, fixed_len(vm), 0);
	if (!err && has_device(vm))
		err = save_device(vm, fd);
	*len = vm->state_len;
	return err;
}

static int load_device(struct vm *vm, int fd)
{
	uint64_t start = vm_now_ns();
	uint8_t *got = vm->device_state;
	int err = read_all(fd, got, vm->opt.device_state, (off_t)fixed_len(vm));

	cost(vm, vm->opt.load_cost_ms, false);
	for (uint64_t i = 0; !err && i < vm->opt.device_state; i++)
		if (got[i] != (uint8_t)(i * 2654435761u >> 13))
			err = -EILSEQ;
	vmferry_device_took(vm->ferry, 0, vm_now_ns() - start);
	return err;
}

/** state_load() - the reverse; any mismatch in shape is -EPROTO and changes nothing */
int state_load(struct vm *vm, int fd, uint64_t len)
{
	struct saved_vm *sv = vm->state_buf;
	struct saved_vcpu *sc = (void *)(sv + 1);
	int err = len == vm->state_len ? read_all(fd, vm->state_buf, fixed_len(vm), 0) : -EPROTO;

	if (err)
		return err;
	if (sv->magic != STATE_MAGIC || sv->nr_vcpus != vm->opt.nr_vcpus ||
	    sv->vcpu_size != sizeof(*sc) || sv->device_len != vm->opt.device_state)
		return -EPROTO;
	pthread_mutex_lock(&vm->lock); /* the statistics read it */
	vm->incarnation = sv->incarnation;
	pthread_mutex_unlock(&vm->lock);
	err = clock_load(vm, &sv->clock);
	if (err)
		return err;
	for (uint32_t i = 0; i < 3; i++)
		if (ioctl(vm->fd, KVM_SET_IRQCHIP, &sv->irqchip[i]))
			return -errno;
	for (unsigned int i = 0; i < vm->opt.nr_vcpus && !err; i++)
		err = load_vcpu(&vm->vcpus[i], &sc[i]);
	return err || !has_device(vm) ? err : load_device(vm, fd);
}
