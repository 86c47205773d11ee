/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef DECIDE_PREDICTOR_H
#define DECIDE_PREDICTOR_H

#include <stdbool.h>
#include <stdint.h>

#include "estimate.h"

#define PREDICTOR_DEVICES 16
#define PREDICTOR_ROUNDS 16

/** enum predictor_part - the parts of a blackout, in their order; they follow one another */
enum predictor_part {
	PART_STOP,    /* last guest exit to all vCPUs known to be stopped */
	PART_HARVEST, /* last harvest, until the source has heard of it */
	PART_PAGES,   /* last pages over the channels */
	PART_SAVE,    /* devices' state saved: what is not hidden behind the pages */
	PART_STATE,   /* devices' state over the channels */
	PART_LOAD,    /* devices' state loaded at the destination */
	PART_TRIP,    /* the ways there and back around the load; what was sent, but had not arrived */
	PART_START,   /* GO sent to first guest entry */
	PART_NR,
};

/**
 * struct predictor_device - a device of the guest
 * @kind: what figures are learned under; @size: bytes of its state at most
 * @save, @load: what that has taken, by size
 */
struct predictor_device {
	char name[32], kind[32];
	uint64_t size;
	struct estimate save, load;
};

/**
 * struct predictor - what is believed of a blackout, from what was measured
 * @part: each part's cost, PART_PAGES, PART_STATE and PART_TRIP by bytes, PART_SAVE and
 *	PART_LOAD without the devices'
 * @resume: RESUME asked to first entry at the source: not a part, but kept in reserve
 * @total: whole blackouts, in thousandths of what was expected of them
 * @goodput: bytes a second over all channels, of the last rounds, a ring; @low: their low quartile
 */
struct predictor {
	struct estimate part[PART_NR];
	struct estimate resume, total;
	uint64_t goodput[PREDICTOR_ROUNDS], low;
	uint32_t nr_goodput, at_goodput;
	struct predictor_device device[PREDICTOR_DEVICES];
	unsigned int nr_devices;
};

/**
 * struct prediction - one blackout as it is expected
 * @whole: all of it; its upper bound is not the sum of the parts' but learned of whole ones
 * @sum_ns: of the parts' means, before what whole blackouts taught
 * @measured_ns: of it what is no guess
 * @data_ns: what bytes take, out of PART_PAGES and PART_STATE
 * @device: the one that costs most; @device_ns: saving and loading it, mean
 * @is_cold: some of it is only a guess
 */
struct prediction {
	struct expected part[PART_NR];
	struct expected whole;
	uint64_t sum_ns, measured_ns, data_ns;
	uint64_t rest_bytes, state_bytes;
	int device;
	uint64_t device_ns;
	bool is_cold;
};

void predictor_init(struct predictor *p);
void predictor_add_device(struct predictor *p, const char *name, const char *kind, uint64_t size);
void predictor_guess_trip(struct predictor *p, uint64_t trip_ns);
void predictor_learn_goodput(struct predictor *p, uint64_t bytes, uint64_t ns);
uint64_t predictor_goodput(const struct predictor *p);
uint64_t predictor_bytes_ns(const struct predictor *p, uint64_t bytes);
void predictor_learn_part(struct predictor *p, enum predictor_part part, uint64_t bytes, uint64_t ns);
void predictor_learn_total(struct predictor *p, uint64_t expected_ns, uint64_t ns);
void predictor_predict(const struct predictor *p, uint64_t rest_bytes, uint64_t state_bytes,
		       struct prediction *to);
uint64_t predictor_from(const struct prediction *p, enum predictor_part first);
uint64_t predictor_resume_ns(const struct predictor *p);
uint64_t predictor_start_ns(const struct predictor *p);
const char *predictor_part_name(enum predictor_part part);

#endif
