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
 * again here within the limit.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/deadline.h"
#include "base/error.h"
#include "migration_private.h"

#define RETRY_AFTER_NS 20000000ULL  /* between the first try that was called off and the next */
#define RETRY_MOST_NS 1000000000ULL /* it grows, for what held a host up may take its time */
#define RULE 3

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

void switchover_begin_journal(struct migration *m)
{
	int err = journal_begin(m->f->journal, m->id, m->name, true, m->connector.uri);

	if (err)
		on_journaled(m, err);
	else
		journal_sync(m->f->journal, on_journaled, m);
}

void switchover_on_budget(void *owner)
{
	struct migration *m = owner;

	if (m->state < SRC_STOPPING || m->state > SRC_WAIT_READY)
		return;
	notice_report("vm %s: switchover called off in state %s after %llu us, limit %u ms",
		      m->name, src_state_name(m->state),
		      (unsigned long long)(now_ns() - m->stop_asked_ns) / 1000,
		      m->params.downtime_limit_ms);
	migration_step(m, EV_OVER_BUDGET);
}

/* The guest must run here again within the limit: leave time for resuming. */
static void arm_budget(struct migration *m, uint64_t from_ns)
{
	uint64_t rest = predictor_upper(&m->predictor, PART_START) + MIGRATION_MARGIN_NS;

	if (m->params.strict)
		loop_timer_at(&m->budget, from_ns + (migration_limit_ns(m) > rest ? migration_limit_ns(m) - rest : 1));
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
	/* Believed only where it can be true. */
	m->last_exit_ns = p.last_exit_ns > m->stop_asked_ns && p.last_exit_ns < now_ns() ?
				  p.last_exit_ns : m->stop_asked_ns;
	m->stopped_ns = p.stopped_ns;
	m->harvested_ns = now_ns();
	arm_budget(m, m->last_exit_ns);
	migration_step(m, EV_STOPPED);
}

void switchover_stop_vcpus(struct migration *m)
{
	m->attempt++;
	m->report.tries++;
	m->is_saved = false;
	m->rest_sent_ns = m->saved_ns = m->sent_ns = m->ready_ns = 0;
	loop_timer_stop(&m->pause);
	m->stop_asked_ns = m->last_exit_ns = now_ns();
	migration_set_status(m, MIGRATION_DEVICE);
	arm_budget(m, m->stop_asked_ns);
	vm_ask(m->vm, VM_PAUSE, NULL, 0, -1, on_paused, m);
}

static void start_state_if_ready(struct migration *m)
{
	struct wire_state ws = { .len = m->state_len, .attempt = m->attempt };

	if (m->state != SRC_SENDING || m->precopy.job != PRECOPY_NONE || !m->is_saved || !m->rest_sent_ns)
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

	if (m->state != SRC_SENDING || m->is_saved)
		return; /* of a try that was called off */
	if (status || len != sizeof(s)) {
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
	m->state_len = s.len;
	m->is_saved = true;
	m->saved_ns = now_ns();
	start_state_if_ready(m);
}

void switchover_send_rest(struct migration *m)
{
	vm_ask(m->vm, VM_SAVE, NULL, 0, m->state_fd, on_saved, m);
	if (m->state != SRC_SENDING || migration_collect(m))
		return;
	predictor_predict(&m->predictor, m->precopy.set.nr_set << 12, m->vm->state_size,
			  &m->report.predicted);
	precopy_start(&m->precopy, PRECOPY_REST, 0, 0);
}

void switchover_rest_is_sent(struct migration *m, uint64_t bytes, uint64_t ns)
{
	m->rest_sent_ns = now_ns();
	predictor_learn_goodput(&m->predictor, bytes, ns);
	start_state_if_ready(m);
}

void switchover_state_is_sent(struct migration *m)
{
	m->sent_ns = now_ns();
	migration_step(m, EV_SENT);
}

void switchover_take_ready(struct migration *m, const struct wire_ready *r)
{
	uint64_t now;

	if (r->attempt != m->attempt || m->state < SRC_SENDING || m->state > SRC_WAIT_READY)
		return; /* of a try that was called off */
	/* What is loaded there has been sent, though our own channels may not have said so yet. */
	if (m->state == SRC_SENDING)
		switchover_state_is_sent(m);
	m->ready_ns = now = now_ns();
	m->report.actual_ns[PART_LOAD] = now - m->sent_ns;
	if (m->params.strict && now - m->last_exit_ns +
	    predictor_upper(&m->predictor, PART_START) > migration_limit_ns(m))
		migration_step(m, EV_OVER_BUDGET);
	else if (m->state == SRC_WAIT_READY)
		migration_step(m, EV_PEER_READY);
}

void switchover_send_go(struct migration *m)
{
	loop_timer_stop(&m->budget);
	m->go_ns = now_ns();
	/* Written before GO leaves: a daemon that restarts must not take it for unsent. */
	if (journal_note(m->f->journal, m->id, JOURNAL_GO)) {
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
	uint64_t now = now_ns();

	m->report.actual_ns[PART_START] = now - m->go_ns;
	m->report.downtime_ns = now - m->last_exit_ns;
	if (!memcmp(m->connector.welcome.host, m->f->host, 16) && r->first_entry_ns > m->last_exit_ns) {
		m->report.blackout_ns = r->first_entry_ns - m->last_exit_ns;
		m->report.actual_ns[PART_START] = r->first_entry_ns - m->go_ns;
	}
	migration_step(m, EV_PEER_RUNNING);
}

static void on_resumed(void *arg, int status, const void *body, uint32_t len)
{
	struct migration *m = arg;
	struct vmferry_msg_resumed r = { 0 };

	if (status) {
		if (status != -ECONNRESET && m->vm)
			error_report("vm %s: its VMM cannot resume the guest: %s; the guest is stopped at "
				     "the source; look at the VMM (pid %d)",
				     m->name, strerror(-status), m->vm->pid);
		migration_step(m, EV_VMM_LOST);
		return;
	}
	if (len == sizeof(r))
		memcpy(&r, body, sizeof(r));
	if (r.first_entry_ns > m->last_exit_ns && r.first_entry_ns - m->last_exit_ns > m->report.stall_ns)
		m->report.stall_ns = r.first_entry_ns - m->last_exit_ns;
	migration_step(m, EV_RESUMED);
}

void switchover_resume_guest(struct migration *m)
{
	vm_ask(m->vm, VM_RESUME, NULL, 0, -1, on_resumed, m);
}

void switchover_retry(struct migration *m)
{
	const struct prediction *p = &m->report.predicted;
	struct predictor before = m->predictor;
	uint64_t wait = RETRY_AFTER_NS;

	migration_set_status(m, MIGRATION_ACTIVE);
	/* What is known now of a part that did not even end. */
	if (m->is_saved && m->sent_ns && !m->ready_ns)
		predictor_learn(&m->predictor, PART_LOAD, now_ns() - m->sent_ns);
	predictor_predict(&m->predictor, 0, m->vm->state_size, &m->report.predicted);
	/* One slow try, or two, may be a busy host's; three are the rule. */
	if (m->report.tries < RULE && p->upper_ns > migration_limit_ns(m)) {
		m->predictor = before;
		predictor_predict(&m->predictor, 0, m->vm->state_size, &m->report.predicted);
	}
	if (m->report.tries >= m->params.max_tries || p->upper_ns > migration_limit_ns(m)) {
		migration_blame(m,
		      "called off %u of %u tries to keep the limit of %u ms; needs about %llu ms, "
		      "of which pages %llu and load %llu; raise --downtime-limit",
		      m->report.tries, m->report.tries, m->params.downtime_limit_ms,
		      (unsigned long long)(p->upper_ns / NS_PER_MS),
		      (unsigned long long)(p->part_ns[PART_PAGES] / NS_PER_MS),
		      (unsigned long long)(predictor_upper(&m->predictor, PART_LOAD) / NS_PER_MS));
		migration_step(m, EV_CANCEL);
		return;
	}
	for (unsigned int i = 1; i < m->report.tries; i++)
		wait *= 8;
	loop_timer_at(&m->pause, now_ns() + (wait < RETRY_MOST_NS ? wait : RETRY_MOST_NS));
}

static void on_peer_answered(void *arg, bool runs_there)
{
	struct migration *m = arg;

	m->recovery = NULL;
	migration_step(m, runs_there ? EV_PEER_RUNNING : EV_PEER_NEVER_RAN);
}

void switchover_hold(struct migration *m)
{
	migration_set_status(m, MIGRATION_HELD);
	error_report("vm %s: %s after GO was sent: the guest is held paused here, for it may run at %s; "
		     "asking there until it answers; if you know better: \"vmferry resolve %s --gone\" or "
		     "\"--run-here\"", m->name, m->error, m->connector.uri, m->name);
	peer_close(m->peer);
	m->peer = NULL;
	m->recovery = recovery_ask_peer(m->f, m->id, m->name, m->connector.uri, on_peer_answered, m);
}

void switchover_release(struct migration *m)
{
	migration_note_tracker(m); /* while it is still there */
	recovery_release(m->f, m->vm, m->id);
	m->report.actual_ns[PART_STOP] = m->harvested_ns - m->last_exit_ns;
	if (m->rest_sent_ns && m->sent_ns) {
		m->report.actual_ns[PART_SAVE] =
			m->saved_ns > m->rest_sent_ns ? m->saved_ns - m->rest_sent_ns : 0;
		m->report.actual_ns[PART_PAGES] =
			m->sent_ns - m->harvested_ns - m->report.actual_ns[PART_SAVE];
	}
}
