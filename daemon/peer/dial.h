/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef PEER_DIAL_H
#define PEER_DIAL_H

#include <stddef.h>
#include <stdint.h>

#include "address.h"
#include "wire.h"

#define DIAL_MAX 16 /* connections that one call makes */

/**
 * struct dial_limits - how long dialling waits, and what ends it early
 * @stagger_ns: an address gets this long alone before the next one is tried beside it
 * @step_ns: a connection and its welcome take no longer than this, from the beginning of the
 *	connection; a request and its answer neither
 * @cancel_fd: when it is readable, every call returns -ECANCELED at once
 */
struct dial_limits {
	uint64_t stagger_ns, step_ns;
	int cancel_fd;
};

/**
 * struct dial_found - the peer that answered
 * @at: the address, of those that were tried
 * @sock: its connection, blocking; the caller's to close
 * @version: that both speak
 */
struct dial_found {
	struct address at;
	int sock;
	uint32_t version;
	struct wire_welcome welcome;
};

int dial_first(const char *uri, const struct address *list, unsigned int nr,
	       const struct wire_hello *hello, const struct dial_limits *limits,
	       struct dial_found *found, char *why, size_t why_len);
int dial_channels(const struct dial_found *peer, const struct wire_hello *hello, unsigned int nr,
		  const struct dial_limits *limits, int *socks, char *why, size_t why_len);
int dial_ask(int sock, uint32_t type, const void *body, uint32_t len, const struct dial_limits *limits,
	     uint32_t *answer_type, void *answer, uint32_t room, uint32_t *answer_len);

#endif
