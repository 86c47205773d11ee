/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef DECIDE_PREDICTOR_H
#define DECIDE_PREDICTOR_H

#include <stdint.h>

/** enum predictor_part - the parts of a blackout, in their order */
enum predictor_part {
	PART_STOP,  /* stop request to last harvest published */
	PART_PAGES, /* last pages and state over the channels */
	PART_SAVE,  /* state saved, what is not hidden behind the pages */
	PART_LOAD,  /* all received to READY heard */
	PART_START, /* GO sent to first guest entry */
	PART_NR,
};

/**
 * struct predictor - what is believed of each part, from what was measured
 * @mean_ns, @dev_ns: running mean and mean deviation; samples counted in @nr
 * @goodput: bytes a second over all channels, running mean of rounds
 */
struct predictor {
	uint64_t mean_ns[PART_NR];
	uint64_t dev_ns[PART_NR];
	uint32_t nr[PART_NR];
	uint64_t goodput;
};

/** struct prediction - @upper_ns: the sum of upper bounds; @part_ns: their terms */
struct prediction {
	uint64_t part_ns[PART_NR];
	uint64_t upper_ns;
};

void predictor_init(struct predictor *p);
void predictor_learn(struct predictor *p, enum predictor_part part, uint64_t ns);
void predictor_learn_goodput(struct predictor *p, uint64_t bytes, uint64_t ns);
void predictor_predict(const struct predictor *p, uint64_t dirty_bytes, uint64_t state_bytes,
		       struct prediction *out);
uint64_t predictor_upper(const struct predictor *p, enum predictor_part part);
const char *predictor_part_name(enum predictor_part part);

#endif
