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

/**
 * struct vmferry_area_header - page 0 of the shared area
 * @magic: VMFERRY_AREA_MAGIC; written last, once the tables are laid out
 * @version: VMFERRY_AREA_VERSION
 * @header_size: bytes of this struct, for extension
 * @total_size: bytes of the whole area
 * @generation: bumped by the producer after every change of the region table
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
 * @slot: KVM memslot (as_id << 16 | slot)
 * @gpa: guest-physical address, multiple of 4 KiB
 * @size: bytes, multiple of 4 KiB
 * @bitmap_off: byte offset of the dirty bitmap in the area, multiple of 8
 * @bitmap_words: 64-bit words of the dirty bitmap: ceil(pages / 64)
 * @summary_off: byte offset of the summary bitmap in the area, multiple of 8
 * @summary_words: 64-bit words of the summary: ceil(bitmap_words / 64)
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
	__u64 reserved;
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

#endif
