// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Receives guests: owns everything of one incoming migration and carries out what
 * decide/switchover_dst.c says. Its connections come from greeter.c.
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
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/deadline.h"
#include "base/error.h"
#include "decide/switchover_dst.h"
#include "incoming.h"
#include "pages/warm.h"

#define LINGER_NS (5 * NS_PER_S)
#define GRACE_NS (10 * NS_PER_MS)
#define ENTRY_LOOK_NS 100000ULL
#define RUN_PATIENCE_NS (3 * NS_PER_MS)
#define ENTRY_PATIENCE_NS (20 * NS_PER_MS)
#define MAX_STATE (1ULL << 32)

struct incoming {
	struct ferry *f;
	struct incoming *next;
	uint8_t id[16];
	struct peer *peer;
	struct vm *vm; /* NULL until the plan is accepted */
	char name[64];
	struct vm_watcher watcher;
	struct place *place;
	struct channel_receiver *channels[CHANNEL_MAX];
	unsigned int nr_channels;
	struct loop_event received;
	struct loop_timer linger;
	int state_fd;
	uint64_t state_size;
	uint64_t state_len;
	uint32_t attempt;	/* of the last WIRE_STATE */
	uint32_t taken_attempt; /* the last one passed on as DEV_RECEIVED */
	uint32_t placed_round;	/* the last one told as WIRE_PLACED */
	uint64_t load_asked_ns, load_ns;
	uint64_t device_ns[WIRE_MAX_DEVICES];
	uint64_t first_entry_ns;
	int probe_slot;
	struct loop_timer entry_patience; /* the probe has not seen the first entry yet */
	uint64_t ran_ns;
	bool is_over, is_wound_up, is_urgent;
	enum dst_state state;
	char error[WIRE_TEXT_LEN];
};

static void step(struct incoming *in, enum dst_event event);

static void __attribute__((format(printf, 2, 3))) blame(struct incoming *in, const char *fmt, ...)
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
	close_channels(in);
	peer_close(in->peer);
	loop_event_fini(&in->received);
	loop_timer_fini(&in->linger);
	loop_timer_fini(&in->entry_patience);
	blackout_unwatch(in->f->blackouts, in->probe_slot);
	if (in->vm && in->vm->watcher == &in->watcher)
		in->vm->watcher = NULL;
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
	blackout_unwatch(in->f->blackouts, in->probe_slot);
	in->probe_slot = -1;
	close_channels(in);
	if (in->vm && in->vm->watcher == &in->watcher)
		in->vm->watcher = NULL;
	if (in->vm && in->state == DST_LOST)
		in->vm->is_busy = false; /* what was discarded, once it is clean again */
	loop_timer_at(&in->linger, now_ns() + (in->peer ? LINGER_NS : 1));
}

/* A guest that has just begun to run here must not be disturbed by our cleaning up. */
static void finish(struct incoming *in)
{
	in->is_over = true;
	if (in->state == DST_RUNNING) {
		in->vm->watcher = NULL;
		in->vm->is_busy = false;
		loop_timer_at(&in->linger, now_ns() + GRACE_NS);
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
		in->vm->watcher = NULL;
		vm_ask(in->vm, VM_DISCARD, NULL, 0, -1, on_discarded, vm_get(in->vm));
		notice_report("vm %s: the guest did not arrive: %s; it does not run here; ready for the next",
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

static void prepare(struct incoming *in)
{
	int err = journal_begin(in->f->journal, in->id, in->name, false, NULL);

	/* Room for the state now, not in the blackout. */
	if (!err && in->state_size && fallocate(in->state_fd, 0, 0, (off_t)in->state_size))
		err = -errno;
	if (err) {
		blame(in, "cannot prepare the switchover: %s", strerror(-err));
		step(in, DEV_VMM_LOST);
		return;
	}
	if (peer_send(in->peer, WIRE_PREPARED, NULL, 0))
		step(in, DEV_PEER_LOST);
}

/* @type: WIRE_READY, or of a try that was called off WIRE_DROPPED */
static void tell_loaded(struct incoming *in, enum wire_type type)
{
	struct wire_ready r = { .attempt = in->taken_attempt,
				.nr_devices = in->vm->nr_devices,
				.load_ns = in->load_ns };

	memcpy(r.device_ns, in->device_ns, sizeof(r.device_ns));
	if (peer_send(in->peer, type, &r, sizeof(r)))
		step(in, DEV_PEER_LOST);
}

static void on_loaded(void *arg, int status, const void *body, uint32_t len)
{
	struct incoming *in = arg;
	bool was_dropped;

	in->load_ns = now_ns() - in->load_asked_ns;
	if (status) {
		blame(in, "its VMM cannot load the state: %s", strerror(-status));
		step(in, DEV_VMM_LOST);
		return;
	}
	memset(in->device_ns, 0, sizeof(in->device_ns));
	if (len <= sizeof(in->device_ns))
		memcpy(in->device_ns, body, len);
	was_dropped = in->state == DST_DROPPING;
	step(in, DEV_LOADED);
	if (was_dropped && in->state == DST_PREPARED)
		tell_loaded(in, WIRE_DROPPED);
}

/* The answer may outlive the incoming: it then finds the VM's watcher changed. */
static void load_answered(void *arg, int status, const void *body, uint32_t len)
{
	struct vm *vm = arg;

	if (vm->watcher && vm->watcher->owner)
		on_loaded(vm->watcher->owner, status, body, len);
	vm_put(vm);
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

/* The VMM answers when it lets the first vCPU go; the probe sees it enter a moment later. */
static void look_for_entry(void *owner)
{
	struct incoming *in = owner;

	if (in->state != DST_STARTING)
		return;
	if (!has_seen_entry(in))
		loop_timer_at(&in->entry_patience, now_ns() + ENTRY_LOOK_NS);
	else
		step(in, DEV_RAN);
}

static void on_ran(struct incoming *in, int status, const void *body, uint32_t len)
{
	struct vmferry_msg_resumed r = { 0 };

	if (status) {
		blame(in, "its VMM did not confirm the start: %s", strerror(-status));
		step(in, DEV_VMM_LOST);
		return;
	}
	if (len == sizeof(r))
		memcpy(&r, body, sizeof(r));
	in->first_entry_ns = r.first_entry_ns;
	in->ran_ns = now_ns();
	look_for_entry(in);
}

static void run_answered(void *arg, int status, const void *body, uint32_t len)
{
	struct vm *vm = arg;

	if (vm->watcher && vm->watcher->owner)
		on_ran(vm->watcher->owner, status, body, len);
	vm_put(vm);
}

static void load(struct incoming *in)
{
	struct vmferry_msg_saved s = { .len = in->state_len };

	in->load_asked_ns = now_ns();
	vm_ask(in->vm, VM_LOAD, &s, sizeof(s), in->state_fd, load_answered, vm_get(in->vm));
}

static void run_guest(struct incoming *in)
{
	/* Before RUN leaves: a daemon that restarts must know that the guest is ours. */
	if (journal_note(in->f->journal, in->id, JOURNAL_GO))
		error_report("vm %s: going on without a journal: GO was heard, the guest is ours", in->name);
	vm_ask(in->vm, VM_RUN, NULL, 0, -1, run_answered, vm_get(in->vm));
}

static void tell_running(struct incoming *in)
{
	struct wire_running r = { .vmm_entry_ns = in->first_entry_ns,
				  .entry_ns = blackout_first_entry_ns(in->f->blackouts, in->probe_slot),
				  .by = blackout_by(in->f->blackouts, in->probe_slot) };

	if (in->peer)
		peer_send(in->peer, WIRE_RUNNING, &r, sizeof(r));
	journal_note(in->f->journal, in->id, JOURNAL_DONE);
	journal_sync(in->f->journal, NULL, NULL);
	notice_report("vm %s: arrived and runs here", in->name);
	in->f->emit(in->f, in->name, "MIGRATION_ARRIVED", NULL);
}

static void carry_out(struct incoming *in, unsigned int actions)
{
	if (actions & DACT_PREPARE)
		prepare(in);
	if (actions & DACT_LOAD)
		load(in);
	if (actions & DACT_TELL_READY)
		tell_loaded(in, WIRE_READY);
	if (actions & DACT_RUN)
		run_guest(in);
	if (actions & DACT_TELL_RUNNING)
		tell_running(in);
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

static void step(struct incoming *in, enum dst_event event)
{
	enum dst_state from = in->state;
	unsigned int actions;

	if (!switchover_dst_step(&in->state, event, &actions)) {
		error_report("vm %s: bug: event %s in state %s; ignored", in->name,
			     dst_event_name(event), dst_state_name(from));
		return;
	}
	ferry_urgent(in->f, &in->is_urgent, in->state >= DST_PREPARED && in->state <= DST_STARTING);
	carry_out(in, actions);
}

/* ---- what arrives ---- */

static void look_for_received(struct incoming *in)
{
	if (!in->attempt || in->attempt == in->taken_attempt || in->state != DST_PREPARED)
		return;
	for (unsigned int i = 0; i < in->nr_channels; i++)
		if (!in->channels[i] || channel_recv_mark(in->channels[i], PACKET_FINAL) != in->attempt)
			return;
	in->taken_attempt = in->attempt;
	step(in, DEV_RECEIVED);
}

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
		step(in, DEV_PEER_LOST);
}

static void on_received(void *owner)
{
	struct incoming *in = owner;
	int err = in->place ? place_error(in->place) : 0;

	if (in->is_over)
		return;
	if (err && in->state < DST_STARTING) {
		blame(in, "no memory for the guest: %s; free some and retry", strerror(-err));
		step(in, DEV_VMM_LOST);
		return;
	}
	for (unsigned int i = 0; i < in->nr_channels; i++) {
		if (!in->channels[i] || !channel_recv_ended(in->channels[i], &err))
			continue;
		if (in->state >= DST_STARTING)
			continue;
		if (err == -EFAULT || err == -ENOMEM)
			blame(in, "no memory for the guest; free some and retry");
		else
			blame(in, "channel %u: %s", i, err == -EBADMSG ? "sent garbage" :
			      err == -ECONNRESET ? "closed by the source" : strerror(-err));
		step(in, err == -ECONNRESET ? DEV_PEER_LOST : DEV_VMM_LOST);
		return;
	}
	look_for_placed(in);
	look_for_received(in);
}

static void on_vm_lost(void *owner)
{
	struct incoming *in = owner;

	in->vm->watcher = NULL;
	blame(in, "its VMM (pid %d) at the destination closed the connection or died", in->vm->pid);
	step(in, DEV_VMM_LOST);
}

static const char *find_vm(struct incoming *in, const struct wire_plan *p,
			   const struct wire_region *regions, char *text, size_t len)
{
	static const uint8_t none[16];
	struct vm *vm = vm_find(&in->f->vms, in->name, true);

	if (!vm) {
		snprintf(text, len, "no VM named %s waits there; start one with --incoming", in->name);
		return text;
	}
	if (vm->is_busy)
		return "the VM that waits there is busy with another migration, or being cleaned; retry";
	if (memcmp(vm->uuid, none, 16) && memcmp(vm->uuid, p->uuid, 16))
		return "the VM that waits there has another UUID";
	if (vm->nr_vcpus != p->nr_vcpus || vm->nr_regions != p->nr_regions) {
		snprintf(text, len, "the VM that waits there has %u vCPUs and %u regions, the source %u and %u",
			 vm->nr_vcpus, vm->nr_regions, p->nr_vcpus, p->nr_regions);
		return text;
	}
	for (unsigned int i = 0; i < p->nr_regions; i++) {
		const struct region *r = &vm->regions[i];

		if (strncmp(r->name, regions[i].name, 63) || r->gpa != regions[i].gpa ||
		    r->size != regions[i].size) {
			snprintf(text, len, "region %s there is %llu MiB at 0x%llx, at the source %.32s: "
				 "%llu MiB at 0x%llx", r->name, (unsigned long long)r->size >> 20,
				 (unsigned long long)r->gpa, regions[i].name,
				 (unsigned long long)regions[i].size >> 20,
				 (unsigned long long)regions[i].gpa);
			return text;
		}
	}
	in->vm = vm_get(vm);
	return NULL;
}

static int make_room(struct incoming *in, const struct wire_plan *p)
{
	int err;

	in->nr_channels = p->nr_channels;
	in->state_size = p->state_size;
	in->state_fd = memfd_create("vmferry-state", MFD_CLOEXEC);
	if (in->state_fd < 0 || ftruncate(in->state_fd, (off_t)in->state_size))
		return -errno;
	err = place_open(in->vm->regions, in->vm->nr_regions, &in->place);
	if (!err)
		err = loop_event_init(&in->received, in->f->loop, on_received, in);
	return err;
}

static void take_plan(struct incoming *in, const void *body, uint32_t len)
{
	const struct wire_plan *p = body;
	struct wire_plan_ok ok;
	char text[WIRE_TEXT_LEN];
	const char *why;
	int err;

	if (in->vm || len < sizeof(*p) || !p->nr_channels || p->nr_channels > CHANNEL_MAX ||
	    !p->nr_regions || p->nr_regions > VMFERRY_MAX_REGIONS || p->state_size > MAX_STATE ||
	    len != sizeof(*p) + p->nr_regions * sizeof(struct wire_region)) {
		blame(in, "bad plan");
		step(in, DEV_VMM_LOST);
		return;
	}
	memcpy(in->name, p->name, sizeof(in->name) - 1);
	why = find_vm(in, p, (const struct wire_region *)(p + 1), text, sizeof(text));
	if (why) {
		blame(in, "%s", why);
		step(in, DEV_VMM_LOST);
		return;
	}
	in->watcher = (struct vm_watcher){ on_vm_lost, in };
	in->vm->watcher = &in->watcher;
	in->vm->is_busy = true;
	warm_cease(in->vm->warm);
	in->vm->is_fresh = false;
	err = make_room(in, p);
	if (err) {
		blame(in, "no room there: %s", strerror(-err));
		step(in, DEV_VMM_LOST);
		return;
	}
	in->probe_slot = blackout_watch(in->f->blackouts, in->vm->peer_pid);
	blackout_arm(in->f->blackouts, in->probe_slot);
	ok = (struct wire_plan_ok){ .huge = place_huge_pages(in->place) };
	peer_send(in->peer, WIRE_PLAN_OK, &ok, sizeof(ok));
}

static void take_ahead(struct incoming *in, const uint8_t *body, uint32_t len)
{
	struct wire_ahead a;
	int err = -EBADMSG;

	if (len >= sizeof(a)) {
		memcpy(&a, body, sizeof(a));
		if (a.nr_blocks <= (uint64_t)WIRE_MAX_BODY * 8 && (a.nr_blocks + 7) / 8 == len - sizeof(a))
			err = place_ahead(in->place, a.region, body + sizeof(a), a.nr_blocks);
	}
	if (err) {
		blame(in, "bad list of blocks to fault in");
		step(in, DEV_VMM_LOST);
	}
}

static void take_state(struct incoming *in, const void *body, uint32_t len)
{
	struct wire_state s;

	if (len == sizeof(s))
		memcpy(&s, body, sizeof(s));
	if (len != sizeof(s) || s.len > in->state_size || !s.attempt) {
		blame(in, "bad length of the state");
		step(in, DEV_VMM_LOST);
		return;
	}
	in->state_len = s.len;
	in->attempt = s.attempt;
	look_for_received(in);
}

static void take_abort(struct incoming *in, const void *body, uint32_t len)
{
	bool was_loaded = in->state == DST_READY;
	struct wire_abort a;

	if (len != sizeof(a)) {
		blame(in, "bad message that calls off a try");
		step(in, DEV_VMM_LOST);
		return;
	}
	memcpy(&a, body, sizeof(a));
	/* Its last marks may still be on their way: they must not be taken for another try's. */
	in->attempt = in->taken_attempt = a.attempt;
	step(in, DEV_ABORT);
	if (in->state != DST_PREPARED)
		return;
	if (!was_loaded)
		in->load_ns = 0;
	tell_loaded(in, WIRE_DROPPED);
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
		step(in, DEV_PEER_LOST);
}

static void on_message(void *owner, uint32_t type, const void *body, uint32_t len)
{
	struct incoming *in = owner;

	if (in->is_over)
		return;
	if (type == WIRE_PLAN) {
		take_plan(in, body, len);
	} else if (!in->place) {
		blame(in, "message %u before the plan", type);
		step(in, DEV_VMM_LOST);
	} else if (type == WIRE_AHEAD) {
		take_ahead(in, body, len);
	} else if (type == WIRE_PREPARE) {
		step(in, DEV_PREPARE);
	} else if (type == WIRE_STATE) {
		take_state(in, body, len);
	} else if (type == WIRE_GO) {
		step(in, DEV_GO);
	} else if (type == WIRE_ABORT) {
		take_abort(in, body, len);
	} else if (type == WIRE_PING) {
		take_ping(in, body, len);
	} else if (type == WIRE_CANCEL) {
		if (len == sizeof(struct wire_failed))
			blame(in, "%.*s", WIRE_TEXT_LEN - 1, ((const struct wire_failed *)body)->text);
		step(in, DEV_CANCEL);
	} else {
		blame(in, "message %u of %u bytes fits nothing", type, len);
		step(in, DEV_VMM_LOST);
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
	blame(in, "control connection: %s", err == -ECONNRESET ? "closed by the source" : strerror(-err));
	step(in, DEV_PEER_LOST);
}

static const struct peer_ops peer_ops = { on_message, on_lost };

/* ---- what the greeter hands over ---- */

/** incoming_new() - of migration @id, which must be new here; NULL: no memory */
struct incoming *incoming_new(struct ferry *f, const uint8_t id[16])
{
	struct incoming *in = calloc(1, sizeof(*in));

	if (!in || loop_timer_init(&in->linger, f->loop, on_linger_over, in)) {
		free(in);
		return NULL;
	}
	if (loop_timer_init(&in->entry_patience, f->loop, look_for_entry, in)) {
		loop_timer_fini(&in->linger);
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
		blame(in, "cannot open channel %u: %s", k, strerror(-err));
		step(in, DEV_VMM_LOST);
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
		step(in, DEV_PEER_LOST);
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
			blame(in, "%s", reason);
			step(in, DEV_VMM_LOST);
		}
		free_incoming(in);
	}
}
