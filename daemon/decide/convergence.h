/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef DECIDE_CONVERGENCE_H
#define DECIDE_CONVERGENCE_H

#include <stdbool.h>
#include <stdint.h>

/** enum converge_advice - what to do with the next round */
enum converge_advice {
	CONVERGE_GO_ON,	     /* the rest shrinks */
	CONVERGE_SWITCH,     /* expected to make the limit */
	CONVERGE_THROTTLE,   /* stalled, and slowing the guest is allowed: one step more */
	CONVERGE_STALLED,    /* stalled, and nothing may be done about it */
};

/**
 * struct convergence - rounds so far
 * @best: least expected blackout seen since the last progress, ns
 * @stalled: rounds since then
 * @throttle: percent now
 */
struct convergence {
	bool may_throttle;
	uint64_t best;
	unsigned int stalled;
	unsigned int throttle;
};

void convergence_init(struct convergence *c, bool may_throttle);
enum converge_advice convergence_round(struct convergence *c, uint64_t expected_ns,
				       uint64_t limit_ns);

#endif
