// SPDX-License-Identifier: GPL-2.0-only
/* Promise: every ioctl takes what the ABI says, and refuses everything else by the errno it names. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "vm.h"

FIXTURE(abi) {
	int dev;
	int fd;
	struct vm vm;
};

FIXTURE_SETUP(abi)
{
	self->dev = open("/dev/vmferry", O_RDWR);
	ASSERT_LE(0, self->dev);
	ASSERT_EQ(0, vm_make(&self->vm, 4 << 20, 1, 4096));
	self->fd = attach(self->dev, self->vm.vm_fd, getpid(), VMFERRY_ATTACH_OWN_RING);
	ASSERT_LE(0, self->fd) TH_LOG("attach: %s", strerror(errno));
}

FIXTURE_TEARDOWN(abi)
{
	close(self->fd);
	vm_free(&self->vm);
	close(self->dev);
}

#define REFUSED(err, call) ({ errno = 0; EXPECT_EQ(-1, call); EXPECT_EQ(err, errno); })

TEST_F(abi, attach_checks_its_arguments)
{
	struct vmferry_attach good = { .size = sizeof(good), .vm_fd = self->vm.vm_fd,
				       .mem_fd = open("/proc/self/mem", O_RDONLY) };
	struct { struct vmferry_attach a; uint64_t more; } larger = { good, 0 };
	struct vmferry_attach bad;
	int fd = ioctl(self->dev, VMFERRY_ATTACH, &good);

	ASSERT_LE(0, fd);
	EXPECT_EQ(FD_CLOEXEC, fcntl(fd, F_GETFD));
	close(fd);
	larger.a.size = sizeof(larger);
	fd = ioctl(self->dev, VMFERRY_ATTACH, &larger);
	EXPECT_LE(0, fd);
	close(fd);
	larger.more = 1;
	REFUSED(E2BIG, ioctl(self->dev, VMFERRY_ATTACH, &larger));
	bad = good, bad.size = 31;
	REFUSED(EINVAL, ioctl(self->dev, VMFERRY_ATTACH, &bad));
	bad = good, bad.flags = 1U << 31;
	REFUSED(EINVAL, ioctl(self->dev, VMFERRY_ATTACH, &bad));
	bad = good, bad.reserved[3] = 1;
	REFUSED(EINVAL, ioctl(self->dev, VMFERRY_ATTACH, &bad));
	bad = good, bad.vm_fd = -1;
	REFUSED(EBADF, ioctl(self->dev, VMFERRY_ATTACH, &bad));
	bad = good, bad.vm_fd = self->dev;
	REFUSED(EBADF, ioctl(self->dev, VMFERRY_ATTACH, &bad));
	bad = good, bad.vm_fd = self->vm.vcpu_fd[0];
	REFUSED(EBADF, ioctl(self->dev, VMFERRY_ATTACH, &bad));
	bad = good, bad.flags = VMFERRY_ATTACH_OWN_RING;
	REFUSED(EBUSY, ioctl(self->dev, VMFERRY_ATTACH, &bad)); /* the fixture owns them */
	REFUSED(EFAULT, ioctl(self->dev, VMFERRY_ATTACH, 8));
	REFUSED(ENOTTY, ioctl(self->dev, VMFERRY_START, 0));
	close(good.mem_fd);
}

TEST_F(abi, only_who_may_trace_the_vmm_attaches)
{
	struct vmferry_attach a = { .size = sizeof(a), .vm_fd = self->vm.vm_fd, .mem_fd = -1 };
	char path[32];
	pid_t other;

	REFUSED(EPERM, ioctl(self->dev, VMFERRY_ATTACH, &a));
	a.mem_fd = open("/proc/self/environ", O_RDONLY); /* knows the address space, but asks for less */
	REFUSED(EPERM, ioctl(self->dev, VMFERRY_ATTACH, &a));
	close(a.mem_fd);
	other = fork();
	if (!other) {
		pause();
		_exit(0);
	}
	snprintf(path, sizeof(path), "/proc/%d/mem", other);
	a.mem_fd = open(path, O_RDONLY);
	ASSERT_LE(0, a.mem_fd);
	REFUSED(EPERM, ioctl(self->dev, VMFERRY_ATTACH, &a)); /* somebody else's */
	close(a.mem_fd);
	kill(other, SIGKILL);
	waitpid(other, NULL, 0);
}

TEST_F(abi, harvest_needs_logging)
{
	struct vmferry_harvest h = { .size = sizeof(h) }, bad;

	REFUSED(EINVAL, ioctl(self->fd, VMFERRY_HARVEST, &h));
	ASSERT_EQ(0, ioctl(self->fd, VMFERRY_START, 0));
	EXPECT_EQ(0, ioctl(self->fd, VMFERRY_START, 0)); /* again: nothing happens */
	EXPECT_EQ(0, ioctl(self->fd, VMFERRY_HARVEST, &h));
	bad = h, bad.flags = 2;
	REFUSED(EINVAL, ioctl(self->fd, VMFERRY_HARVEST, &bad));
	bad = h, bad.reserved = 1;
	REFUSED(EINVAL, ioctl(self->fd, VMFERRY_HARVEST, &bad));
	bad = h, bad.size = 8;
	REFUSED(EINVAL, ioctl(self->fd, VMFERRY_HARVEST, &bad));
	REFUSED(EINVAL, ioctl(self->fd, VMFERRY_START, 1));
	EXPECT_EQ(0, ioctl(self->fd, VMFERRY_STOP, 0));
	EXPECT_EQ(0, ioctl(self->fd, VMFERRY_STOP, 0));
	REFUSED(EINVAL, ioctl(self->fd, VMFERRY_HARVEST, &h));
	REFUSED(ENOTTY, ioctl(self->fd, _IO(VMFERRY_IOC, 0x7f), 0));
}

TEST_F(abi, tunables_have_bounds)
{
	struct vmferry_tunables t = { .size = sizeof(t) }, bad;

	ASSERT_EQ(0, ioctl(self->fd, VMFERRY_GET_TUNABLES, &t));
	EXPECT_EQ(1, t.enabled);
	EXPECT_LE(t.period_min_us, t.period_max_us);
	t.mask = VMFERRY_TUNE_PERIOD;
	t.period_min_us = 200;
	t.period_max_us = 3000;
	t.batch = 1; /* not named by the mask */
	ASSERT_EQ(0, ioctl(self->fd, VMFERRY_SET_TUNABLES, &t));
	ASSERT_EQ(0, ioctl(self->fd, VMFERRY_GET_TUNABLES, &t));
	EXPECT_EQ(200, t.period_min_us);
	EXPECT_EQ(3000, t.period_max_us);
	EXPECT_LT(1, t.batch);
	bad = t, bad.period_min_us = 99;
	REFUSED(EINVAL, ioctl(self->fd, VMFERRY_SET_TUNABLES, &bad));
	bad = t, bad.period_max_us = 100;
	REFUSED(EINVAL, ioctl(self->fd, VMFERRY_SET_TUNABLES, &bad));
	bad = t, bad.batch = 65537;
	REFUSED(EINVAL, ioctl(self->fd, VMFERRY_SET_TUNABLES, &bad));
	bad = t, bad.mask = 1U << 30;
	REFUSED(EINVAL, ioctl(self->fd, VMFERRY_SET_TUNABLES, &bad));
	bad = t, bad.reserved[6] = 1;
	REFUSED(EINVAL, ioctl(self->fd, VMFERRY_SET_TUNABLES, &bad));
}

TEST_F(abi, the_area_can_be_mapped_and_scribbled_on)
{
	struct consumer c;

	ASSERT_EQ(0, consumer_open(&c, self->fd, self->vm.ram, self->vm.size));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, VM_PAGE, PROT_READ, MAP_PRIVATE, self->fd, 0));
	ASSERT_EQ(0, ioctl(self->fd, VMFERRY_START, 0));
	ASSERT_EQ(0, vm_run(&self->vm, REAP_NEVER));
	for (int i = 0; i < 50; i++) {
		memset(c.area, i, c.area_size);
		EXPECT_EQ(0, harvest(self->fd, 0));
	}
	vm_pause(&self->vm);
	EXPECT_EQ(0, self->vm.failed);
	EXPECT_EQ(0, ioctl(self->fd, VMFERRY_STOP, 0));
	consumer_close(&c);
}

TEST_F(abi, poll_and_eventfd_wake_by_number)
{
	struct vmferry_eventfd e = { .size = sizeof(e), .fd = eventfd(0, EFD_NONBLOCK) }, bad;
	struct pollfd p[2] = { { self->fd, POLLIN, 0 }, { e.fd, POLLIN, 0 } };
	uint64_t n;

	bad = e, bad.flags = 1;
	REFUSED(EINVAL, ioctl(self->fd, VMFERRY_SET_EVENTFD, &bad));
	bad = e, bad.fd = self->dev;
	REFUSED(EINVAL, ioctl(self->fd, VMFERRY_SET_EVENTFD, &bad));
	bad = e, bad.fd = -2;
	REFUSED(EINVAL, ioctl(self->fd, VMFERRY_SET_EVENTFD, &bad));
	ASSERT_EQ(0, ioctl(self->fd, VMFERRY_SET_EVENTFD, &e));
	EXPECT_EQ(0, poll(p, 2, 0));
	ASSERT_EQ(0, ioctl(self->fd, VMFERRY_START, 0));
	ASSERT_EQ(0, vm_run(&self->vm, REAP_NEVER));
	EXPECT_EQ(1, poll(p, 1, 60000));
	EXPECT_EQ(1, poll(p + 1, 1, 60000));
	vm_pause(&self->vm);
	EXPECT_EQ(0, harvest(self->fd, VMFERRY_HARVEST_FINAL));
	EXPECT_EQ(sizeof(n), read(self->fd, &n, sizeof(n)));
	EXPECT_LT(0, n);
	REFUSED(EINVAL, read(self->fd, &n, 4));
	e.fd = -1;
	EXPECT_EQ(0, ioctl(self->fd, VMFERRY_SET_EVENTFD, &e));
}

TEST_F(abi, what_is_no_vfio_device_is_refused)
{
	struct vmferry_vfio v = { .size = sizeof(v), .device_fd = self->dev, .data_fd = -1, .name = "nic0" };

	REFUSED(EBADF, ioctl(self->fd, VMFERRY_ADD_VFIO, &v));
	v.device_fd = -1;
	REFUSED(EBADF, ioctl(self->fd, VMFERRY_ADD_VFIO, &v));
	v.name[0] = '\0';
	REFUSED(EINVAL, ioctl(self->fd, VMFERRY_ADD_VFIO, &v));
	EXPECT_EQ(0, ioctl(self->fd, VMFERRY_REFRESH_VFIO, 0));
}

TEST_HARNESS_MAIN
