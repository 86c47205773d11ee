/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SIM_WALK_H
#define SIM_WALK_H

#include <stdbool.h>
#include <stdint.h>

#include "faults.h"
#include "judge.h"
#include "vmm.h"

#define WALK_MAX_GUESTS 3 /* the last one may be another's namesake */

/**
 * struct walk - one walk: what its seed makes of it
 * @left_out: bits of faults that do not happen, to find those that a verdict needs
 * @faults, @nr_faults: those of its plan; walk_run() writes them
 * @verdict: what the judge says
 */
struct walk {
	uint64_t seed;
	uint32_t left_out;
	struct fault faults[FAULTS_MAX];
	unsigned int nr_faults;
	struct verdict verdict;
	uint64_t nr_events, nr_migrations, nr_moved;
};

extern struct guest walk_guests[WALK_MAX_GUESTS];
extern unsigned int walk_nr_guests, walk_nr_moving;

void walk_run(struct walk *w);
bool walk_has_liars(void);

#endif
