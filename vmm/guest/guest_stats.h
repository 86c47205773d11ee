/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the workload guest tells of itself, in its own memory, and the ports it uses.
 * Included by the guest and by ferryvm, which only reads.
 */
#ifndef GUEST_STATS_H
#define GUEST_STATS_H

#include <stdint.h>

#define GUEST_STATS_GPA 0x400000ULL /* one page a vCPU */
#define GUEST_STATS_MAGIC 0x7374617473474d56ULL

#define GUEST_PORT_CONSOLE 0xe9
#define GUEST_PORT_INCARNATION 0xe8 /* in: how often the VMM has let the guest run */
#define GUEST_PORT_SLEEP 0xec	    /* out: microseconds to sleep */
#define GUEST_PORT_DISK 0xd0	    /* out: gpa of a struct guest_disk_request */

#define GUEST_AP_MAGIC 0x46564d58 /* EAX of all vCPUs but the first at entry */

#define GUEST_DISK_WRITE 1
#define GUEST_DISK_READ 2

/** struct guest_disk_request - one page to or from the disk; done when the out returns */
struct guest_disk_request {
	uint32_t op;
	int32_t status;
	uint64_t offset;
	uint64_t gpa;
};

#define GUEST_HISTORY 64 /* blackouts remembered one by one */

/**
 * struct guest_stats - one vCPU's account; written by that vCPU only
 * @beats: heartbeats, one each hb_us
 * @last_tsc: TSC of the last turn of the loop
 * @gap_max: longest gap between two turns in one incarnation, TSC ticks
 * @blackouts: gaps across which the incarnation changed; @blackout_last,
 *	@blackout_max in TSC ticks
 * @written, @verified: pages; @owned: pages to verify in one full turn
 * @errors: pages found wrong; @bad_page, @bad_word, @bad_want, @bad_got: the first
 * @history: blackout n is in n % GUEST_HISTORY, counted from 1, TSC ticks
 * @filled: 1 once the fill is done
 */
struct guest_stats {
	uint64_t magic;
	uint64_t filled;
	uint64_t beats;
	uint64_t last_tsc;
	uint64_t gap_max;
	uint64_t blackouts;
	uint64_t blackout_last;
	uint64_t blackout_max;
	uint64_t written;
	uint64_t verified;
	uint64_t owned;
	uint64_t errors;
	uint64_t bad_page;
	uint64_t bad_word;
	uint64_t bad_want;
	uint64_t bad_got;
	uint64_t disk_ops;
	uint64_t history[GUEST_HISTORY];
};

#endif
