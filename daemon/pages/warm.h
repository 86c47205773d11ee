/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef PAGES_WARM_H
#define PAGES_WARM_H

#include "region.h"

struct warm;

int warm_start(const struct region *regions, unsigned int nr_regions, struct warm **out);
void warm_hold(void);
void warm_allow(void);
void warm_cease(struct warm *w);
void warm_stop(struct warm *w);

#endif
