/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef DECIDE_CONVERGENCE_H
#define DECIDE_CONVERGENCE_H

#include <stdbool.h>
#include <stdint.h>

/** enum converge_advice - what to do with the next round */
enum converge_advice {
	CONVERGE_GO_ON,	   /* the rest shrinks, or may become small again */
	CONVERGE_SWITCH,   /* expected to make the limit, and a better moment is not in sight */
	CONVERGE_THROTTLE, /* stalled, and slowing the guest is allowed: one step more */
	CONVERGE_STALLED,  /* stalled, and nothing may be done about it */
};

/**
 * struct convergence_config - what the owner allows
 * @limit_ns: downtime-limit
 * @initial_ns: downtime-initial: the first step; 0: a tenth of the limit
 * @steps: from there to the limit, one a round; 1: the limit at once
 * @data_ns: what bytes may take of it: switchover-ratio; UINT64_MAX: no bound
 * @may_throttle: cpu throttling is allowed
 */
struct convergence_config {
	uint64_t limit_ns, initial_ns, data_ns;
	unsigned int steps;
	bool may_throttle;
};

/** struct convergence_round - how a switchover now is expected to be: @upper_ns, and @data_ns of bytes */
struct convergence_round {
	uint64_t upper_ns, data_ns;
};

/**
 * struct convergence - rounds so far
 * @step: how far the bound has risen; @bound_ns: what a switchover may take now
 * @best: least expected blackout seen since the last progress, ns
 * @stalled: rounds since then
 * @throttle: percent now
 */
struct convergence {
	struct convergence_config cfg;
	unsigned int step;
	uint64_t bound_ns;
	uint64_t best;
	unsigned int stalled;
	unsigned int throttle;
};

void convergence_init(struct convergence *c, const struct convergence_config *cfg);
enum converge_advice convergence_round(struct convergence *c, const struct convergence_round *now);

#endif
