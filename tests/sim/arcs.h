/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SIM_ARCS_H
#define SIM_ARCS_H

#include <stdbool.h>
#include <stdint.h>

#include "decide/switchover_dst.h"
#include "decide/switchover_src.h"

/** struct arcs - how often each arc of both tables was taken */
struct arcs {
	uint64_t src[SRC_NR_STATES][SRC_NR_EVENTS], dst[DST_NR_STATES][DST_NR_EVENTS];
};

extern struct arcs arcs;

void arcs_add(struct arcs *to, const struct arcs *from);
bool arcs_print(const struct arcs *a, uint64_t least, bool all);

#endif
