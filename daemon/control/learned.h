/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CONTROL_LEARNED_H
#define CONTROL_LEARNED_H

#include "base/scribe.h"
#include "decide/predictor.h"

uint64_t learned_read(const char *dir, const char *pair, struct predictor *to);
void learned_write(struct scribe *s, const char *dir, const char *pair, const struct predictor *from);

#endif
