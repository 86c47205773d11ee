// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Receives guests: owns everything of one incoming migration and carries out what
 * decide/switchover_dst.c says. Its connections come from greeter.c, its beginning is in
 * plan.c, what happens while the guest stands still in arrival.c.
 *
 * Theory of operation
 *
 * Only DACT_RUN starts a guest, and it writes "go" to the journal first. A migration that
 * ends before that writes "never" first and then discards: a source that asks later gets
 * a promise that holds.
 *
 * An incoming stays for a while after its end, so that its last message reaches the source
 * before the connection closes.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/limited.h"
#include "incoming_private.h"

#define LINGER_NS (5 * NS_PER_S)

/** incoming_blame() - why it ends; the first reason counts, what follows is only its echo */
void incoming_blame(struct incoming *in, const char *fmt, ...)
{
	va_list ap;

	if (in->error[0])
		return;
	va_start(ap, fmt);
	vsnprintf(in->error, sizeof(in->error), fmt, ap);
	va_end(ap);
}

/** incoming_find() - the one of migration @id, over or not */
struct incoming *incoming_find(struct ferry *f, const uint8_t id[16])
{
	for (struct incoming *in = f->incoming; in; in = in->next)
		if (!memcmp(in->id, id, 16))
			return in;
	return NULL;
}

/* ---- the end of one incoming migration ---- */

/* Neither what becomes of it nor what it still answers is this migration's any more. */
static void let_go_of_vm(struct incoming *in)
{
	if (!in->vm)
		return;
	if (in->vm->watcher == &in->watcher)
		in->vm->watcher = NULL;
	vm_forget(in->vm, in);
}

static void close_channels(struct incoming *in)
{
	for (unsigned int i = 0; i < CHANNEL_MAX; i++) {
		channel_recv_close(in->channels[i]);
		in->channels[i] = NULL;
	}
	place_close(in->place);
	in->place = NULL;
}

static void free_incoming(struct incoming *in)
{
	for (struct incoming **p = &in->f->incoming; *p; p = &(*p)->next)
		if (*p == in) {
			*p = in->next;
			break;
		}
	ferry_urgent(in->f, &in->is_urgent, false);
	arrival_tell_running(in);
	close_channels(in);
	peer_close(in->peer);
	loop_event_fini(&in->received);
	loop_timer_fini(&in->linger);
	loop_timer_fini(&in->entry_patience);
	blackout_unwatch(in->f->blackouts, in->probe_slot);
	let_go_of_vm(in);
	vm_put(in->vm);
	if (in->state_fd >= 0)
		close(in->state_fd);
	free(in);
}

static void wind_up(struct incoming *in);

static void on_linger_over(void *owner)
{
	struct incoming *in = owner;

	if (in->is_wound_up)
		free_incoming(in);
	else
		wind_up(in);
}

static void wind_up(struct incoming *in)
{
	in->is_wound_up = true;
	arrival_tell_running(in);
	blackout_unwatch(in->f->blackouts, in->probe_slot);
	in->probe_slot = -1;
	close_channels(in);
	let_go_of_vm(in);
	if (in->vm && in->state == DST_LOST)
		in->vm->is_busy = false; /* what was discarded, once it is clean again */
	loop_timer_at(&in->linger, now_ns() + (in->peer ? LINGER_NS : 1));
}

/* A guest that has just begun to run here must not be disturbed by our cleaning up. */
static void finish(struct incoming *in)
{
	in->is_over = true;
	if (in->state == DST_RUNNING) {
		let_go_of_vm(in);
		in->vm->is_busy = false;
		loop_timer_at(&in->linger, now_ns() + FERRY_GRACE_NS);
	} else {
		wind_up(in);
	}
}

/* ---- actions ---- */

static void on_discarded(void *arg, int status, const void *body, uint32_t len)
{
	struct vm *vm = arg;

	(void)body;
	(void)len;
	vm->is_busy = false;
	if (status && status != -ECONNRESET)
		error_report("vm %s: its VMM cannot empty its RAM: %s; restart the VMM before the next "
			     "migration to it", vm->name, strerror(-status));
	vm_put(vm);
}

static void discard(struct incoming *in)
{
	if (journal_find(in->f->journal, in->id))
		journal_note(in->f->journal, in->id, JOURNAL_NEVER);
	close_channels(in); /* nobody writes to its RAM any more */
	if (in->vm) {
		let_go_of_vm(in);
		vm_ask(in->vm, VM_DISCARD, NULL, 0, -1, on_discarded, vm_get(in->vm));
		limited_notice(LIMITED_INCOMING,
			       "vm %s: the guest did not arrive: %s; it does not run here; ready for the next",
			       in->name, in->error[0] ? in->error : "the source called it off");
	}
}

static void tell_failed(struct incoming *in)
{
	struct wire_failed w = { "" };

	snprintf(w.text, sizeof(w.text), "%s", in->error[0] ? in->error : "cannot go on");
	if (in->peer)
		peer_send(in->peer, WIRE_FAILED, &w, sizeof(w));
}

static void carry_out(struct incoming *in, unsigned int actions)
{
	if (actions & DACT_PREPARE)
		arrival_prepare(in);
	if (actions & DACT_LOAD)
		arrival_load(in);
	if (actions & DACT_TELL_READY)
		arrival_tell_ready(in);
	if (actions & DACT_RUN)
		arrival_run_guest(in);
	if (actions & DACT_TELL_RUNNING)
		arrival_started(in);
	if (actions & DACT_DISCARD)
		discard(in);
	if (actions & DACT_TELL_FAILED)
		tell_failed(in);
	if (actions & DACT_CRY)
		error_report("vm %s: its VMM (pid %d) died, or hangs, while the guest was being started here, "
			     "after GO; if it only hangs the guest runs as soon as it goes on; if it is gone "
			     "the source still holds the guest paused: only when no process has it here, "
			     "\"vmferry resolve %s --run-here\" at the source", in->name, in->vm->pid, in->name);
	if (actions & DACT_FINISH)
		finish(in);
}

void incoming_step(struct incoming *in, enum dst_event event)
{
	enum dst_state from = in->state;
	unsigned int actions;

	if (!switchover_dst_step(&in->state, event, &actions)) {
		limited_error(LIMITED_MISPLACED, "vm %s: bug: event %s in state %s; ignored", in->name,
			      dst_event_name(event), dst_state_name(from));
		return;
	}
	ferry_urgent(in->f, &in->is_urgent, in->state >= DST_PREPARED && in->state <= DST_STARTING);
	carry_out(in, actions);
}

/* ---- what arrives ---- */

/* A round is over for the source when it is in place here, not in a socket's buffer. */
static void look_for_placed(struct incoming *in)
{
	struct wire_placed placed = { .round = UINT32_MAX };

	for (unsigned int i = 0; i < in->nr_channels; i++) {
		uint32_t round = in->channels[i] ? channel_recv_mark(in->channels[i], PACKET_ROUND_END) : 0;

		if (round < placed.round)
			placed.round = round;
	}
	if (placed.round <= in->placed_round || !in->peer)
		return;
	in->placed_round = placed.round;
	if (peer_send(in->peer, WIRE_PLACED, &placed, sizeof(placed)))
		incoming_step(in, DEV_PEER_LOST);
}

static void on_received(void *owner)
{
	struct incoming *in = owner;
	int err = in->place ? place_error(in->place) : 0;

	if (in->is_over)
		return;
	if (err && in->state < DST_STARTING) {
		incoming_blame(in, "no memory for the guest: %s; free some and retry", strerror(-err));
		incoming_step(in, DEV_VMM_LOST);
		return;
	}
	for (unsigned int i = 0; i < in->nr_channels; i++) {
		if (!in->channels[i] || !channel_recv_ended(in->channels[i], &err))
			continue;
		if (in->state >= DST_STARTING)
			continue;
		if (err == -EFAULT || err == -ENOMEM)
			incoming_blame(in, "no memory for the guest; free some and retry");
		else
			incoming_blame(in, "channel %u: %s", i, err == -EBADMSG ? "sent garbage" :
			      err == -ECONNRESET ? "closed by the source" : strerror(-err));
		incoming_step(in, err == -ECONNRESET ? DEV_PEER_LOST : DEV_VMM_LOST);
		return;
	}
	look_for_placed(in);
	arrival_look_for_received(in);
}

static void on_vm_lost(void *owner)
{
	struct incoming *in = owner;

	in->vm->watcher = NULL;
	incoming_blame(in, "its VMM (pid %d) at the destination closed the connection or died", in->vm->pid);
	incoming_step(in, DEV_VMM_LOST);
}

/** incoming_watch_vm() - from here on its VM is this migration's */
void incoming_watch_vm(struct incoming *in)
{
	in->watcher = (struct vm_watcher){ on_vm_lost, in };
	in->vm->watcher = &in->watcher;
	in->vm->is_busy = true;
}

static void take_ping(struct incoming *in, const void *body, uint32_t len)
{
	struct wire_pong pong = { .got_ns = now_ns() };
	struct wire_ping ping;

	if (len != sizeof(ping))
		return;
	memcpy(&ping, body, len);
	pong.sent_ns = ping.sent_ns;
	pong.answered_ns = now_ns();
	if (peer_send(in->peer, WIRE_PONG, &pong, sizeof(pong)))
		incoming_step(in, DEV_PEER_LOST);
}

static void on_message(void *owner, uint32_t type, const void *body, uint32_t len)
{
	struct incoming *in = owner;

	if (in->is_over)
		return;
	if (type == WIRE_PLAN) {
		plan_take(in, body, len);
	} else if (!in->place) {
		incoming_blame(in, "message %u before the plan", type);
		incoming_step(in, DEV_VMM_LOST);
	} else if (type == WIRE_AHEAD) {
		plan_take_ahead(in, body, len);
	} else if (type == WIRE_PREPARE) {
		incoming_step(in, DEV_PREPARE);
	} else if (type == WIRE_STATE) {
		arrival_take_state(in, body, len);
	} else if (type == WIRE_GO) {
		incoming_step(in, DEV_GO);
	} else if (type == WIRE_ABORT) {
		arrival_take_abort(in, body, len);
	} else if (type == WIRE_PING) {
		take_ping(in, body, len);
	} else if (type == WIRE_CANCEL) {
		if (len == sizeof(struct wire_failed))
			incoming_blame(in, "%.*s", WIRE_TEXT_LEN - 1, ((const struct wire_failed *)body)->text);
		incoming_step(in, DEV_CANCEL);
	} else {
		incoming_blame(in, "message %u of %u bytes fits nothing", type, len);
		incoming_step(in, DEV_VMM_LOST);
	}
}

static void on_lost(void *owner, int err)
{
	struct incoming *in = owner;

	peer_close(in->peer);
	in->peer = NULL;
	if (in->is_over) {
		free_incoming(in);
		return;
	}
	incoming_blame(in, "control connection: %s", err == -ECONNRESET ? "closed by the source" : strerror(-err));
	incoming_step(in, DEV_PEER_LOST);
}

static const struct peer_ops peer_ops = { on_message, on_lost };

/* ---- what the greeter hands over ---- */

/** incoming_new() - of migration @id, which must be new here; NULL: no memory */
struct incoming *incoming_new(struct ferry *f, const uint8_t id[16])
{
	struct incoming *in = calloc(1, sizeof(*in));
	int err;

	if (!in)
		return NULL;
	err = loop_timer_init(&in->linger, f->loop, on_linger_over, in);
	if (!err)
		err = loop_timer_init(&in->entry_patience, f->loop, arrival_look_for_entry, in);
	if (!err)
		err = loop_event_init(&in->received, f->loop, on_received, in);
	if (err) {
		loop_timer_fini(&in->linger);
		loop_timer_fini(&in->entry_patience);
		free(in);
		return NULL;
	}
	in->probe_slot = -1;
	in->f = f;
	in->state_fd = -1;
	memcpy(in->id, id, 16);
	in->next = f->incoming;
	f->incoming = in;
	return in;
}

/** incoming_take_control() - @sock is its control connection; taken over, also on failure */
void incoming_take_control(struct incoming *in, int sock)
{
	if (sock < 0 || peer_open(in->f->loop, sock, &peer_ops, in, &in->peer)) {
		in->peer = NULL;
		free_incoming(in);
	}
}

/** incoming_wants() - the incoming that waits for the channel of @h; NULL: none does */
struct incoming *incoming_wants(struct ferry *f, const struct wire_hello *h)
{
	struct incoming *in = incoming_find(f, h->id);

	if (!in || !in->place || in->is_over || h->channel >= in->nr_channels ||
	    in->channels[h->channel] || h->nr_channels != in->nr_channels)
		return NULL;
	return in;
}

/** incoming_take_channel() - @sock is channel @k, see incoming_wants(); taken over */
void incoming_take_channel(struct incoming *in, uint32_t k, int sock)
{
	struct channel_recv_config cfg = { k, in->nr_channels, in->place, in->vm->sizes,
					   in->vm->nr_regions, in->state_fd, in->state_size,
					   &in->received };
	int err = -EIO;

	/* The channel's thread waits in the kernel, not in the loop. */
	if (sock >= 0 && ioctl(sock, FIONBIO, &(int){ 0 }))
		close(sock);
	else if (sock >= 0)
		err = channel_recv_open(sock, &cfg, &in->channels[k]);
	if (err) {
		in->channels[k] = NULL;
		incoming_blame(in, "cannot open channel %u: %s", k, strerror(-err));
		incoming_step(in, DEV_VMM_LOST);
	}
}

/**
 * incoming_resolve() - a source that sent GO and heard nothing asks: does it run here?
 *
 * "never" is a promise: it is written first.
 */
enum wire_resolved incoming_resolve(struct ferry *f, const uint8_t id[16])
{
	struct incoming *in = incoming_find(f, id);
	struct journal_entry *e;

	if (in && !in->is_over && in->state < DST_STARTING)
		incoming_step(in, DEV_PEER_LOST);
	e = journal_find(f->journal, id);
	if (e && e->mark == JOURNAL_DONE)
		return WIRE_RESOLVED_RUNNING;
	if (e && e->mark == JOURNAL_GO)
		return WIRE_RESOLVED_LATER;
	return journal_note(f->journal, id, JOURNAL_NEVER) ? WIRE_RESOLVED_LATER : WIRE_RESOLVED_NEVER;
}

/** incoming_stop() - the daemon ends: refuse what has not arrived */
void incoming_stop(struct ferry *f, const char *reason)
{
	while (f->incoming) {
		struct incoming *in = f->incoming;

		if (!in->is_over && in->state < DST_STARTING) {
			incoming_blame(in, "%s", reason);
			incoming_step(in, DEV_VMM_LOST);
		}
		free_incoming(in);
	}
}
