// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How a migration begins at the source: refusals, what the peer is told, connections,
 * dirty logging, the first page set.
 *
 * Theory of operation: a chain of steps. What may block is a work, on a thread of base/worker.h.
 *
 *   refused?   loop
 *   prepare    work: file for the state, page set, a first look at the run queues
 *   connect    connect.c: plan and sockets
 *   channels   work: their threads
 *   START_LOG  asked of the VMM
 *   learn      work: learned figures, the probe is attached
 *   walk       work: a second look at the run queues, pages with data, blocks to fault in ahead
 *   round 1    rounds.c
 *
 * A migration may end in the middle of any step. Then the work goes on, and its done() finds that the
 * end is due (closing.c); it undoes only what it alone holds. No round begins, and nothing is measured,
 * before the probe and the learned figures are there.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "base/deadline.h"
#include "base/fault.h"
#include "migration_private.h"

#define LOOK_NS 50000000ULL /* a dozen turns of threads that share a processor */
#define LOOK_BELOW_MS 20

#define MAX_STATE (1ULL << 32)

/** setup_refuses() - NULL, or in @text why @vm cannot be moved now */
const char *setup_refuses(struct ferry *f, const char *name, const struct migration_params *p,
			  struct vm *vm, char *text, size_t len)
{
	if (!vm) {
		snprintf(text, len, vm_find(&f->vms, name, true) ?
			 "vm %s: waits here for a guest and has none to send; migrate it from where it runs" :
			 "vm %s: not known here; \"vmferry list\" shows those that are", name);
		return text;
	}
	if (held_find(f, name))
		snprintf(text, len, "vm %s: is held paused: it may run at another host; see \"vmferry status %s\", and "
			 "\"vmferry resolve\"", name, name);
	else if (migration_find(f, name) && migration_is_closing(migration_find(f, name)))
		snprintf(text, len, "vm %s: its last migration is being closed still; try again in a moment; see "
			 "\"vmferry status %s\"", name, name);
	else if (vm->is_busy || (migration_find(f, name) && !migration_is_over(migration_status(migration_find(f, name)))))
		snprintf(text, len, "vm %s: is being migrated already; see \"vmferry status %s\"", name, name);
	else if (vm->run_state != VMFERRY_RUN_RUNNING)
		snprintf(text, len, "vm %s: is %s, not running; only a running guest can be moved", name,
			 vm_state_name(vm));
	else if (vm->untracked[0])
		snprintf(text, len, "vm %s: its device %s writes guest memory that no tracker sees; unplug it "
			 "before the migration", name, vm->untracked);
	else if (p->channels < 1 || p->channels > CHANNEL_MAX)
		snprintf(text, len, "multifd-channels must be 1 to %d", CHANNEL_MAX);
	else if (!p->downtime_limit_ms || p->downtime_limit_ms > 2000000)
		snprintf(text, len, "downtime-limit must be 1 to 2000000 ms");
	else if (p->switchover_ratio > 100)
		snprintf(text, len, "switchover-ratio is a percentage: 1 to 100, or 0: what is left of the limit");
	else if (p->downtime_initial_ms > p->downtime_limit_ms)
		snprintf(text, len, "downtime-initial must not be above downtime-limit");
	else if (!p->downtime_steps || p->downtime_steps > 1000)
		snprintf(text, len, "downtime-steps must be 1 to 1000");
	else if (vm->state_size > MAX_STATE)
		snprintf(text, len, "vm %s: its state is larger than 4 GiB", name);
	else
		return NULL;
	return text;
}

/** setup_describe() - what the peer is told of the guest */
int setup_describe(struct migration *m)
{
	struct connector *c = &m->connector;
	struct vm *vm = m->vm;

	c->hello = wire_hello_for(WIRE_CONTROL);
	memcpy(c->hello.id, m->id, 16);
	memcpy(c->hello.host, m->f->host, 16);
	c->nr_channels = m->params.channels;
	memcpy(c->plan.name, vm->name, sizeof(c->plan.name));
	memcpy(c->plan.uuid, vm->uuid, 16);
	c->plan.state_size = vm->state_size;
	c->plan.nr_regions = vm->nr_regions;
	c->plan.nr_vcpus = vm->nr_vcpus;
	c->plan.nr_channels = m->params.channels;
	c->regions = calloc(vm->nr_regions, sizeof(*c->regions));
	if (!c->regions)
		return -ENOMEM;
	for (unsigned int i = 0; i < vm->nr_regions; i++) {
		memcpy(c->regions[i].name, vm->regions[i].name, 64);
		c->regions[i].gpa = vm->regions[i].gpa;
		c->regions[i].size = vm->regions[i].size;
	}
	return 0;
}

/* ---- the first set, and the first round ---- */

static void walk(struct work *w)
{
	struct migration *m = w->owner;
	struct runqueue_look now;

	fault_point_of("first-set", m->name);
	if (m->wants_look) {
		runqueue_look(&now, m->vm->peer_pid);
		m->wait_ns = runqueue_wait_ns(&m->look, &now);
	}
	m->work_err = precopy_find_first(&m->precopy);
	for (unsigned int i = 0; i < m->vm->nr_regions && !m->work_err; i++) {
		m->ahead[i].nr = precopy_blocks(&m->precopy, i, &m->ahead[i].blocks);
		m->work_err = m->ahead[i].blocks ? 0 : -ENOMEM;
	}
}

static int tell_ahead(struct migration *m, unsigned int region)
{
	const struct migration_ahead *a = &m->ahead[region];
	struct wire_ahead wa = { .region = region, .nr_blocks = a->nr };

	return peer_send2(m->peer, WIRE_AHEAD, &wa, sizeof(wa), a->blocks, (uint32_t)((a->nr + 7) / 8));
}

static void forget_ahead(struct migration *m)
{
	for (unsigned int i = 0; i < m->vm->nr_regions; i++) {
		free(m->ahead[i].blocks);
		m->ahead[i].blocks = NULL;
	}
}

static void on_walked(struct work *w)
{
	struct migration *m = w->owner;
	int err = m->work_err;

	for (unsigned int i = 0; i < m->vm->nr_regions && !err && !m->is_doomed; i++)
		err = tell_ahead(m, i);
	forget_ahead(m);
	if (closing_is_due(m))
		return;
	if (err) {
		migration_blame(m, "cannot walk its memory: %s", strerror(-err));
		migration_step(m, EV_VMM_LOST);
		return;
	}
	m->report.wait_ns = m->wait_ns;
	m->report.remaining_pages = m->precopy.set.nr_set;
	rounds_send(m);
}

/** setup_go_on() - the peer is there, writes are logged, time enough has passed between two looks: the first set */
void setup_go_on(struct migration *m)
{
	if (m->state != SRC_PRECOPY)
		return;
	migration_set_status(m, MIGRATION_ACTIVE);
	m->active_ns = m->collected_ns = now_ns();
	m->report.setup_ns = m->active_ns - m->started_ns;
	migration_do(m, walk, on_walked);
}

/* ---- from the beginning to dirty logging ---- */

static void learn(struct work *w)
{
	struct migration *m = w->owner;

	fault_point_of("learn", m->name);
	account_learn(m);
}

static void on_learned(struct work *w)
{
	struct migration *m = w->owner;

	account_learned(m);
	if (closing_is_due(m))
		return;
	if (m->wants_look && now_ns() < m->look.at_ns + LOOK_NS)
		loop_timer_at(&m->pause, m->look.at_ns + LOOK_NS);
	else
		setup_go_on(m);
}

static void on_logging(void *arg, int status, const void *body, uint32_t len)
{
	struct migration *m = arg;

	(void)body;
	(void)len;
	if (m->state != SRC_PRECOPY)
		return;
	if (status) {
		migration_blame_tracker(m, "logged", status);
		migration_step(m, EV_VMM_LOST);
		return;
	}
	account_begin(m);
	rounds_ping(m);
	if (m->state == SRC_PRECOPY) /* else the connection is gone already */
		migration_do(m, learn, on_learned);
}

static void open_channels(struct work *w)
{
	struct migration *m = w->owner;

	fault_point_of("open-channels", m->name);
	m->work_err = precopy_open(&m->precopy, m->socks, m->params.channels);
	for (unsigned int i = 0; i < m->params.channels; i++)
		cleanup_close_fd(&m->socks[i]); /* those not taken */
}

static void on_opened(struct work *w)
{
	struct migration *m = w->owner;
	int err = m->work_err;

	if (!err && !m->is_doomed)
		err = peer_open(m->f->loop, take_fd(&m->control), &migration_peer_ops, m, &m->peer);
	cleanup_close_fd(&m->control);
	if (closing_is_due(m))
		return;
	if (err) {
		migration_blame(m, "cannot open channels: %s", strerror(-err));
		migration_step(m, EV_CANCEL);
	} else {
		/* Long before the stop: whoever hears of this VM again finds the journal's entry by it. */
		vm_tell_migration(m->vm, m->id, VMFERRY_ROLE_SOURCE);
		vm_ask(m->vm, VM_START_LOG, NULL, 0, -1, on_logging, m);
	}
}

/* The attempt to connect has ended. It is not called once connector_fini() was. */
static void on_connected(void *owner)
{
	struct migration *m = owner;
	struct connector *c = &m->connector;

	if (c->error) {
		migration_blame(m, "%s: %s", c->uri, c->text);
		migration_step(m, EV_PEER_LOST);
		return;
	}
	m->report.huge = c->plan_ok.huge;
	m->control = take_fd(&c->control);
	for (unsigned int i = 0; i < m->params.channels; i++)
		m->socks[i] = take_fd(&c->channels[i]);
	connector_fini(c);
	migration_do(m, open_channels, on_opened);
}

/* Room for all of the state now: nothing is allocated in the blackout. */
static int make_state_file(struct migration *m)
{
	off_t size = (off_t)m->vm->state_size;

	m->state_fd = memfd_create("vmferry-state", MFD_CLOEXEC);
	if (m->state_fd < 0 || ftruncate(m->state_fd, size) || (size && fallocate(m->state_fd, 0, 0, size)))
		return -errno;
	precopy_set_state_fd(&m->precopy, m->state_fd);
	return 0;
}

static void prepare(struct work *w)
{
	struct migration *m = w->owner;

	fault_point_of("prepare-migration", m->name);
	if (m->wants_look)
		runqueue_look(&m->look, m->vm->peer_pid);
	m->work_err = make_state_file(m);
	if (!m->work_err)
		m->work_err = precopy_make_room(&m->precopy);
}

static void on_prepared(struct work *w)
{
	struct migration *m = w->owner;
	int err = m->work_err;

	if (closing_is_due(m))
		return;
	m->connector.done = on_connected;
	m->connector.owner = m;
	if (!err)
		err = connector_start(&m->connector, m->f->loop, m->f->worker);
	if (err) {
		migration_blame(m, "cannot begin: %s", m->connector.text[0] ? m->connector.text : strerror(-err));
		migration_step(m, EV_CANCEL);
	}
}

/** setup_begin() - all of the set-up, step by step; see above */
void setup_begin(struct migration *m)
{
	/* What a busy host adds to a blackout counts only where milliseconds do. */
	m->wants_look = m->params.strict && m->params.downtime_limit_ms < LOOK_BELOW_MS;
	migration_do(m, prepare, on_prepared);
}
