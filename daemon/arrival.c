// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The switchover at the destination: the twin of switchover.c.
 *
 * Theory of operation
 *
 *   PREPARE -> journal says "begun" -> it is on the disk -> PREPARED
 *   final marks of all channels and WIRE_STATE, of one try -> LOAD -> READY
 *   GO -> journal says "go", else GO is refused -> RUN -> the VMM confirms: journal says "done"
 *      -> the probe has seen the guest enter, or was waited for long enough -> RUNNING
 *
 * PREPARED is a promise to know of the switchover after a loss of power, too: it waits for the
 * disk, however long that takes. The guest runs on at the source meanwhile, and rounds go on.
 *
 * Only arrival_run_guest() starts a guest, and "go" is in the journal before. From RUN's
 * answer on nothing that breaks can make the guest anyone else's: that is written at once. The
 * source is told a moment later, with the time of the first entry, which the VMM cannot know.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "incoming_private.h"

#define ENTRY_LOOK_NS 100000ULL
#define RUN_PATIENCE_NS (3 * NS_PER_MS)
#define ENTRY_PATIENCE_NS (8 * NS_PER_MS)
_Static_assert(ENTRY_PATIENCE_NS < FERRY_GRACE_NS, "the probe still watches while the entry is looked for");

static void on_begun(void *arg, int err)
{
	struct incoming *in = arg;

	if (in->phase != IN_RECEIVING || in->state != DST_PREPARED)
		return;
	if (err) {
		incoming_blame(in, "cannot prepare the switchover: its journal cannot be written: %s", strerror(-err));
		incoming_step(in, DEV_VMM_LOST);
		return;
	}
	in->is_prepared = true;
	incoming_be_urgent(in);
	if (peer_send(in->peer, WIRE_PREPARED, NULL, 0))
		incoming_step(in, DEV_PEER_LOST);
}

/** arrival_prepare() - DACT_PREPARE: PREPARED follows once "begun" is on the disk */
void arrival_prepare(struct incoming *in)
{
	struct journal_entry e = { .role = JOURNAL_DESTINATION };
	int err;

	memcpy(e.id, in->id, sizeof(e.id));
	snprintf(e.vm, sizeof(e.vm), "%s", in->name);
	err = journal_begin(in->f->journal, &e);
	if (err) {
		incoming_blame(in, "cannot prepare the switchover: %s", strerror(-err));
		incoming_step(in, DEV_VMM_LOST);
		return;
	}
	journal_sync(in->f->journal, on_begun, in);
}

/* @type: WIRE_READY, or of a try that was called off WIRE_DROPPED */
static void tell_loaded(struct incoming *in, enum wire_type type)
{
	struct wire_ready r = { .attempt = in->taken_attempt,
				.nr_devices = in->vm->nr_devices,
				.load_ns = in->load_ns };

	memcpy(r.device_ns, in->device_ns, sizeof(r.device_ns));
	if (peer_send(in->peer, type, &r, sizeof(r)))
		incoming_step(in, DEV_PEER_LOST);
}

void arrival_tell_ready(struct incoming *in)
{
	tell_loaded(in, WIRE_READY);
}

/** arrival_look_for_received() - has all of a try come? */
void arrival_look_for_received(struct incoming *in)
{
	if (!in->attempt || in->attempt == in->taken_attempt || in->state != DST_PREPARED)
		return;
	for (unsigned int i = 0; i < in->room.nr_channels; i++)
		if (channel_recv_mark(in->room.channels[i], PACKET_FINAL) != in->attempt)
			return;
	in->taken_attempt = in->attempt;
	incoming_step(in, DEV_RECEIVED);
}

/** arrival_take_state() - WIRE_STATE: how long the state of a try is */
void arrival_take_state(struct incoming *in, const void *body, uint32_t len)
{
	struct wire_state s;

	if (len == sizeof(s))
		memcpy(&s, body, sizeof(s));
	if (len != sizeof(s) || s.len > in->room.state_size || !s.attempt || !in->is_prepared) {
		incoming_blame(in, in->is_prepared ? "bad length of the state" : "a state before PREPARED was said");
		incoming_step(in, DEV_VMM_LOST);
		return;
	}
	in->state_len = s.len;
	in->attempt = s.attempt;
	arrival_look_for_received(in);
}

static void on_loaded(void *arg, int status, const void *body, uint32_t len)
{
	struct incoming *in = arg;
	bool was_dropped;

	in->load_ns = now_ns() - in->load_asked_ns;
	if (status) {
		incoming_blame(in, "its VMM cannot load the state: %s", strerror(-status));
		incoming_step(in, DEV_VMM_LOST);
		return;
	}
	memset(in->device_ns, 0, sizeof(in->device_ns));
	if (len <= sizeof(in->device_ns))
		memcpy(in->device_ns, body, len);
	was_dropped = in->state == DST_DROPPING;
	incoming_step(in, DEV_LOADED);
	if (was_dropped && in->state == DST_PREPARED)
		tell_loaded(in, WIRE_DROPPED);
}

/** arrival_load() - DACT_LOAD */
void arrival_load(struct incoming *in)
{
	struct vmferry_msg_saved s = { .len = in->state_len };

	in->load_asked_ns = now_ns();
	vm_ask(in->vm, VM_LOAD, &s, sizeof(s), in->room.state_fd, on_loaded, in);
}

/** arrival_take_abort() - WIRE_ABORT: a try is called off */
void arrival_take_abort(struct incoming *in, const void *body, uint32_t len)
{
	bool was_loaded = in->state == DST_READY;
	struct wire_abort a;

	if (len != sizeof(a)) {
		incoming_blame(in, "bad message that calls off a try");
		incoming_step(in, DEV_VMM_LOST);
		return;
	}
	memcpy(&a, body, sizeof(a));
	/* Its last marks may still be on their way: they must not be taken for another try's. */
	in->attempt = in->taken_attempt = a.attempt;
	incoming_step(in, DEV_ABORT);
	if (in->state != DST_PREPARED)
		return;
	if (!was_loaded)
		in->load_ns = 0;
	tell_loaded(in, WIRE_DROPPED);
}

static void on_ran(void *arg, int status, const void *body, uint32_t len)
{
	struct incoming *in = arg;
	struct vmferry_msg_resumed r = { 0 };

	if (status) {
		vm_disbelieve(in->vm);
		incoming_blame(in, "its VMM did not confirm the start: %s", strerror(-status));
		incoming_step(in, DEV_VMM_LOST);
		return;
	}
	if (len == sizeof(r))
		memcpy(&r, body, sizeof(r));
	in->first_entry_ns = r.first_entry_ns;
	incoming_step(in, DEV_RAN);
}

/**
 * arrival_take_go() - WIRE_GO: the guest is ours from here on, if the journal can take that
 *
 * "go" is written before RUN is asked: a daemon that restarts must know that the guest may run here. A GO that
 * cannot be written is refused: a later question would be answered NEVER, while the guest runs here. The source is
 * told so and runs its guest on.
 */
void arrival_take_go(struct incoming *in)
{
	int err = in->state != DST_READY ? 0 :
		  journal_note(in->f->journal, in->id, JOURNAL_DESTINATION, JOURNAL_GO);

	if (err) {
		incoming_blame(in, "cannot start the guest: its journal cannot take GO: %s", strerror(-err));
		incoming_step(in, DEV_VMM_LOST);
		return;
	}
	incoming_step(in, DEV_GO);
}

/** arrival_run_guest() - DACT_RUN; arrival_take_go() has written "go" */
void arrival_run_guest(struct incoming *in)
{
	vm_ask(in->vm, VM_RUN, NULL, 0, -1, on_ran, in);
}

/**
 * arrival_tell_running() - WIRE_RUNNING, if it is owed
 *
 * The journal has said so since the guest began: a source that has to ask hears the same.
 */
void arrival_tell_running(struct incoming *in)
{
	struct wire_running r = { .vmm_entry_ns = in->first_entry_ns };

	if (!in->owes_running)
		return;
	in->owes_running = false;
	r.entry_ns = blackout_first_entry_ns(in->f->blackouts, in->probe_slot);
	r.by = blackout_by(in->f->blackouts, in->probe_slot);
	if (in->peer)
		peer_send(in->peer, WIRE_RUNNING, &r, sizeof(r));
	journal_sync(in->f->journal, NULL, NULL);
}

static bool has_seen_entry(const struct incoming *in)
{
	uint64_t since = now_ns() - in->ran_ns;

	if (in->probe_slot < 0 || since > ENTRY_PATIENCE_NS)
		return true;
	/* KVM_RUN is called before the guest is entered: is that all there is to see here? */
	if (blackout_by(in->f->blackouts, in->probe_slot) == BLACKOUT_BY_KVM_RUN && since < RUN_PATIENCE_NS)
		return false;
	return blackout_first_entry_ns(in->f->blackouts, in->probe_slot);
}

/** arrival_look_for_entry() - the VMM answers when it lets the first vCPU go; the probe sees it enter a moment later */
void arrival_look_for_entry(void *owner)
{
	struct incoming *in = owner;

	if (in->owes_running && !has_seen_entry(in))
		loop_timer_at(&in->entry_patience, now_ns() + ENTRY_LOOK_NS);
	else
		arrival_tell_running(in);
}

/** arrival_started() - DACT_TELL_RUNNING: the guest runs here, whatever comes */
void arrival_started(struct incoming *in)
{
	journal_note(in->f->journal, in->id, JOURNAL_DESTINATION, JOURNAL_DONE);
	in->owes_running = true;
	in->ran_ns = now_ns();
	/* The source waits for this, and words can wait. */
	arrival_look_for_entry(in);
	notice_report("vm %s: arrived and runs here", in->name);
	in->f->emit(in->f, in->name, "MIGRATION_ARRIVED", NULL);
}
