/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SETTLE_H
#define SETTLE_H
/* Tells destinations the outcomes that the journal has as a source, until they are acknowledged: see settle.c. */
#include "ferry.h"

int settle_start(struct ferry *f);
void settle_soon(struct ferry *f, const uint8_t id[16]);
void settle_awaits_vmm(struct ferry *f, const uint8_t id[16]);
bool settle_is_awaiting_vmm(struct ferry *f, const uint8_t id[16]);
void settle_stop(struct ferry *f);

#endif
