/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SETTLE_H
#define SETTLE_H

#include "ferry.h"
#include "peer/wire.h"

enum wire_settled settle_take(struct ferry *f, const uint8_t id[16], enum wire_outcome o);

#endif
