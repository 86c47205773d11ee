/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CONNECT_H
#define CONNECT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"
#include "pages/channel.h"
#include "peer/wire.h"

/**
 * struct connector - connects to a peer on a thread of its own: names are looked up and
 * hellos exchanged there, never on the loop
 * @uri, @hello, @plan: what to say; set before connector_start()
 * @error, @text, @control, @channels, @plan_ok: the outcome, once @done was called;
 * the sockets are the owner's to take
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
	int control;
	int channels[CHANNEL_MAX];
	struct wire_plan_ok plan_ok;
	struct wire_welcome welcome;

	struct loop_event event;
	pthread_t thread;
	bool thread_is_up;
};

void connector_init(struct connector *c);
int connector_start(struct connector *c, struct loop *l);
void connector_fini(struct connector *c);

#endif
