/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef PEER_PEER_H
#define PEER_PEER_H

#include <stddef.h>
#include <stdint.h>

#include "base/loop.h"
#include "wire.h"

struct peer;

/**
 * struct peer_ops - what the owner of a control connection is told, on the loop's thread
 * @message: one whole message; its body is only valid during the call
 * @lost: the connection is gone (0: closed by the peer); it may be closed from in here
 */
struct peer_ops {
	void (*message)(void *owner, uint32_t type, const void *body, uint32_t len);
	void (*lost)(void *owner, int err);
};

int peer_open(struct loop *l, int sock, const struct peer_ops *ops, void *owner, struct peer **out);
void peer_close(struct peer *p);
int peer_send(struct peer *p, uint32_t type, const void *body, uint32_t len);
int peer_send2(struct peer *p, uint32_t type, const void *a, uint32_t a_len, const void *b,
	       uint32_t b_len);

void peer_host_id(uint8_t host[16]);

#endif
