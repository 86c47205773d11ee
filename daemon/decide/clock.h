/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef DECIDE_CLOCK_H
#define DECIDE_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

#define CLOCK_SAMPLES 32
#define CLOCK_DRIFT_PPM 100 /* two hosts' clocks at most, between NTP's corrections */

struct clock_sample {
	uint64_t at_ns; /* on our clock */
	int64_t offset_ns;
	uint64_t trip_ns;
};

/**
 * struct clock_pair - the peer's monotonic clock against ours, from round trips
 * @sample: the last ones, a ring
 */
struct clock_pair {
	struct clock_sample sample[CLOCK_SAMPLES];
	uint32_t nr, at;
};

void clock_init(struct clock_pair *c);
void clock_learn(struct clock_pair *c, uint64_t sent_ns, uint64_t theirs_got_ns,
		 uint64_t theirs_sent_ns, uint64_t got_ns);
bool clock_offset(const struct clock_pair *c, uint64_t now_ns, int64_t *offset_ns, uint64_t *error_ns);
uint64_t clock_trip_ns(const struct clock_pair *c);

#endif
