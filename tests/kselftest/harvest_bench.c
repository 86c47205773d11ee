// SPDX-License-Identifier: GPL-2.0-only
/*
 * The module against the VMM harvesting its own rings in user space (libvmferry's harvester), in
 * turns on the same guest, which writes as fast as it can. Prints medians and their ratios.
 *
 *   harvest_bench [TURNS [MILLISECONDS]]
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "harvest.h"
#include "vm.h"

#define SIZE (64 << 20)
#define RING 4096
#define MAX_TURNS 99

struct figures {
	double ns_per_page[MAX_TURNS], pages_per_s[MAX_TURNS], cpu[MAX_TURNS];
	uint64_t full, harvested;
	int turns;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *x, int n)
{
	qsort(x, n, sizeof(*x), by_size);
	return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

/* Nanoseconds that a thread has been on a processor. */
static uint64_t cpu_ns(int pid)
{
	char path[64], text[64] = "";
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/schedstat", pid);
	fd = open(path, O_RDONLY);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		return 0;
	close(fd);
	return strtoull(text, NULL, 10);
}

/* Each write adds one to the first word of its page. */
static uint64_t writes(const struct vm *vm)
{
	uint64_t n = 0;

	for (size_t at = 16 * VM_PAGE; at < SIZE; at += VM_PAGE)
		n += *(volatile uint32_t *)(vm->ram + at);
	return n;
}

static double pages_written(struct vm *vm, unsigned int ms)
{
	uint64_t start = now_ns(), from = writes(vm);

	usleep(ms * 1000);
	return (writes(vm) - from) / ((now_ns() - start) / 1e9);
}

static void one_turn(struct figures *f, double pages_per_s, const struct vmferry_area_header *h,
		     const struct vmferry_area_header *before)
{
	uint64_t pages = h->harvested - before->harvested;

	f->pages_per_s[f->turns] = pages_per_s;
	f->ns_per_page[f->turns] = pages ? (double)(h->harvest_ns - before->harvest_ns) / pages : 0;
	f->full += h->ring_full - before->ring_full;
	f->harvested += pages;
	f->turns++;
}

static void by_module(struct vm *vm, int dev, struct figures *f, unsigned int ms)
{
	int fd = attach(dev, vm->vm_fd, getpid(), VMFERRY_ATTACH_OWN_RING);
	struct vmferry_area_header *h, before;
	double speed;

	if (fd < 0)
		die("attach");
	h = mmap(NULL, VM_PAGE, PROT_READ, MAP_SHARED, fd, 0);
	if (ioctl(fd, VMFERRY_START, 0))
		die("START");
	usleep(300000); /* its period settles */
	before = *h;
	speed = pages_written(vm, ms);
	one_turn(f, speed, h, &before);
	munmap(h, VM_PAGE);
	close(fd);
}

static void by_vmm(struct vm *vm, struct figures *f, unsigned int ms)
{
	static const struct vmferry_region region = { .size = SIZE };
	struct vmferry_ram ram = { .size = SIZE, .hva = vm->ram, .page_size = VM_PAGE };
	struct vmferry_config cfg = { .vm_fd = vm->vm_fd, .vcpu_fds = vm->vcpu_fd, .nr_vcpus = 1,
				      .ring_entries = RING, .ram = &ram, .nr_ram = 1 };
	struct vmferry_area_header before;
	struct harvester *h;
	struct area area;
	double speed;

	if (area_init(&area, &region, 1, 1) || harvester_open(&cfg, &area, &h))
		die("harvester");
	/* The module had the rings: find the place, as after a migration on it. */
	if (harvest_start(h, true) || harvest_stop(h) || harvest_start(h, false))
		die("harvest_start");
	vm->full_hook = h;
	usleep(300000);
	before = *area.header;
	before.ring_full = vm->full;
	speed = pages_written(vm, ms);
	area.header->ring_full = vm->full;
	one_turn(f, speed, area.header, &before);
	vm->full_hook = NULL;
	usleep(50000); /* a vCPU may be in it */
	harvester_close(h);
	area_fini(&area);
}

static double idle_percent(int dev, struct vm *vm, bool logging)
{
	int fd = attach(dev, vm->vm_fd, getpid(), VMFERRY_ATTACH_OWN_RING), thread;
	uint64_t cpu, start;
	double percent;

	if (fd < 0 || (logging && ioctl(fd, VMFERRY_START, 0)))
		die("attach");
	usleep(1000000);
	thread = attachment_thread();
	cpu = cpu_ns(thread);
	start = now_ns();
	usleep(10000000);
	percent = 100.0 * (cpu_ns(thread) - cpu) / (now_ns() - start);
	close(fd);
	return percent;
}

/* What a thread costs here that wakes once a second and does nothing. */
static double floor_percent(void)
{
	uint64_t cpu = cpu_ns(getpid()), start = now_ns();

	for (int i = 0; i < 10; i++)
		usleep(1000000);
	return 100.0 * (cpu_ns(getpid()) - cpu) / (now_ns() - start);
}

void vm_harvest_full_ring(void *harvester)
{
	harvest_run(harvester);
}

int main(int argc, char **argv)
{
	int turns = argc > 1 ? atoi(argv[1]) : 9, dev = open("/dev/vmferry", O_RDWR);
	unsigned int ms = argc > 2 ? atoi(argv[2]) : 2000;
	static struct figures module, vmm;
	double a, b, c, d, attached, logging, nothing;
	struct vm vm;

	if (dev < 0)
		die("/dev/vmferry");
	if (vm_make(&vm, SIZE, 1, RING))
		die("vm");
	nothing = floor_percent();
	attached = idle_percent(dev, &vm, false);
	logging = idle_percent(dev, &vm, true);
	if (vm_run(&vm, REAP_NEVER))
		die("vm");
	for (int i = 0; i < turns && i < MAX_TURNS; i++) {
		by_vmm(&vm, &vmm, ms);
		by_module(&vm, dev, &module, ms);
	}
	vm_pause(&vm);
	a = median(module.ns_per_page, module.turns);
	b = median(vmm.ns_per_page, vmm.turns);
	c = median(module.pages_per_s, module.turns);
	d = median(vmm.pages_per_s, vmm.turns);
	printf("# %d turns of %u ms each; ring of %d entries; one vCPU writing flat out over %d MiB\n", turns, ms, RING,
	       SIZE >> 20);
	printf("%-34s %12s %12s %8s %8s\n", "", "module", "VMM", "ratio", "target");
	printf("%-34s %12.0f %12.0f %8.2f %8s\n", "harvest, ns a page", a, b, a / b, "<= 1.2");
	printf("%-34s %12.0f %12.0f %8.2f %8s\n", "guest's pages a second", c, d, c / d, ">= 0.95");
	printf("%-34s %12llu %12llu %8s %8s\n", "full rings", (unsigned long long)module.full,
	       (unsigned long long)vmm.full, "", "0");
	printf("%-34s %12llu %12llu\n", "pages harvested", (unsigned long long)module.harvested,
	       (unsigned long long)vmm.harvested);
	printf("%-34s %12.3f %12s %8s %8s\n", "idle attachment, % of a CPU", attached, "", "", "< 0.1");
	printf("%-34s %12.3f %12s %8s %8s\n", "logging, guest idle, % of a CPU", logging, "", "", "< 0.1");
	printf("%-34s %12.3f\n", "a thread that wakes each second", nothing);
	vm_free(&vm);
	return vm.failed != 0;
}
