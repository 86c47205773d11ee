/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef INCOMING_H
#define INCOMING_H
/* What greeter.c hands over to incoming.c, and what outcome.c asks it. */
#include "migration.h"
#include "peer/peer.h"

struct incoming;

struct incoming *incoming_find(struct ferry *f, const uint8_t id[16]);
struct incoming *incoming_new(struct ferry *f, const uint8_t id[16]);
void incoming_take_control(struct incoming *in, int sock);
struct incoming *incoming_wants(struct ferry *f, const struct wire_hello *h);
void incoming_take_channel(struct incoming *in, uint32_t k, int sock);
bool incoming_is_live(struct ferry *f, const uint8_t id[16]);
bool incoming_give_up(struct ferry *f, const uint8_t id[16]);

#endif
