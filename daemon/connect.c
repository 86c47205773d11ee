// SPDX-License-Identifier: GPL-2.0-or-later
/* Connects to a peer: control connection, hello, plan, then all channels. */
#include "connect.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "peer/address.h"
#include "peer/peer.h"

#define CONNECT_TIMEOUT_MS 5000

static int say_hello(struct connector *c, uint32_t role, uint32_t channel)
{
	struct wire_hello h = c->hello;
	int sock = address_connect(c->uri, CONNECT_TIMEOUT_MS, c->text, sizeof(c->text));
	int err;

	if (sock < 0)
		return sock;
	h.role = role;
	h.channel = channel;
	h.nr_channels = c->nr_channels;
	err = peer_greet(sock, &h, &c->welcome);
	if (err)
		snprintf(c->text, sizeof(c->text), "no welcome: %s; is it a vmferryd?",
			 strerror(-err));
	else if (c->welcome.status < 0) {
		err = c->welcome.status;
		snprintf(c->text, sizeof(c->text), "refused: %s", c->welcome.text);
	}
	if (err) {
		close(sock);
		return err;
	}
	return sock;
}

static int agree_on_plan(struct connector *c)
{
	uint8_t body[sizeof(struct wire_plan) + VMFERRY_MAX_REGIONS * sizeof(struct wire_region)];
	size_t regions_len = c->plan.nr_regions * sizeof(*c->regions);
	struct wire_failed failed;
	uint32_t type = 0, len = 0;
	int err;

	memcpy(body, &c->plan, sizeof(c->plan));
	memcpy(body + sizeof(c->plan), c->regions, regions_len);
	err = peer_send_blocking(c->control, WIRE_PLAN, body,
				 (uint32_t)(sizeof(c->plan) + regions_len));
	if (!err)
		err = peer_recv_blocking(c->control, &type, body, sizeof(body), &len);
	if (err) {
		snprintf(c->text, sizeof(c->text), "no answer to the plan: %s", strerror(-err));
		return err;
	}
	if (type == WIRE_FAILED && len == sizeof(failed)) {
		memcpy(&failed, body, sizeof(failed));
		failed.text[WIRE_TEXT_LEN - 1] = '\0';
		snprintf(c->text, sizeof(c->text), "%s", failed.text);
		return -EREMOTEIO;
	}
	if (type != WIRE_PLAN_OK || len != sizeof(c->plan_ok)) {
		snprintf(c->text, sizeof(c->text), "strange answer to the plan (type %u)", type);
		return -EBADMSG;
	}
	memcpy(&c->plan_ok, body, sizeof(c->plan_ok));
	return 0;
}

static void *connect_thread(void *arg)
{
	struct connector *c = arg;

	c->control = say_hello(c, c->hello.role, 0);
	c->error = c->control < 0 ? c->control : 0;
	if (!c->error && c->hello.role == WIRE_CONTROL)
		c->error = agree_on_plan(c);
	for (unsigned int i = 0; i < c->nr_channels && !c->error; i++) {
		c->channels[i] = say_hello(c, WIRE_CHANNEL, i);
		c->error = c->channels[i] < 0 ? c->channels[i] : 0;
	}
	loop_event_raise(&c->event);
	return NULL;
}

static void on_done(void *owner)
{
	struct connector *c = owner;

	pthread_join(c->thread, NULL);
	c->thread_is_up = false;
	c->done(c->owner);
}

/** connector_init() - nothing open yet; connector_fini() is fine from here on */
void connector_init(struct connector *c)
{
	*c = (struct connector){ .control = -1 };
	for (unsigned int i = 0; i < CHANNEL_MAX; i++)
		c->channels[i] = -1;
}

/** connector_start() - @c->done is called on the loop when it has worked or failed */
int connector_start(struct connector *c, struct loop *l)
{
	int err;

	err = loop_event_init(&c->event, l, on_done, c);
	if (!err)
		err = -pthread_create(&c->thread, NULL, connect_thread, c);
	c->thread_is_up = !err;
	return err;
}

/**
 * connector_fini() - waits for the thread (5 s at most a step) and closes what is left
 * May be called again: what is closed is forgotten.
 */
void connector_fini(struct connector *c)
{
	if (c->thread_is_up)
		pthread_join(c->thread, NULL);
	c->thread_is_up = false;
	loop_event_fini(&c->event);
	cleanup_close_fd(&c->control);
	for (unsigned int i = 0; i < CHANNEL_MAX; i++)
		cleanup_close_fd(&c->channels[i]);
}
