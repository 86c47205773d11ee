// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The peer's clock against ours.
 *
 *   ours   sent ─────────▶                    ─▶ got
 *   theirs          got ──── answered ── sent
 *
 * offset = ((theirs_got - sent) + (theirs_sent - got)) / 2, wrong by half of the round
 * trip at most, however unequal its two ways were. So the sample with the shortest trip is
 * believed; one that has aged is wrong by what the clocks may have drifted since, too.
 */
#include "clock.h"

void clock_init(struct clock_pair *c)
{
	*c = (struct clock_pair){ .nr = 0 };
}

/** clock_learn() - one round trip; what cannot be true (a clock that jumped) is left out */
void clock_learn(struct clock_pair *c, uint64_t sent_ns, uint64_t theirs_got_ns,
		 uint64_t theirs_sent_ns, uint64_t got_ns)
{
	uint64_t away = got_ns - sent_ns, there = theirs_sent_ns - theirs_got_ns;
	struct clock_sample *s = &c->sample[c->at];

	if (got_ns < sent_ns || theirs_sent_ns < theirs_got_ns || there > away)
		return;
	s->at_ns = got_ns;
	s->trip_ns = away - there;
	s->offset_ns = ((int64_t)(theirs_got_ns - sent_ns) + (int64_t)(theirs_sent_ns - got_ns)) / 2;
	c->at = (c->at + 1) % CLOCK_SAMPLES;
	if (c->nr < CLOCK_SAMPLES)
		c->nr++;
}

static uint64_t error_of(const struct clock_sample *s, uint64_t now_ns)
{
	uint64_t age = now_ns > s->at_ns ? now_ns - s->at_ns : 0;

	return s->trip_ns / 2 + age / (1000000 / CLOCK_DRIFT_PPM);
}

/**
 * clock_offset() - what to take from a time of theirs to have it on our clock
 * Return: false: nothing is known yet
 */
bool clock_offset(const struct clock_pair *c, uint64_t now_ns, int64_t *offset_ns, uint64_t *error_ns)
{
	const struct clock_sample *best = c->sample;

	for (uint32_t i = 1; i < c->nr; i++)
		if (error_of(&c->sample[i], now_ns) < error_of(best, now_ns))
			best = &c->sample[i];
	*offset_ns = best->offset_ns;
	*error_ns = error_of(best, now_ns);
	return c->nr;
}

/** clock_trip_ns() - median of the last round trips, 0: none */
uint64_t clock_trip_ns(const struct clock_pair *c)
{
	uint64_t v[CLOCK_SAMPLES];

	for (uint32_t i = 0; i < c->nr; i++) {
		uint32_t k = i;

		for (; k && v[k - 1] > c->sample[i].trip_ns; k--)
			v[k] = v[k - 1];
		v[k] = c->sample[i].trip_ns;
	}
	return c->nr ? v[c->nr / 2] : 0;
}
