// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Moves one guest away: owns everything of that migration and carries out what decide/
 * says. It moves actions; it does not think.
 *
 * Theory of operation
 *
 *   connect -> START_LOG -> round 1 (all that has data) -> HARVEST -> round 2 -> ...
 *       until a switchover is expected to make the limit:
 *   EV_CONVERGED -> journal synced and peer prepared (rounds go on) -> PAUSE
 *       -> last pages and SAVE at once -> state -> READY -> GO -> RUNNING
 *
 * All of it runs on the loop; pages move on the channels' threads, one job at a time
 * (pages/precopy.c). What happens while the guest stands still is in switchover.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/deadline.h"
#include "base/error.h"
#include "base/urgent.h"
#include "migration_private.h"

#define MIN_ROUND_NS 5000000ULL /* shorter rounds that lead nowhere wait this long */
#define FIRST_PINGS 8
#define GRACE_NS 10000000ULL /* the guest has just begun over there: cleaning up here may disturb it */

const struct migration_params migration_default_params = {
	.channels = 2,
	.downtime_limit_ms = 300,
	.strict = true,
	.downtime_steps = 5,
	.max_tries = 5,
};

static void ask_harvest(struct migration *m);

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

/** migration_margin_ns() - of the limit, kept for what no sample has shown: 0.2 ms and a fiftieth */
uint64_t migration_margin_ns(const struct migration *m)
{
	return 200000 + migration_limit_ns(m) / 50;
}

/** ferry_urgent() - the loop goes before all else as long as a guest stands still; @was: of one guest, updated */
void ferry_urgent(struct ferry *f, bool *was, bool is)
{
	unsigned int before = f->urgent;

	f->urgent = f->urgent + is - *was;
	*was = is;
	if (!before && f->urgent)
		urgent_begin();
	else if (before && !f->urgent)
		urgent_end();
}

static void note_round(struct migration *m, uint64_t bytes, uint64_t ns)
{
	struct migration_report *r = &m->report;
	struct migration_round *last;

	if (r->nr_rounds < MIGRATION_MAX_ROUNDS)
		r->nr_rounds++;
	last = &r->rounds[r->nr_rounds - 1];
	if (r->dirty_sync_count >= MIGRATION_MAX_ROUNDS) {
		last->pages += m->precopy.set.nr_set;
		last->bytes += bytes;
		last->ns += ns;
	} else {
		*last = (struct migration_round){ .pages = m->precopy.set.nr_set, .bytes = bytes, .ns = ns };
	}
	last->end_ns = now_ns() - m->started_ns;
	r->dirty_sync_count++;
	m->f->emit(m->f, m->name, "MIGRATION_PASS", NULL);
}

static void on_job_done(void *owner, enum precopy_job job, uint64_t bytes, uint64_t ns,
			uint64_t sending_ns)
{
	struct migration *m = owner;

	if (job == PRECOPY_ROUND) {
		note_round(m, bytes, ns);
		if (m->params.max_bandwidth == 0)
			predictor_learn_goodput(&m->predictor, bytes, sending_ns);
	}
	if (m->state <= SRC_PREPARED)
		ask_harvest(m); /* also after a try that was called off */
	else if (m->state == SRC_SENDING && job == PRECOPY_REST)
		switchover_rest_is_sent(m, bytes, sending_ns);
	else if (m->state == SRC_SENDING && job == PRECOPY_STATE)
		switchover_state_is_sent(m);
}

static void on_channel_failed(void *owner, unsigned int channel, int err)
{
	struct migration *m = owner;

	migration_blame(m, "channel %u: %s in round %u", channel,
	      err == -ETIMEDOUT ? "nothing moved for 10 s" : strerror(-err),
	      m->report.dirty_sync_count + 1);
	migration_step(m, EV_PEER_LOST);
}

static const struct precopy_ops precopy_ops = { on_job_done, on_channel_failed };

/* ---- rounds ---- */

int migration_collect(struct migration *m)
{
	int err = precopy_collect(&m->precopy);

	if (err) {
		if (err == -EIO)
			migration_blame(m, "the kernel module may have missed writes of the guest");
		else
			migration_blame(m, "its memory layout changed during the migration");
		migration_step(m, EV_VMM_LOST);
	}
	m->report.remaining_pages = m->precopy.set.nr_set;
	if (m->report.nr_rounds)
		m->report.rounds[m->report.nr_rounds - 1].dirty = m->precopy.set.nr_set;
	return err;
}

static void on_throttled(void *arg, int status, const void *body, uint32_t len)
{
	struct migration *m = arg;

	(void)body;
	(void)len;
	if (status && m->state <= SRC_PREPARED) {
		migration_blame(m, "the VMM cannot slow the guest: %s", strerror(-status));
		migration_step(m, EV_VMM_LOST);
	}
}

static void throttle(struct migration *m, unsigned int percent)
{
	struct vmferry_msg_throttle t = { .percent = percent };

	m->report.throttle_percent = percent;
	vm_ask(m->vm, VM_THROTTLE, &t, sizeof(t), -1, percent ? on_throttled : NULL, m);
}

/* Pages found by the last harvest, over the time they had. */
static uint64_t dirty_rate_bytes(const struct migration *m)
{
	uint64_t over = m->collected_ns - m->collected_before_ns;

	return m->collected_before_ns && over ?
		       (uint64_t)((unsigned __int128)(m->precopy.set.nr_set << 12) * NS_PER_S / over) : 0;
}

static void say_stalled(struct migration *m)
{
	char *text = m->report.advice, words[256];

	if (m->report.stalled)
		return;
	m->report.stalled = true;
	snprintf(text, sizeof(m->report.advice),
		 "does not converge: the guest dirties %llu MB/s, %llu MB/s are sent; a switchover now %s; "
		 "allow --throttle, raise --downtime-limit, or cancel",
		 (unsigned long long)(dirty_rate_bytes(m) / 1000000),
		 (unsigned long long)(predictor_goodput(&m->predictor) / 1000000),
		 account_words(m, &m->report.predicted, words, sizeof(words)));
	migration_decided(m, "stalled: no progress in three rounds");
	notice_report("vm %s: %s", m->name, text);
	m->f->emit(m->f, m->name, "MIGRATION_STALLED", text);
}

void migration_send_round(struct migration *m)
{
	if (m->precopy.set.nr_set >= 1 && m->precopy.job == PRECOPY_NONE)
		precopy_start(&m->precopy, PRECOPY_ROUND, 0, 0);
	else /* nothing to send: look again soon */
		loop_timer_at(&m->pause, now_ns() + MIN_ROUND_NS);
}

/* What is left now, and what the guest adds until it stands still. */
static void predict(struct migration *m)
{
	uint64_t rest = m->precopy.set.nr_set << 12;
	struct expected stop;

	estimate_expect(&m->predictor.part[PART_STOP], 0, &stop);
	rest += (uint64_t)((unsigned __int128)dirty_rate_bytes(m) * stop.mean_ns / NS_PER_S);
	predictor_predict(&m->predictor, rest, m->vm->state_size, &m->report.predicted);
}

/*
 * No better moment is in sight. Nothing but guesses speaks against this one, and no try has
 * been made: one teaches what is true; or it is likely to do, if not sure. Strict mode keeps
 * the limit meanwhile.
 */
static bool is_worth_a_try(const struct migration *m)
{
	const struct prediction *p = &m->report.predicted;
	uint64_t limit = migration_limit_ns(m);

	if (!m->params.strict || p->data_ns > m->convergence.cfg.data_ns)
		return false;
	if (p->is_cold)
		return !m->report.tries && p->measured_ns < limit && p->data_ns < limit / 2;
	return p->whole.likely_ns <= account_budget_ns(m);
}

/* Even with nothing left to send it would not make the limit, and that was measured. */
static bool is_beyond_hope(struct migration *m)
{
	struct prediction p;
	char text[256];

	predictor_predict(&m->predictor, 0, m->vm->state_size, &p);
	if (!m->params.strict || m->is_after_try)
		return false;
	if (p.measured_ns <= migration_limit_ns(m) && (p.is_cold || p.whole.likely_ns <= account_budget_ns(m)))
		return false;
	predictor_forget(&m->predictor); /* what is never tried again can never be found to have changed */
	m->has_forgotten = true;
	migration_blame(m, "no switchover was begun: it %s; raise --downtime-limit",
			account_words(m, &p, text, sizeof(text)));
	migration_step(m, EV_CANCEL);
	return true;
}

static enum converge_advice judge_round(struct migration *m)
{
	struct migration_report *r = &m->report;
	struct convergence_round now;
	enum converge_advice advice;

	predict(m);
	now = (struct convergence_round){ r->predicted.whole.upper_ns + (m->params.strict ? migration_margin_ns(m) : 0),
					  r->predicted.data_ns };
	advice = convergence_round(&m->convergence, &now);
	/* If it cannot be called off in time it must not be begun. */
	if (advice == CONVERGE_SWITCH && r->predicted.whole.likely_ns > account_budget_ns(m))
		advice = CONVERGE_STALLED;
	if (m->is_forced || (advice == CONVERGE_STALLED && is_worth_a_try(m)))
		advice = CONVERGE_SWITCH;
	/* The peer still holds the last try. */
	if (m->dropped < m->attempt && advice == CONVERGE_SWITCH)
		advice = CONVERGE_GO_ON;
	if (r->nr_rounds) {
		struct migration_round *last = &r->rounds[r->nr_rounds - 1];

		last->expected_ns = r->predicted.whole.mean_ns;
		last->upper_ns = r->predicted.whole.upper_ns;
		last->bound_ns = m->convergence.bound_ns;
		last->advice = advice;
	}
	return advice;
}

static void switch_over(struct migration *m)
{
	const struct prediction *p = &m->report.predicted;

	if (m->state == SRC_PRECOPY)
		migration_decided(m, "prepare the switchover: %.1f ms are expected, hardly ever more than %.1f%s",
				  (double)p->whole.mean_ns / 1e6, (double)p->whole.upper_ns / 1e6,
				  p->is_cold ? ", partly guessed" : "");
	else if (m->state == SRC_PREPARED)
		migration_decided(m, "switch over: %.1f ms are expected, hardly ever more than %.1f; the step is at %.1f%s",
				  (double)p->whole.mean_ns / 1e6, (double)p->whole.upper_ns / 1e6,
				  (double)m->convergence.bound_ns / 1e6, m->is_forced ? "; the limit is lifted" : "");
	if (m->state == SRC_PREPARED || m->state == SRC_PRECOPY)
		migration_step(m, EV_CONVERGED);
	if (m->state <= SRC_PREPARED)
		migration_send_round(m); /* meanwhile */
}

static void next_round(struct migration *m)
{
	const struct migration_report *r = &m->report;
	bool was_short = r->nr_rounds && r->rounds[r->nr_rounds - 1].ns < MIN_ROUND_NS;

	if (!switchover_may_go_on(m))
		return;
	switch (judge_round(m)) {
	case CONVERGE_SWITCH:
		switch_over(m);
		return;
	case CONVERGE_THROTTLE:
		migration_decided(m, "slow the guest by %u %%: no progress in three rounds", m->convergence.throttle);
		throttle(m, m->convergence.throttle);
		break;
	case CONVERGE_STALLED:
		if (is_beyond_hope(m))
			return;
		say_stalled(m);
		break;
	case CONVERGE_GO_ON:
		break;
	}
	if (was_short && m->precopy.set.nr_set << 12 < 1 << 20)
		loop_timer_at(&m->pause, now_ns() + MIN_ROUND_NS);
	else
		migration_send_round(m);
}

static void ping(struct migration *m)
{
	struct wire_ping p = { .sent_ns = now_ns() };

	m->pings++;
	if (m->peer && peer_send(m->peer, WIRE_PING, &p, sizeof(p)))
		migration_step(m, EV_PEER_LOST);
}

static void take_pong(struct migration *m, const struct wire_pong *p)
{
	clock_learn(&m->clock, p->sent_ns, p->got_ns, p->answered_ns, now_ns());
	if (m->pings < FIRST_PINGS)
		ping(m);
}

/** migration_begin_pings() - the first ones, one after the other; then one a round */
void migration_begin_pings(struct migration *m)
{
	ping(m);
}

static void arm_progress(struct migration *m)
{
	if (m->params.progress_timeout_s)
		loop_timer_at(&m->progress, now_ns() + m->params.progress_timeout_s * NS_PER_S);
}

/* Progress is what is left becoming less than it ever was. */
static void note_progress(struct migration *m)
{
	if (m->least_left && m->precopy.set.nr_set >= m->least_left)
		return;
	m->least_left = m->precopy.set.nr_set;
	arm_progress(m);
}

static void on_harvested(void *arg, int status, const void *body, uint32_t len)
{
	struct migration *m = arg;

	(void)body;
	(void)len;
	m->harvesting = false;
	if (m->state > SRC_PREPARED)
		return;
	if (status) {
		migration_blame_tracker(m, "harvested", status);
		migration_step(m, EV_VMM_LOST);
		return;
	}
	m->collected_before_ns = m->collected_ns;
	m->collected_ns = now_ns();
	if (migration_collect(m))
		return;
	note_progress(m);
	blackout_is_near(m->f->blackouts, m->probe_slot, m->state != SRC_PRECOPY, m->vm->nr_vcpus);
	if (m->pings >= FIRST_PINGS)
		ping(m);
	if (m->state <= SRC_PREPARED)
		next_round(m);
}

static void ask_harvest(struct migration *m)
{
	if (m->harvesting || m->precopy.job != PRECOPY_NONE)
		return;
	m->harvesting = true;
	vm_ask(m->vm, VM_HARVEST, NULL, 0, -1, on_harvested, m);
}

static void on_pause_over(void *owner)
{
	struct migration *m = owner;

	if (m->state <= SRC_PREPARED)
		ask_harvest(m);
	else if (m->state == SRC_GO_SENT)
		switchover_take_running(m, &m->running);
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
		take_pong(m, &pong);
	} else if (type == WIRE_DROPPED && len == sizeof(ready)) {
		memcpy(&ready, body, len);
		m->dropped = ready.attempt;
		account_dropped(m, &ready);
	} else if (type == WIRE_RUNNING && len == sizeof(m->running) && m->state == SRC_GO_SENT) {
		memcpy(&m->running, body, len);
		loop_timer_at(&m->pause, now_ns() + GRACE_NS);
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

	migration_blame(m, "control connection to %s: %s", m->connector.uri, strerror(-err));
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
}

/* ---- the end ---- */

static void close_connections(struct migration *m)
{
	migration_read_report(m, &m->report);
	precopy_fini(&m->precopy);
	peer_close(m->peer);
	m->peer = NULL;
}

static void let_go_of_vm(struct migration *m)
{
	struct vm *vm = m->vm;

	if (m->state == SRC_FAILED && vm->sock) {
		throttle(m, 0);
		vm_ask(vm, VM_STOP_LOG, NULL, 0, -1, NULL, NULL);
	}
	if (vm->watcher == &m->watcher)
		vm->watcher = NULL;
	if (m->state == SRC_FAILED)
		vm->is_busy = false; /* else until it is released */
}

static void report_end(struct migration *m)
{
	const struct migration_report *r = &m->report;

	if (m->state == SRC_DONE) {
		notice_report("vm %s: moved to %s in %llu ms; downtime %llu us, limit %u ms", m->name,
			      m->connector.uri,
			      (unsigned long long)(m->ended_ns - m->started_ns) / NS_PER_MS,
			      (unsigned long long)(r->blackout_ns ? r->blackout_ns : r->downtime_ns) / 1000,
			      m->params.downtime_limit_ms);
		migration_set_status(m, MIGRATION_COMPLETED);
		return;
	}
	if (!m->cancelled)
		error_report("vm %s: not moved: %s; %s", m->name, m->error,
			     m->vm->sock ? "the guest runs on at the source; retry with \"vmferry migrate\"" :
					   "its VMM is gone, and the guest with it");
	migration_set_status(m, m->cancelled ? MIGRATION_CANCELLED : MIGRATION_FAILED);
}

static void finish(struct migration *m)
{
	m->ended_ns = now_ns();
	loop_timer_fini(&m->budget);
	loop_timer_fini(&m->timeout);
	loop_timer_fini(&m->progress);
	loop_timer_fini(&m->pause);
	account_end(m);
	journal_forget(m->f->journal, m);
	close_connections(m);
	if (m->state == SRC_FAILED && journal_find(m->f->journal, m->id))
		journal_note(m->f->journal, m->id, JOURNAL_NEVER);
	let_go_of_vm(m);
	report_end(m);
	close(m->state_fd);
	m->state_fd = -1;
	/* Its RAM must not stay allocated through us once the VMM is gone. */
	vm_put(m->vm);
	m->vm = NULL;
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
	if (actions & ACT_JOURNAL_BEGIN) {
		blackout_is_near(m->f->blackouts, m->probe_slot, true, m->vm->nr_vcpus);
		switchover_begin_journal(m);
	}
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
		finish(m);
	if (actions & ACT_RETRY)
		switchover_retry(m);
}

void migration_step(struct migration *m, enum src_event event)
{
	enum src_state from = m->state;
	unsigned int actions;

	if (migration_is_over(m->status))
		return;
	if (!switchover_src_step(&m->state, event, &actions)) {
		error_report("vm %s: bug: event %s in state %s; ignored", m->name,
			     src_event_name(event), src_state_name(from));
		return;
	}
	if (from < SRC_PREPARED && m->state == SRC_PREPARED)
		loop_timer_at(&m->pause, now_ns() + 1); /* harvest at once, if nothing is sent */
	ferry_urgent(m->f, &m->is_urgent, m->state >= SRC_STOPPING && m->state <= SRC_GIVING_UP);
	carry_out(m, actions);
}

/* ---- start, cancel, resolve ---- */

/* Time is up, in one way or the other: what the owner wants then. */
static void act_on_timeout(struct migration *m, const char *what)
{
	if (m->state > SRC_PREPARED || m->is_forced)
		return;
	switch (m->params.timeout_action) {
	case TIMEOUT_THROTTLE:
		if (m->convergence.cfg.may_throttle)
			return;
		migration_decided(m, "%s: from here on the guest may be slowed", what);
		m->convergence.cfg.may_throttle = true;
		return;
	case TIMEOUT_PAUSE:
		migration_decided(m, "%s: the guest is stopped for as long as it takes; the limit is lifted", what);
		notice_report("vm %s: %s: timeout-action is pause: its limit of %u ms does not hold any more",
			      m->name, what, m->params.downtime_limit_ms);
		m->is_forced = true;
		m->params.strict = false;
		return;
	case TIMEOUT_ABORT:
		break;
	}
	migration_blame(m, "%s%s%s", what, m->report.advice[0] ? ": " : "", m->report.advice);
	migration_step(m, EV_CANCEL);
}

static void on_timeout(void *owner)
{
	struct migration *m = owner;
	char what[80];

	snprintf(what, sizeof(what), "not done within the timeout of %u s", m->params.timeout_s);
	act_on_timeout(m, what);
}

static void on_no_progress(void *owner)
{
	struct migration *m = owner;
	char what[80];

	snprintf(what, sizeof(what), "no progress within the progress-timeout of %u s", m->params.progress_timeout_s);
	act_on_timeout(m, what);
}

static void free_migration(struct migration *m)
{
	for (struct migration **p = &m->f->outgoing; *p; p = &(*p)->next)
		if (*p == m) {
			*p = m->next;
			break;
		}
	ferry_urgent(m->f, &m->is_urgent, false);
	recovery_stop(m->recovery);
	connector_fini(&m->connector);
	free(m->connector.regions);
	vm_put(m->vm);
	free(m);
}

static int start(struct migration *m)
{
	struct loop *l = m->f->loop;
	struct precopy_config precopy;
	int err = 0;

	if (getrandom(m->id, sizeof(m->id), 0) != sizeof(m->id))
		return -EIO;
	m->state_fd = memfd_create("vmferry-state", MFD_CLOEXEC);
	if (m->state_fd < 0 || ftruncate(m->state_fd, (off_t)m->vm->state_size))
		return -errno;
	/* Room for the state now: nothing is allocated in the blackout. */
	if (m->vm->state_size && fallocate(m->state_fd, 0, 0, (off_t)m->vm->state_size))
		return -errno;
	precopy = (struct precopy_config){ .regions = m->vm->regions,
					   .sizes = m->vm->sizes,
					   .nr_regions = m->vm->nr_regions,
					   .dirty = m->vm->dirty,
					   .state_fd = m->state_fd,
					   .max_bandwidth = m->params.max_bandwidth,
					   .zstd_level = m->params.zstd_level };
	err = precopy_init(&m->precopy, l, &precopy, &precopy_ops, m);
	if (!err)
		err = loop_timer_init(&m->budget, l, switchover_on_budget, m);
	if (!err)
		err = loop_timer_init(&m->timeout, l, on_timeout, m);
	if (!err)
		err = loop_timer_init(&m->progress, l, on_no_progress, m);
	if (!err)
		err = loop_timer_init(&m->pause, l, on_pause_over, m);
	if (!err)
		err = setup_describe(m);
	if (!err && m->params.timeout_s)
		loop_timer_at(&m->timeout, now_ns() + m->params.timeout_s * NS_PER_S);
	m->connector.done = setup_on_connected;
	m->connector.owner = m;
	return err ? err : connector_start(&m->connector, l);
}

static void init_convergence(struct migration *m)
{
	const struct migration_params *p = &m->params;
	struct convergence_config c = { .limit_ns = migration_limit_ns(m),
					.initial_ns = p->downtime_initial_ms * NS_PER_MS,
					.steps = p->downtime_steps,
					.data_ns = p->switchover_ratio ? migration_limit_ns(m) * p->switchover_ratio / 100 :
									 UINT64_MAX,
					.may_throttle = p->throttle };

	convergence_init(&m->convergence, &c);
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
		free_migration(m);
	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->f = f;
	m->vm = vm_get(vm);
	m->params = *params;
	m->state_fd = -1;
	connector_init(&m->connector);
	m->started_ns = now_ns();
	strcpy(m->name, vm->name);
	strcpy(m->connector.uri, uri);
	m->next = f->outgoing;
	f->outgoing = m;
	m->probe_slot = -1;
	predictor_init(&m->predictor);
	init_convergence(m);
	err = start(m);
	if (err) {
		snprintf(why, why_len, "vm %s: cannot begin: %s", name, strerror(-err));
		precopy_fini(&m->precopy);
		loop_timer_fini(&m->budget);
		loop_timer_fini(&m->timeout);
		loop_timer_fini(&m->progress);
		loop_timer_fini(&m->pause);
		if (m->state_fd >= 0)
			close(m->state_fd);
		free_migration(m);
		return err;
	}
	m->watcher = (struct vm_watcher){ on_vm_lost, m };
	vm->watcher = &m->watcher;
	vm->is_busy = true;
	warm_cease(vm->warm);
	f->emit(f, m->name, "MIGRATION", migration_status_name(m->status));
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
	m->cancelled = true;
	migration_blame(m, "cancelled");
	if (m->connector.thread_is_up)
		migration_set_status(m, MIGRATION_CANCELLING);
	else
		migration_step(m, EV_CANCEL);
	return 0;
}

/** migration_resolve() - the operator knows what became of a guest that is held */
int migration_resolve(struct ferry *f, const char *name, bool run_here, char *why, size_t why_len)
{
	struct migration *m = migration_find(f, name);

	if (!m || m->status != MIGRATION_HELD) {
		snprintf(why, why_len, "vm %s: is not held", name);
		return -ESRCH;
	}
	recovery_stop(m->recovery);
	m->recovery = NULL;
	notice_report("vm %s: the operator says: %s", name, run_here ? "run it here" : "it runs there");
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

/** migration_stop_all() - the daemon ends: cancel what can be, free everything */
void migration_stop_all(struct ferry *f, const char *reason)
{
	while (f->outgoing) {
		struct migration *m = f->outgoing;

		if (!migration_is_over(m->status) && src_guest_may_run_here(m->state)) {
			migration_blame(m, "%s", reason);
			migration_step(m, EV_CANCEL);
		}
		/* A guest that is stopped goes on: the request is on its way, see also recovery.c. */
		if (!migration_is_over(m->status)) {
			m->state = src_guest_may_run_here(m->state) ? SRC_FAILED : m->state;
			if (m->state == SRC_FAILED)
				finish(m);
		}
		free_migration(m);
	}
}

const char *migration_vm(const struct migration *m)
{
	return m->name;
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

/** migration_read_report() - the account so far */
void migration_read_report(struct migration *m, struct migration_report *to)
{
	struct channel_counters sum;

	if (precopy_counters(&m->precopy, &sum))
		m->report.counters = sum;
	if (m->vm && m->state != SRC_DONE) /* then nobody tracks any more */
		migration_note_tracker(m);
	if (m->state != SRC_DONE)
		account_read_brownout(m);
	m->report.goodput = predictor_goodput(&m->predictor);
	m->report.total_ns = migration_elapsed_ns(m);
	if (to != &m->report)
		*to = m->report;
}
