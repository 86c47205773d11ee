// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The calling thread goes before all ordinary ones, for the short time in which a guest
 * stands still and waits for it: on a busy host each wake-up may otherwise take
 * milliseconds. Without the right to (CAP_SYS_NICE) nothing changes.
 */
#include "urgent.h"

#include <sched.h>

void urgent_begin(void)
{
	sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &(struct sched_param){ .sched_priority = 1 });
}

void urgent_end(void)
{
	sched_setscheduler(0, SCHED_OTHER, &(struct sched_param){ .sched_priority = 0 });
}
