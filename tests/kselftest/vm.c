// SPDX-License-Identifier: GPL-2.0-only
#include "vm.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <asm/kvm_para.h>
#include <linux/kvm.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define CODE 0x1000
#define PARAMS 0x2000 /* per vCPU, 64 bytes: first page, end (no more than that: none), passes */

/*
 * 32-bit, no paging: ebx points at the parameters.
 */
extern const uint8_t guest_code[], guest_code_end[];
__asm__(".pushsection .rodata\n"
	".global guest_code, guest_code_end\n"
	"guest_code:\n"
	".code32\n"
	"1:	mov (%ebx), %esi\n"
	"	cmp 4(%ebx), %esi\n"
	"	jae 1b\n"
	"2:	incl (%esi)\n"
	"	add $4096, %esi\n"
	"	cmp 4(%ebx), %esi\n"
	"	jb 2b\n"
	"	incl 8(%ebx)\n"
	"	jmp 1b\n"
	".code64\n"
	"guest_code_end:\n"
	".popsection\n");

struct params {
	uint32_t first, end, passes;
	uint32_t pad[13];
};

static struct params *params_of(const struct vm *vm, unsigned int vcpu)
{
	return (struct params *)(vm->ram + PARAMS) + vcpu;
}

int vm_set_slot(struct vm *vm, uint32_t slot, uint64_t gpa, size_t size, uint8_t *at, uint32_t flags)
{
	struct kvm_userspace_memory_region r = { slot, flags, gpa, size, (uintptr_t)at };

	return ioctl(vm->vm_fd, KVM_SET_USER_MEMORY_REGION, &r);
}

static void flat(struct kvm_segment *s, int type)
{
	*s = (struct kvm_segment){ .base = 0, .limit = 0xffffffff, .selector = type == 11 ? 8 : 16,
				   .type = type, .present = 1, .db = 1, .s = 1, .g = 1 };
}

/** vm_set_steal_time() - as a guest does that asks KVM for it */
int vm_set_steal_time(struct vm *vm, unsigned int vcpu, uint64_t gpa)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry msr;
	} m = { .head.nmsrs = 1, .msr = { .index = MSR_KVM_STEAL_TIME, .data = gpa | KVM_MSR_ENABLED } };

	return ioctl(vm->vcpu_fd[vcpu], KVM_SET_MSRS, &m) == 1 ? 0 : -1;
}

/** vm_set_base() - the guest goes on at the alias of its RAM at @gpa; no vCPU runs */
int vm_set_base(struct vm *vm, uint64_t gpa)
{
	struct kvm_sregs sregs;

	for (unsigned int i = 0; i < vm->nr_vcpus; i++) {
		if (ioctl(vm->vcpu_fd[i], KVM_GET_SREGS, &sregs))
			return -1;
		sregs.cs.base = sregs.ds.base = sregs.es.base = sregs.ss.base = gpa;
		if (ioctl(vm->vcpu_fd[i], KVM_SET_SREGS, &sregs))
			return -1;
	}
	return 0;
}

/** vm_add_vcpu() - also while the others run; it starts with the next vm_run() */
int vm_add_vcpu(struct vm *vm)
{
	unsigned int i = vm->nr_vcpus;
	int size = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	struct kvm_sregs sregs;
	struct kvm_regs regs = { .rflags = 2, .rip = CODE };

	vm->vcpu_fd[i] = ioctl(vm->vm_fd, KVM_CREATE_VCPU, (unsigned long)i);
	if (vm->vcpu_fd[i] < 0)
		return -1;
	vm->run[i] = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vm->vcpu_fd[i], 0);
	if (vm->run[i] == MAP_FAILED || ioctl(vm->vcpu_fd[i], KVM_GET_SREGS, &sregs))
		return -1;
	if (vm->ring_entries) {
		vm->ring[i] = mmap(NULL, vm->ring_entries * sizeof(struct kvm_dirty_gfn), PROT_READ | PROT_WRITE,
				   MAP_SHARED, vm->vcpu_fd[i], KVM_DIRTY_LOG_PAGE_OFFSET * VM_PAGE);
		if (vm->ring[i] == MAP_FAILED)
			return -1;
	}
	flat(&sregs.cs, 11);
	flat(&sregs.ds, 3);
	sregs.es = sregs.ss = sregs.fs = sregs.gs = sregs.ds;
	sregs.cr0 |= 1;
	regs.rbx = PARAMS + i * sizeof(struct params);
	if (ioctl(vm->vcpu_fd[i], KVM_SET_SREGS, &sregs) || ioctl(vm->vcpu_fd[i], KVM_SET_REGS, &regs))
		return -1;
	vm->nr_vcpus++;
	return 0;
}

/** vm_make() - @ring_entries 0: a VM without dirty rings */
int vm_make(struct vm *vm, size_t size, unsigned int nr_vcpus, unsigned int ring_entries)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_DIRTY_LOG_RING };

	memset(vm, 0, sizeof(*vm));
	pthread_mutex_init(&vm->reap_lock, NULL);
	vm->size = size;
	vm->ring_entries = ring_entries;
	vm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	vm->vm_fd = vm->kvm_fd < 0 ? -1 : ioctl(vm->kvm_fd, KVM_CREATE_VM, 0);
	if (vm->vm_fd < 0)
		return -1;
	cap.args[0] = ring_entries * sizeof(struct kvm_dirty_gfn);
	if (ring_entries && ioctl(vm->vm_fd, KVM_ENABLE_CAP, &cap))
		return -1;
	ioctl(vm->vm_fd, KVM_SET_TSS_ADDR, 0xfffbd000UL);
	vm->ram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (vm->ram == MAP_FAILED || vm_set_slot(vm, 0, 0, size, vm->ram, 0))
		return -1;
	memcpy(vm->ram + CODE, guest_code, guest_code_end - guest_code);
	for (unsigned int i = 0; i < nr_vcpus; i++) {
		size_t share = (size - 16 * VM_PAGE) / nr_vcpus / VM_PAGE * VM_PAGE;

		*params_of(vm, i) = (struct params){ 16 * VM_PAGE + i * share, 16 * VM_PAGE + (i + 1) * share, 0 };
		if (vm_add_vcpu(vm))
			return -1;
	}
	return 0;
}

/**
 * vm_reap() - what a VMM does with its own rings
 *
 * Since Linux 6.16 a signal cuts KVM_RESET_DIRTY_RINGS short, and the module then rightly calls a watched attachment
 * broken (a_write_lost_to_a_signal_is_told). vm_pause()'s kick must not be that signal: a vCPU's thread reaps as well.
 */
void vm_reap(struct vm *vm)
{
	sigset_t kick, before;
	int n = 0;

	sigemptyset(&kick);
	sigaddset(&kick, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &kick, &before);
	pthread_mutex_lock(&vm->reap_lock);
	for (unsigned int i = 0; i < vm->nr_vcpus; i++) {
		for (;;) {
			struct kvm_dirty_gfn *g = (struct kvm_dirty_gfn *)vm->ring[i] + (vm->next[i] % vm->ring_entries);

			if (__atomic_load_n(&g->flags, __ATOMIC_ACQUIRE) != KVM_DIRTY_GFN_F_DIRTY)
				break;
			__atomic_store_n(&g->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
			vm->next[i]++;
			n++;
		}
	}
	if (n && ioctl(vm->vm_fd, KVM_RESET_DIRTY_RINGS, 0) < 0)
		vm->failed = errno;
	pthread_mutex_unlock(&vm->reap_lock);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}

struct start {
	struct vm *vm;
	unsigned int vcpu;
};

static void *vcpu_thread(void *arg)
{
	struct start s = *(struct start *)arg;
	struct kvm_run *run = s.vm->run[s.vcpu];

	free(arg);
	while (!s.vm->stop) {
		int err = ioctl(s.vm->vcpu_fd[s.vcpu], KVM_RUN, 0);

		if (err && errno != EINTR && errno != EAGAIN) {
			s.vm->failed = errno;
			break;
		}
		run->immediate_exit = s.vm->stop;
		if (err)
			continue;
		if (run->exit_reason == KVM_EXIT_DIRTY_RING_FULL)
			s.vm->full++;
		if (run->exit_reason == KVM_EXIT_DIRTY_RING_FULL && s.vm->full_hook && vm_harvest_full_ring)
			vm_harvest_full_ring(s.vm->full_hook);
		else if (run->exit_reason == KVM_EXIT_DIRTY_RING_FULL && s.vm->reaper == REAP_NEVER)
			usleep(50); /* the module is at it */
		else if (run->exit_reason == KVM_EXIT_DIRTY_RING_FULL)
			vm_reap(s.vm);
		else if (run->exit_reason != KVM_EXIT_INTR) {
			struct kvm_regs regs = { 0 };

			ioctl(s.vm->vcpu_fd[s.vcpu], KVM_GET_REGS, &regs);
			printf("# vCPU %u: exit %u, address 0x%llx write %u len %u; rip 0x%llx rsi 0x%llx rbx 0x%llx\n", s.vcpu,
			       run->exit_reason, run->mmio.phys_addr, run->mmio.is_write, run->mmio.len, regs.rip,
			       regs.rsi, regs.rbx);
			s.vm->failed = 1000 + run->exit_reason;
			break;
		}
	}
	return NULL;
}

static void *reaper_thread(void *arg)
{
	struct vm *vm = arg;

	while (!vm->reaper_stop) {
		vm_reap(vm);
		usleep(2000);
	}
	return NULL;
}

static void ignore(int sig)
{
}

int vm_run(struct vm *vm, enum vm_reaper reaper)
{
	struct sigaction sa = { .sa_handler = ignore };

	sigaction(SIGUSR1, &sa, NULL);
	vm->stop = vm->reaper_stop = false;
	vm->reaper = reaper;
	for (unsigned int i = 0; i < vm->nr_vcpus; i++) {
		struct start *s = malloc(sizeof(*s));

		*s = (struct start){ vm, i };
		((struct kvm_run *)vm->run[i])->immediate_exit = 0;
		if (pthread_create(&vm->thread[i], NULL, vcpu_thread, s))
			return -1;
	}
	return reaper == REAP_ALWAYS ? pthread_create(&vm->reaper_thread, NULL, reaper_thread, vm) : 0;
}

/** vm_pause() - no vCPU runs any more when it returns; its reaper neither */
void vm_pause(struct vm *vm)
{
	vm->stop = true;
	for (unsigned int i = 0; i < vm->nr_vcpus; i++)
		((struct kvm_run *)vm->run[i])->immediate_exit = 1;
	for (unsigned int i = 0; i < vm->nr_vcpus; i++) {
		if (!vm->thread[i])
			continue;
		pthread_kill(vm->thread[i], SIGUSR1);
		pthread_join(vm->thread[i], NULL);
		vm->thread[i] = 0;
	}
	if (vm->reaper == REAP_ALWAYS) {
		vm->reaper_stop = true;
		pthread_join(vm->reaper_thread, NULL);
	}
}

/** vm_set_share() - the pages that @vcpu writes from its next pass on; none: it spins */
void vm_set_share(struct vm *vm, unsigned int vcpu, uint32_t first_page, uint32_t end_page)
{
	*params_of(vm, vcpu) = (struct params){ first_page * VM_PAGE, end_page * VM_PAGE, 0 };
}

uint32_t vm_passes(const struct vm *vm, unsigned int vcpu)
{
	return *(volatile uint32_t *)&params_of(vm, vcpu)->passes;
}

void vm_free(struct vm *vm)
{
	for (unsigned int i = 0; i < vm->nr_vcpus; i++)
		close(vm->vcpu_fd[i]);
	close(vm->vm_fd);
	close(vm->kvm_fd);
	munmap(vm->ram, vm->size);
}

static void *send_signals(void *arg)
{
	struct storm *s = arg;

	while (!s->stop) {
		pthread_kill(s->target, SIGUSR2);
		usleep(50);
	}
	return NULL;
}

int storm_begin(struct storm *s, pthread_t target)
{
	struct sigaction sa = { .sa_handler = ignore };

	*s = (struct storm){ .target = target };
	return sigaction(SIGUSR2, &sa, NULL) || pthread_create(&s->thread, NULL, send_signals, s);
}

void storm_end(struct storm *s)
{
	s->stop = true;
	pthread_join(s->thread, NULL);
}

/** attach() - to the VM @vm_fd of process @pid; an attachment fd or -1 */
int attach(int dev, int vm_fd, int pid, uint32_t flags)
{
	struct vmferry_attach req = { .size = sizeof(req), .flags = flags, .vm_fd = vm_fd };
	char path[32];
	int fd, err;

	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	req.mem_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (req.mem_fd < 0)
		return -1;
	fd = ioctl(dev, VMFERRY_ATTACH, &req);
	err = errno;
	close(req.mem_fd);
	errno = err;
	return fd;
}

int consumer_open(struct consumer *c, int fd, const uint8_t *ram, size_t size)
{
	struct vmferry_area_header *h = mmap(NULL, VM_PAGE, PROT_READ, MAP_SHARED, fd, 0);

	memset(c, 0, sizeof(*c));
	if (h == MAP_FAILED || h->magic != VMFERRY_AREA_MAGIC)
		return -1;
	c->area_size = h->total_size;
	munmap(h, VM_PAGE);
	c->fd = fd;
	c->area = mmap(NULL, c->area_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	c->ram = ram;
	c->size = size;
	c->copy = malloc(size);
	return c->area == MAP_FAILED || !c->copy ? -1 : 0;
}

void consumer_copy_all(struct consumer *c)
{
	memcpy(c->copy, c->ram, c->size);
}

/** consumer_collect() - take the bits, then copy those pages; returns how many */
uint64_t consumer_collect(struct consumer *c)
{
	struct vmferry_area_header *h = (void *)c->area;
	struct vmferry_region *regions = (void *)(c->area + h->region_off);
	uint64_t n = 0;

	for (uint32_t r = 0; r < h->nr_regions; r++) {
		uint64_t *bitmap = (void *)(c->area + regions[r].bitmap_off);
		uint64_t *summary = (void *)(c->area + regions[r].summary_off);

		for (uint64_t s = 0; s < regions[r].summary_words; s++) {
			uint64_t sum = __atomic_exchange_n(&summary[s], 0, __ATOMIC_ACQUIRE);

			for (; sum; sum &= sum - 1) {
				uint64_t w = s * 64 + __builtin_ctzll(sum);
				uint64_t bits = __atomic_exchange_n(&bitmap[w], 0, __ATOMIC_ACQUIRE);

				for (; bits; bits &= bits - 1) {
					uint64_t at = regions[r].gpa + (w * 64 + __builtin_ctzll(bits)) * VM_PAGE - c->base;

					if (at < c->size)
						memcpy(c->copy + at, c->ram + at, VM_PAGE);
					n++;
				}
			}
		}
	}
	c->taken += n;
	return n;
}

/** consumer_first_difference() - page number, or -1: the copy is right */
long consumer_first_difference(const struct consumer *c)
{
	for (size_t at = 0; at < c->size; at += VM_PAGE)
		if (memcmp(c->copy + at, c->ram + at, VM_PAGE))
			return at / VM_PAGE;
	return -1;
}

void consumer_close(struct consumer *c)
{
	munmap(c->area, c->area_size);
	free(c->copy);
}

int harvest(int fd, uint32_t flags)
{
	struct vmferry_harvest h = { .size = sizeof(h), .flags = flags };

	return ioctl(fd, VMFERRY_HARVEST, &h);
}

/** harvest_when_asked_only() - the module harvests no more by itself */
int harvest_when_asked_only(int fd)
{
	struct vmferry_tunables t = { .size = sizeof(t), .mask = VMFERRY_TUNE_ENABLED };

	return ioctl(fd, VMFERRY_SET_TUNABLES, &t);
}

/** attachment_thread() - pid of an attachment's kernel thread, named after its VMM; -1: there is none */
int attachment_thread(void)
{
	struct dirent *e;
	DIR *d = opendir("/proc");
	int found = -1;

	while (d && (e = readdir(d))) {
		char path[64], comm[32] = "";
		int fd;

		if (atoi(e->d_name) <= 0)
			continue;
		snprintf(path, sizeof(path), "/proc/%.16s/comm", e->d_name);
		fd = open(path, O_RDONLY);
		if (fd < 0)
			continue;
		if (read(fd, comm, sizeof(comm) - 1) > 8 && !memcmp(comm, "vmferry/", 8))
			found = atoi(e->d_name);
		close(fd);
	}
	if (d)
		closedir(d);
	return found;
}

/** vm_go_to_processor() - @thread (0: the caller, and what it makes from here on) runs on processor @nr only */
int vm_go_to_processor(int thread, int nr)
{
	cpu_set_t one;

	CPU_ZERO(&one);
	CPU_SET(nr, &one);
	return sched_setaffinity(thread, sizeof(one), &one);
}
