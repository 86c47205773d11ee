// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Attempts to connect to a peer, in place of connect.c and peer/dial.c: the same bytes in the same order, without a thread.
 *
 * Each step is an event of the world, and runs as code of its daemon. An attempt whose connector has gone closes what it
 * has. Steps are limited to STEP_NS, the whole to CONNECT_LIMIT_S, as there.
 */
#include "connect.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "files.h"
#include "net.h"
#include "node.h"
#include "world.h"

#define STEP_NS (5 * S)

enum step { STEP_DIAL, STEP_WELCOME, STEP_PLAN, STEP_CHANNELS, STEP_OVER };

/* @owner: NULL once it is abandoned; @socks: the control connection, then channels; -1: none */
struct attempt {
	struct connector *owner;
	struct node *node;
	unsigned int life, step_nr;
	enum step step;
	bool is_due;
	char uri[256];
	struct wire_hello hello;
	struct wire_plan plan;
	struct wire_region regions[4];
	unsigned int nr_channels;
	int socks[1 + CHANNEL_MAX];
	int error;
	char text[WIRE_TEXT_LEN + 64];
	struct wire_plan_ok plan_ok;
	struct wire_welcome welcome;
	struct loop_event ended;
};

struct late {
	struct attempt *a;
	unsigned int step_nr;
};

static void close_all(struct attempt *a)
{
	for (unsigned int i = 0; i < 1 + CHANNEL_MAX; i++) {
		if (a->socks[i] >= 0)
			files_close(a->socks[i]);
		a->socks[i] = -1;
	}
}

static bool is_alive(const struct attempt *a)
{
	return a->owner && a->node->is_up && a->life == a->node->life && a->step != STEP_OVER;
}

static void end(struct attempt *a, int err, const char *text)
{
	a->step = STEP_OVER;
	a->error = err;
	snprintf(a->text, sizeof(a->text), "%s", text);
	if (err)
		close_all(a);
	loop_event_raise(&a->ended);
}

static void be_late(void *arg)
{
	struct attempt *a = arg;

	if (is_alive(a))
		end(a, -ETIMEDOUT, "no answer in time");
}

static void on_late(void *arg)
{
	struct late *l = arg;

	if (is_alive(l->a) && l->a->step_nr == l->step_nr)
		node_run(l->a->node, be_late, l->a);
}

static void begin_step(struct attempt *a, enum step step)
{
	struct late *l = world_alloc(sizeof(*l));

	a->step = step;
	a->step_nr++;
	*l = (struct late){ a, a->step_nr };
	world_after(STEP_NS, on_late, l);
}

static void go_on(void *arg);

static void on_due(void *arg)
{
	struct attempt *a = arg;

	a->is_due = false;
	if (is_alive(a))
		node_run(a->node, go_on, a);
}

static void on_changed(struct end *e)
{
	struct attempt *a = e->owner;

	if (a->is_due)
		return;
	a->is_due = true;
	world_after(world_delay(10 * US), on_due, a);
}

static struct end *end_of(struct attempt *a, unsigned int i)
{
	return files_get(a->socks[i])->end;
}

static int dial(struct attempt *a, unsigned int i, uint32_t role)
{
	struct wire_hello hello = a->hello;
	struct end *e = files_connect(a->uri, false);
	struct file *f;

	if (!e)
		return -ECONNREFUSED;
	f = file_new(FILE_END);
	f->end = e;
	a->socks[i] = files_open(a->node, f);
	e->owner = a;
	e->changed = on_changed;
	hello.role = role;
	if (i)
		hello.channel = i - 1;
	return net_send(e, &hello, sizeof(hello), NULL, 0) < 0 ? -ECONNRESET : 0;
}

/* 1: it is whole; 0: not yet; negative: there will be none. */
static int hear(struct attempt *a, unsigned int i, void *to, size_t len)
{
	struct end *e = end_of(a, i);

	if (net_readable(e) >= len) {
		net_read(e, to, len);
		return 1;
	}
	return e->is_broken || e->has_ended ? -ECONNRESET : 0;
}

static void take_welcome(struct attempt *a)
{
	uint8_t body[sizeof(struct wire_msg) + sizeof(a->plan) + sizeof(a->regions)];
	size_t regions_len = a->plan.nr_regions * sizeof(a->regions[0]);
	struct wire_msg m = { WIRE_PLAN, (uint32_t)(sizeof(a->plan) + regions_len) };
	int n = hear(a, 0, &a->welcome, sizeof(a->welcome));

	if (!n)
		return;
	if (n < 0 || a->welcome.magic != WIRE_MAGIC) {
		end(a, -ECONNRESET, "no welcome");
	} else if (wire_common(a->welcome.version, a->welcome.newest) < wire_oldest_for(a->hello.role)) {
		end(a, -EPROTONOSUPPORT, "another version is spoken there");
	} else if (a->welcome.status < 0) {
		a->welcome.text[sizeof(a->welcome.text) - 1] = '\0';
		end(a, a->welcome.status, a->welcome.text);
	} else if (a->hello.role != WIRE_CONTROL) {
		end(a, 0, "");
	} else {
		memcpy(body, &m, sizeof(m));
		memcpy(body + sizeof(m), &a->plan, sizeof(a->plan));
		memcpy(body + sizeof(m) + sizeof(a->plan), a->regions, regions_len);
		if (net_send(end_of(a, 0), body, sizeof(m) + m.len, NULL, 0) < 0)
			end(a, -ECONNRESET, "no answer to the plan");
		else
			begin_step(a, STEP_PLAN);
	}
}

static void take_plan_ok(struct attempt *a)
{
	struct end *e = end_of(a, 0);
	struct wire_failed failed;
	struct wire_msg m;

	if (net_readable(e) >= sizeof(m))
		net_peek(e, &m, sizeof(m));
	if (net_readable(e) < sizeof(m) || net_readable(e) - sizeof(m) < m.len) {
		if (e->is_broken || e->has_ended)
			end(a, -ECONNRESET, "no answer to the plan");
		return;
	}
	net_read(e, &m, sizeof(m));
	if (m.type == WIRE_PLAN_OK && m.len == sizeof(a->plan_ok)) {
		net_read(e, &a->plan_ok, sizeof(a->plan_ok));
		begin_step(a, STEP_CHANNELS);
		for (unsigned int k = 0; k < a->nr_channels; k++)
			if (dial(a, 1 + k, WIRE_CHANNEL)) {
				end(a, -ECONNREFUSED, "a channel is not connected");
				return;
			}
	} else if (m.type == WIRE_FAILED && m.len == sizeof(failed)) {
		net_read(e, &failed, sizeof(failed));
		failed.text[sizeof(failed.text) - 1] = '\0';
		end(a, -EREMOTEIO, failed.text);
	} else {
		end(a, -EBADMSG, "strange answer to the plan");
	}
}

static void take_channels(struct attempt *a)
{
	for (unsigned int k = 0; k < a->nr_channels; k++) {
		struct end *e = end_of(a, 1 + k);
		struct wire_welcome w;

		if (net_readable(e) < sizeof(w)) {
			if (e->is_broken || e->has_ended)
				end(a, -ECONNRESET, "a channel got no welcome");
			return;
		}
		net_peek(e, &w, sizeof(w));
		if (w.status < 0 || memcmp(w.host, a->welcome.host, sizeof(w.host))) {
			end(a, w.status < 0 ? w.status : -EXDEV, "a channel was refused");
			return;
		}
	}
	for (unsigned int k = 0; k < a->nr_channels; k++) {
		struct wire_welcome w;

		net_read(end_of(a, 1 + k), &w, sizeof(w));
	}
	end(a, 0, "");
}

static void go_on(void *arg)
{
	struct attempt *a = arg;
	int err;

	switch (a->step) {
	case STEP_DIAL:
		begin_step(a, STEP_WELCOME);
		err = dial(a, 0, a->hello.role);
		if (err)
			end(a, err, "nobody listens there");
		break;
	case STEP_WELCOME:
		take_welcome(a);
		break;
	case STEP_PLAN:
		take_plan_ok(a);
		break;
	case STEP_CHANNELS:
		take_channels(a);
		break;
	case STEP_OVER:
		break;
	}
}

/* ---- the loop's side ---- */

static void drop_attempt(struct connector *c)
{
	struct attempt *a = c->attempt;

	if (!a)
		return;
	c->attempt = NULL;
	a->owner = NULL;
	loop_event_fini(&a->ended);
	loop_timer_fini(&c->patience);
	close_all(a);
}

static void on_ended(void *owner)
{
	struct attempt *a = owner;
	struct connector *c = a->owner;

	c->error = a->error;
	memcpy(c->text, a->text, sizeof(c->text));
	snprintf(c->peer, sizeof(c->peer), "%s", a->uri);
	c->plan_ok = a->plan_ok;
	c->welcome = a->welcome;
	c->version = wire_common(a->welcome.version, a->welcome.newest);
	c->control = a->socks[0];
	for (unsigned int i = 0; i < CHANNEL_MAX; i++)
		c->channels[i] = a->socks[1 + i];
	for (unsigned int i = 0; i < 1 + CHANNEL_MAX; i++) {
		if (a->socks[i] >= 0)
			files_adopt(a->socks[i]);
		a->socks[i] = -1;
	}
	drop_attempt(c);
	c->done(c->owner);
}

static void on_patience_over(void *owner)
{
	struct connector *c = owner;

	c->error = -ETIMEDOUT;
	snprintf(c->text, sizeof(c->text), "not connected within %d s", CONNECT_LIMIT_S);
	drop_attempt(c);
	c->done(c->owner);
}

void connector_init(struct connector *c, const char *uri)
{
	*c = (struct connector){ .control = -1 };
	for (unsigned int i = 0; i < CHANNEL_MAX; i++)
		c->channels[i] = -1;
	snprintf(c->uri, sizeof(c->uri), "%s", uri);
	memcpy(c->peer, c->uri, sizeof(c->peer));
}

int connector_start(struct connector *c, struct loop *l, struct worker *wk)
{
	struct attempt *a = world_alloc(sizeof(*a));
	int err = node_starves() ? -ENOMEM : loop_timer_init(&c->patience, l, on_patience_over, c);

	(void)wk;
	if (!err) {
		err = loop_event_init(&a->ended, l, on_ended, a);
		if (err)
			loop_timer_fini(&c->patience);
	}
	if (err) {
		snprintf(c->text, sizeof(c->text), "%s", strerror(-err));
		return err;
	}
	a->owner = c;
	a->node = node_now;
	a->life = node_now->life;
	memcpy(a->uri, c->uri, sizeof(a->uri));
	a->hello = c->hello;
	a->hello.nr_channels = c->nr_channels;
	a->plan = c->plan;
	a->nr_channels = c->nr_channels;
	if (c->plan.nr_regions)
		memcpy(a->regions, c->regions, c->plan.nr_regions * sizeof(a->regions[0]));
	for (unsigned int i = 0; i < 1 + CHANNEL_MAX; i++)
		a->socks[i] = -1;
	c->loop = l;
	c->attempt = a;
	loop_timer_at(&c->patience, world_tick() + CONNECT_LIMIT_S * S);
	a->is_due = true;
	world_after(world_delay(100 * US), on_due, a);
	return 0;
}

void connector_fini(struct connector *c)
{
	drop_attempt(c);
	if (c->control >= 0)
		files_close(c->control);
	c->control = -1;
	for (unsigned int i = 0; i < CHANNEL_MAX; i++) {
		if (c->channels[i] >= 0)
			files_close(c->channels[i]);
		c->channels[i] = -1;
	}
}
