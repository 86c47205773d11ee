// SPDX-License-Identifier: GPL-2.0-only
/*
 * Promise: when the kernel runs out of memory anywhere in the module, the caller hears of it, or
 * the consumer by VMFERRY_AREA_BROKEN; nothing is left behind, and it works again afterwards.
 * Needs CONFIG_FAULT_INJECTION, CONFIG_FAILSLAB and CONFIG_FAIL_PAGE_ALLOC (see config).
 * Seen to fail: with a kobject_del() in sysfs_remove() of what could not be added (WARN).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "vm.h"

#define SIZE (4 << 20)

static int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY), ok;

	if (fd < 0)
		return -1;
	ok = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
	close(fd);
	return ok ? 0 : -1;
}

static int read_number(const char *path)
{
	char text[32] = "";
	int fd = open(path, O_RDONLY);

	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		return -1;
	close(fd);
	return atoi(text);
}

/* Lets the @nth allocation of this thread fail from now on; 0: none. */
static int fail_nth(int nth)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", nth);
	return write_text("/proc/thread-self/fail-nth", text);
}

static void let_all_allocations_be_considered(void)
{
	write_text("/sys/kernel/debug/failslab/ignore-gfp-wait", "N");
	write_text("/sys/kernel/debug/fail_page_alloc/ignore-gfp-wait", "N");
	write_text("/sys/kernel/debug/fail_page_alloc/ignore-gfp-highmem", "N");
	write_text("/sys/kernel/debug/fail_page_alloc/min-order", "0");
	write_text("/sys/kernel/debug/failslab/verbose", "0");
	write_text("/sys/kernel/debug/fail_page_alloc/verbose", "0");
}

FIXTURE(fault) {
	int dev;
	struct vm vm;
};

FIXTURE_SETUP(fault)
{
	if (access("/proc/self/fail-nth", W_OK))
		SKIP(return, "this kernel injects no faults (CONFIG_FAULT_INJECTION)");
	let_all_allocations_be_considered();
	self->dev = open("/dev/vmferry", O_RDWR);
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, vm_make(&self->vm, SIZE, 2, 1024));
}

FIXTURE_TEARDOWN(fault)
{
	vm_free(&self->vm);
	close(self->dev);
}

TEST_F(fault, each_allocation_of_attach_may_fail)
{
	struct vmferry_attach req = { .size = sizeof(req), .vm_fd = self->vm.vm_fd };
	int failed = 0, injected = 1, fd;

	req.mem_fd = open("/proc/self/mem", O_RDONLY);
	ASSERT_LE(0, req.mem_fd);
	for (int nth = 1; injected && nth < 500; nth++) {
		ASSERT_EQ(0, fail_nth(nth));
		fd = ioctl(self->dev, VMFERRY_ATTACH, &req);
		if (fd < 0) {
			int err = errno;

			injected = read_number("/proc/thread-self/fail-nth") == 0;
			fail_nth(0);
			ASSERT_TRUE(err == ENOMEM || err == ENFILE || err == EINTR || err == EFAULT) TH_LOG("allocation %d: %s", nth, strerror(err));
			failed++;
			continue;
		}
		injected = read_number("/proc/thread-self/fail-nth") == 0;
		fail_nth(0);
		/* What failed was of no account, or nothing was left to fail: it works. */
		ASSERT_EQ(0, ioctl(fd, VMFERRY_START, 0));
		EXPECT_EQ(0, harvest(fd, 0));
		close(fd);
	}
	EXPECT_FALSE(injected);
	EXPECT_LT(5, failed) TH_LOG("only %d attachments failed", failed);
	TH_LOG("%d attachments failed for want of memory", failed);
	close(req.mem_fd);
}

/* Lets the @nth allocation of @thread fail; 0: none. Return: whether the one before has failed */
static int fail_nth_of(int thread, int nth)
{
	char path[64], text[16];
	int left;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/fail-nth", thread, thread);
	left = read_number(path);
	snprintf(text, sizeof(text), "%d", nth);
	return write_text(path, text) ? -1 : left == 0;
}

/* Asks the thread of a new attachment for one thing, with its @nth allocation failing. Return: did one fail? */
static int ask_with_failure(struct __test_metadata *_metadata, int dev, struct vm *vm, uint32_t flags, int nth, bool amid)
{
	int fd = attach(dev, vm->vm_fd, getpid(), flags), thread, injected, got;
	struct vmferry_area_header *h;

	ASSERT_LE(0, fd);
	h = mmap(NULL, VM_PAGE, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, h);
	thread = attachment_thread();
	ASSERT_LT(0, thread);
	ASSERT_EQ(0, harvest_when_asked_only(fd));
	if (amid)
		ASSERT_EQ(0, ioctl(fd, VMFERRY_START, 0));
	/* An alias, and a slot that wants a region of its own. */
	ASSERT_EQ(0, vm_set_slot(vm, 1, 1 << 30, SIZE, vm->ram, 0));
	ASSERT_EQ(0, vm_set_slot(vm, 2, 2UL << 30, SIZE / 2, vm->ram, 0));
	ASSERT_LE(0, fail_nth_of(thread, nth));
	got = amid ? harvest(fd, 0) : ioctl(fd, VMFERRY_START, 0);
	injected = fail_nth_of(thread, 0);
	if (h->flags & VMFERRY_AREA_BROKEN) {
		EXPECT_EQ(-1, got);
		EXPECT_FALSE(h->flags & VMFERRY_AREA_LOGGING);
		EXPECT_EQ(-1, harvest(fd, 0));
		EXPECT_EQ(EIO, errno);
		EXPECT_EQ(-1, ioctl(fd, VMFERRY_START, 0));
		EXPECT_EQ(EIO, errno);
		EXPECT_EQ(0, ioctl(fd, VMFERRY_STOP, 0));
	} else {
		EXPECT_TRUE(got == 0 || !amid) TH_LOG("allocation %d: an error, and not broken", nth);
		EXPECT_EQ(0, ioctl(fd, VMFERRY_START, 0)) TH_LOG("allocation %d", nth);
		EXPECT_EQ(0, harvest(fd, 0)) TH_LOG("allocation %d", nth);
	}
	vm_set_slot(vm, 1, 1 << 30, 0, vm->ram, 0);
	vm_set_slot(vm, 2, 2UL << 30, 0, vm->ram, 0);
	munmap(h, VM_PAGE);
	close(fd);
	return injected;
}

FIXTURE(thread) {
	int dev;
	struct vm vm;
};

FIXTURE_VARIANT(thread) {
	unsigned int ring_entries;
	uint32_t flags;
};

FIXTURE_VARIANT_ADD(thread, own_ring) {
	.ring_entries = 1024, .flags = VMFERRY_ATTACH_OWN_RING,
};
FIXTURE_VARIANT_ADD(thread, watched) {
	.ring_entries = 1024, .flags = 0,
};
FIXTURE_VARIANT_ADD(thread, bitmap) {
	.ring_entries = 0, .flags = 0,
};

FIXTURE_SETUP(thread)
{
	if (access("/proc/self/fail-nth", W_OK))
		SKIP(return, "this kernel injects no faults (CONFIG_FAULT_INJECTION)");
	let_all_allocations_be_considered();
	self->dev = open("/dev/vmferry", O_RDWR);
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, vm_make(&self->vm, SIZE, 1, variant->ring_entries));
}

FIXTURE_TEARDOWN(thread)
{
	vm_free(&self->vm);
	close(self->dev);
}

TEST_F(thread, each_allocation_of_a_start_may_fail)
{
	int nth = 1;

	while (ask_with_failure(_metadata, self->dev, &self->vm, variant->flags, nth, false))
		nth++;
	EXPECT_LT(3, nth);
	TH_LOG("%d allocations failed", nth - 1);
}

TEST_F(thread, each_allocation_of_a_harvest_may_fail)
{
	int nth = 1;

	while (ask_with_failure(_metadata, self->dev, &self->vm, variant->flags, nth, true))
		nth++;
	EXPECT_LT(3, nth);
	TH_LOG("%d allocations failed", nth - 1);
}

static void inject(int thread, const char *percent)
{
	char path[64];

	write_text("/sys/kernel/debug/failslab/task-filter", "Y");
	write_text("/sys/kernel/debug/failslab/times", "-1");
	write_text("/sys/kernel/debug/failslab/probability", percent);
	write_text("/sys/kernel/debug/fail_page_alloc/task-filter", "Y");
	write_text("/sys/kernel/debug/fail_page_alloc/times", "-1");
	write_text("/sys/kernel/debug/fail_page_alloc/probability", percent);
	snprintf(path, sizeof(path), "/proc/%d/make-it-fail", thread);
	write_text(path, strcmp(percent, "0") ? "1" : "0");
}

TEST_F(fault, the_thread_may_find_no_memory)
{
	int errors = 0, breaks = 0, rights = 0;

	ASSERT_EQ(0, vm_run(&self->vm, REAP_WHEN_FULL));
	for (int i = 0; i < 60; i++) {
		int fd = attach(self->dev, self->vm.vm_fd, getpid(), i % 2 ? VMFERRY_ATTACH_OWN_RING : 0), thread;
		uint8_t *more = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		struct vmferry_area_header *h;

		ASSERT_LE(0, fd);
		h = mmap(NULL, VM_PAGE, PROT_READ, MAP_SHARED, fd, 0);
		ASSERT_NE(MAP_FAILED, h);
		thread = attachment_thread();
		ASSERT_LT(0, thread);
		inject(thread, i % 3 ? "1" : "10");
		errors += !!ioctl(fd, VMFERRY_START, 0);
		for (int k = 0; k < 5; k++) {
			vm_set_slot(&self->vm, 1, 1 << 30, k % 2 ? 0 : 1 << 20, more, 0);
			errors += !!harvest(fd, 0);
		}
		inject(thread, "0");
		vm_set_slot(&self->vm, 1, 1 << 30, 0, more, 0);
		if (h->flags & VMFERRY_AREA_BROKEN) {
			breaks++;
			EXPECT_EQ(-1, harvest(fd, 0)); /* for good */
		} else if (h->flags & VMFERRY_AREA_LOGGING) {
			rights++;
			EXPECT_EQ(0, harvest(fd, 0));
		}
		munmap(h, VM_PAGE);
		munmap(more, 1 << 20);
		close(fd);
	}
	vm_pause(&self->vm);
	EXPECT_EQ(0, self->vm.failed);
	EXPECT_LT(0, errors);
	EXPECT_LT(0, rights);
	TH_LOG("%d errors, %d attachments broken, %d right to the end", errors, breaks, rights);
}

TEST_HARNESS_MAIN
