/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * The shared area: dirty pages, vCPU and device figures of one VM, laid out once
 * for both producers (the kernel module and libvmferry) and every consumer.
 *
 * Theory of operation
 *
 *   page 0            header
 *   region_off        struct vmferry_region[max_regions]
 *   vcpu_off          struct vmferry_vcpu[max_vcpus]
 *   device_off        struct vmferry_device[max_devices]
 *   per region        dirty bitmap, one bit per 4 KiB page
 *                     summary, one bit per 64-bit word of that bitmap
 *                     heat (kernel module only), one byte per 2 MiB
 *
 * Producer: a page's bit is set (atomic OR) only after the page is write-protected
 * again; then the summary bit of its word (atomic OR, release).
 * Consumer: takes a summary word, then each bitmap word it names, both by atomic
 * exchange with 0 (acquire), and only then reads the page.
 * If either order is reversed a write of the guest is lost for ever.
 *
 * Everything is little-endian and naturally aligned; places are byte offsets from
 * the start of the area. A reader copies a length or an offset once and checks it
 * before using it: the other side is not trusted.
 */
#ifndef UAPI_VMFERRY_H
#define UAPI_VMFERRY_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define VMFERRY_AREA_MAGIC 0x797272656676ULL /* the bytes "vferry" */
#define VMFERRY_AREA_VERSION 1

#define VMFERRY_PAGE_SHIFT 12
#define VMFERRY_PAGE_SIZE (1ULL << VMFERRY_PAGE_SHIFT)
#define VMFERRY_NAME_LEN 64

#define VMFERRY_MAX_REGIONS 64
#define VMFERRY_MAX_VCPUS 1024
#define VMFERRY_MAX_DEVICES 64

/* vmferry_area_header.flags */
#define VMFERRY_AREA_KMOD (1ULL << 0)	 /* filled by the kernel module */
#define VMFERRY_AREA_RING (1ULL << 1)	 /* from per-vCPU dirty rings, else from KVM's bitmaps */
#define VMFERRY_AREA_LOGGING (1ULL << 2) /* dirty logging is on */
#define VMFERRY_AREA_WATCH (1ULL << 3)	 /* complete though somebody else resets the rings */
#define VMFERRY_AREA_DEAD (1ULL << 4)	 /* the VMM has exited; nothing more will come */
#define VMFERRY_AREA_BROKEN (1ULL << 5)	 /* writes may have been missed: end the migration */

/**
 * struct vmferry_area_header - page 0 of the shared area
 * @magic: VMFERRY_AREA_MAGIC; written last, once the tables are laid out
 * @version: VMFERRY_AREA_VERSION
 * @header_size: bytes of this struct, for extension
 * @total_size: bytes of the whole area
 * @generation: bumped by the producer before and after every change of the region table:
 * odd while the table is being written
 * @flags: VMFERRY_AREA_*
 * @region_off: byte offset of the region table
 * @vcpu_off: byte offset of the vCPU table
 * @device_off: byte offset of the device table
 * @nr_regions: entries in use in the region table
 * @nr_vcpus: entries in use in the vCPU table
 * @nr_devices: entries in use in the device table
 * @reserved: zero
 * @harvests: harvests done since the area was made
 * @harvested: entries taken out of KVM's rings or bitmaps
 * @published: bits newly set in the dirty bitmaps
 * @marked: pages marked by the VMM for its own writes
 * @ring_full: exits of vCPUs because their ring was full
 * @harvest_ns: nanoseconds spent harvesting
 *
 * All fields are written by the producer only; the counters without a lock
 * (relaxed), so that two of them need not agree with each other.
 */
struct vmferry_area_header {
	__u64 magic;
	__u32 version;
	__u32 header_size;
	__u64 total_size;
	__u64 generation;
	__u64 flags;
	__u64 region_off;
	__u64 vcpu_off;
	__u64 device_off;
	__u32 nr_regions;
	__u32 nr_vcpus;
	__u32 nr_devices;
	__u32 reserved;
	__u64 harvests;
	__u64 harvested;
	__u64 published;
	__u64 marked;
	__u64 ring_full;
	__u64 harvest_ns;
};
_Static_assert(sizeof(struct vmferry_area_header) == 128, "header is ABI");

/**
 * struct vmferry_region - one contiguous piece of guest RAM
 * @id: index that names the region for the whole life of the VM
 * @slot: KVM memslot (as_id << 16 | slot); one of them, if several show the same RAM
 * @gpa: guest-physical address, multiple of 4 KiB; it and @slot change when @slot goes and
 * another one shows the same RAM
 * @size: bytes, multiple of 4 KiB
 * @bitmap_off: byte offset of the dirty bitmap in the area, multiple of 8
 * @bitmap_words: 64-bit words of the dirty bitmap: ceil(pages / 64)
 * @summary_off: byte offset of the summary bitmap in the area, multiple of 8
 * @summary_words: 64-bit words of the summary: ceil(bitmap_words / 64)
 * @heat_off: byte offset of the heat, 0 if there is none: per 2 MiB a counter of
 * harvests that found dirty pages there, up to 255, halved every second
 */
struct vmferry_region {
	__u32 id;
	__u32 slot;
	__u64 gpa;
	__u64 size;
	__u64 bitmap_off;
	__u64 bitmap_words;
	__u64 summary_off;
	__u64 summary_words;
	__u64 heat_off;
};
_Static_assert(sizeof(struct vmferry_region) == 64, "region is ABI");

/**
 * struct vmferry_vcpu - what the producer knows of one vCPU
 * @id: KVM's vCPU id
 * @ring_entries: size of its dirty ring in entries, 0 without a ring
 * @dirtied: ring entries harvested from it so far
 * @ring_full: exits because its ring was full
 * @throttled_ns: nanoseconds it was made to sleep by throttling
 */
struct vmferry_vcpu {
	__u32 id;
	__u32 ring_entries;
	__u64 dirtied;
	__u64 ring_full;
	__u64 throttled_ns;
};
_Static_assert(sizeof(struct vmferry_vcpu) == 32, "vcpu is ABI");

/**
 * struct vmferry_device - state sizes of one device
 * @name: NUL-terminated
 * @stop_copy_size: bytes of state to expect when the device is stopped
 * @precopy_initial: bytes of initial precopy state left (VFIO), else 0
 * @precopy_dirty: bytes of dirty precopy state (VFIO), else 0
 * @stamp_ns: CLOCK_MONOTONIC of this reading
 * @error: 0, or the negative errno with which the driver refused
 */
struct vmferry_device {
	char name[VMFERRY_NAME_LEN];
	__u64 stop_copy_size;
	__u64 precopy_initial;
	__u64 precopy_dirty;
	__u64 stamp_ns;
	__s32 error;
	__u32 reserved[7];
};
_Static_assert(sizeof(struct vmferry_device) == 128, "device is ABI");

/*
 * /dev/vmferry: the kernel module.
 *
 * ATTACH on the device gives an attachment fd; everything else is asked of that fd:
 *
 *   mmap()   the shared area above, from offset 0, MAP_SHARED; map it again when
 *            generation has changed: it may have grown
 *   read()   8 bytes: pages published since the last read; never blocks
 *   poll()   POLLIN by wake_pages or wake_us, POLLHUP once the VMM has exited, POLLERR
 *            if writes may have been missed
 *
 * An attachment breaks when writes may have been missed: VMFERRY_AREA_BROKEN, POLLERR and the
 * eventfd tell. START and HARVEST say EIO from then on; the dirty logging is as it was before
 * START, and rings of our own are empty. A START that fails with another errno has changed
 * nothing and can be tried again: ENOSPC and E2BIG if there are too many memslots, EAGAIN if
 * they change all the while, ENOMEM.
 *
 * Every struct begins with its size as the caller knows it: a larger one than the module
 * knows is taken if the rest is zero (else E2BIG), a smaller one than version 1's is
 * EINVAL. Unknown flags and reserved fields that are not zero are EINVAL.
 */
#define VMFERRY_IOC 0xDF

/* vmferry_attach.flags */
#define VMFERRY_ATTACH_OWN_RING (1U << 0) /* the rings are ours: nobody else collects or resets them */

/**
 * struct vmferry_attach - VMFERRY_ATTACH
 * @size: sizeof(struct vmferry_attach)
 * @flags: VMFERRY_ATTACH_*; 0: the VMM may reap its rings, and nothing is missed
 * @vm_fd: the VM's KVM fd, among the caller's
 * @mem_fd: /proc/PID/mem of the VMM. Only who may trace a process can open that; so it
 * shows the right that pidfd_getfd() asks for, by the kernel's own check
 *
 * Return: an attachment fd. EBADF: @vm_fd is not a KVM VM; EPERM: @mem_fd is not its
 * VMM's; EBUSY: another attachment owns the rings; ESRCH: the VMM has exited; ENODEV: this
 * kernel shows no pushes, so that only VMFERRY_ATTACH_OWN_RING can be complete.
 */
struct vmferry_attach {
	__u32 size;
	__u32 flags;
	__s32 vm_fd;
	__s32 mem_fd;
	__u32 reserved[4];
};
_Static_assert(sizeof(struct vmferry_attach) == 32, "attach is ABI");

/* vmferry_harvest.flags */
#define VMFERRY_HARVEST_FINAL (1U << 0) /* the vCPUs are stopped: publish all there is */

/**
 * struct vmferry_harvest - VMFERRY_HARVEST: harvest now
 * @size: sizeof(struct vmferry_harvest)
 * @flags: VMFERRY_HARVEST_*
 * @published: out: bits newly set in the area by this harvest
 * @waiting: out: pages seen dirty and not published yet, for their reset has not passed
 *
 * Return: 0. EINVAL: logging is off; EIO: the attachment is broken; ESRCH: the VMM has exited;
 * EAGAIN: this was to be the last harvest, and the VMM changes its memslots all the while.
 */
struct vmferry_harvest {
	__u32 size;
	__u32 flags;
	__u64 published;
	__u64 waiting;
	__u64 reserved;
};
_Static_assert(sizeof(struct vmferry_harvest) == 32, "harvest is ABI");

/* vmferry_tunables.mask */
#define VMFERRY_TUNE_PERIOD (1U << 0)
#define VMFERRY_TUNE_BATCH (1U << 1)
#define VMFERRY_TUNE_WAKE (1U << 2)
#define VMFERRY_TUNE_VFIO (1U << 3)
#define VMFERRY_TUNE_ENABLED (1U << 4)

/**
 * struct vmferry_tunables - VMFERRY_GET_TUNABLES, VMFERRY_SET_TUNABLES
 * @size: sizeof(struct vmferry_tunables)
 * @mask: SET: which to set, VMFERRY_TUNE_*; GET: all
 * @period_min_us: shortest time between harvests, 100 to 1000000
 * @period_max_us: longest, at least @period_min_us, up to 10000000
 * @batch: ring entries between two resets, 64 to 65536
 * @wake_pages: poll() wakes when so many pages are unread; 0: never by number
 * @wake_us: poll() wakes when pages are unread for so long; 0: never by time
 * @vfio_period_us: time between readings of VFIO devices; 0: only by REFRESH_VFIO
 * @enabled: 0: no harvests but those asked for
 */
struct vmferry_tunables {
	__u32 size;
	__u32 mask;
	__u32 period_min_us;
	__u32 period_max_us;
	__u32 batch;
	__u32 wake_pages;
	__u32 wake_us;
	__u32 vfio_period_us;
	__u32 enabled;
	__u32 reserved[7];
};
_Static_assert(sizeof(struct vmferry_tunables) == 64, "tunables are ABI");

/**
 * struct vmferry_eventfd - VMFERRY_SET_EVENTFD: signalled whenever poll() would wake, for
 * POLLHUP and POLLERR as well
 * @size: sizeof(struct vmferry_eventfd)
 * @flags: zero
 * @fd: an eventfd, or -1 for none
 */
struct vmferry_eventfd {
	__u32 size;
	__u32 flags;
	__s32 fd;
	__u32 reserved;
};
_Static_assert(sizeof(struct vmferry_eventfd) == 16, "eventfd is ABI");

/**
 * struct vmferry_vfio - VMFERRY_ADD_VFIO: read a device's migration sizes
 * @size: sizeof(struct vmferry_vfio)
 * @flags: zero
 * @device_fd: the VFIO device
 * @data_fd: its migration data fd while it is in pre-copy, or -1
 * @name: how the device table names it, NUL-terminated
 *
 * Adding a name again replaces its fds. Both are let go when the VMM has exited; the table keeps
 * what was read last. Return: index in the device table. EBADF: @device_fd is no VFIO device;
 * ENOSPC: too many; ESRCH: the VMM has exited.
 */
struct vmferry_vfio {
	__u32 size;
	__u32 flags;
	__s32 device_fd;
	__s32 data_fd;
	char name[VMFERRY_NAME_LEN];
	__u64 reserved[2];
};
_Static_assert(sizeof(struct vmferry_vfio) == 96, "vfio is ABI");

#define VMFERRY_ATTACH _IOW(VMFERRY_IOC, 0x00, struct vmferry_attach)
#define VMFERRY_START _IO(VMFERRY_IOC, 0x10) /* log from now on */
#define VMFERRY_STOP _IO(VMFERRY_IOC, 0x11)  /* logging as it was before */
#define VMFERRY_HARVEST _IOWR(VMFERRY_IOC, 0x12, struct vmferry_harvest)
#define VMFERRY_GET_TUNABLES _IOWR(VMFERRY_IOC, 0x13, struct vmferry_tunables)
#define VMFERRY_SET_TUNABLES _IOW(VMFERRY_IOC, 0x14, struct vmferry_tunables)
#define VMFERRY_SET_EVENTFD _IOW(VMFERRY_IOC, 0x15, struct vmferry_eventfd)
#define VMFERRY_ADD_VFIO _IOW(VMFERRY_IOC, 0x16, struct vmferry_vfio)
#define VMFERRY_REFRESH_VFIO _IO(VMFERRY_IOC, 0x17)

#endif
