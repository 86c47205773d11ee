// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What goes wrong in a walk: drawn from the seed alone, put in at a time or at a step of the protocol.
 *
 * A fault that waits for a step is told of each message (net_spy) and each request (vmm_spy). It never acts in the middle
 * of a daemon's code, but as an event of its own; FAULT_KILL may also take the process at one of its next calls of the C
 * library, which is in the middle.
 */
#include "faults.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "migration_private.h"
#include "net.h"
#include "node.h"
#include "stranger.h"
#include "vmm.h"
#include "walk.h"
#include "world.h"

const char *const fault_names[FAULT_NR] = { "kill",	 "term",       "power",	     "net-cut", "net-hold", "vmm-cut",
					    "vmm-dies",	 "vmm-freezes", "vmm-lies",   "disk-fails", "disk-hangs", "memory",
					    "cancel",	 "question",   "stranger",   "message" };
uint64_t fault_counts[FAULT_NR];

static struct fault *faults;
static unsigned int nr_faults;

/* ---- the plan ---- */

static const unsigned int weights[FAULT_NR] = { 8, 5, 3, 6, 3, 8, 4, 4, 6, 4, 3, 4, 4, 4, 3, 5 };

static enum fault_kind any_kind(uint64_t *stream)
{
	unsigned int sum = 0, k = 0;
	uint64_t r;

	for (int i = 0; i < FAULT_NR; i++)
		sum += weights[i];
	for (r = splitmix64(stream) % sum; r >= weights[k]; k++)
		r -= weights[k];
	return (enum fault_kind)k;
}

/* Steps at which much is decided; those of the switchover more often. */
static const uint32_t messages[] = { WIRE_AHEAD, WIRE_PLACED, WIRE_PREPARE, WIRE_PREPARED, WIRE_STATE, WIRE_READY, WIRE_READY,
				     WIRE_GO,	 WIRE_GO,     WIRE_RUNNING, WIRE_RUNNING,  WIRE_ABORT, WIRE_DROPPED, WIRE_CANCEL,
				     WIRE_FAILED };
static const uint32_t requests[] = { VMFERRY_MSG_START_LOG, VMFERRY_MSG_HARVEST, VMFERRY_MSG_PAUSE,   VMFERRY_MSG_PAUSE,
				     VMFERRY_MSG_SAVE,	    VMFERRY_MSG_SAVE,	 VMFERRY_MSG_RESUME,  VMFERRY_MSG_RESUME,
				     VMFERRY_MSG_LOAD,	    VMFERRY_MSG_LOAD,	 VMFERRY_MSG_RUN,     VMFERRY_MSG_RUN,
				     VMFERRY_MSG_RELEASE,   VMFERRY_MSG_DISCARD, VMFERRY_MSG_STOP_LOG };

#define NR(list) (sizeof(list) / sizeof((list)[0]))

static void plan_one(struct fault *f, uint64_t *stream)
{
	uint64_t r = splitmix64(stream);

	*f = (struct fault){ .kind = any_kind(stream), .when = (enum fault_when)(r & 3), .at = (uint32_t)(r >> 8 & 0xff),
			     .how = (uint32_t)(r >> 16 & 0xff) };
	f->what = f->when == WHEN_MESSAGE ? messages[splitmix64(stream) % NR(messages)] :
					    requests[splitmix64(stream) % NR(requests)];
	f->at_ns = splitmix64(stream) % (r >> 24 & 3 ? 300 * MS : 8 * S);
	f->after_ns = r >> 26 & 1 ? 0 : splitmix64(stream) % (r >> 27 & 3 ? 2 * MS : r >> 29 & 3 ? 300 * MS : 8 * S);
	if (f->kind == FAULT_MESSAGE) { /* what it comes behind is over soon, above all a try that is called off */
		f->after_ns %= MS;
		if (!(r >> 40 & 3)) {
			f->when = WHEN_MESSAGE;
			f->what = WIRE_ABORT;
		}
	}
	f->lasts_ns = MS + splitmix64(stream) % (r >> 31 & 1 ? 200 * MS : r >> 32 & 1 ? 3 * S : 25 * S);
}

/** faults_plan() - from @stream alone. Return: how many */
unsigned int faults_plan(struct fault *list, uint64_t *stream)
{
	uint64_t r = splitmix64(stream);
	unsigned int nr = r & 7 ? 1 + (unsigned int)(r >> 8) % 3 : (unsigned int)(r >> 8) % (FAULTS_MAX - 1);

	for (unsigned int i = 0; i < nr; i++)
		plan_one(&list[i], stream);
	return nr;
}

void fault_describe(const struct fault *f, char *text, unsigned int len)
{
	static const char *const when[] = { "at a time", "at message", "at request", "after request" };

	snprintf(text, len, "%s %s %u, %.3f ms later, of %u, variant %u, for %.0f ms", fault_names[f->kind], when[f->when],
		 f->when == WHEN_TIME ? 0 : f->what, (double)(f->when == WHEN_TIME ? f->at_ns : f->after_ns) / 1e6, f->at, f->how,
		 (double)f->lasts_ns / 1e6);
}

/* ---- the acts ---- */

static struct node *node_of(const struct fault *f)
{
	return &nodes[f->at % nr_nodes];
}

static struct vmm *vmm_of(const struct fault *f)
{
	return &vmms[f->at % nr_vmms];
}

static void start_again(void *arg)
{
	struct node *n = arg;

	n->is_powered = n->may_start = true;
	node_start(n);
}

static void break_connections(const struct fault *f)
{
	unsigned int one = f->how >> 4 & 3, k = 0;

	for (struct end *e = net_first; e; e = e->next) {
		if (e->is_closed || e->other->is_closed || e->is_broken)
			continue;
		if (f->how & 1 && k++ != one)
			continue;
		world_trace("a connection breaks");
		net_cut(e, f->how & 2, f->how & 4);
	}
}

static void let_go(void *arg)
{
	(void)arg;
	for (struct end *e = net_first; e; e = e->next) {
		net_hold(e, false);
		net_hold(e->other, false);
	}
}

static void hold_connections(const struct fault *f)
{
	world_trace("the network drops all");
	for (struct end *e = net_first; e; e = e->next) {
		if (f->how & 1 || !(f->how & 2))
			net_hold(e, true);
		if (f->how & 1 || f->how & 2)
			net_hold(e->other, true);
	}
	world_after(f->lasts_ns, let_go, NULL);
}

static void heal_disk(void *arg)
{
	struct node *n = arg;

	n->disk_fails = n->marks_fail = 0;
	n->disk_hangs = false;
}

static void cancel(void *arg)
{
	struct node *n = arg;
	char why[256];

	for (unsigned int i = 0; i < walk_nr_guests; i++)
		if (!migration_cancel(&n->f, walk_guests[i].name, why, sizeof(why)))
			world_trace("%s: the operator cancels %s", n->name, walk_guests[i].name);
	node_wake(n);
}

static void lie(struct vmm *v, const struct fault *f)
{
	static const enum lie cuts[] = { LIE_CUT_BEFORE, LIE_CUT_AFTER }, lies[] = { LIE_REFUSE, LIE_DENY },
			      ends[] = { LIE_DIE_BEFORE, LIE_DIE_AFTER };

	v->lie_at = f->when == WHEN_MESSAGE ? requests[f->how % NR(requests)] : f->what;
	v->lie = f->kind == FAULT_VMM_CUT ? cuts[f->how & 1] : f->kind == FAULT_VMM_LIES ? lies[f->how & 1] :
		 f->kind == FAULT_VMM_DIES ? ends[f->how & 1] : LIE_FREEZE;
}

static void act_on_vmm(const struct fault *f)
{
	struct vmm *v = vmm_of(f);

	if (f->kind == FAULT_VMM_LIES || f->how & 64)
		lie(v, f);
	else if (f->kind == FAULT_VMM_CUT)
		vmm_cut(v);
	else if (f->kind == FAULT_VMM_DIES)
		vmm_die(v, "the VMM died");
	else
		vmm_freeze(v, f->how & 1 ? 11 * S : f->lasts_ns);
}

static void act_on_node(const struct fault *f)
{
	struct node *n = node_of(f);

	switch (f->kind) {
	case FAULT_KILL:
		if (f->how & 1)
			n->kill_in = 1 + (f->how & 2 ? f->how >> 3 : f->how * 2); /* within a turn, or some turns later */
		else
			node_kill(n);
		world_after(f->lasts_ns, start_again, n);
		break;
	case FAULT_TERM:
		node_term(n);
		world_after(f->lasts_ns, start_again, n);
		break;
	case FAULT_POWER:
		node_lose_power(n);
		world_after(f->lasts_ns, start_again, n);
		break;
	case FAULT_DISK_FAILS:
		if (f->how & 3)
			n->disk_fails = f->how & 4 ? ENOSPC : EIO;
		else
			n->marks_fail = ENOSPC;
		world_after(f->lasts_ns, heal_disk, n);
		break;
	case FAULT_DISK_HANGS:
		n->disk_hangs = true;
		world_after(f->lasts_ns, heal_disk, n);
		break;
	case FAULT_MEMORY:
		n->starve_in = 1 + f->how % 40;
		n->starve_nr = f->how >> 6;
		break;
	default:
		break;
	}
}

static void act(void *arg)
{
	struct fault *f = arg;

	fault_counts[f->kind]++;
	if (f->kind != FAULT_VMM_CUT && f->kind != FAULT_VMM_FREEZES)
		world_trace("fault: %s", fault_names[f->kind]);
	switch (f->kind) {
	case FAULT_NET_CUT:
		break_connections(f);
		break;
	case FAULT_NET_HOLD:
		hold_connections(f);
		break;
	case FAULT_CANCEL:
		if (node_of(f)->is_up)
			node_run(node_of(f), cancel, node_of(f));
		break;
	case FAULT_VMM_CUT:
	case FAULT_VMM_DIES:
	case FAULT_VMM_FREEZES:
	case FAULT_VMM_LIES:
		act_on_vmm(f);
		break;
	case FAULT_QUESTION:
	case FAULT_STRANGER:
	case FAULT_MESSAGE:
		stranger_comes(f, node_of(f));
		break;
	default:
		act_on_node(f);
		break;
	}
}

/* ---- when ---- */

static void trigger(enum fault_when when, uint32_t what)
{
	for (unsigned int i = 0; i < nr_faults; i++) {
		struct fault *f = &faults[i];

		if (f->is_done || f->is_left_out || f->when != when || f->what != what)
			continue;
		f->is_done = true;
		world_after(f->after_ns, act, f);
	}
}

static void on_message(struct end *from, uint32_t type)
{
	(void)from;
	trigger(WHEN_MESSAGE, type);
}

static void on_request(struct vmm *v, uint32_t type, bool is_done)
{
	(void)v;
	trigger(is_done ? WHEN_DONE : WHEN_REQUEST, type);
}

void faults_begin(struct fault *list, unsigned int nr)
{
	faults = list;
	nr_faults = nr;
	net_spy = on_message;
	vmm_spy = on_request;
	for (unsigned int i = 0; i < nr; i++)
		if (list[i].when == WHEN_TIME && !list[i].is_left_out) {
			list[i].is_done = true;
			world_after(list[i].at_ns, act, &list[i]);
		}
}

/** faults_heal() - nothing goes wrong from here on, and what went wrong and can be mended is */
void faults_heal(void)
{
	nr_faults = 0;
	let_go(NULL);
	for (unsigned int i = 0; i < nr_nodes; i++) {
		heal_disk(&nodes[i]);
		nodes[i].kill_in = nodes[i].starve_in = 0;
		start_again(&nodes[i]);
	}
	for (unsigned int i = 0; i < nr_vmms; i++) {
		vmms[i].lie = LIE_NONE;
		vmms[i].frozen_until = 0;
	}
}
