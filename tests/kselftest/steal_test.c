// SPDX-License-Identifier: GPL-2.0-only
/*
 * Promise: a guest with steal time does not stop the host. KVM marks the page of a vCPU's steal time
 * dirty when it preempts the vCPU, under the run queue's lock, and the module sees that.
 * Seen to fail: with a wake-up in the tracepoint the machine stood still in the first test.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "vm.h"

#define SIZE (4UL << 20)
#define STEAL_PAGE 8 /* of vCPU 0; one page for each */

FIXTURE(steal) {
	int dev;
	struct vm vm;
	struct consumer c;
	int fd, thread;
	cpu_set_t before;
};

FIXTURE_VARIANT(steal) {
	unsigned int ring_entries;
	uint32_t flags;
	enum vm_reaper reaper;
};

FIXTURE_VARIANT_ADD(steal, own_ring) {
	.ring_entries = 1024, .flags = VMFERRY_ATTACH_OWN_RING, .reaper = REAP_NEVER,
};
FIXTURE_VARIANT_ADD(steal, watched) {
	.ring_entries = 1024, .flags = 0, .reaper = REAP_ALWAYS,
};
FIXTURE_VARIANT_ADD(steal, bitmap) {
	.ring_entries = 0, .flags = 0, .reaper = REAP_NEVER,
};

FIXTURE_SETUP(steal)
{
	self->dev = open("/dev/vmferry", O_RDWR);
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, vm_make(&self->vm, SIZE, 2, variant->ring_entries));
	for (int i = 0; i < 2; i++)
		ASSERT_EQ(0, vm_set_steal_time(&self->vm, i, (STEAL_PAGE + i) * VM_PAGE));
	self->fd = attach(self->dev, self->vm.vm_fd, getpid(), variant->flags);
	ASSERT_LE(0, self->fd) TH_LOG("attach: %s", strerror(errno));
	ASSERT_EQ(0, consumer_open(&self->c, self->fd, self->vm.ram, SIZE));
	self->thread = attachment_thread();
	ASSERT_LT(0, self->thread);
	ASSERT_EQ(0, sched_getaffinity(0, sizeof(self->before), &self->before));
	if (CPU_COUNT(&self->before) < 2)
		SKIP(return, "this machine has one processor; the test needs two");
}

FIXTURE_TEARDOWN(steal)
{
	sched_setaffinity(0, sizeof(self->before), &self->before);
	consumer_close(&self->c);
	close(self->fd);
	vm_free(&self->vm);
	close(self->dev);
}

/* The vCPUs, and who reaps their rings, on processor 0: they preempt each other all the while. */
static int run_on_one_processor(struct vm *vm, enum vm_reaper reaper)
{
	return vm_go_to_processor(0, 0) || vm_run(vm, reaper) || vm_go_to_processor(0, 1);
}

/*
 * Until @fd's attachment found pages @n times, or a quarter of a minute has gone by. With rings it
 * harvests by itself: a thread that is not woken finds something every four seconds at most.
 *
 * @thread goes to sleep on processor 1, and is to wake up on processor 0: whoever wakes it takes
 * that one's run queue's lock. On processor 0 alone it would always be awake when a vCPU is
 * preempted: what wakes it is the same page, written when the vCPU was put there.
 * Return: how often pages were found
 */
static int look_on(struct consumer *c, int fd, int thread, bool has_rings, int n)
{
	time_t enough = time(NULL) + 15;
	int found = 0;

	while (found < n && time(NULL) < enough) {
		if (!has_rings && harvest(fd, 0))
			break;
		if (consumer_collect(c)) {
			usleep(5000); /* so that it sleeps */
			vm_go_to_processor(thread, ++found % 2 ? 0 : 1);
		}
		usleep(1000);
	}
	return found;
}

static void end_up_right(struct __test_metadata *_metadata, struct vm *vm, struct consumer *c, int fd)
{
	vm_pause(vm);
	EXPECT_EQ(0, vm->failed);
	EXPECT_EQ(0, harvest(fd, VMFERRY_HARVEST_FINAL));
	consumer_collect(c);
	EXPECT_EQ(-1, consumer_first_difference(c));
	EXPECT_FALSE(((struct vmferry_area_header *)c->area)->flags & VMFERRY_AREA_BROKEN);
}

/* The guest writes nothing, so that each page is KVM's, and wakes a thread that dozes. */
TEST_F(steal, of_an_idle_guest)
{
	for (int i = 0; i < 2; i++)
		vm_set_share(&self->vm, i, 16, 16);
	ASSERT_EQ(0, ioctl(self->fd, VMFERRY_START, 0));
	consumer_copy_all(&self->c);
	ASSERT_EQ(0, run_on_one_processor(&self->vm, variant->reaper));
	EXPECT_EQ(40, look_on(&self->c, self->fd, self->thread, variant->ring_entries, 40));
	end_up_right(_metadata, &self->vm, &self->c, self->fd);
}

/* Rings that fill, too. */
TEST_F(steal, of_a_busy_guest)
{
	ASSERT_EQ(0, run_on_one_processor(&self->vm, variant->reaper));
	ASSERT_EQ(0, ioctl(self->fd, VMFERRY_START, 0));
	consumer_copy_all(&self->c);
	EXPECT_EQ(40, look_on(&self->c, self->fd, self->thread, variant->ring_entries, 40));
	end_up_right(_metadata, &self->vm, &self->c, self->fd);
}

/* Attachments that come and go under it: nobody wakes a thread that has ended. */
TEST_F(steal, while_attachments_come_and_go)
{
	for (int i = 0; i < 2; i++)
		vm_set_share(&self->vm, i, 16, 16);
	ASSERT_EQ(0, run_on_one_processor(&self->vm, variant->reaper));
	for (int i = 0; i < 30; i++) {
		int fd = attach(self->dev, self->vm.vm_fd, getpid(), 0);

		ASSERT_LE(0, fd);
		ASSERT_EQ(0, ioctl(fd, VMFERRY_START, 0));
		usleep(5000);
		close(fd);
	}
	vm_pause(&self->vm);
	EXPECT_EQ(0, self->vm.failed);
}

TEST_HARNESS_MAIN
