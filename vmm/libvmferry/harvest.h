/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VMM_HARVEST_H
#define VMM_HARVEST_H

#include <stdbool.h>
#include <stdint.h>

#include "area.h"
#include "libvmferry.h"

struct harvester;

int harvester_open(const struct vmferry_config *cfg, struct area *area, struct harvester **out);
void harvester_close(struct harvester *h);
int harvest_start(struct harvester *h, bool marks_only);
bool harvest_is_by_kmod(const struct harvester *h);
int harvest_stop(struct harvester *h);
int harvest_run(struct harvester *h);
int harvest_mark(struct harvester *h, uint64_t gpa, uint64_t len);

#endif
