/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef DECIDE_ESTIMATE_H
#define DECIDE_ESTIMATE_H

#include <stdint.h>

#define ESTIMATE_SAMPLES 64

/**
 * struct estimate - what a thing of some size has taken of late
 * @size, @ns: the last samples, a ring; @nr: of them in use; @at: the next one's place
 * @guess_ns: what it is taken for before the first sample
 */
struct estimate {
	uint64_t size[ESTIMATE_SAMPLES];
	uint64_t ns[ESTIMATE_SAMPLES];
	uint32_t nr, at;
	uint64_t guess_ns;
};

/** struct expected - @mean_ns: as likely more as less; @upper_ns: hardly ever more */
struct expected {
	uint64_t mean_ns, upper_ns;
};

void estimate_init(struct estimate *e, uint64_t guess_ns);
void estimate_learn(struct estimate *e, uint64_t size, uint64_t ns);
void estimate_expect(const struct estimate *e, uint64_t size, struct expected *to);

#endif
