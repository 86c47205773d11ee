// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Strangers: whoever reaches a daemon's address may say anything, with the id of a migration or with one that nobody has.
 *
 * A question (FAULT_QUESTION) is a RESOLVE. A stranger (FAULT_STRANGER) says hello in some role and sends a message of some
 * type after it. A message out of place (FAULT_MESSAGE) is put into a control connection that is there, as a peer that
 * lies would.
 */
#include "stranger.h"

#include <stddef.h>
#include <string.h>

#include "faults.h"
#include "net.h"
#include "files.h"
#include "node.h"
#include "peer/wire.h"
#include "walk.h"
#include "world.h"

static uint8_t known[8][16];
static unsigned int nr_known;

void strangers_begin(void)
{
	nr_known = 0;
}

/** stranger_knows() - the id of a migration, for whoever comes */
void stranger_knows(const uint8_t id[16])
{
	memcpy(known[nr_known++ % 8], id, 16);
}

static void take_id(const struct fault *f, uint8_t id[16])
{
	unsigned int nr = nr_known < 8 ? nr_known : 8;

	if (nr && (f->kind == FAULT_QUESTION || f->how & 8)) {
		memcpy(id, known[f->how % nr], 16);
		return;
	}
	for (int i = 0; i < 16; i++)
		id[i] = (uint8_t)world_random();
}

struct visit {
	struct end *end;
};

static void leave(void *arg)
{
	struct visit *v = arg;

	net_close(v->end);
}

static void knock(const struct fault *f, struct node *n)
{
	struct wire_hello h = { .magic = WIRE_MAGIC, .version = WIRE_OLDEST, .newest = f->how >> 5 & 3 ? WIRE_VERSION : 0,
				.nr_channels = 1, .outcome = 1 + (f->how >> 7) };
	struct visit *v = world_alloc(sizeof(*v));
	struct wire_msg m = { .type = f->what % WIRE_NR, .len = 0 };
	struct wire_plan plan = { .name = "web1", .nr_regions = 1, .nr_vcpus = 1, .nr_channels = 1, .state_size = 100 };
	struct wire_region region = { .name = "ram", .size = 65536 };

	h.role = f->kind == FAULT_QUESTION ? WIRE_RESOLVE : 1 + f->how % 5;
	take_id(f, h.id);
	v->end = files_connect(n->peers, false);
	if (!v->end)
		return;
	world_trace("%s: a stranger comes in role %u", n->name, h.role);
	net_send(v->end, &h, sizeof(h), NULL, 0);
	if (f->kind == FAULT_STRANGER && f->how & 16) {
		m = (struct wire_msg){ WIRE_PLAN, sizeof(plan) + sizeof(region) };
		net_send(v->end, &m, sizeof(m), NULL, 0);
		net_send(v->end, &plan, sizeof(plan), NULL, 0);
		net_send(v->end, &region, sizeof(region), NULL, 0);
	} else if (f->kind == FAULT_STRANGER) {
		net_send(v->end, &m, sizeof(m), NULL, 0);
	}
	world_after(f->lasts_ns, leave, v);
}

static const uint32_t to_destination[] = { WIRE_PREPARE, WIRE_GO, WIRE_ABORT, WIRE_PREPARE, WIRE_GO, WIRE_ABORT, WIRE_STATE, WIRE_CANCEL },
		      to_source[] = { WIRE_PREPARED, WIRE_READY, WIRE_DROPPED, WIRE_PLACED, WIRE_PONG, WIRE_RUNNING, WIRE_FAILED,
				      WIRE_PREPARED };
static const uint32_t lens[WIRE_NR] = { [WIRE_STATE] = sizeof(struct wire_state),	[WIRE_ABORT] = sizeof(struct wire_abort),
					[WIRE_CANCEL] = sizeof(struct wire_failed),	[WIRE_READY] = sizeof(struct wire_ready),
					[WIRE_DROPPED] = sizeof(struct wire_ready),	[WIRE_RUNNING] = sizeof(struct wire_running),
					[WIRE_PLACED] = sizeof(struct wire_placed),	[WIRE_PONG] = sizeof(struct wire_pong),
					[WIRE_FAILED] = sizeof(struct wire_failed) };

/* The control connection that was made last gets a message that nobody sent. Its numbers are 1: of the first attempt. */
static void put_message(const struct fault *f)
{
	struct {
		struct wire_msg m;
		uint8_t body[sizeof(struct wire_failed)];
	} out = { 0 };
	uint32_t one = 1;
	struct end *e = net_first;

	while (e && (!e->is_control || e->is_closed || e->is_broken || e->other->is_closed))
		e = e->next;
	if (!e)
		return;
	out.m.type = (f->how & 3 ? to_destination : to_source)[f->how >> 2 & 7];
	out.m.len = lens[out.m.type];
	memcpy(out.body + (out.m.type == WIRE_STATE ? offsetof(struct wire_state, attempt) : 0), &one, sizeof(one));
	/* Who forges these says himself who owns the guest: that is no promise's matter. */
	if (out.m.type == WIRE_GO || out.m.type == WIRE_RUNNING || out.m.type == WIRE_FAILED)
		judge_ignore_guests();
	world_trace("a message %u out of place", out.m.type);
	net_send(f->how & 3 ? e : e->other, &out, sizeof(out.m) + out.m.len, NULL, 0);
}

void stranger_comes(const struct fault *f, struct node *n)
{
	if (f->kind == FAULT_MESSAGE)
		put_message(f);
	else
		knock(f, n);
}
