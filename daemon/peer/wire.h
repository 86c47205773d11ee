/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The wire between two daemons, apart from pages: hello, and control messages.
 *
 * Every connection begins with a struct wire_hello and its struct wire_welcome. On the
 * control connection struct wire_msg follow, each with a body of its type. All fields
 * are little-endian; vmferry runs on little-endian hosts only, which the magic checks.
 */
#ifndef PEER_WIRE_H
#define PEER_WIRE_H

#include <stdint.h>

#define WIRE_MAGIC 0x59525245464d56ULL /* "VMFERRY" */
#define WIRE_VERSION 2
#define WIRE_MAX_BODY (1U << 20)
#define WIRE_ID_LEN 16
#define WIRE_TEXT_LEN 384
#define WIRE_MAX_DEVICES 16
#define WIRE_HELLO_TIMEOUT_MS 5000

/** enum wire_role - @WIRE_RESOLVE: asks what became of a migration, instead of making one */
enum wire_role { WIRE_CONTROL = 1, WIRE_CHANNEL, WIRE_RESOLVE };

/**
 * struct wire_hello - the first bytes of every connection
 * @features: none yet; unknown bits are ignored
 * @id: random, names the migration
 * @channel, @nr_channels: of a channel
 * @host: boot id of the sender: equal boot ids share a clock
 */
struct wire_hello {
	uint64_t magic;
	uint32_t version;
	uint32_t role;
	uint64_t features;
	uint8_t id[WIRE_ID_LEN];
	uint32_t channel;
	uint32_t nr_channels;
	uint8_t host[16];
	uint8_t reserved[64];
};
_Static_assert(sizeof(struct wire_hello) == 128, "wire");

/** struct wire_welcome - @status: 0 or a negative errno with @text; then the peer closes */
struct wire_welcome {
	uint64_t magic;
	uint32_t version;
	int32_t status;
	uint8_t host[16];
	char text[WIRE_TEXT_LEN];
};
_Static_assert(sizeof(struct wire_welcome) == 416, "wire");

/**
 * enum wire_type - S: from the source, D: from the destination
 * @WIRE_PLAN: S. struct wire_plan and its regions
 * @WIRE_PLAN_OK: D. struct wire_plan_ok
 * @WIRE_AHEAD: S. struct wire_ahead and a bitmap of blocks to fault in
 * @WIRE_PLACED: D. struct wire_placed: all channels have placed that round
 * @WIRE_PREPARE: S. a switchover is near
 * @WIRE_PREPARED: D. it will know of the switchover after a loss of power, too: its journal is synced
 * @WIRE_STATE: S. struct wire_state: length of the device state of this attempt
 * @WIRE_READY: D. struct wire_ready
 * @WIRE_GO: S. only the destination may run the guest from here on
 * @WIRE_RUNNING: D. struct wire_running
 * @WIRE_ABORT: S. struct wire_abort: this attempt is off, precopy goes on
 * @WIRE_CANCEL: S. the migration is off; struct wire_failed says why
 * @WIRE_FAILED: D. struct wire_failed; the guest never ran there and never will
 * @WIRE_PING: S. struct wire_ping; any time
 * @WIRE_PONG: D. struct wire_pong
 * @WIRE_DROPPED: D. struct wire_ready: the attempt of the last ABORT is forgotten there, a
 *	new one may come; with what loading it took, if it was loaded
 */
enum wire_type {
	WIRE_PLAN = 1,
	WIRE_PLAN_OK,
	WIRE_AHEAD,
	WIRE_PLACED,
	WIRE_PREPARE,
	WIRE_PREPARED,
	WIRE_STATE,
	WIRE_READY,
	WIRE_GO,
	WIRE_RUNNING,
	WIRE_ABORT,
	WIRE_CANCEL,
	WIRE_FAILED,
	WIRE_PING,
	WIRE_PONG,
	WIRE_DROPPED,
	WIRE_NR,
};

struct wire_msg {
	uint32_t type;
	uint32_t len;
};

struct wire_region {
	char name[64];
	uint64_t gpa;
	uint64_t size;
};

/** struct wire_plan - @state_size: bytes of device state at most */
struct wire_plan {
	char name[64];
	uint8_t uuid[16];
	uint64_t state_size;
	uint32_t nr_regions;
	uint32_t nr_vcpus;
	uint32_t nr_channels;
	uint32_t reserved;
};

/** struct wire_plan_ok - @huge: enum place_huge of the destination's RAM */
struct wire_plan_ok {
	uint32_t huge;
	uint32_t reserved;
};

struct wire_ahead {
	uint32_t region;
	uint32_t reserved;
	uint64_t nr_blocks;
};

struct wire_placed {
	uint32_t round;
	uint32_t reserved;
};

struct wire_state {
	uint64_t len;
	uint32_t attempt;
	uint32_t reserved;
};

struct wire_abort {
	uint32_t attempt;
	uint32_t reserved;
};

/**
 * struct wire_ready - what loading has taken
 * @attempt: which one
 * @nr_devices: entries of @device_ns in use; in the order of the VMM's registration
 * @load_ns: all of it
 */
struct wire_ready {
	uint32_t attempt;
	uint32_t nr_devices;
	uint64_t load_ns;
	uint64_t device_ns[WIRE_MAX_DEVICES];
};
_Static_assert(sizeof(struct wire_ready) == 144, "wire");

/**
 * struct wire_running - times of the destination's monotonic clock
 * @vmm_entry_ns: first guest entry, by the VMM's word
 * @entry_ns: by the probe there; 0: it saw none
 * @by: enum blackout_by
 */
struct wire_running {
	uint64_t vmm_entry_ns;
	uint64_t entry_ns;
	uint32_t by;
	uint32_t reserved;
};

/** struct wire_ping - @sent_ns: the source's monotonic clock */
struct wire_ping {
	uint64_t sent_ns;
};

/** struct wire_pong - @sent_ns: of the ping; @got_ns, @answered_ns: the destination's clock */
struct wire_pong {
	uint64_t sent_ns, got_ns, answered_ns;
};

struct wire_failed {
	char text[WIRE_TEXT_LEN];
};

/** enum wire_resolved - answers to WIRE_RESOLVE, as wire_welcome.status */
enum wire_resolved {
	WIRE_RESOLVED_RUNNING = 1, /* the guest runs here, or did */
	WIRE_RESOLVED_NEVER = 2,   /* it never ran here and never will */
	WIRE_RESOLVED_LATER = 3,   /* ask again */
};

#endif
