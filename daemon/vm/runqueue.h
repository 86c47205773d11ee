/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef VM_RUNQUEUE_H
#define VM_RUNQUEUE_H

#include <stdint.h>

#define RUNQUEUE_THREADS 512

/**
 * struct runqueue_look - how long a process's threads had waited for a processor, at one time
 * @at_ns: CLOCK_MONOTONIC
 * @thread: of each what /proc/PID/task/TID/schedstat says
 */
struct runqueue_look {
	uint64_t at_ns;
	unsigned int nr;
	struct {
		uint32_t tid;
		uint64_t waited_ns, slices;
	} thread[RUNQUEUE_THREADS];
};

void runqueue_look(struct runqueue_look *l, int pid);
uint64_t runqueue_wait_ns(const struct runqueue_look *before, const struct runqueue_look *now);

#endif
