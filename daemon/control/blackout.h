/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CONTROL_BLACKOUT_H
#define CONTROL_BLACKOUT_H

#include <jansson.h>
#include <stdint.h>

#include "base/limited.h"
#include "base/scribe.h"
#include "decide/predictor.h"

#define BLACKOUT_PEER_LEN 128

/** enum blackout_by - what a blackout was timed by, the better last */
enum blackout_by {
	BLACKOUT_BY_NOBODY,
	BLACKOUT_BY_VMM,     /* its own word */
	BLACKOUT_BY_KVM_RUN, /* the probe: KVM_RUN returned, and was called */
	BLACKOUT_BY_ENTRY,   /* the probe: guest exits and entries */
};

/** enum blackout_end - what a stop of the guest led to */
enum blackout_end { BLACKOUT_MOVED, BLACKOUT_CALLED_OFF };

/**
 * struct blackout_record - one stop of a guest; times in nanoseconds
 * @when_s: of the wall clock
 * @blackout_ns: last guest exit to first guest entry; wrong by @error_ns at most, of clocks
 * @expected: when the guest was stopped; @actual_ns: what came true, as far as it went
 */
struct blackout_record {
	char vm[64];
	char peer[BLACKOUT_PEER_LEN];
	uint64_t when_s;
	enum blackout_end end;
	enum blackout_by by;
	uint64_t limit_ns, blackout_ns, error_ns;
	struct prediction expected;
	uint64_t actual_ns[PART_NR];
};

/** struct brownout - what dirty tracking has cost one vCPU while it ran */
struct brownout {
	uint64_t faults, fault_ns; /* fault_ns 0: this kernel does not show it */
	uint64_t pushes;
	uint64_t fulls, full_ns;
};

struct blackouts;

int blackouts_open(struct scribe *s, struct limited *l, const char *history, struct blackouts **out);
void blackouts_close(struct blackouts *b);
void blackouts_add(struct blackouts *b, const struct blackout_record *r);
char *blackouts_text(const struct blackouts *b, const char *vm, size_t most);
const char *blackouts_why(const struct blackouts *b);

int blackout_watch(struct blackouts *b, int pid);
void blackout_say_watched(struct blackouts *b, int slot, int pid);
void blackout_unwatch(struct blackouts *b, int slot);
void blackout_arm(struct blackouts *b, int slot);
uint64_t blackout_last_exit_ns(const struct blackouts *b, int slot);
uint64_t blackout_first_entry_ns(const struct blackouts *b, int slot);
enum blackout_by blackout_by(const struct blackouts *b, int slot);
const char *blackout_by_name(enum blackout_by by);
uint64_t blackout_missed(const struct blackouts *b);
unsigned int blackout_brownout(const struct blackouts *b, int slot, struct brownout *to, unsigned int room);

#endif
