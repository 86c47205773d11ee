// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Connections of the simulated world: bytes in order, after random delays, until somebody cuts them.
 *
 * Theory of operation
 *
 * What is sent is a segment on its way to the far end. Segments of one direction arrive in order; different directions and
 * connections know no order. An end that closes sends a last segment "closed"; if it leaves bytes unread the far end gets
 * a reset instead, and what was under way to the far end may be lost with it, as in TCP. net_cut() breaks a connection at
 * both ends, with or without what was under way in either direction. A held direction keeps its segments until it is let
 * go; the far end notices nothing.
 *
 * A sender has a buffer of SEND_ROOM bytes for what the far end has not read.
 */
#include "net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "files.h"
#include "peer/wire.h"
#include "world.h"

#define SEND_ROOM (256 << 10)

enum segment_kind { SEGMENT_BYTES, SEGMENT_CLOSED, SEGMENT_RESET };

struct segment {
	struct segment *next;
	enum segment_kind kind;
	uint64_t arrives;
	struct file *files[NET_MAX_PASSED];
	unsigned int nr_files;
	size_t len;
	uint8_t bytes[];
};

void (*net_spy)(struct end *from, uint32_t type);
struct end *net_first;

void net_begin(void)
{
	net_first = NULL;
}

static struct end *end_new(bool is_local)
{
	struct end *e = world_alloc(sizeof(*e));

	e->is_local = is_local;
	e->last = &e->first;
	e->usual_us = is_local ? 5 : world_chance(1, 8) ? 2000 : 60;
	return e;
}

/** net_pair() - a connection; an end has no owner yet */
struct end *net_pair(bool is_local)
{
	struct end *a = end_new(is_local), *b = end_new(is_local);

	a->other = b;
	b->other = a;
	if (!is_local) {
		a->next = net_first;
		net_first = a;
	}
	return a;
}

static void tell(struct end *e)
{
	if (e->changed && !e->is_closed)
		e->changed(e);
}

static void break_end(struct end *e, int err)
{
	if (!e->is_broken)
		e->is_broken = err;
	tell(e);
}

static void append(struct end *e, const struct segment *s)
{
	if (e->len + s->len > e->room) {
		uint8_t *grown;

		e->room = (e->len + s->len) * 2;
		grown = world_alloc(e->room);
		if (e->len)
			memcpy(grown, e->buf + e->at, e->len - e->at);
		e->len -= e->at;
		e->at = 0;
		e->buf = grown;
	}
	for (unsigned int i = 0; i < s->nr_files && e->nr_passed < NET_MAX_PASSED; i++) {
		e->passed[e->nr_passed].file = s->files[i];
		e->passed[e->nr_passed++].at = e->taken + (e->len - e->at);
	}
	if (s->len)
		memcpy(e->buf + e->len, s->bytes, s->len);
	e->len += s->len;
}

static void take_in(struct end *e, struct segment *s)
{
	e->in_flight -= s->len;
	switch (s->kind) {
	case SEGMENT_BYTES:
		append(e, s);
		break;
	case SEGMENT_CLOSED:
		e->has_ended = true;
		break;
	case SEGMENT_RESET:
		break_end(e, ECONNRESET);
		return;
	}
	tell(e);
}

/* What is due arrives. */
static void arrive(void *arg)
{
	struct end *e = arg;

	while (e->first && !e->is_held && e->first->arrives <= world_now()) {
		struct segment *s = e->first;

		e->first = s->next;
		if (!e->first)
			e->last = &e->first;
		if (!e->is_closed && !e->is_broken)
			take_in(e, s);
	}
}

static void put_under_way(struct end *to, struct segment *s)
{
	uint64_t at = world_now() + world_delay(to->usual_us * US);

	if (at <= to->last_arrival)
		at = to->last_arrival + 1;
	to->last_arrival = s->arrives = at;
	s->next = NULL;
	*to->last = s;
	to->last = &s->next;
	to->in_flight += s->len;
	world_at(at, arrive, to);
}

/** net_room() - what a sender may still send */
size_t net_room(const struct end *e)
{
	size_t used = e->other->in_flight + (e->other->len - e->other->at);

	return used < SEND_ROOM ? SEND_ROOM - used : 0;
}

/* Messages of a control connection: an agent knows where they begin, for it looks at all of them. */
static void spy(struct end *from, const void *bytes, size_t len)
{
	uint32_t type;

	if (!net_spy || from->is_local || len < 8)
		return;
	memcpy(&type, bytes, sizeof(type));
	from->is_control |= type == WIRE_PLAN && len > sizeof(struct wire_plan);
	world_trace("    message %u, %zu bytes", type, len);
	net_spy(from, type);
}

/** net_send() - all of it or nothing. Return: @len, or a negative errno */
int net_send(struct end *e, const void *bytes, size_t len, struct file *const *files, unsigned int nr_files)
{
	struct segment *s;

	if (e->is_broken || e->has_ended)
		return -(e->is_broken ? e->is_broken : EPIPE);
	if (net_room(e) < len)
		return -EAGAIN;
	s = world_alloc(sizeof(*s) + len);
	s->kind = SEGMENT_BYTES;
	s->len = len;
	memcpy(s->bytes, bytes, len);
	for (unsigned int i = 0; i < nr_files; i++)
		s->files[s->nr_files++] = files[i];
	put_under_way(e->other, s);
	spy(e, bytes, len);
	return (int)len;
}

size_t net_readable(const struct end *e)
{
	return e->len - e->at;
}

size_t net_read(struct end *e, void *to, size_t len)
{
	if (len > e->len - e->at)
		len = e->len - e->at;
	if (len) /* an end that has heard nothing yet has no buffer */
		memcpy(to, e->buf + e->at, len);
	e->at += len;
	e->taken += len;
	if (e->at == e->len)
		e->at = e->len = 0;
	return len;
}

/** net_peek() - as net_read(), but it stays there; @len bytes are there */
void net_peek(const struct end *e, void *to, size_t len)
{
	memcpy(to, e->buf + e->at, len);
}

static void drop_under_way(struct end *e)
{
	e->first = NULL;
	e->last = &e->first;
	e->in_flight = 0;
}

/** net_close() - what was sent still arrives, unless bytes were left unread: then perhaps not */
void net_close(struct end *e)
{
	bool leaves = e->at < e->len || e->first;
	struct segment *s;

	if (e->is_closed)
		return;
	e->is_closed = true;
	if (e->is_broken || e->other->is_closed)
		return;
	s = world_alloc(sizeof(*s));
	s->kind = leaves ? SEGMENT_RESET : SEGMENT_CLOSED;
	if (leaves && !e->is_local && world_chance(1, 4))
		drop_under_way(e->other);
	put_under_way(e->other, s);
}

static void deliver_all(struct end *e)
{
	struct segment *s = e->first;

	drop_under_way(e);
	for (; s && !e->is_closed && !e->is_broken; s = s->next)
		take_in(e, s);
}

/** net_cut() - both ends break now; @loses_sent: what @e has sent and has not arrived is lost, else it arrives before */
void net_cut(struct end *e, bool loses_sent, bool loses_coming)
{
	if (loses_sent)
		drop_under_way(e->other);
	else
		deliver_all(e->other);
	if (loses_coming)
		drop_under_way(e);
	else
		deliver_all(e);
	break_end(e, ECONNRESET);
	break_end(e->other, ECONNRESET);
}

/** net_hold() - what is under way to @e waits, until it is let go */
void net_hold(struct end *e, bool is_held)
{
	e->is_held = is_held;
	if (!is_held)
		world_after(1, arrive, e);
}
