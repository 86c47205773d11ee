/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef VMFERRY_HARVEST_H
#define VMFERRY_HARVEST_H

#include <linux/types.h>

struct attachment;

/* Test instrument: publish before the reset. */
extern bool debug_publish_early;

int harvest_start(struct attachment *a);
void harvest_stop(struct attachment *a);
int harvest_run(struct attachment *a, bool final);
bool harvest_is_due(struct attachment *a);
u32 harvest_next_period(struct attachment *a);

#endif
