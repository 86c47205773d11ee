/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OUTCOME_H
#define OUTCOME_H
/* What this daemon answers to sources, and to the operator, about migrations that are over: see outcome.c. */
#include "ferry.h"
#include "peer/wire.h"

enum wire_resolved outcome_resolve(struct ferry *f, const uint8_t id[16], const uint8_t journal[16]);
enum wire_settled outcome_settle(struct ferry *f, const uint8_t id[16], enum wire_outcome o);
int outcome_forget(struct ferry *f, const uint8_t id[16], bool vmm_has_ended, char *why, size_t len);

#endif
