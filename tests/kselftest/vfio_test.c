// SPDX-License-Identifier: GPL-2.0-only
/*
 * Promise: the device table says what a VFIO device's driver says of its migration state,
 * idle and in pre-copy, and where the driver refuses, that it does. The device is the
 * kernel's own sample, mtty.
 */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <linux/vfio.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"
#include "vm.h"

#define UUID "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
#define TYPES "/sys/devices/virtual/mtty/mtty/mdev_supported_types/mtty-1/"
#define PRE_COPY 6 /* VFIO_DEVICE_STATE_PRE_COPY, since 6.2 */

FIXTURE(vfio) {
	int container, group, device;
	int dev, fd;
	struct vm vm;
	struct vmferry_area_header *area;
};

static int write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY), n;

	if (fd < 0)
		return -1;
	n = write(fd, text, strlen(text));
	close(fd);
	return n == (int)strlen(text) ? 0 : -1;
}

static int group_of_device(char *path, size_t len)
{
	char link[256], *base;
	ssize_t n = readlink("/sys/bus/mdev/devices/" UUID "/iommu_group", link, sizeof(link) - 1);

	if (n < 0)
		return -1;
	link[n] = '\0';
	base = strrchr(link, '/');
	snprintf(path, len, "/dev/vfio/%s", base + 1);
	return 0;
}

/* Return: the device, or -1; the three are open until the process ends or closes them */
static int open_device(int *container, int *group)
{
	char path[64];

	if (access("/sys/bus/mdev/devices/" UUID, F_OK) && write_text(TYPES "create", UUID))
		return -1;
	if (group_of_device(path, sizeof(path)))
		return -1;
	*container = open("/dev/vfio/vfio", O_RDWR);
	*group = open(path, O_RDWR); /* EBUSY while somebody has the device */
	if (*container < 0 || *group < 0 || ioctl(*group, VFIO_GROUP_SET_CONTAINER, container) ||
	    ioctl(*container, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU))
		return -1;
	return ioctl(*group, VFIO_GROUP_GET_DEVICE_FD, UUID);
}

FIXTURE_SETUP(vfio)
{
	self->device = open_device(&self->container, &self->group);
	ASSERT_LE(0, self->device) TH_LOG("mtty: %s", strerror(errno));

	self->dev = open("/dev/vmferry", O_RDWR);
	ASSERT_EQ(0, vm_make(&self->vm, 4 << 20, 1, 1024));
	self->fd = attach(self->dev, self->vm.vm_fd, getpid(), 0);
	ASSERT_LE(0, self->fd);
	self->area = mmap(NULL, 48 << 10, PROT_READ, MAP_SHARED, self->fd, 0);
	ASSERT_NE(MAP_FAILED, self->area);
}

FIXTURE_TEARDOWN(vfio)
{
	munmap(self->area, 48 << 10);
	close(self->fd);
	vm_free(&self->vm);
	close(self->dev);
	close(self->device);
	close(self->group);
	close(self->container);
}

static bool kernel_has_sizes(void)
{
	struct utsname u;
	int major = 0, minor = 0;

	uname(&u);
	sscanf(u.release, "%d.%d", &major, &minor);
	return major > 6 || (major == 6 && minor >= 7); /* the sample migrates since 6.7 */
}

static int enter(int device, uint32_t state)
{
	struct {
		struct vfio_device_feature f;
		struct vfio_device_feature_mig_state s;
	} q = { { .argsz = sizeof(q), .flags = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE },
		{ .device_state = state, .data_fd = -1 } };

	if (ioctl(device, VFIO_DEVICE_FEATURE, &q))
		return -errno;
	return q.s.data_fd;
}

TEST_F(vfio, sizes_are_the_drivers)
{
	struct vmferry_vfio v = { .size = sizeof(v), .device_fd = self->device, .data_fd = -1, .name = "mtty0" };
	struct vmferry_device *d = (void *)((uint8_t *)self->area + self->area->device_off);
	uint64_t stamp;
	int data_fd;

	ASSERT_EQ(0, ioctl(self->fd, VMFERRY_ADD_VFIO, &v)) TH_LOG("%s", strerror(errno));
	EXPECT_EQ(1, self->area->nr_devices);
	EXPECT_STREQ("mtty0", d->name);
	ASSERT_EQ(0, ioctl(self->fd, VMFERRY_REFRESH_VFIO, 0));
	stamp = d->stamp_ns;
	EXPECT_LT(0, stamp);
	if (!kernel_has_sizes()) {
		EXPECT_GT(0, d->error); /* it is said, and no size is made up */
		EXPECT_EQ(0, d->stop_copy_size);
		return;
	}
	EXPECT_EQ(0, d->error);
	EXPECT_LT(0, d->stop_copy_size);
	EXPECT_EQ(0, d->precopy_initial);

	data_fd = enter(self->device, PRE_COPY);
	ASSERT_LE(0, data_fd) TH_LOG("PRE_COPY: %s", strerror(-data_fd));
	v.data_fd = data_fd;
	ASSERT_EQ(0, ioctl(self->fd, VMFERRY_ADD_VFIO, &v)); /* the same name: the same entry */
	EXPECT_EQ(1, self->area->nr_devices);
	ASSERT_EQ(0, ioctl(self->fd, VMFERRY_REFRESH_VFIO, 0));
	EXPECT_LT(stamp, d->stamp_ns);
	EXPECT_EQ(0, d->error);
	EXPECT_LT(0, d->precopy_initial);
	TH_LOG("stop-copy %llu, initial %llu, dirty %llu bytes", (unsigned long long)d->stop_copy_size,
	       (unsigned long long)d->precopy_initial, (unsigned long long)d->precopy_dirty);

	/* Out of pre-copy the data fd refuses: that is said too. */
	EXPECT_EQ(-1, enter(self->device, VFIO_DEVICE_STATE_RUNNING));
	ASSERT_EQ(0, ioctl(self->fd, VMFERRY_REFRESH_VFIO, 0));
	EXPECT_GT(0, d->error);
	close(data_fd);
}

TEST_F(vfio, they_are_read_again_by_themselves)
{
	struct vmferry_vfio v = { .size = sizeof(v), .device_fd = self->device, .data_fd = -1, .name = "mtty0" };
	struct vmferry_tunables t = { .size = sizeof(t), .mask = VMFERRY_TUNE_VFIO, .vfio_period_us = 2000 };
	struct vmferry_device *d = (void *)((uint8_t *)self->area + self->area->device_off);
	uint64_t stamp;

	ASSERT_EQ(0, ioctl(self->fd, VMFERRY_ADD_VFIO, &v));
	ASSERT_EQ(0, ioctl(self->fd, VMFERRY_SET_TUNABLES, &t));
	ASSERT_EQ(0, ioctl(self->fd, VMFERRY_START, 0));
	for (int i = 0; i < 2; i++) {
		stamp = d->stamp_ns;
		while (*(volatile __u64 *)&d->stamp_ns == stamp) /* the harness ends it if it never comes */
			usleep(1000);
	}
	EXPECT_EQ(0, ioctl(self->fd, VMFERRY_STOP, 0));
}

/*
 * When a VMM has exited, the next VMM can open its devices, although the attachment to the dead VMM is still open.
 * Seen to fail: the device was busy for as long as that attachment was open.
 */
TEST(devices_of_a_dead_vmm_are_let_go)
{
	struct vmferry_vfio v = { .size = sizeof(v), .data_fd = -1, .name = "mtty0" };
	int pipes[2], dev = open("/dev/vmferry", O_RDWR), fds[2], pidfd, fd, group = -1, container = -1;
	struct pollfd p = { .events = POLLIN };
	struct vm vm;
	pid_t child;

	ASSERT_EQ(0, pipe(pipes));
	child = fork();
	if (!child) {
		fds[0] = vm_make(&vm, 4 << 20, 1, 1024) ? -1 : vm.vm_fd;
		fds[1] = open_device(&container, &group);
		if (write(pipes[1], fds, sizeof(fds)) != sizeof(fds))
			_exit(1);
		pause();
	}
	ASSERT_EQ(sizeof(fds), read(pipes[0], fds, sizeof(fds)));
	ASSERT_LE(0, fds[0]);
	ASSERT_LE(0, fds[1]);
	pidfd = syscall(SYS_pidfd_open, child, 0);
	fds[0] = syscall(SYS_pidfd_getfd, pidfd, fds[0], 0);
	fds[1] = syscall(SYS_pidfd_getfd, pidfd, fds[1], 0);
	fd = attach(dev, fds[0], child, 0);
	ASSERT_LE(0, fd);
	v.device_fd = fds[1];
	ASSERT_EQ(0, ioctl(fd, VMFERRY_ADD_VFIO, &v)) TH_LOG("%s", strerror(errno));
	close(fds[0]);
	close(fds[1]);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	p.fd = fd;
	ASSERT_EQ(1, poll(&p, 1, 20000));
	EXPECT_TRUE(p.revents & POLLHUP);
	v.device_fd = -1;
	for (int i = 0; i < 10000 && v.device_fd < 0; i++) {
		v.device_fd = open_device(&container, &group);
		if (v.device_fd >= 0)
			break;
		close(group);
		close(container);
		usleep(1000);
	}
	EXPECT_LE(0, v.device_fd) TH_LOG("the device cannot be opened again");
	EXPECT_EQ(-1, ioctl(fd, VMFERRY_ADD_VFIO, &v));
	EXPECT_EQ(v.device_fd < 0 ? EBADF : ESRCH, errno);
	close(v.device_fd);
	close(container);
	close(group);
	close(fd);
	close(pidfd);
	close(dev);
}

TEST_HARNESS_MAIN
