// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * When to switch over? As late as the rest shrinks, as early as the bound allows.
 *
 *   expected
 *   blackout  \
 *      limit --\--------------------------.---   bound: rises from downtime-initial to the
 *               \                  .              limit, a step a round
 *                \_        .    __
 *                  \ .    __/\_/             x  below the bound: switch
 *              .    \_x__/  y                y  above it, below the limit, and the rest has
 *                                               stopped shrinking: a local minimum, switch
 *
 * So a guest that writes little pays little, whatever the limit; and one that writes much
 * is not sent round and round for a moment that does not come. A round makes progress when
 * the expected blackout is at least a tenth below the best so far; above the limit, three
 * rounds without are a stall.
 */
#include "convergence.h"

#define STALL_ROUNDS 3
#define THROTTLE_FIRST 20
#define THROTTLE_STEP 10
#define THROTTLE_MAX 99
#define NEAR 8 /* an eighth above the best is as good as the best */

void convergence_init(struct convergence *c, const struct convergence_config *cfg)
{
	*c = (struct convergence){ .cfg = *cfg, .best = UINT64_MAX };
	if (!c->cfg.steps)
		c->cfg.steps = 1;
	if (!c->cfg.initial_ns)
		c->cfg.initial_ns = cfg->limit_ns / 10;
	if (c->cfg.initial_ns > cfg->limit_ns)
		c->cfg.initial_ns = cfg->limit_ns;
}

static bool next_throttle(struct convergence *c)
{
	unsigned int next = c->throttle ? c->throttle + THROTTLE_STEP : THROTTLE_FIRST;

	if (c->throttle == THROTTLE_MAX)
		return false;
	c->throttle = next > THROTTLE_MAX ? THROTTLE_MAX : next;
	return true;
}

static void raise_bound(struct convergence *c)
{
	const struct convergence_config *cfg = &c->cfg;

	if (c->step < cfg->steps)
		c->step++;
	c->bound_ns = cfg->steps == 1 ? cfg->limit_ns :
		      cfg->initial_ns + (cfg->limit_ns - cfg->initial_ns) * (c->step - 1) / (cfg->steps - 1);
}

/** convergence_round() - after each round, with what a switchover now is expected to take */
enum converge_advice convergence_round(struct convergence *c, const struct convergence_round *now)
{
	bool fits = now->upper_ns <= c->cfg.limit_ns && now->data_ns <= c->cfg.data_ns;
	bool shrinks = now->upper_ns < c->best - c->best / 10;
	bool is_near = now->upper_ns <= c->best || now->upper_ns - c->best <= c->best / NEAR;

	raise_bound(c);
	if (shrinks)
		c->best = now->upper_ns;
	c->stalled = shrinks ? 0 : c->stalled + 1;
	if (fits && (now->upper_ns <= c->bound_ns || (!shrinks && is_near)))
		return CONVERGE_SWITCH;
	if (fits || c->stalled < STALL_ROUNDS)
		return CONVERGE_GO_ON;
	if (c->cfg.may_throttle && next_throttle(c)) {
		c->stalled = 0;
		c->best = now->upper_ns;
		return CONVERGE_THROTTLE;
	}
	return CONVERGE_STALLED;
}
