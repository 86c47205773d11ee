/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef DECIDE_ESTIMATE_H
#define DECIDE_ESTIMATE_H

#include <stdint.h>

#define ESTIMATE_SAMPLES 64

/**
 * struct estimate - what a thing of some size has taken of late
 * @size, @ns: the last samples, a ring; @nr: of them in use; @at: the next one's place
 * @guess_ns: what it is taken for before the first sample
 * @least, @most: sizes seen
 * @base, @slope: the line through them: base + size * slope / 2^32
 * @likely_over, @upper_over: what quantiles of the samples are above it
 */
struct estimate {
	uint64_t size[ESTIMATE_SAMPLES];
	uint64_t ns[ESTIMATE_SAMPLES];
	uint32_t nr, at;
	uint64_t guess_ns;

	/* worked out when a sample is learned: asking costs nothing, for it is done in blackouts */
	uint64_t least, most, slope;
	int64_t base;
	uint64_t likely_over, upper_over;
};

/** struct expected - @mean_ns: as likely more as less; @likely_ns: in one of five times more; @upper_ns: hardly ever */
struct expected {
	uint64_t mean_ns, likely_ns, upper_ns;
};

/* a - b, but never below zero */
static inline uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

void estimate_init(struct estimate *e, uint64_t guess_ns);
void estimate_learn(struct estimate *e, uint64_t size, uint64_t ns);
uint64_t estimate_worst(const struct estimate *e);
void estimate_expect(const struct estimate *e, uint64_t size, struct expected *to);

#endif
