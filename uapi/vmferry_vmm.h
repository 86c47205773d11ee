/* SPDX-License-Identifier: MIT */
/*
 * The VMM socket: what a VMM and vmferryd say to one another, and which fds ride
 * with each message.
 *
 * Theory of operation
 *
 * A Unix stream socket. The VMM connects and sends HELLO, the daemon answers it.
 * The VMM sends REGISTER with its fds, the daemon answers. From then on the daemon
 * asks and the VMM answers each request exactly once, in order, with the same type
 * and seq, VMFERRY_MSG_REPLY set, and status 0 or a negative errno.
 *
 *   struct vmferry_msg | body (len bytes)           fds in SCM_RIGHTS of the first byte
 *
 * A connection that breaks costs the VM nothing: the VMM goes on running its guest
 * (or holds it paused if the daemon had paused it), and connects again.
 *
 * Names are printable ASCII without blanks, at least one character and a NUL. A registration with other names is refused.
 *
 * Versions: HELLO of the VMM carries the range that it speaks, the answer the version that both speak from then
 * on: the newest in both ranges. A VMM runs for as long as its guest, so that a daemon speaks all versions from
 * VMFERRY_VMM_OLDEST on.
 *   1  as below, without what names version 2
 *   2  MIGRATION; REGISTER ends with the last one; a refused REGISTER is answered with the reason
 */
#ifndef UAPI_VMFERRY_VMM_H
#define UAPI_VMFERRY_VMM_H

#include <linux/types.h>

#define VMFERRY_VMM_SOCKET "/run/vmferry/vmm.sock"
#define VMFERRY_VMM_MAGIC 0x4d4d5646 /* "FVMM" */
#define VMFERRY_VMM_VERSION 2
#define VMFERRY_VMM_OLDEST 1
#define VMFERRY_VMM_MAX_BODY (64 * 1024)
#define VMFERRY_VMM_MAX_FDS 128
#define VMFERRY_VMM_NAME_LEN 64
#define VMFERRY_VMM_MAX_DEVICES 16

#define VMFERRY_MSG_REPLY (1u << 31)

/**
 * enum vmferry_msg_type - requests; V: sent by the VMM, D: sent by the daemon
 * @VMFERRY_MSG_HELLO: V. body: struct vmferry_msg_hello, both ways
 * @VMFERRY_MSG_REGISTER: V. body: struct vmferry_msg_register and its regions;
 *	fds: the shared area, then one memfd a region, then the KVM VM if a flag says so;
 *	behind the regions the devices; version 2: behind these a struct vmferry_msg_migration.
 *	Version 2: the body of an answer with a negative status is the reason in words, without NUL
 * @VMFERRY_MSG_START_LOG: D. turn dirty logging on and harvest from now on;
 *	body: struct vmferry_msg_start_log
 * @VMFERRY_MSG_STOP_LOG: D. turn it off again
 * @VMFERRY_MSG_HARVEST: D. harvest now; answered when all is published
 * @VMFERRY_MSG_PAUSE: D. stop all vCPUs, then harvest; reply: struct vmferry_msg_paused
 * @VMFERRY_MSG_RESUME: D. run the guest on; reply: struct vmferry_msg_resumed
 * @VMFERRY_MSG_SAVE: D. write the whole state of vCPUs and devices; fd: where to;
 *	reply: struct vmferry_msg_saved, then what each device took, __u64 nanoseconds
 * @VMFERRY_MSG_LOAD: D. body: struct vmferry_msg_saved; fd: where from; reply: what each
 *	device took, __u64 nanoseconds
 * @VMFERRY_MSG_RUN: D. commit: this VMM now owns the guest and runs it;
 *	reply: struct vmferry_msg_resumed
 * @VMFERRY_MSG_THROTTLE: D. body: struct vmferry_msg_throttle
 * @VMFERRY_MSG_RELEASE: D. the guest lives elsewhere now and must never run here
 * @VMFERRY_MSG_QUERY: D. reply: struct vmferry_msg_state
 * @VMFERRY_MSG_DISCARD: D. an incoming migration came to nothing: forget what arrived
 * @VMFERRY_MSG_MIGRATION: D. version 2. body: struct vmferry_msg_migration: a migration of this VM begins; to be
 *	remembered, over connections too, until the next one or until RELEASE or DISCARD
 */
enum vmferry_msg_type {
	VMFERRY_MSG_HELLO = 1,
	VMFERRY_MSG_REGISTER,
	VMFERRY_MSG_START_LOG,
	VMFERRY_MSG_STOP_LOG,
	VMFERRY_MSG_HARVEST,
	VMFERRY_MSG_PAUSE,
	VMFERRY_MSG_RESUME,
	VMFERRY_MSG_SAVE,
	VMFERRY_MSG_LOAD,
	VMFERRY_MSG_RUN,
	VMFERRY_MSG_THROTTLE,
	VMFERRY_MSG_RELEASE,
	VMFERRY_MSG_QUERY,
	VMFERRY_MSG_DISCARD,
	VMFERRY_MSG_MIGRATION,
	VMFERRY_MSG_NR,
};

/**
 * enum vmferry_run_state - which side of a migration a VMM is on
 * @VMFERRY_RUN_RUNNING: the guest runs here
 * @VMFERRY_RUN_PAUSED: the guest is here and stopped
 * @VMFERRY_RUN_INCOMING: no guest yet; its RAM may arrive
 * @VMFERRY_RUN_LOADED: RAM and state are here; RUN has not been said
 * @VMFERRY_RUN_RELEASED: the guest has left and must not run here
 */
enum vmferry_run_state {
	VMFERRY_RUN_RUNNING = 1,
	VMFERRY_RUN_PAUSED,
	VMFERRY_RUN_INCOMING,
	VMFERRY_RUN_LOADED,
	VMFERRY_RUN_RELEASED,
};

/**
 * struct vmferry_msg - header of every message
 * @type: enum vmferry_msg_type, with VMFERRY_MSG_REPLY in an answer
 * @len: bytes of the body that follows, at most VMFERRY_VMM_MAX_BODY
 * @seq: chosen by the asking side, repeated in the answer
 * @status: 0 or a negative errno; 0 in requests
 */
struct vmferry_msg {
	__u32 type;
	__u32 len;
	__u32 seq;
	__s32 status;
};
_Static_assert(sizeof(struct vmferry_msg) == 16, "ABI");

/* vmferry_msg_hello.features of a VMM: the newest version that it speaks; 0: @version is the only one */
#define VMFERRY_FEATURES_NEWEST_SHIFT 48

/**
 * struct vmferry_msg_hello - the first message, both ways
 * @version: of a VMM: the oldest version that it speaks; of the daemon: the version that is spoken
 * @features: bits of either side; unknown ones are ignored
 */
struct vmferry_msg_hello {
	__u32 magic;
	__u32 version;
	__u64 features;
};
_Static_assert(sizeof(struct vmferry_msg_hello) == 16, "ABI");

/**
 * struct vmferry_msg_region - one region of RAM
 * @name: a name
 * @gpa: guest-physical address
 * @size: bytes
 * @fd_off: where it begins in its memfd, bytes
 * @page_size: bytes of the memfd's pages (4096, or huge), a power of two that divides @size and @fd_off
 * @reserved: zero
 *
 * No byte of guest memory, and none of a memfd, is in two regions.
 */
struct vmferry_msg_region {
	char name[VMFERRY_VMM_NAME_LEN];
	__u64 gpa;
	__u64 size;
	__u64 fd_off;
	__u32 page_size;
	__u32 reserved;
};
_Static_assert(sizeof(struct vmferry_msg_region) == 96, "ABI");

/**
 * struct vmferry_msg_device - a device whose state takes time to save and load
 * @name: which one, as messages to the owner call it; a name
 * @kind: a name, or empty; what it is: devices of one kind and size cost much the same on the same hosts
 * @state_size: bytes at most
 */
struct vmferry_msg_device {
	char name[32];
	char kind[32];
	__u64 state_size;
};
_Static_assert(sizeof(struct vmferry_msg_device) == 72, "ABI");

/** enum vmferry_role - of a VM in a migration; @VMFERRY_ROLE_NONE: there is none */
enum vmferry_role {
	VMFERRY_ROLE_NONE,
	VMFERRY_ROLE_SOURCE,
	VMFERRY_ROLE_DESTINATION,
};

/**
 * struct vmferry_msg_migration - a migration of this VM
 * @id: as in the daemons' journals
 * @role: enum vmferry_role; VMFERRY_ROLE_NONE: @id is zeros
 */
struct vmferry_msg_migration {
	__u8 id[16];
	__u32 role;
	__u32 reserved;
};
_Static_assert(sizeof(struct vmferry_msg_migration) == 24, "ABI");

/* vmferry_msg_register.flags: RAM of an incoming VM is empty, nobody wrote to it yet */
#define VMFERRY_REGISTER_FRESH (1u << 0)
/* the last fd is the KVM VM's: the kernel module may harvest in the VMM's place */
#define VMFERRY_REGISTER_VM_FD (1u << 1)

/**
 * struct vmferry_msg_register - what a VMM says of its VM, followed by nr_regions regions
 * @name: a name, unique on the host together with the direction
 * @uuid: 16 bytes, the same on both hosts, or zeros for "any"
 * @run_state: enum vmferry_run_state
 * @nr_regions: entries that follow
 * @nr_vcpus: number of vCPUs
 * @pid: the VMM's process, for messages only
 * @area_size: bytes of the shared area
 * @state_size: upper estimate of the state that SAVE will write, bytes
 * @flags: VMFERRY_REGISTER_*
 * @nr_devices: entries that follow the regions
 * @untracked: empty, or a name: that of a device that writes guest RAM and that no
 *	tracker sees; such a VM is refused
 */
struct vmferry_msg_register {
	char name[VMFERRY_VMM_NAME_LEN];
	__u8 uuid[16];
	__u32 run_state;
	__u32 nr_regions;
	__u32 nr_vcpus;
	__s32 pid;
	__u64 area_size;
	__u64 state_size;
	__u32 flags;
	__u32 nr_devices;
	char untracked[VMFERRY_VMM_NAME_LEN];
};
_Static_assert(sizeof(struct vmferry_msg_register) == 184, "ABI");

/* vmferry_msg_start_log.flags: the kernel module has the rings; only mark the VMM's own writes */
#define VMFERRY_LOG_MARKS_ONLY (1u << 0)

/** struct vmferry_msg_start_log - @flags: VMFERRY_LOG_* */
struct vmferry_msg_start_log {
	__u32 flags;
	__u32 reserved;
};

/**
 * struct vmferry_msg_paused - answer to PAUSE; times are CLOCK_MONOTONIC nanoseconds
 * @last_exit_ns: when the last vCPU left the guest
 * @stopped_ns: when all were known to be stopped
 * @harvested_ns: when the last harvest was published
 */
struct vmferry_msg_paused {
	__u64 last_exit_ns;
	__u64 stopped_ns;
	__u64 harvested_ns;
};

/** struct vmferry_msg_resumed - @first_entry_ns: when the first vCPU entered the guest */
struct vmferry_msg_resumed {
	__u64 first_entry_ns;
};

/** struct vmferry_msg_saved - @len: bytes of state written, or to be loaded */
struct vmferry_msg_saved {
	__u64 len;
};

/** struct vmferry_msg_throttle - @percent: share of time the writing vCPUs sleep, 0-99 */
struct vmferry_msg_throttle {
	__u32 percent;
	__u32 reserved;
};

/** struct vmferry_msg_state - @run_state: enum vmferry_run_state */
struct vmferry_msg_state {
	__u32 run_state;
	__u32 reserved;
};

#endif
