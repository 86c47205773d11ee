// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Does the rest shrink? A round makes progress when the expected blackout is at least a
 * tenth below the best so far; after three rounds without, precopy has stalled.
 */
#include "convergence.h"

#define STALL_ROUNDS 3
#define THROTTLE_FIRST 20
#define THROTTLE_STEP 10
#define THROTTLE_MAX 99

void convergence_init(struct convergence *c, bool may_throttle)
{
	*c = (struct convergence){ .may_throttle = may_throttle, .best = UINT64_MAX };
}

static bool next_throttle(struct convergence *c)
{
	unsigned int next = c->throttle ? c->throttle + THROTTLE_STEP : THROTTLE_FIRST;

	if (c->throttle == THROTTLE_MAX)
		return false;
	c->throttle = next > THROTTLE_MAX ? THROTTLE_MAX : next;
	return true;
}

/** convergence_round() - after each round, with what a switchover now is expected to take */
enum converge_advice convergence_round(struct convergence *c, uint64_t expected_ns,
				       uint64_t limit_ns)
{
	if (expected_ns <= limit_ns)
		return CONVERGE_SWITCH;
	if (expected_ns < c->best - c->best / 10) {
		c->best = expected_ns;
		c->stalled = 0;
		return CONVERGE_GO_ON;
	}
	if (++c->stalled < STALL_ROUNDS)
		return CONVERGE_GO_ON;
	c->stalled = 0;
	if (c->may_throttle && next_throttle(c))
		return CONVERGE_THROTTLE;
	return CONVERGE_STALLED;
}
