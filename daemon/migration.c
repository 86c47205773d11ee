// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Moves one guest away: owns everything of that migration and carries out what decide/
 * says. It moves actions; it does not think. Rounds are in rounds.c.
 *
 * Theory of operation
 *
 *   set-up (setup.c) -> START_LOG -> round 1 (all that has data) -> HARVEST -> round 2 -> ...
 *       until a switchover is expected to make the limit:
 *   EV_CONVERGED -> journal synced and peer prepared (rounds go on) -> PAUSE
 *       -> last pages and SAVE at once -> state -> READY -> GO -> RUNNING
 *
 * All of it runs on the loop; pages move on the channels' threads, one job at a time
 * (pages/precopy.c). What happens while the guest stands still is in switchover.c, the end in closing.c.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/deadline.h"
#include "base/error.h"
#include "base/limited.h"
#include "base/text.h"
#include "migration_private.h"

const struct migration_params migration_default_params = {
	.channels = 2,
	.downtime_limit_ms = 300,
	.strict = true,
	.downtime_steps = 5,
	.max_tries = 5,
};

static const char *const status_names[] = { "setup",  "active",	    "device",	 "completed",
					    "failed", "cancelling", "cancelled", "held" };

const char *migration_status_name(enum migration_status s)
{
	return status_names[s];
}

const char *migration_timeout_action_name(enum migration_timeout_action a)
{
	static const char *const names[] = { "abort", "throttle", "pause" };

	return names[a];
}

bool migration_is_over(enum migration_status s)
{
	return s == MIGRATION_COMPLETED || s == MIGRATION_FAILED || s == MIGRATION_CANCELLED;
}

void migration_set_status(struct migration *m, enum migration_status s)
{
	if (m->status == s)
		return;
	m->status = s;
	m->f->emit(m->f, m->name, "MIGRATION", migration_status_name(s));
}

/* The first error counts: what follows is only its echo. */
void migration_blame(struct migration *m, const char *fmt, ...)
{
	va_list ap;

	if (m->error[0])
		return;
	va_start(ap, fmt);
	vsnprintf(m->error, sizeof(m->error), fmt, ap);
	va_end(ap);
	text_make_printable(m->error, strlen(m->error)); /* the peer's words go on to clients, in JSON */
}

/** migration_decided() - for the account: what was decided, and why */
void migration_decided(struct migration *m, const char *fmt, ...)
{
	struct migration_report *r = &m->report;
	struct migration_decision *d;
	va_list ap;

	/* The last place is the latest's. */
	if (r->nr_decisions < MIGRATION_MAX_DECISIONS)
		r->nr_decisions++;
	d = &r->decisions[r->nr_decisions - 1];
	d->at_ns = now_ns() - m->started_ns;
	va_start(ap, fmt);
	vsnprintf(d->text, sizeof(d->text), fmt, ap);
	va_end(ap);
}

/** migration_blame_tracker() - its dirty pages cannot be @done */
void migration_blame_tracker(struct migration *m, const char *done, int status)
{
	const char *why = vm_tracker_why(m->vm);

	migration_blame(m, "its dirty pages cannot be %s: %s%s%s", done, why, why[0] ? ": " : "",
			strerror(-status));
}

uint64_t migration_limit_ns(const struct migration *m)
{
	return m->params.downtime_limit_ms * NS_PER_MS;
}

/** migration_margin_ns() - of the limit, kept for what no sample has shown: 0.2 ms and a twentieth */
uint64_t migration_margin_ns(const struct migration *m)
{
	return 200000 + migration_limit_ns(m) / 20;
}

/* ---- the peer ---- */

static void on_message(void *owner, uint32_t type, const void *body, uint32_t len)
{
	struct migration *m = owner;
	struct wire_failed failed;
	struct wire_placed placed;
	struct wire_ready ready;
	struct wire_pong pong;

	if (type == WIRE_PREPARED && len == 0) {
		migration_step(m, EV_PEER_PREPARED);
	} else if (type == WIRE_PLACED && len == sizeof(placed)) {
		memcpy(&placed, body, len);
		precopy_placed(&m->precopy, placed.round);
	} else if (type == WIRE_READY && len == sizeof(ready)) {
		memcpy(&ready, body, len);
		switchover_take_ready(m, &ready);
	} else if (type == WIRE_PONG && len == sizeof(pong)) {
		memcpy(&pong, body, len);
		rounds_take_pong(m, &pong);
	} else if (type == WIRE_DROPPED && len == sizeof(ready)) {
		memcpy(&ready, body, len);
		m->dropped = ready.attempt;
		account_dropped(m, &ready);
	} else if (type == WIRE_RUNNING && len == sizeof(m->running) && m->state == SRC_GO_SENT) {
		memcpy(&m->running, body, len);
		m->runs_there = true;
		loop_timer_at(&m->pause, now_ns() + FERRY_GRACE_NS);
	} else if (type == WIRE_FAILED && len == sizeof(failed)) {
		memcpy(&failed, body, len);
		failed.text[WIRE_TEXT_LEN - 1] = '\0';
		migration_blame(m, "the destination: %s", failed.text);
		/* It says so only of a guest that never ran there and never will. */
		migration_step(m, m->state == SRC_GO_SENT ? EV_PEER_NEVER_RAN : EV_PEER_LOST);
	} else {
		migration_blame(m, "the destination sent message %u of %u bytes, which fits nothing", type, len);
		migration_step(m, EV_PEER_LOST);
	}
}

static void on_peer_lost(void *owner, int err)
{
	struct migration *m = owner;

	migration_blame(m, "control connection to %s: %s", m->connector.peer, strerror(-err));
	peer_close(m->peer);
	m->peer = NULL;
	migration_step(m, EV_PEER_LOST);
}

const struct peer_ops migration_peer_ops = { on_message, on_peer_lost };

static void on_vm_lost(void *owner)
{
	struct migration *m = owner;

	m->vm->watcher = NULL;
	migration_blame(m, "its VMM (pid %d) closed the connection or died", m->vm->pid);
	migration_step(m, EV_VMM_LOST);
	closing_let_ram_go(m);
}

/** migration_vmm() - who is asked about the guest: its VMM as it registered last */
struct vm *migration_vmm(const struct migration *m)
{
	return m->vm_back ? m->vm_back : m->vm;
}

static void on_vm_back_lost(void *owner)
{
	struct migration *m = owner;
	struct vm *vm = m->vm_back;

	vm->watcher = NULL;
	m->vm_back = NULL;
	vm_put(vm);
}

/* A VMM of protocol 1 cannot say which migration it is of. */
static bool is_of(const struct migration *m, const struct vm *vm)
{
	return vm->version < 2 ||
	       (vm->last.role == JOURNAL_SOURCE && !memcmp(vm->last.id, m->id, sizeof(m->id)));
}

/**
 * migration_vm_is_back() - the VMM of a guest that is on its way has registered again
 *
 * What it is told comes from the migration, never from recovery.c: before GO the guest goes on here and the
 * migration is over; after GO it waits for what becomes of it over there.
 * Return: false: there is no such migration, or it has left the guest to recovery.c
 */
bool migration_vm_is_back(struct ferry *f, struct vm *vm)
{
	struct migration *m = migration_find(f, vm->name);
	bool runs = vm->run_state == VMFERRY_RUN_RUNNING;

	if (!m || m->is_doomed || m->vm_back || !is_of(m, vm))
		return false;
	m->vm_back = vm_get(vm);
	m->back_watcher = (struct vm_watcher){ on_vm_back_lost, m };
	vm->watcher = &m->back_watcher;
	vm->is_busy = true;
	if (src_guest_may_run_here(m->state)) {
		m->may_be_stopped = !runs;
		migration_blame(m, "its VMM closed the connection and registered again during the switchover");
		migration_step(m, EV_CANCEL);
		return true;
	}
	if (runs)
		limited_error(f->limited, LIMITED_LOST, "vm %s: GO was sent to %s, and its VMM (pid %d) registered again with a "
			      "guest that runs: it may run twice; stop one of them", m->name, m->connector.uri, vm->pid);
	else
		limited_notice(f->limited, LIMITED_GUEST, "vm %s: its VMM registered again; the guest stays %s: GO was sent to %s",
			       m->name, vm_state_name(vm), m->connector.uri);
	return true;
}

static void tell(struct migration *m, enum wire_type type)
{
	struct wire_abort abort = { .attempt = m->attempt };
	struct wire_failed why = { "" };

	snprintf(why.text, sizeof(why.text), "%.*s", WIRE_TEXT_LEN - 1,
		 m->error[0] ? m->error : "cancelled");
	if (m->peer && type == WIRE_CANCEL)
		peer_send(m->peer, type, &why, sizeof(why));
	else if (m->peer)
		peer_send(m->peer, type, &abort, sizeof(abort));
}

/* Each action in the order of its bit: what matters most for the guest comes first. */
static void carry_out(struct migration *m, unsigned int actions)
{
	if (actions & ACT_JOURNAL_BEGIN)
		switchover_begin_journal(m);
	if (actions & ACT_PREPARE_PEER && m->peer && peer_send(m->peer, WIRE_PREPARE, NULL, 0))
		migration_step(m, EV_PEER_LOST);
	if (actions & ACT_STOP_VCPUS)
		switchover_stop_vcpus(m);
	if (actions & ACT_SEND_REST)
		switchover_send_rest(m);
	if (actions & ACT_RESUME_GUEST)
		switchover_resume_guest(m);
	if (actions & ACT_TELL_ABORT)
		tell(m, WIRE_ABORT);
	if (actions & ACT_SEND_GO)
		switchover_send_go(m);
	if (actions & ACT_TELL_CANCEL)
		tell(m, WIRE_CANCEL);
	if (actions & ACT_HOLD)
		switchover_hold(m);
	if (actions & ACT_RELEASE)
		switchover_release(m);
	if (actions & ACT_FINISH)
		closing_begin(m);
	if (actions & ACT_RETRY)
		switchover_retry(m);
}

void migration_step(struct migration *m, enum src_event event)
{
	enum src_state from = m->state;
	unsigned int actions;

	if (m->is_doomed)
		return;
	/* Whatever breaks after RUNNING was heard, the guest is the destination's. */
	if (m->runs_there && m->state == SRC_GO_SENT && (event == EV_PEER_LOST || event == EV_PEER_NEVER_RAN)) {
		switchover_take_running(m, &m->running);
		return;
	}
	if (!switchover_src_step(&m->state, event, &actions)) {
		limited_error(m->f->limited, LIMITED_MISPLACED, "vm %s: bug: event %s in state %s; ignored",
			      m->name, src_event_name(event), src_state_name(from));
		return;
	}
	if (from < SRC_PREPARED && m->state == SRC_PREPARED)
		loop_timer_at(&m->pause, now_ns() + 1); /* harvest at once, if nothing is sent */
	ferry_urgent(m->f, &m->is_urgent, m->state >= SRC_STOPPING && m->state <= SRC_GIVING_UP);
	carry_out(m, actions);
}

/* ---- start, cancel, resolve ---- */

/** migration_free() - of one that is closed, or was never begun; on the loop */
void migration_free(struct migration *m)
{
	for (struct migration **p = &m->f->outgoing; *p; p = &(*p)->next)
		if (*p == m) {
			*p = m->next;
			break;
		}
	ferry_urgent(m->f, &m->is_urgent, false);
	free(m->connector.regions);
	free(m);
}

/** migration_do() - has @run called by a worker, then @done by the loop; one work at a time */
void migration_do(struct migration *m, void (*run)(struct work *w), void (*done)(struct work *w))
{
	m->work = (struct work){ .run = run, .done = done, .owner = m };
	worker_do(m->f->worker, &m->work);
}

static int start(struct migration *m)
{
	struct precopy_config precopy = { .regions = m->vm->regions,
					  .sizes = m->vm->sizes,
					  .nr_regions = m->vm->nr_regions,
					  .dirty = m->vm->dirty,
					  .max_bandwidth = m->params.max_bandwidth,
					  .zstd_level = m->params.zstd_level };
	struct loop *l = m->f->loop;
	int err;

	if (getrandom(m->id, sizeof(m->id), 0) != sizeof(m->id))
		return -EIO;
	err = precopy_init(&m->precopy, l, &precopy, &rounds_precopy_ops, m);
	if (!err)
		err = loop_timer_init(&m->budget, l, switchover_on_budget, m);
	if (!err)
		err = asker_init(&m->asker, m->f, switchover_on_peer_answered, m);
	if (!err)
		err = rounds_init_timers(m);
	if (!err)
		err = setup_describe(m);
	if (!err && m->params.timeout_s)
		loop_timer_at(&m->timeout, now_ns() + m->params.timeout_s * NS_PER_S);
	return err;
}

/** migration_start() - begin to move @name to @uri; on refusal @why says it in words */
int migration_start(struct ferry *f, const char *name, const char *uri,
		    const struct migration_params *params, char *why, size_t why_len)
{
	struct vm *vm = vm_find(&f->vms, name, false);
	struct migration *m;
	int err;

	if (setup_refuses(f, name, params, vm, why, why_len))
		return -EINVAL;
	if (strlen(uri) >= sizeof(m->connector.uri)) {
		snprintf(why, why_len, "the address is too long");
		return -EINVAL;
	}
	m = migration_find(f, name);
	if (m)
		migration_free(m);
	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->f = f;
	m->vm = vm_get(vm);
	m->params = *params;
	m->state_fd = m->control = -1;
	connector_init(&m->connector, uri);
	m->started_ns = now_ns();
	strcpy(m->name, vm->name);
	m->next = f->outgoing;
	f->outgoing = m;
	m->probe_slot = -1;
	rounds_init(m);
	err = start(m);
	if (err) {
		snprintf(why, why_len, "vm %s: cannot begin: %s", name,
			 m->connector.text[0] ? m->connector.text : strerror(-err));
		precopy_fini(&m->precopy);
		loop_timer_fini(&m->budget);
		asker_fini(&m->asker);
		rounds_fini_timers(m);
		vm_put(vm);
		migration_free(m);
		return err;
	}
	m->watcher = (struct vm_watcher){ on_vm_lost, m };
	vm->watcher = &m->watcher;
	vm->is_busy = true;
	warm_cease(vm->warm);
	warm_hold();
	f->emit(f, m->name, "MIGRATION", migration_status_name(m->status));
	setup_begin(m);
	return 0;
}

/** migration_cancel() - call it off; after GO it cannot be */
int migration_cancel(struct ferry *f, const char *name, char *why, size_t why_len)
{
	struct migration *m = migration_find(f, name);

	if (!m || migration_is_over(m->status)) {
		snprintf(why, why_len, "vm %s: no migration to cancel", name);
		return -ESRCH;
	}
	if (!src_guest_may_run_here(m->state)) {
		snprintf(why, why_len, "vm %s: GO is sent, the destination owns the guest; too late to cancel",
			 name);
		return -EBUSY;
	}
	if (m->is_doomed)
		return 0; /* it ends already */
	m->cancelled = true;
	migration_blame(m, "cancelled");
	migration_step(m, EV_CANCEL);
	return 0;
}

/** migration_next_held() - the live migration behind @m that holds its guest, the first one with NULL; NULL: no more */
struct migration *migration_next_held(struct ferry *f, const struct migration *m)
{
	struct migration *next = m ? m->next : f->outgoing;

	while (next && next->status != MIGRATION_HELD)
		next = next->next;
	return next;
}

/*
 * The operator's word lasts from now on, held.c says why. A VMM that is not connected is told when it registers again, and
 * hears of nothing that could not be noted: such a word is refused.
 */
static int keep_word(struct migration *m, bool run_here, char *why, size_t why_len)
{
	const struct vm *vm = migration_vmm(m);
	int err = 0;

	if (!vm->sock || !run_here || held_finds_its_word(vm))
		err = held_keep_word(m->f, m->id, run_here);
	if (!err || vm->sock)
		return 0;
	snprintf(why, why_len, "vm %s: the journal cannot take it: %s", m->name, strerror(-err));
	return err;
}

/**
 * migration_resolve() - the operator knows what became of the guest that @m holds; @m may be freed behind it
 *
 * Return: 0, or a negative errno with words in @why
 */
int migration_resolve(struct migration *m, bool run_here, char *why, size_t why_len)
{
	int err = keep_word(m, run_here, why, why_len);

	if (err)
		return err;
	asker_stop(&m->asker);
	notice_report("vm %s: the operator says: %s", m->name, run_here ? "run it here" : "it runs there");
	migration_step(m, run_here ? EV_PEER_NEVER_RAN : EV_PEER_RUNNING);
	return 0;
}

struct migration *migration_find(struct ferry *f, const char *name)
{
	for (struct migration *m = f->outgoing; m; m = m->next)
		if (!strcmp(m->name, name))
			return m;
	return NULL;
}

static void stop(struct migration *m, const char *reason)
{
	m->is_dropped = true;
	if (m->is_closed) {
		migration_free(m);
		return;
	}
	if (!m->is_doomed && src_guest_may_run_here(m->state)) {
		migration_blame(m, "%s", reason);
		migration_step(m, EV_CANCEL);
	} else if (!m->is_doomed && m->runs_there && m->state == SRC_GO_SENT) {
		switchover_take_running(m, &m->running); /* it waits for the end of the grace */
	}
	/* A guest that is stopped goes on: the request is on its way, see also recovery.c. */
	if (!m->is_doomed) {
		m->state = src_guest_may_run_here(m->state) ? SRC_FAILED : m->state;
		closing_begin(m);
	}
}

/** migration_stop_all() - the daemon ends: cancels what can be; worker_drain() then closes and frees everything */
void migration_stop_all(struct ferry *f, const char *reason)
{
	struct migration *next;

	for (struct migration *m = f->outgoing; m; m = next) {
		next = m->next;
		stop(m, reason);
	}
}

/** migration_is_closing() - its end has begun, see closing.c */
bool migration_is_closing(const struct migration *m)
{
	return m->is_doomed && !m->is_closed;
}

const char *migration_vm(const struct migration *m)
{
	return m->name;
}

bool migration_has_id(const struct migration *m, const uint8_t id[16])
{
	return !memcmp(m->id, id, sizeof(m->id));
}

const uint8_t *migration_id(const struct migration *m)
{
	return m->id;
}

/** migration_has_vmm() - is @vm the VMM of the guest of @m, as it registered last? A newcomer of its name is not. */
bool migration_has_vmm(const struct migration *m, const struct vm *vm)
{
	return migration_vmm(m) == vm;
}

/** migration_is_connected() - is the VMM of the guest of @m connected? */
bool migration_is_connected(const struct migration *m)
{
	return migration_vmm(m)->sock;
}

/** migration_is_live() - migration @id has a session here that is not closed yet */
bool migration_is_live(struct ferry *f, const uint8_t id[16])
{
	for (const struct migration *m = f->outgoing; m; m = m->next)
		if (migration_has_id(m, id))
			return !m->is_closed;
	return false;
}

const char *migration_uri(const struct migration *m)
{
	return m->connector.uri;
}

enum migration_status migration_status(const struct migration *m)
{
	return m->status;
}

const char *migration_error(const struct migration *m)
{
	return m->error;
}

const struct migration_params *migration_params_of(const struct migration *m)
{
	return &m->params;
}

uint64_t migration_elapsed_ns(const struct migration *m)
{
	return (m->ended_ns ? m->ended_ns : now_ns()) - m->started_ns;
}

/** migration_note_tracker() - what the account says of who harvested */
void migration_note_tracker(struct migration *m)
{
	struct dirty_counters d;

	dirty_read_counters(m->vm->dirty, &d);
	m->report.throttled_ns = d.throttled_ns;
	m->report.nr_vcpus = m->vm->nr_vcpus < MIGRATION_MAX_VCPUS ? m->vm->nr_vcpus : MIGRATION_MAX_VCPUS;
	for (unsigned int i = 0; i < m->report.nr_vcpus; i++)
		m->report.vcpu_throttled_ns[i] = dirty_throttled_ns(m->vm->dirty, i);
	m->report.ring_full = d.ring_full;
	m->report.tracker_is_ring = d.flags & VMFERRY_AREA_RING;
	m->report.tracker_is_kmod = d.flags & VMFERRY_AREA_KMOD;
}

/** migration_read_report() - the account so far; what a work is out with has the figures of just before */
void migration_read_report(struct migration *m, struct migration_report *to)
{
	struct channel_counters sum;

	if (!m->work.is_out && precopy_counters(&m->precopy, &sum))
		m->report.counters = sum;
	if (!m->work.is_out && m->vm && m->state != SRC_DONE) /* then nobody tracks any more */
		migration_note_tracker(m);
	if (m->state != SRC_DONE)
		account_read_brownout(m);
	m->report.goodput = predictor_goodput(&m->predictor);
	m->report.total_ns = migration_elapsed_ns(m);
	if (to != &m->report)
		*to = m->report;
}
