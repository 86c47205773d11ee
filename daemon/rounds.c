// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Rounds: what comes after each of them, until the switchover, or the owner's patience is over.
 *
 * Theory of operation
 *
 *   round sent and placed -> HARVEST -> collect (a work) -> predict -> decide/convergence.c
 *        ^                                                      |
 *        +---- go on, throttle, stalled <-----------------------+--> switch: EV_CONVERGED
 *
 * Every judgement is noted with the round it was made after, every decision with its
 * reason: they are the migration's account.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/deadline.h"
#include "base/error.h"
#include "base/fault.h"
#include "migration_private.h"

#define MIN_ROUND_NS 5000000ULL /* shorter rounds that lead nowhere wait this long */
#define FIRST_PINGS 8

static void ask_harvest(struct migration *m);

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

	/* All of it is there, as READY said. What GO comes to is heard on the control connection. */
	if (!src_guest_may_run_here(m->state))
		return;
	migration_blame(m, "channel %u: %s in round %u", channel,
	      err == -ETIMEDOUT ? "nothing moved for 10 s" : strerror(-err),
	      m->report.dirty_sync_count + 1);
	migration_step(m, EV_PEER_LOST);
}

const struct precopy_ops rounds_precopy_ops = { on_job_done, on_channel_failed };

static int note_collected(struct migration *m, int err)
{
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

/**
 * rounds_collect() - add what is dirty to the set; on failure the migration has ended
 *
 * For while the guest stands still, when little is dirty: a hand-over to a worker would take longer.
 */
int rounds_collect(struct migration *m)
{
	return note_collected(m, precopy_collect(&m->precopy, false));
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

/** rounds_throttle() - slow the guest by @percent; 0 ends it */
void rounds_throttle(struct migration *m, unsigned int percent)
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

/** rounds_send() - what is in the set, or look again soon */
void rounds_send(struct migration *m)
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

	predictor_guess_trip(&m->predictor, clock_trip_ns(&m->clock));
	estimate_expect(&m->predictor.part[PART_STOP], 0, &stop);
	rest += (uint64_t)((unsigned __int128)dirty_rate_bytes(m) * stop.mean_ns / NS_PER_S);
	predictor_predict(&m->predictor, rest, m->vm->state_size, &m->report.predicted);
}

/*
 * Guesses, and figures of old, decide nothing before a try: one teaches what is true. That the host
 * is busy is neither: then what has to be kept in reserve must leave half of the limit.
 */
static bool may_teach(const struct migration *m, const struct prediction *p)
{
	uint64_t limit = migration_limit_ns(m);

	if (m->report.tries || (m->report.wait_ns && account_budget_ns(m) < limit / 2))
		return false;
	return m->is_stale || (p->is_cold && p->measured_ns <= limit);
}

/*
 * No better moment is in sight. Nothing but guesses speaks against this one; or it is
 * likely to do, if not sure. Strict mode keeps the limit meanwhile.
 */
static bool is_worth_a_try(const struct migration *m)
{
	const struct prediction *p = &m->report.predicted;
	uint64_t limit = migration_limit_ns(m);

	if (p->data_ns > m->convergence.cfg.data_ns)
		return false;
	/* What is no data does not get less by waiting, and a limit that is not strict is a wish. */
	if (!m->params.strict)
		return p->data_ns <= limit;
	if (p->is_cold || m->is_stale)
		return may_teach(m, p) && p->data_ns < limit / 2;
	return p->whole.likely_ns <= account_budget_ns(m);
}

/* Even with nothing left to send it would not make the limit, and that was measured. */
static bool is_beyond_hope(struct migration *m)
{
	struct prediction p;
	char text[256];

	if (!m->params.strict || m->is_after_try)
		return false;
	predictor_predict(&m->predictor, 0, m->vm->state_size, &p);
	if (may_teach(m, &p) || p.whole.likely_ns <= account_budget_ns(m))
		return false;
	migration_blame(m, "%s: it %s; raise --downtime-limit",
			m->report.tries ? "no further switchover was begun" : "no switchover was begun",
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
		rounds_send(m); /* meanwhile */
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
		rounds_throttle(m, m->convergence.throttle);
		if (m->is_doomed)
			return; /* the VMM is gone, and the channels are being closed */
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
		rounds_send(m);
}

/** rounds_ping() - the first ones are sent one after the other, then one a round */
void rounds_ping(struct migration *m)
{
	struct wire_ping p = { .sent_ns = now_ns() };

	m->pings++;
	if (m->peer && peer_send(m->peer, WIRE_PING, &p, sizeof(p)))
		migration_step(m, EV_PEER_LOST);
}

/** rounds_take_pong() - the peer's clock, a little better known */
void rounds_take_pong(struct migration *m, const struct wire_pong *p)
{
	clock_learn(&m->clock, p->sent_ns, p->got_ns, p->answered_ns, now_ns());
	if (m->pings < FIRST_PINGS)
		rounds_ping(m);
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

/* A round of a large guest clears and fills megabytes of bitmaps: milliseconds. */
static void collect(struct work *w)
{
	struct migration *m = w->owner;

	fault_point_of("collect", m->name);
	m->work_err = precopy_collect(&m->precopy, true);
}

static void on_collected(struct work *w)
{
	struct migration *m = w->owner;

	if (closing_is_due(m) || note_collected(m, m->work_err))
		return;
	note_progress(m);
	if (m->pings >= FIRST_PINGS)
		rounds_ping(m);
	if (m->state <= SRC_PREPARED)
		next_round(m);
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
	migration_do(m, collect, on_collected);
}

static void ask_harvest(struct migration *m)
{
	if (m->harvesting || m->work.is_out || m->precopy.job != PRECOPY_NONE)
		return;
	m->harvesting = true;
	vm_ask(m->vm, VM_HARVEST, NULL, 0, -1, on_harvested, m);
}

static void on_pause_over(void *owner)
{
	struct migration *m = owner;

	if (m->status == MIGRATION_SETUP)
		setup_go_on(m);
	else if (m->state <= SRC_PREPARED)
		ask_harvest(m);
	else if (m->state == SRC_GO_SENT)
		switchover_take_running(m, &m->running);
}

/* ---- the owner's patience ---- */

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

/* ---- beginning and end ---- */

/** rounds_init() - as the owner's parameters have it */
void rounds_init(struct migration *m)
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

int rounds_init_timers(struct migration *m)
{
	struct loop *l = m->f->loop;
	int err = loop_timer_init(&m->timeout, l, on_timeout, m);

	if (!err)
		err = loop_timer_init(&m->progress, l, on_no_progress, m);
	if (!err)
		err = loop_timer_init(&m->pause, l, on_pause_over, m);
	return err;
}

void rounds_fini_timers(struct migration *m)
{
	loop_timer_fini(&m->timeout);
	loop_timer_fini(&m->progress);
	loop_timer_fini(&m->pause);
}
