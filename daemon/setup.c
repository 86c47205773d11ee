// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How a migration begins at the source: refusals, what the peer is told, connections,
 * dirty logging, the first page set.
 *
 *   refused? -> plan -> connector thread -> channels -> START_LOG -> pages with data -> round 1
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/deadline.h"
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
	if (vm->is_busy || (migration_find(f, name) && !migration_is_over(migration_status(migration_find(f, name)))))
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

	/* What a busy host adds to a blackout counts only where milliseconds do. */
	if (m->params.strict && m->params.downtime_limit_ms < LOOK_BELOW_MS)
		runqueue_look(&m->look, vm->peer_pid);
	c->hello = (struct wire_hello){ .magic = WIRE_MAGIC, .version = WIRE_VERSION,
					.role = WIRE_CONTROL };
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

static int tell_ahead(struct migration *m, unsigned int region)
{
	struct wire_ahead wa = { .region = region };
	uint8_t *blocks;
	int err = -ENOMEM;

	wa.nr_blocks = precopy_blocks(&m->precopy, region, &blocks);
	if (blocks)
		err = peer_send2(m->peer, WIRE_AHEAD, &wa, sizeof(wa), blocks,
				 (uint32_t)((wa.nr_blocks + 7) / 8));
	free(blocks);
	return err;
}

static int find_first_set(struct migration *m)
{
	int err = precopy_find_first(&m->precopy);

	for (unsigned int i = 0; i < m->vm->nr_regions && !err; i++)
		err = tell_ahead(m, i);
	return err;
}

/** setup_go_on() - the peer is there, writes are logged, and what was to be seen was seen: the first round */
void setup_go_on(struct migration *m)
{
	static struct runqueue_look now;
	int err;

	if (m->state != SRC_PRECOPY || migration_is_over(m->status))
		return;
	if (m->look.at_ns) {
		runqueue_look(&now, m->vm->peer_pid);
		m->report.wait_ns = runqueue_wait_ns(&m->look, &now);
	}
	migration_set_status(m, MIGRATION_ACTIVE);
	m->active_ns = m->collected_ns = now_ns();
	m->report.setup_ns = m->active_ns - m->started_ns;
	err = find_first_set(m);
	if (err) {
		migration_blame(m, "cannot walk its memory: %s", strerror(-err));
		migration_step(m, EV_VMM_LOST);
		return;
	}
	m->report.remaining_pages = m->precopy.set.nr_set;
	rounds_send(m);
}

static void on_logging(void *arg, int status, const void *body, uint32_t len)
{
	struct migration *m = arg;

	(void)body;
	(void)len;
	if (m->state != SRC_PRECOPY || migration_is_over(m->status))
		return;
	if (status) {
		migration_blame_tracker(m, "logged", status);
		migration_step(m, EV_VMM_LOST);
		return;
	}
	account_begin(m);
	rounds_ping(m);
	if (m->state != SRC_PRECOPY)
		return; /* the connection is gone already */
	if (m->look.at_ns && now_ns() < m->look.at_ns + LOOK_NS)
		loop_timer_at(&m->pause, m->look.at_ns + LOOK_NS);
	else
		setup_go_on(m);
}

static int open_channels(struct migration *m)
{
	struct connector *c = &m->connector;
	int err = precopy_open(&m->precopy, c->channels, m->params.channels);

	if (!err) {
		int sock = c->control;

		c->control = -1;
		err = peer_open(m->f->loop, sock, &migration_peer_ops, m, &m->peer);
	}
	return err;
}

/** setup_on_connected() - the attempt to connect has ended; not called once the migration has */
void setup_on_connected(void *owner)
{
	struct migration *m = owner;
	struct connector *c = &m->connector;
	int err = c->error;

	if (err) {
		migration_blame(m, "%s: %s", c->uri, c->text);
		migration_step(m, EV_PEER_LOST);
	} else {
		m->report.huge = c->plan_ok.huge;
		err = open_channels(m);
		if (err) {
			migration_blame(m, "cannot open channels: %s", strerror(-err));
			migration_step(m, EV_CANCEL);
		} else {
			vm_ask(m->vm, VM_START_LOG, NULL, 0, -1, on_logging, m);
		}
	}
	connector_fini(c);
}
