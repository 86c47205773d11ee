// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Receives guests: owns everything of one incoming migration and carries out what
 * decide/switchover_dst.c says. Its connections come from greeter.c, its beginning is in
 * plan.c, what happens while the guest stands still in arrival.c.
 *
 * Theory of operation
 *
 *   GREETED --plan--> PLANNING ==room made==> RECEIVING --RAN--> GRACE --10 ms--> CLOSING ==.
 *      |                 |                      |    \--VMM lost after GO-------> CLOSING ==|
 *      |                 `----any loss or refusal----'                                      |
 *      |                               v                                                    v
 *      |                           GIVING_UP ==room closed, DISCARD asked=============> LINGERING
 *      |---refusal-------------------------------------------------------------------------^  |
 *      `---no plan within 5 s, or MAX_GREETED newer ones: freed                               |
 *                                                             peer gone, or 5 s later: freed -'
 *
 * A double line is a work: the loop makes no thread, joins none, walks no file and frees no map. One
 * work of a migration is out at a time; what ends a migration meanwhile only changes the phase, and the
 * work's done() goes on from there. Nothing is freed while a work is out.
 *
 * What is taken in which phase:
 *   messages          expected[] below; anything else refuses the migration
 *   loss of the peer  up to RECEIVING an event of the machine; later the connection is only forgotten
 *   loss of the VMM   up to RECEIVING an event of the machine; later it is not this migration's any more
 *   a channel         in RECEIVING
 *   WIRE_RESOLVE      up to RECEIVING it ends what has no GO; then outcome.c answers
 *
 * Only DACT_RUN starts a guest, and "go" is in the journal before. A migration that
 * ends before that writes "never" first, tells the source, and discards once no thread writes to the
 * VM's RAM any more: a source that asks later gets a promise that holds. The VM is busy until its VMM
 * has discarded.
 *
 * An incoming stays for a while after its end, so that its last message reaches the source
 * before the connection closes.
 *
 * Until a connection has brought its plan anybody may have made it: it costs a bounded time, and so many a bounded
 * number of files.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fault.h"
#include "base/limited.h"
#include "base/text.h"
#include "incoming_private.h"
#include "pages/warm.h"

#define LINGER_NS (5 * NS_PER_S)
#define MAX_GREETED 256

/** incoming_blame() - why it ends; the first reason counts, what follows is only its echo */
void incoming_blame(struct incoming *in, const char *fmt, ...)
{
	va_list ap;

	if (in->error[0])
		return;
	va_start(ap, fmt);
	vsnprintf(in->error, sizeof(in->error), fmt, ap);
	va_end(ap);
	text_make_printable(in->error, strlen(in->error)); /* the source's words, or cut within a character */
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

/* Nothing of it is out any more, and the room is closed. */
static void free_incoming(struct incoming *in)
{
	for (struct incoming **p = &in->f->incoming; *p; p = &(*p)->next)
		if (*p == in) {
			*p = in->next;
			break;
		}
	ferry_urgent(in->f, &in->is_urgent, false);
	journal_forget(in->f->journal, in);
	peer_close(in->peer);
	loop_event_fini(&in->received);
	loop_timer_fini(&in->linger);
	loop_timer_fini(&in->entry_patience);
	let_go_of_vm(in);
	vm_put(in->vm);
	free(in);
}

static void on_discarded(void *arg, int status, const void *body, uint32_t len)
{
	struct vm *vm = arg;

	(void)body;
	(void)len;
	vm->is_busy = status != 0; /* not clean: no migration may use it */
	if (status && status != -ECONNRESET)
		error_report("vm %s: its VMM cannot empty its RAM: %s; it is asked again", vm->name, strerror(-status));
	if (status)
		vm_disbelieve(vm);
	vm_put(vm);
}

static void linger(struct incoming *in)
{
	in->phase = IN_LINGERING;
	if (in->is_last)
		free_incoming(in);
	else
		loop_timer_at(&in->linger, now_ns() + (in->peer ? LINGER_NS : 1));
}

static void close_room(struct work *w)
{
	struct incoming *in = w->owner;

	fault_point_of("close-room", in->name);
	room_close(&in->room);
	blackout_unwatch(in->f->blackouts, in->probe_slot);
	in->probe_slot = -1;
}

/**
 * incoming_cleans_later() - the VMM of an incoming that is being given up has registered again as @vm
 *
 * Threads of that incoming may still write to its RAM: it is busy, and cleaned once they have ended.
 * Return: false: nobody here writes to it
 */
bool incoming_cleans_later(struct ferry *f, struct vm *vm)
{
	for (struct incoming *in = f->incoming; in; in = in->next) {
		if (in->phase != IN_GIVING_UP || in->vm == vm || in->vm->peer_pid != vm->peer_pid)
			continue;
		vm_put(in->back);
		in->back = vm_get(vm);
		vm->is_busy = true;
		return true;
	}
	return false;
}

static void clean_who_is_back(struct incoming *in)
{
	struct vm *vm = in->back;

	in->back = NULL;
	if (vm && !incoming_cleans_later(in->f, vm))
		recovery_clean(vm);
	vm_put(vm);
}

static void on_room_closed(struct work *w)
{
	struct incoming *in = w->owner;

	warm_allow();
	/* Nobody writes to its RAM any more. */
	if (in->phase == IN_GIVING_UP)
		vm_ask(in->vm, VM_DISCARD, NULL, 0, -1, on_discarded, vm_get(in->vm));
	else if (in->state == DST_LOST)
		in->vm->is_busy = false; /* discarded, once it is clean again */
	in->phase = IN_LINGERING;
	clean_who_is_back(in);
	linger(in);
}

/** incoming_close_room() - have the worker close what it made; then DISCARD, if the guest never ran here */
void incoming_close_room(struct incoming *in)
{
	in->work = (struct work){ .run = close_room, .done = on_room_closed, .owner = in };
	worker_do(in->f->worker, &in->work);
}

static void close_after_run(struct incoming *in)
{
	arrival_tell_running(in);
	in->phase = IN_CLOSING;
	incoming_close_room(in);
}

static void tell_failed(struct incoming *in)
{
	struct wire_failed w = { "" };

	snprintf(w.text, sizeof(w.text), "%s", in->error[0] ? in->error : "cannot go on");
	if (in->peer)
		peer_send(in->peer, WIRE_FAILED, &w, sizeof(w));
}

/* Of one without a plan: it has no VM, and nobody waits for its last message. */
static void refuse_greeted(struct incoming *in, const char *why)
{
	incoming_blame(in, "%s", why);
	tell_failed(in);
	free_incoming(in);
}

static void on_time(void *owner)
{
	struct incoming *in = owner;

	if (in->phase == IN_GREETED)
		refuse_greeted(in, "no plan came in time");
	else if (in->phase == IN_GRACE)
		close_after_run(in);
	else if (in->phase == IN_LINGERING)
		free_incoming(in);
}

static void finish(struct incoming *in)
{
	if (in->phase == IN_GREETED) {
		linger(in);
	} else if (in->phase == IN_GIVING_UP) {
		if (!in->work.is_out)
			incoming_close_room(in);
	} else if (in->state == DST_RUNNING) {
		let_go_of_vm(in);
		in->vm->is_busy = false;
		place_cease(in->room.place);
		in->phase = IN_GRACE;
		loop_timer_at(&in->linger, now_ns() + FERRY_GRACE_NS);
	} else { /* after GO its VMM died, or hangs */
		let_go_of_vm(in);
		close_after_run(in);
	}
}

/* ---- actions ---- */

/*
 * An entry that this incoming has begun proves that no GO was heard. One that it found here may be of a migration which
 * has started its guest, after a loss of power: whoever knows its id can come by it once more.
 */
static void discard(struct incoming *in)
{
	const struct journal_entry *e = journal_find(in->f->journal, in->id, JOURNAL_DESTINATION);

	if (e && journal_proves_no_go(in->f->journal, e))
		journal_note(in->f->journal, in->id, JOURNAL_DESTINATION, JOURNAL_NEVER);
	if (!in->vm)
		return;
	in->phase = IN_GIVING_UP;
	let_go_of_vm(in);
	if (!in->work.is_out)
		place_cease(in->room.place);
	limited_notice(in->f->limited, LIMITED_INCOMING,
		       "vm %s: the guest did not arrive: %s; it does not run here; ready for the next",
		       in->name, in->error[0] ? in->error : "the source called it off");
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

/** incoming_be_urgent() - from PREPARED on the guest may stand still, and waits for this loop */
void incoming_be_urgent(struct incoming *in)
{
	ferry_urgent(in->f, &in->is_urgent, in->is_prepared && in->state >= DST_PREPARED && in->state <= DST_STARTING);
}

void incoming_step(struct incoming *in, enum dst_event event)
{
	enum dst_state from = in->state;
	unsigned int actions;

	if (!switchover_dst_step(&in->state, event, &actions)) {
		limited_error(in->f->limited, LIMITED_MISPLACED, "vm %s: bug: event %s in state %s; ignored",
			      in->name, dst_event_name(event), dst_state_name(from));
		return;
	}
	incoming_be_urgent(in);
	carry_out(in, actions);
}

/* ---- what arrives ---- */

/* A round is over for the source when it is in place here, not in a socket's buffer. */
static void look_for_placed(struct incoming *in)
{
	struct wire_placed placed = { .round = UINT32_MAX };

	for (unsigned int i = 0; i < in->room.nr_channels; i++) {
		uint32_t round = channel_recv_mark(in->room.channels[i], PACKET_ROUND_END);

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
	int err;

	if (in->phase != IN_RECEIVING)
		return;
	err = place_error(in->room.place);
	if (err && in->state < DST_STARTING) {
		incoming_blame(in, "no memory for the guest: %s; free some and retry", strerror(-err));
		incoming_step(in, DEV_VMM_LOST);
		return;
	}
	for (unsigned int i = 0; i < in->room.nr_channels; i++) {
		if (!channel_recv_ended(in->room.channels[i], &err))
			continue;
		if (in->state >= DST_STARTING)
			continue;
		if (err == -EFAULT || err == -ENOMEM)
			incoming_blame(in, "no memory for the guest; free some and retry");
		else
			incoming_blame(in, "channel %u: %s", i, err == -EBADMSG ? "sent garbage" :
			      err == -ECONNRESET ? "closed by the source" : strerror(-err));
		incoming_step(in, err == -ECONNRESET ? DEV_CHANNEL_LOST : DEV_VMM_LOST);
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

#define M(type) (1U << WIRE_##type)

/* What may come in each phase; after IN_RECEIVING messages are not read any more. */
static const uint32_t expected[] = {
	[IN_GREETED] = M(PLAN),
	[IN_PLANNING] = M(PING) | M(CANCEL),
	[IN_RECEIVING] = M(AHEAD) | M(PREPARE) | M(STATE) | M(GO) | M(ABORT) | M(PING) | M(CANCEL),
};

#undef M

static bool is_expected(struct incoming *in, uint32_t type, uint32_t len)
{
	if (type < WIRE_NR && expected[in->phase] & 1U << type)
		return true;
	if (in->phase == IN_GREETED)
		incoming_blame(in, "message %u before the plan", type);
	else if (in->phase == IN_PLANNING)
		incoming_blame(in, "message %u before the answer to the plan", type);
	else
		incoming_blame(in, "message %u of %u bytes fits nothing", type, len);
	incoming_step(in, DEV_VMM_LOST);
	return false;
}

static void on_message(void *owner, uint32_t type, const void *body, uint32_t len)
{
	struct incoming *in = owner;

	if (incoming_is_over(in) || !is_expected(in, type, len))
		return;
	if (type == WIRE_PLAN) {
		plan_take(in, body, len);
	} else if (type == WIRE_AHEAD) {
		plan_take_ahead(in, body, len);
	} else if (type == WIRE_PREPARE) {
		incoming_step(in, DEV_PREPARE);
	} else if (type == WIRE_STATE) {
		arrival_take_state(in, body, len);
	} else if (type == WIRE_GO) {
		arrival_take_go(in);
	} else if (type == WIRE_ABORT) {
		arrival_take_abort(in, body, len);
	} else if (type == WIRE_PING) {
		take_ping(in, body, len);
	} else if (type == WIRE_CANCEL) {
		if (len == sizeof(struct wire_failed))
			incoming_blame(in, "%.*s", WIRE_TEXT_LEN - 1, ((const struct wire_failed *)body)->text);
		incoming_step(in, DEV_CANCEL);
	}
}

static void on_lost(void *owner, int err)
{
	struct incoming *in = owner;

	peer_close(in->peer);
	in->peer = NULL;
	if (!incoming_is_over(in)) {
		incoming_blame(in, "control connection: %s",
			       err == -ECONNRESET ? "closed by the source" : strerror(-err));
		incoming_step(in, DEV_PEER_LOST);
	} else if (in->phase == IN_LINGERING) {
		free_incoming(in);
	}
}

static const struct peer_ops peer_ops = { on_message, on_lost };

/* ---- what the greeter hands over ---- */

/* One more than MAX_GREETED ends the oldest: a source sends its plan within a round trip. */
static void make_way(struct ferry *f)
{
	struct incoming *oldest = NULL;
	unsigned int nr = 0;

	for (struct incoming *in = f->incoming; in; in = in->next)
		if (in->phase == IN_GREETED) {
			oldest = in;
			nr++;
		}
	if (nr >= MAX_GREETED)
		refuse_greeted(oldest, "too many others connect");
}

/** incoming_new() - of migration @id, which must be new here; NULL: no memory */
struct incoming *incoming_new(struct ferry *f, const uint8_t id[16])
{
	struct incoming *in;
	int err;

	make_way(f);
	in = calloc(1, sizeof(*in));
	if (!in)
		return NULL;
	err = loop_timer_init(&in->linger, f->loop, on_time, in);
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
	room_init(&in->room);
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
		return;
	}
	loop_timer_at(&in->linger, now_ns() + WIRE_HELLO_TIMEOUT_MS * NS_PER_MS);
}

/** incoming_wants() - the incoming that waits for the channel of @h; NULL: none does */
struct incoming *incoming_wants(struct ferry *f, const struct wire_hello *h)
{
	struct incoming *in = incoming_find(f, h->id);

	if (!in || in->phase != IN_RECEIVING || h->channel >= in->room.nr_channels ||
	    channel_recv_is_connected(in->room.channels[h->channel]) || h->nr_channels != in->room.nr_channels)
		return NULL;
	return in;
}

/** incoming_take_channel() - @sock is channel @k, see incoming_wants(); taken over */
void incoming_take_channel(struct incoming *in, uint32_t k, int sock)
{
	if (sock >= 0) {
		channel_recv_connect(in->room.channels[k], sock);
	} else {
		incoming_blame(in, "cannot open channel %u: no file descriptor is left", k);
		incoming_step(in, DEV_VMM_LOST);
	}
}

/** incoming_is_live() - migration @id has a session here that may still start the guest */
bool incoming_is_live(struct ferry *f, const uint8_t id[16])
{
	const struct incoming *in = incoming_find(f, id);

	return in && !incoming_is_over(in);
}

/**
 * incoming_give_up() - the source of migration @id asks what became of it: it ends here, unless GO was heard
 *
 * Return: true: GO was heard, and whether the guest has started is not known yet
 */
bool incoming_give_up(struct ferry *f, const uint8_t id[16])
{
	struct incoming *in = incoming_find(f, id);

	/* Whoever asks, the control connection may live, and GO be on its way: the source has to be told. */
	if (in && !incoming_is_over(in) && in->state < DST_STARTING) {
		incoming_blame(in, "somebody asked what became of it, before GO was heard");
		incoming_step(in, DEV_CHANNEL_LOST);
	}
	return incoming_is_live(f, id);
}

/* The daemon ends: nothing lingers. What is out is waited for by worker_drain(), and frees it. */
static void end(struct incoming *in, const char *reason)
{
	if (!incoming_is_over(in) && in->state < DST_STARTING) {
		incoming_blame(in, "%s", reason);
		incoming_step(in, DEV_VMM_LOST);
	} else if (!incoming_is_over(in) || in->phase == IN_GRACE) {
		/* RUN was asked: whoever starts this daemon again finds "go", and asks the VMM what it did. */
		let_go_of_vm(in);
		close_after_run(in);
	}
	in->is_last = true;
	if (in->phase == IN_LINGERING)
		free_incoming(in);
}

/** incoming_stop() - the daemon ends: refuse what has not arrived */
void incoming_stop(struct ferry *f, const char *reason)
{
	for (struct incoming *in = f->incoming, *next; in; in = next) {
		next = in->next;
		end(in, reason);
	}
}
