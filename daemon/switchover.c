// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The source's switchover: what happens from the stop request to GO, or back to running.
 *
 * Theory of operation
 *
 *   journal synced, peer prepared -> PAUSE (the last harvest is published with its answer)
 *       -> last pages (PRECOPY_REST) and SAVE at once -> state (PRECOPY_STATE) -> READY
 *       -> "go" in the journal -> GO -> RUNNING
 *
 * Between PAUSE and GO nothing is allocated, synced to a disk or looked up. The clock
 * starts at the last guest exit, or, until that is known, at the moment of asking for
 * the stop, which is earlier. The budget timer fires early enough that the guest runs
 * again here within the limit. Where the limit is not kept every wait ends nevertheless: the VMM has
 * 10 s for each request, a channel 10 s without progress, and the destination LOAD_PATIENCE_NS to load.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/deadline.h"
#include "base/error.h"
#include "migration_private.h"

#define GO_PATIENCE_NS (5 * NS_PER_S) /* for RUNNING; then the peer is asked anew, by another connection */
#define LOAD_PATIENCE_NS (20 * NS_PER_S) /* for READY where no limit is kept: its VMM has 10 s to load */
#define RETRY_AFTER_NS 20000000ULL  /* between the first try that was called off and the next */
#define RETRY_MOST_NS 1000000000ULL /* it grows, for what held a host up may take its time */

static void on_journaled(void *arg, int err)
{
	struct migration *m = arg;

	if (err) {
		migration_blame(m, "the journal cannot be synced: %s", strerror(-err));
		migration_step(m, EV_CANCEL);
		return;
	}
	migration_step(m, EV_JOURNALED);
}

static void describe(const struct migration *m, struct journal_entry *e)
{
	*e = (struct journal_entry){ .role = JOURNAL_SOURCE };
	memcpy(e->id, m->id, sizeof(e->id));
	snprintf(e->vm, sizeof(e->vm), "%s", m->name);
	snprintf(e->peer, sizeof(e->peer), "%s", m->connector.peer);
	memcpy(e->peer_journal, m->connector.welcome.journal, sizeof(e->peer_journal));
}

void switchover_begin_journal(struct migration *m)
{
	struct journal_entry e;
	int err;

	describe(m, &e);
	err = journal_begin(m->f->journal, &e);
	if (err)
		on_journaled(m, err);
	else
		journal_sync(m->f->journal, on_journaled, m);
}

/* Words come after the guest was asked to run again. */
static void call_off(struct migration *m, const char *why)
{
	const char *state = src_state_name(m->state);
	uint64_t after = now_ns() - m->t.last_exit;

	migration_step(m, EV_OVER_BUDGET);
	migration_decided(m, "switchover called off in state %s after %.2f ms, limit %u ms: %s", state,
			  (double)after / 1e6, m->params.downtime_limit_ms, why);
	notice_report("vm %s: switchover called off in state %s after %llu us, limit %u ms: %s", m->name, state,
		      (unsigned long long)after / 1000, m->params.downtime_limit_ms, why);
}

/* True: what is still to come would cross the limit, and the try is off. */
static bool is_off(struct migration *m, enum predictor_part next)
{
	if (!account_is_hopeless(m, next))
		return false;
	call_off(m, "what is left to do would cross it");
	return true;
}

void switchover_on_budget(void *owner)
{
	struct migration *m = owner;

	if (m->state == SRC_GO_SENT) {
		migration_blame(m, "the destination has not answered for %llu s", GO_PATIENCE_NS / NS_PER_S);
		migration_step(m, EV_PEER_LOST);
		return;
	}
	if (m->state == SRC_WAIT_READY && !m->params.strict) {
		migration_blame(m, "the destination has not loaded the guest for %llu s", LOAD_PATIENCE_NS / NS_PER_S);
		migration_step(m, EV_PEER_LOST);
		return;
	}
	if (m->state < SRC_STOPPING || m->state > SRC_WAIT_READY)
		return;
	call_off(m, "time is up");
}

/* The guest must run here again within the limit: leave time for resuming. */
static void arm_budget(struct migration *m, uint64_t from_ns)
{
	uint64_t budget = account_budget_ns(m);

	if (m->params.strict)
		loop_timer_at(&m->budget, from_ns + (budget ? budget : 1));
}

static void on_paused(void *arg, int status, const void *body, uint32_t len)
{
	struct migration *m = arg;
	struct vmferry_msg_paused p;

	if (m->state != SRC_STOPPING)
		return; /* called off meanwhile: RESUME follows */
	if (status || len != sizeof(p)) {
		migration_blame(m, "its VMM cannot stop the guest: %s", strerror(-status));
		migration_step(m, EV_VMM_LOST);
		return;
	}
	memcpy(&p, body, sizeof(p));
	account_stopped(m, &p);
	arm_budget(m, m->t.last_exit);
	migration_step(m, EV_STOPPED);
}

void switchover_stop_vcpus(struct migration *m)
{
	m->attempt++;
	m->may_be_stopped = true;
	m->report.tries++;
	loop_timer_stop(&m->pause);
	migration_set_status(m, MIGRATION_DEVICE);
	account_stopping(m);
	arm_budget(m, m->t.stop_asked);
	vm_ask(m->vm, VM_PAUSE, NULL, 0, -1, on_paused, m);
}

static void start_state_if_ready(struct migration *m)
{
	struct wire_state ws = { .len = m->state_len, .attempt = m->attempt };

	if (m->state != SRC_SENDING || m->precopy.job != PRECOPY_NONE || !m->t.saved || !m->t.rest_sent)
		return;
	if (peer_send(m->peer, WIRE_STATE, &ws, sizeof(ws))) {
		migration_blame(m, "the control connection broke while the guest was stopped");
		migration_step(m, EV_PEER_LOST);
		return;
	}
	precopy_start(&m->precopy, PRECOPY_STATE, m->state_len, m->attempt);
}

static void on_saved(void *arg, int status, const void *body, uint32_t len)
{
	struct migration *m = arg;
	struct vmferry_msg_saved s;

	if (m->state != SRC_SENDING || m->t.saved)
		return; /* of a try that was called off */
	if (status || len != sizeof(s) + m->vm->nr_devices * sizeof(m->saved_ns[0])) {
		migration_blame(m, "its VMM cannot save the state: %s", strerror(-status));
		migration_step(m, EV_VMM_LOST);
		return;
	}
	memcpy(&s, body, sizeof(s));
	if (s.len > m->vm->state_size) {
		migration_blame(m, "its state is %llu bytes, but it registered %llu at most",
		      (unsigned long long)s.len, (unsigned long long)m->vm->state_size);
		migration_step(m, EV_VMM_LOST);
		return;
	}
	memcpy(m->saved_ns, (const char *)body + sizeof(s), len - sizeof(s));
	m->state_len = s.len;
	m->t.saved = now_ns();
	if (!m->t.rest_sent || !is_off(m, PART_STATE))
		start_state_if_ready(m);
}

void switchover_send_rest(struct migration *m)
{
	vm_ask(m->vm, VM_SAVE, NULL, 0, m->state_fd, on_saved, m);
	if (m->state != SRC_SENDING || rounds_collect(m))
		return;
	account_expect(m);
	if (!is_off(m, PART_PAGES))
		precopy_start(&m->precopy, PRECOPY_REST, 0, 0);
}

void switchover_rest_is_sent(struct migration *m, uint64_t bytes, uint64_t ns)
{
	m->t.rest_sent = now_ns();
	m->rest_bytes = bytes;
	predictor_learn_goodput(&m->predictor, bytes, ns);
	if (!is_off(m, m->t.saved ? PART_STATE : PART_LOAD))
		start_state_if_ready(m);
}

void switchover_state_is_sent(struct migration *m)
{
	m->t.sent = now_ns();
	migration_step(m, EV_SENT);
	if (m->state != SRC_WAIT_READY)
		return;
	if (m->params.strict)
		is_off(m, PART_LOAD);
	else
		loop_timer_at(&m->budget, m->t.sent + LOAD_PATIENCE_NS);
}

void switchover_take_ready(struct migration *m, const struct wire_ready *r)
{
	if (r->attempt != m->attempt || m->state < SRC_SENDING || m->state > SRC_WAIT_READY)
		return; /* of a try that was called off */
	/* What is loaded there has been sent, though our own channels may not have said so yet. */
	if (m->state == SRC_SENDING) {
		m->t.sent = now_ns();
		migration_step(m, EV_SENT);
	}
	m->loaded = *r;
	m->t.ready = now_ns();
	/* After GO nothing can be called off: what hardly ever happens counts here. */
	if (m->params.strict && m->t.ready - m->t.last_exit + predictor_start_ns(&m->predictor) > migration_limit_ns(m))
		call_off(m, "the start over there may take too long for what is left of it");
	else if (m->state == SRC_WAIT_READY)
		migration_step(m, EV_PEER_READY);
}

void switchover_send_go(struct migration *m)
{
	m->t.go = now_ns();
	loop_timer_at(&m->budget, m->t.go + GO_PATIENCE_NS);
	/* Written before GO leaves: a daemon that restarts must not take it for unsent. */
	if (journal_note(m->f->journal, m->id, JOURNAL_SOURCE, JOURNAL_GO)) {
		migration_blame(m, "the journal cannot take GO");
		/* GO has not left: the peer is told so, and the guest goes on here. */
		migration_step(m, EV_PEER_NEVER_RAN);
		return;
	}
	if (peer_send(m->peer, WIRE_GO, NULL, 0)) {
		migration_blame(m, "the control connection broke while GO was being sent");
		migration_step(m, EV_PEER_LOST);
	}
}

void switchover_take_running(struct migration *m, const struct wire_running *r)
{
	account_moved(m, r);
	migration_step(m, EV_PEER_RUNNING);
}

static void on_resumed(void *arg, int status, const void *body, uint32_t len)
{
	struct migration *m = arg;
	struct vmferry_msg_resumed r = { 0 };

	/*
	 * It says that its guest is not stopped, as after a PAUSE that it refused. That is no proof: it registers again,
	 * says where it stands, and recovery.c closes the entry, or asks once more.
	 */
	if (status == -EINVAL && migration_vmm(m)->run_state == VMFERRY_RUN_RUNNING) {
		vm_disbelieve(migration_vmm(m));
		migration_step(m, EV_VMM_LOST);
		return;
	}
	if (status) {
		if (status != -ECONNRESET)
			error_report("vm %s: its VMM cannot resume the guest: %s; the guest is stopped at "
				     "the source; look at the VMM (pid %d)",
				     m->name, strerror(-status), migration_vmm(m)->pid);
		vm_disbelieve(migration_vmm(m)); /* recovery.c asks once more */
		migration_step(m, EV_VMM_LOST);
		return;
	}
	m->may_be_stopped = false;
	if (len == sizeof(r))
		memcpy(&r, body, sizeof(r));
	m->t.resumed = r.first_entry_ns > m->t.last_exit ? r.first_entry_ns : now_ns();
	migration_step(m, EV_RESUMED);
}

void switchover_resume_guest(struct migration *m)
{
	m->t.resume_asked = now_ns();
	vm_ask(migration_vmm(m), VM_RESUME, NULL, 0, -1, on_resumed, m);
	if (m->is_doomed)
		return; /* the VMM is gone */
	loop_timer_stop(&m->budget);
	if (m->status == MIGRATION_HELD)
		migration_set_status(m, MIGRATION_CANCELLING); /* decided: nothing is left to resolve */
}

/* The guest runs again: time enough for what was learned, and for the probe to have seen it. */
void switchover_retry(struct migration *m)
{
	uint64_t wait = RETRY_AFTER_NS;

	migration_set_status(m, MIGRATION_ACTIVE);
	for (unsigned int i = 1; i < m->report.tries; i++)
		wait *= 8;
	m->is_after_try = true;
	loop_timer_at(&m->pause, now_ns() + (wait < RETRY_MOST_NS ? wait : RETRY_MOST_NS));
}

/**
 * switchover_may_go_on() - before each round; after a try that was called off it learns from it
 * Return: false: there is no more to be tried, and the migration is over
 */
bool switchover_may_go_on(struct migration *m)
{
	struct prediction p;
	char text[256];

	if (m->is_after_try && m->t.resume_asked)
		account_called_off(m);
	if (!m->is_after_try || m->dropped < m->attempt)
		return true;
	m->is_after_try = false;
	if (account_may_try_again(m, &p))
		return true;
	migration_blame(m, "called off %u of %u tries to keep the limit: %s; raise --downtime-limit", m->report.tries,
			m->report.tries, account_words(m, &p, text, sizeof(text)));
	migration_step(m, EV_CANCEL);
	return false;
}

/** switchover_on_peer_answered() - the destination knows what became of a guest that is held */
void switchover_on_peer_answered(void *arg, enum wire_resolved answer)
{
	migration_step(arg, answer == WIRE_RESOLVED_RUNNING ? EV_PEER_RUNNING : EV_PEER_NEVER_RAN);
}

void switchover_hold(struct migration *m)
{
	struct journal_entry e;
	char advice[512];

	describe(m, &e);
	migration_set_status(m, MIGRATION_HELD);
	error_report("vm %s: %s after GO was sent: the guest is held paused here, for it may run at %s; "
		     "asking there until it answers; if you know better, say %s", m->name, m->error, m->connector.peer,
		     held_advice(m->f, m->name, m->id, advice, sizeof(advice)));
	peer_close(m->peer);
	m->peer = NULL;
	asker_start(&m->asker, &e);
	closing_let_ram_go(m);
}

void switchover_release(struct migration *m)
{
	if (m->status == MIGRATION_HELD)
		migration_set_status(m, MIGRATION_DEVICE); /* decided: nothing is left to resolve */
	migration_note_tracker(m); /* while it is still there */
	held_release(migration_vmm(m)->held, m->id, JOURNAL_SOURCE);
}
