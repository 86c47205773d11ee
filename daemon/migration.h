/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef MIGRATION_H
#define MIGRATION_H

#include <stdbool.h>
#include <stdint.h>

#include "control/blackout.h"
#include "control/journal.h"
#include "decide/predictor.h"
#include "ferry.h"
#include "pages/channel.h"

/** enum migration_timeout_action - when a timeout is over: give up, slow the guest, or stop it for as long as it takes */
enum migration_timeout_action { TIMEOUT_ABORT, TIMEOUT_THROTTLE, TIMEOUT_PAUSE };

const char *migration_timeout_action_name(enum migration_timeout_action a);

/** struct migration_params - what the owner asks for; QEMU's names where it has one */
struct migration_params {
	unsigned int channels;		/* multifd-channels, 1-16 */
	unsigned int downtime_limit_ms; /* downtime-limit */
	bool strict;			/* downtime-limit-strict */
	uint64_t max_bandwidth;		/* bytes a second, 0: no limit */
	int zstd_level;			/* 0: no compression */
	unsigned int switchover_ratio;	/* percent of the limit that bytes may take, 0: what is left of it */
	unsigned int downtime_initial_ms; /* where the steps begin, 0: a tenth of the limit */
	unsigned int downtime_steps;	/* from there to the limit, one a round */
	unsigned int timeout_s;		/* of the whole migration, 0: none */
	unsigned int progress_timeout_s; /* with less and less left to send, 0: none */
	enum migration_timeout_action timeout_action;
	bool throttle;			/* may slow the guest down */
	unsigned int max_tries;		/* switchovers that may be called off */
};

extern const struct migration_params migration_default_params;

enum migration_status {
	MIGRATION_SETUP,
	MIGRATION_ACTIVE,
	MIGRATION_DEVICE, /* the guest is stopped */
	MIGRATION_COMPLETED,
	MIGRATION_FAILED,
	MIGRATION_CANCELLING,
	MIGRATION_CANCELLED,
	MIGRATION_HELD,
};

const char *migration_status_name(enum migration_status s);
bool migration_is_over(enum migration_status s);

#define MIGRATION_MAX_VCPUS 64 /* told of one by one */
#define MIGRATION_MAX_ROUNDS 64 /* remembered one by one; later ones are merged into the last */

/**
 * struct migration_round - one pass; times in nanoseconds since the migration began
 * @pages, @bytes: sent; @ns: it took; @dirty: pages found dirty after it
 * @expected_ns, @upper_ns: a switchover right after it; @bound_ns: what it might have taken
 * @advice: enum converge_advice
 */
struct migration_round {
	uint64_t pages, bytes, ns, dirty;
	uint64_t end_ns, expected_ns, upper_ns, bound_ns;
	int advice;
};

#define MIGRATION_MAX_DECISIONS 128

/** struct migration_decision - what was decided, and why; @at_ns: since the migration began */
struct migration_decision {
	uint64_t at_ns;
	char text[160];
};

/**
 * struct migration_report - the account of one migration
 * @counters: sums over the channels
 * @blackout_ns: last guest exit to first guest entry, wrong by @clock_error_ns at most
 * @downtime_ns: last guest exit to the news of it, this host's clock alone
 * @wait_ns: what a thread of the VMM waits for its turn on a processor, if any does
 * @probe_missed: events that the kernel kept from the probe meanwhile, of any VM on this host
 * @stall_ns: longest stop of a try that was called off
 */
struct migration_report {
	uint64_t total_ns, setup_ns;
	struct migration_round rounds[MIGRATION_MAX_ROUNDS];
	unsigned int nr_rounds, dirty_sync_count;
	uint64_t remaining_pages;
	struct channel_counters counters;
	struct prediction predicted;
	uint64_t actual_ns[PART_NR];
	uint64_t blackout_ns, clock_error_ns, downtime_ns, wait_ns;
	int64_t clock_offset_ns;
	enum blackout_by timed_by;
	struct migration_decision decisions[MIGRATION_MAX_DECISIONS];
	unsigned int nr_decisions;
	struct brownout brownout[MIGRATION_MAX_VCPUS];
	uint64_t vcpu_throttled_ns[MIGRATION_MAX_VCPUS];
	unsigned int nr_brownouts, nr_vcpus;
	uint64_t probe_missed;
	unsigned int tries, throttle_percent;
	uint64_t goodput;
	uint64_t throttled_ns, ring_full;
	uint64_t stall_ns;
	uint32_t huge;
	bool tracker_is_ring, tracker_is_kmod;
	bool stalled;
	char advice[256];
};

struct migration;

int migration_start(struct ferry *f, const char *vm, const char *uri,
		    const struct migration_params *params, char *why, size_t why_len);
int migration_cancel(struct ferry *f, const char *vm, char *why, size_t why_len);
struct migration *migration_next_held(struct ferry *f, const struct migration *m);
int migration_resolve(struct migration *m, bool run_here, char *why, size_t why_len);
bool migration_vm_is_back(struct ferry *f, struct vm *vm);
struct migration *migration_find(struct ferry *f, const char *vm);
void migration_stop_all(struct ferry *f, const char *reason);

bool migration_is_closing(const struct migration *m);
const char *migration_vm(const struct migration *m);
bool migration_has_id(const struct migration *m, const uint8_t id[16]);
const uint8_t *migration_id(const struct migration *m);
bool migration_has_vmm(const struct migration *m, const struct vm *vm);
bool migration_is_connected(const struct migration *m);
bool migration_is_live(struct ferry *f, const uint8_t id[16]);
const char *migration_uri(const struct migration *m);
enum migration_status migration_status(const struct migration *m);
const char *migration_error(const struct migration *m);
const struct migration_params *migration_params_of(const struct migration *m);
void migration_read_report(struct migration *m, struct migration_report *to);
uint64_t migration_elapsed_ns(const struct migration *m);

int greeter_listen(struct ferry *f, const char *uri);
void greeter_stop(struct ferry *f);
void incoming_stop(struct ferry *f, const char *reason);
bool incoming_cleans_later(struct ferry *f, struct vm *vm);
const char *plan_refuses(struct ferry *f, struct vm *vm, char *text, size_t len);

const char *recovery_refuses(void *owner, struct vm *vm, char *text, size_t len);
void recovery_registered(void *owner, struct vm *vm);
void recovery_clean(struct vm *vm);

#endif
