/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CONNECT_H
#define CONNECT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"
#include "base/worker.h"
#include "pages/channel.h"
#include "peer/wire.h"

#define CONNECT_LIMIT_S 20
#define CONNECT_MAX_ABANDONED 64

struct attempt;

/**
 * struct connector - the loop's side of one attempt to connect to a peer, see connect.c
 * @uri, @hello, @plan, @regions, @nr_channels: what to say; set before connector_start()
 * @done: called on the loop when the attempt has ended; may call connector_fini() or free the connector
 * @error, @text: the outcome, once @done was called; @text says a failure in words, also that of
 *	connector_start()
 * @peer: the address that answered, without a name that has to be looked up; @uri until then
 * @control, @channels: the sockets; the owner takes them, or connector_fini() closes them
 * @version: of the wire, that both speak
 * @welcome: of the control connection, with the id of the peer's journal: what journal_begin() and a later
 *	WIRE_RESOLVE name. Of version 2 that id is zeros
 *
 * @plan_ok, @version and @welcome are there only without @error.
 *
 * All fields belong to the loop's thread: the attempt's thread has copies.
 */
struct connector {
	char uri[256];
	struct wire_hello hello;
	struct wire_plan plan;
	struct wire_region *regions;
	unsigned int nr_channels;
	void (*done)(void *owner);
	void *owner;

	int error;
	char text[WIRE_TEXT_LEN + 64];
	char peer[256];
	int control;
	int channels[CHANNEL_MAX];
	struct wire_plan_ok plan_ok;
	uint32_t version;
	struct wire_welcome welcome;

	struct loop *loop;
	struct attempt *attempt; /* NULL: nothing is under way */
	struct loop_timer patience;
};

void connector_init(struct connector *c, const char *uri);
int connector_start(struct connector *c, struct loop *l, struct worker *wk);
void connector_fini(struct connector *c);

#endif
