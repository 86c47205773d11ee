/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The wire between two daemons, apart from pages: hello, and control messages.
 *
 * Every connection begins with a struct wire_hello and its struct wire_welcome. On the
 * control connection struct wire_msg follow, each with a body of its type. All fields
 * are little-endian; vmferry runs on little-endian hosts only, which the magic checks.
 *
 * Versions: hello and welcome each carry the range that their sender speaks, and the newest version that is
 * in both ranges is spoken. A version 2 daemon knows no ranges: it takes a hello whose oldest version is 2, and
 * has zeros where the newest one would be. What needs which version says wire_oldest_for().
 */
#ifndef PEER_WIRE_H
#define PEER_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_MAGIC 0x59525245464d56ULL /* "VMFERRY" */
#define WIRE_VERSION 3
#define WIRE_OLDEST 2
/* A version 2 destination answers "never" without proof, and keeps no outcome until it is acknowledged. */
#define WIRE_OLDEST_TO_MOVE 3
#define WIRE_MAX_BODY (1U << 20)
#define WIRE_ID_LEN 16
#define WIRE_TEXT_LEN 384
#define WIRE_WELCOME_TEXT_LEN 352
#define WIRE_MAX_DEVICES 16
#define WIRE_HELLO_TIMEOUT_MS 5000

/**
 * enum wire_role - what a connection is for
 * @WIRE_CONTROL: a new migration
 * @WIRE_CHANNEL: pages of one
 * @WIRE_RESOLVE: asks what became of one; the answer is enum wire_resolved
 * @WIRE_SETTLE: tells its outcome to the destination; the answer is enum wire_settled
 */
enum wire_role { WIRE_CONTROL = 1, WIRE_CHANNEL, WIRE_RESOLVE, WIRE_SETTLE };

/** enum wire_outcome - of a migration: the guest runs, or did, at the destination (THERE) or at the source (HERE) */
enum wire_outcome { WIRE_OUTCOME_THERE = 1, WIRE_OUTCOME_HERE };

/**
 * struct wire_hello - the first bytes of every connection
 * @version: the oldest version that the sender speaks
 * @features: none yet; unknown bits are ignored
 * @id: random, names the migration
 * @channel, @nr_channels: of a channel
 * @host: boot id of the sender: equal boot ids share a clock
 * @newest: the newest version that the sender speaks; 0: @version is the only one
 * @outcome: enum wire_outcome, of WIRE_SETTLE
 * @journal: of WIRE_RESOLVE: the journal's id in the welcome of the migration that is asked about; zeros: none
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
	uint32_t newest;
	uint32_t outcome;
	uint8_t journal[16];
	uint8_t reserved[40];
};
_Static_assert(sizeof(struct wire_hello) == 128, "wire");
_Static_assert(offsetof(struct wire_hello, newest) == 64, "wire");

/**
 * struct wire_welcome - the answer to a hello
 * @version, @newest: as in struct wire_hello
 * @status: 0, an answer of the role's, or a negative errno with @text; then the peer closes
 * @journal: id of the journal that @id of the hello is written to; zeros: it has none, and proves nothing by absence
 *
 * A version 2 daemon reads @text up to its NUL, and sends zeros behind its own.
 */
struct wire_welcome {
	uint64_t magic;
	uint32_t version;
	int32_t status;
	uint8_t host[16];
	char text[WIRE_WELCOME_TEXT_LEN];
	uint32_t newest;
	uint32_t reserved32;
	uint8_t journal[16];
	uint8_t reserved[8];
};
_Static_assert(sizeof(struct wire_welcome) == 416, "wire");
_Static_assert(offsetof(struct wire_welcome, newest) == 32 + WIRE_WELCOME_TEXT_LEN, "wire");

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
	WIRE_RESOLVED_UNKNOWN = 4, /* nothing here proves either; version 2 knows only LATER */
};

/** enum wire_settled - answers to WIRE_SETTLE, as wire_welcome.status */
enum wire_settled {
	WIRE_SETTLED = 1,	      /* both agree; either may forget the migration */
	WIRE_SETTLED_CONTRADICTS = 2, /* here the other outcome is written; nothing is forgotten */
	WIRE_SETTLED_LATER = 3,	      /* ask again */
};

uint32_t wire_common(uint32_t oldest, uint32_t newest);
uint32_t wire_oldest_for(uint32_t role);
struct wire_hello wire_hello_for(enum wire_role role);
bool wire_is_older(uint32_t role, uint32_t oldest, uint32_t newest);
const char *wire_version_words(uint32_t oldest, uint32_t newest, char text[40]);

#endif
