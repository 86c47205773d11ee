// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The guest's time across a move: TSC and kvmclock go on while it stands still, so that what it
 * measures is how long it stood (Documentation/virt/kvm/devices/vcpu.rst, 4.1).
 *
 * A TSC written by value (KVM_SET_MSRS) is none: KVM takes values that lie within a second of
 * what it expects for an attempt to synchronise vCPUs, and puts its own old offset in their place.
 * So the offset is what travels, moved by what the two hosts' counters are apart.
 *
 * The time between save and load is read off the hosts' CLOCK_REALTIME. Where that cannot be
 * (clocks apart, set in between) the guest's time goes on from where it stood.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <x86intrin.h>

#include "vm.h"

#define READINGS 5
#define LONGEST_NS 60000000000LL /* between save and load, if the clocks are to be believed */

static uint64_t real_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

/* Both at one moment: of a few readings the one that was interrupted least. */
static void read_both(uint64_t *tsc, uint64_t *real)
{
	uint64_t best = 0;

	for (int i = 0; i < READINGS; i++) {
		uint64_t before = __rdtsc(), now = real_ns(), took = __rdtsc() - before;

		if (i && took >= best)
			continue;
		best = took;
		*tsc = before + took / 2;
		*real = now;
	}
}

static int tsc_offset(struct vcpu *c, unsigned long request, uint64_t *offset)
{
	struct kvm_device_attr attr = { .group = KVM_VCPU_TSC_CTRL,
					.attr = KVM_VCPU_TSC_OFFSET,
					.addr = (uint64_t)(uintptr_t)offset };

	return ioctl(c->fd, request, &attr) ? -errno : 0;
}

/** clock_save() - the guest's time as of now; the vCPUs are parked */
int clock_save(struct vm *vm, struct saved_clock *to)
{
	int err = 0;

	memset(to, 0, sizeof(*to));
	if (ioctl(vm->fd, KVM_GET_CLOCK, &to->kvm))
		return -errno;
	read_both(&to->tsc, &to->real_ns);
	for (unsigned int i = 0; i < vm->opt.nr_vcpus && !err; i++)
		err = tsc_offset(&vm->vcpus[i], KVM_GET_DEVICE_ATTR, &to->tsc_offset[i]);
	return err;
}

/** clock_load() - go on from there; before the vCPUs' registers, whose timers count in it */
int clock_load(struct vm *vm, const struct saved_clock *from)
{
	struct kvm_clock_data clock = { .clock = from->kvm.clock };
	uint64_t tsc, real, shift;
	int64_t stood;
	int err = 0;

	read_both(&tsc, &real);
	stood = (int64_t)(real - from->real_ns);
	if (stood < 0 || stood > LONGEST_NS)
		stood = 0;
	clock.clock += (uint64_t)stood;
	if (ioctl(vm->fd, KVM_SET_CLOCK, &clock))
		return -errno;
	/* stood * kHz stays below 2^64 up to a minute of 300 GHz */
	shift = from->tsc + (uint64_t)stood * vm->tsc_khz / 1000000 - tsc;
	for (unsigned int i = 0; i < vm->opt.nr_vcpus && !err; i++) {
		uint64_t offset = from->tsc_offset[i] + shift;

		err = tsc_offset(&vm->vcpus[i], KVM_SET_DEVICE_ATTR, &offset);
	}
	return err;
}
