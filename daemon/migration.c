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
 * All of it runs on the loop; pages move on the channels' threads, one job at a time:
 * JOB_ROUND, JOB_REST (blackout), JOB_STATE (blackout). The page set is written here
 * only while no job runs.
 *
 * The clock of the blackout starts at the last guest exit, or, until that is known, at
 * the moment of asking for the stop, which is earlier. The budget timer fires early
 * enough that the guest runs again here within the limit.
 */
#include "migration.h"

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
#include "connect.h"
#include "decide/convergence.h"
#include "decide/switchover_src.h"
#include "pages/dirty.h"
#include "pages/page_codec.h"
#include "peer/peer.h"

#define MARGIN_NS 200000ULL	    /* of the limit kept for what no sample has shown */
#define MIN_ROUND_NS 5000000ULL	    /* shorter rounds that lead nowhere wait this long */
#define RETRY_AFTER_NS 20000000ULL  /* between a try that was called off and the next */
#define MAX_STATE (1ULL << 32)

enum job { JOB_NONE, JOB_ROUND, JOB_REST, JOB_STATE };

struct migration {
	struct ferry *f;
	struct vm *vm;
	struct migration *next;
	char name[64];
	uint8_t id[16];
	struct migration_params params;
	enum migration_status status;
	char error[512];
	bool cancelled;

	struct connector connector;
	struct peer *peer;
	struct channel_share share;
	struct token_bucket bucket;
	struct channel_sender *channels[CHANNEL_MAX];
	struct loop_event sent;
	struct vm_watcher watcher;

	enum src_state state;
	enum job job;
	struct page_set set;
	bool set_is_sent;
	bool harvesting;
	bool is_released;
	int state_fd;
	uint64_t state_len;
	bool is_saved;
	bool peer_is_ready;
	uint32_t attempt;

	struct predictor predictor;
	struct convergence convergence;
	struct loop_timer budget, timeout, pause;
	struct recovery *recovery;

	uint64_t started_ns, active_ns, ended_ns;
	uint64_t job_started_ns, job_bytes;
	uint64_t stop_asked_ns, last_exit_ns, stopped_ns, harvested_ns, rest_sent_ns, saved_ns;
	uint64_t sent_ns, ready_ns, go_ns;
	struct migration_report report;
};

const struct migration_params migration_default_params = {
	.channels = 2,
	.downtime_limit_ms = 300,
	.strict = true,
	.max_tries = 5,
};

static void step(struct migration *m, enum src_event event);
static void ask_harvest(struct migration *m);

static const char *const status_names[] = { "setup",  "active",	    "device",	 "completed",
					    "failed", "cancelling", "cancelled", "held" };

const char *migration_status_name(enum migration_status s)
{
	return status_names[s];
}

bool migration_is_over(enum migration_status s)
{
	return s == MIGRATION_COMPLETED || s == MIGRATION_FAILED || s == MIGRATION_CANCELLED;
}

static void set_status(struct migration *m, enum migration_status s)
{
	if (m->status == s)
		return;
	m->status = s;
	m->f->emit(m->f, m->name, "MIGRATION", migration_status_name(s));
}

/* The first error counts: what follows is only its echo. */
static void __attribute__((format(printf, 2, 3))) blame(struct migration *m, const char *fmt, ...)
{
	va_list ap;

	if (m->error[0])
		return;
	va_start(ap, fmt);
	vsnprintf(m->error, sizeof(m->error), fmt, ap);
	va_end(ap);
}

static uint64_t limit_ns(const struct migration *m)
{
	return m->params.downtime_limit_ms * NS_PER_MS;
}

/* ---- jobs of the channels ---- */

static uint64_t wire_bytes(struct migration *m)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < m->params.channels; i++) {
		struct channel_counters c = { 0 };

		if (m->channels[i])
			channel_send_counters(m->channels[i], &c);
		sum += c.wire;
	}
	return sum;
}

static void start_job(struct migration *m, enum job job)
{
	struct channel_job j = { .kind = job == JOB_STATE ? CHANNEL_STATE : CHANNEL_ROUND,
				 .set = &m->set,
				 .unlimited = job != JOB_ROUND,
				 .state_len = m->state_len,
				 .attempt = m->attempt };

	m->job = job;
	m->job_started_ns = now_ns();
	m->job_bytes = wire_bytes(m);
	for (unsigned int i = 0; i < m->params.channels; i++)
		channel_send_start(m->channels[i], &j);
}

static void note_round(struct migration *m, uint64_t bytes, uint64_t ns)
{
	struct migration_report *r = &m->report;
	struct migration_round *last;

	if (r->nr_rounds < MIGRATION_MAX_ROUNDS)
		r->nr_rounds++;
	last = &r->rounds[r->nr_rounds - 1];
	if (r->dirty_sync_count >= MIGRATION_MAX_ROUNDS) {
		last->pages += m->set.nr_set;
		last->bytes += bytes;
		last->ns += ns;
	} else {
		*last = (struct migration_round){ m->set.nr_set, bytes, ns, 0 };
	}
	r->dirty_sync_count++;
	m->f->emit(m->f, m->name, "MIGRATION_PASS", NULL);
}

static void start_state_if_ready(struct migration *m)
{
	struct wire_state ws = { .len = m->state_len, .attempt = m->attempt };

	if (m->state != SRC_SENDING || m->job != JOB_NONE || !m->is_saved || !m->rest_sent_ns)
		return;
	if (peer_send(m->peer, WIRE_STATE, &ws, sizeof(ws))) {
		blame(m, "the control connection broke while the guest was stopped");
		step(m, EV_PEER_LOST);
		return;
	}
	start_job(m, JOB_STATE);
}

static void job_is_done(struct migration *m)
{
	enum job job = m->job;
	uint64_t now = now_ns(), ns = now - m->job_started_ns;
	uint64_t bytes = wire_bytes(m) - m->job_bytes;

	m->job = JOB_NONE;
	switch (job) {
	case JOB_ROUND:
		m->set_is_sent = true;
		note_round(m, bytes, ns);
		if (m->params.max_bandwidth == 0)
			predictor_learn_goodput(&m->predictor, bytes, ns);
		if (m->state <= SRC_PREPARED)
			ask_harvest(m);
		break;
	case JOB_REST:
		m->set_is_sent = true;
		if (m->state == SRC_SENDING) {
			m->rest_sent_ns = now;
			predictor_learn_goodput(&m->predictor, bytes, ns);
			start_state_if_ready(m);
		} else if (m->state == SRC_PREPARED) {
			ask_harvest(m);
		}
		break;
	case JOB_STATE:
		if (m->state == SRC_SENDING) {
			m->sent_ns = now;
			step(m, EV_SENT);
			if (m->peer_is_ready && m->state == SRC_WAIT_READY)
				step(m, EV_PEER_READY);
		} else if (m->state == SRC_PREPARED) {
			ask_harvest(m);
		}
		break;
	case JOB_NONE:
		break;
	}
}

static void on_sent(void *owner)
{
	struct migration *m = owner;
	bool all = true;

	for (unsigned int i = 0; i < m->params.channels; i++) {
		int err = 0;

		if (!m->channels[i])
			return;
		if (!channel_send_is_done(m->channels[i], &err))
			all = false;
		if (err) {
			blame(m, "channel %u: %s in round %u", i,
			      err == -ETIMEDOUT ? "nothing moved for 10 s" : strerror(-err),
			      m->report.dirty_sync_count + 1);
			step(m, EV_PEER_LOST);
			return;
		}
	}
	if (all && m->job != JOB_NONE)
		job_is_done(m);
}

/* ---- rounds ---- */

static int collect(struct migration *m)
{
	int err;

	if (m->set_is_sent)
		page_set_clear(&m->set);
	m->set_is_sent = false;
	err = dirty_collect(m->vm->dirty, &m->set, NULL);
	if (err) {
		blame(m, "its memory layout changed during the migration");
		step(m, EV_VMM_LOST);
	}
	m->report.remaining_pages = m->set.nr_set;
	return err;
}

static void on_throttled(void *arg, int status, const void *body, uint32_t len)
{
	struct migration *m = arg;

	(void)body;
	(void)len;
	if (status && m->state <= SRC_PREPARED) {
		blame(m, "the VMM cannot slow the guest: %s", strerror(-status));
		step(m, EV_VMM_LOST);
	}
}

static void throttle(struct migration *m, unsigned int percent)
{
	struct vmferry_msg_throttle t = { .percent = percent };

	m->report.throttle_percent = percent;
	vm_ask(m->vm, VM_THROTTLE, &t, sizeof(t), -1, percent ? on_throttled : NULL, m);
}

static uint64_t dirty_rate_bytes(const struct migration *m)
{
	const struct migration_report *r = &m->report;
	const struct migration_round *last = &r->rounds[r->nr_rounds ? r->nr_rounds - 1 : 0];

	return last->ns ? (uint64_t)((unsigned __int128)(m->set.nr_set << 12) * NS_PER_S / last->ns) : 0;
}

static void say_stalled(struct migration *m)
{
	char *text = m->report.advice;

	if (m->report.stalled)
		return;
	m->report.stalled = true;
	snprintf(text, sizeof(m->report.advice),
		 "does not converge: the guest dirties %llu MB/s, %llu MB/s are sent; a switchover "
		 "now would take %llu ms, the limit is %u ms; allow --throttle, raise "
		 "--downtime-limit, or cancel",
		 (unsigned long long)(dirty_rate_bytes(m) / 1000000),
		 (unsigned long long)(m->predictor.goodput / 1000000),
		 (unsigned long long)(m->report.predicted.upper_ns / NS_PER_MS),
		 m->params.downtime_limit_ms);
	notice_report("vm %s: %s", m->name, text);
	m->f->emit(m->f, m->name, "MIGRATION_STALLED", text);
}

static void send_round(struct migration *m)
{
	if (m->set.nr_set >= 1 && m->job == JOB_NONE)
		start_job(m, JOB_ROUND);
	else /* nothing to send: look again soon */
		loop_timer_at(&m->pause, now_ns() + MIN_ROUND_NS);
}

static void next_round(struct migration *m)
{
	uint64_t margin = m->params.strict ? MARGIN_NS : 0;
	const struct migration_report *r = &m->report;
	bool was_short = r->nr_rounds && r->rounds[r->nr_rounds - 1].ns < MIN_ROUND_NS;

	predictor_predict(&m->predictor, m->set.nr_set << 12, m->vm->state_size,
			  &m->report.predicted);
	switch (convergence_round(&m->convergence, m->report.predicted.upper_ns + margin,
				  limit_ns(m))) {
	case CONVERGE_SWITCH:
		if (m->state == SRC_PREPARED || m->state == SRC_PRECOPY)
			step(m, EV_CONVERGED);
		if (m->state <= SRC_PREPARED)
			send_round(m); /* meanwhile */
		return;
	case CONVERGE_THROTTLE:
		throttle(m, m->convergence.throttle);
		break;
	case CONVERGE_STALLED:
		say_stalled(m);
		break;
	case CONVERGE_GO_ON:
		break;
	}
	if (was_short && m->set.nr_set << 12 < 1 << 20)
		loop_timer_at(&m->pause, now_ns() + MIN_ROUND_NS);
	else
		send_round(m);
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
		blame(m, "its VMM cannot harvest dirty pages: %s", strerror(-status));
		step(m, EV_VMM_LOST);
		return;
	}
	if (!collect(m))
		next_round(m);
}

static void ask_harvest(struct migration *m)
{
	if (m->harvesting || m->job != JOB_NONE)
		return;
	m->harvesting = true;
	vm_ask(m->vm, VM_HARVEST, NULL, 0, -1, on_harvested, m);
}

static void on_pause_over(void *owner)
{
	struct migration *m = owner;

	if (m->state <= SRC_PREPARED)
		ask_harvest(m);
}

/* ---- the first round ---- */

struct adding {
	struct page_set *set;
	unsigned int region;
};

static void add_run(void *arg, uint64_t off, uint64_t len)
{
	struct adding *a = arg;
	uint64_t first = off / REGION_PAGE;

	page_set_add(a->set, a->region, first, (off + len + REGION_PAGE - 1) / REGION_PAGE - first);
}

/*
 * A block is worth faulting in ahead if all of it is to be sent and wherever one looks
 * there is data: faulting in allocates, and what is zero must stay a hole over there.
 */
static bool block_has_data(const struct region *r, const struct page_bits *b, uint64_t block)
{
	uint64_t first = block * (REGION_BLOCK / REGION_PAGE);

	if (first + REGION_BLOCK / REGION_PAGE > b->nr_pages)
		return false;
	for (uint64_t w = first / 64; w < (first + REGION_BLOCK / REGION_PAGE) / 64; w++)
		if (b->words[w] != ~0ULL)
			return false;
	for (uint64_t k = 0; k < 8; k++)
		if (page_is_zero(r->map + ((first + k * 73 % 512) << 12)))
			return false;
	return true;
}

static int tell_ahead(struct migration *m, unsigned int region)
{
	const struct region *r = &m->vm->regions[region];
	uint64_t nr = (r->size + REGION_BLOCK - 1) / REGION_BLOCK;
	struct wire_ahead wa = { .region = region, .nr_blocks = nr };
	uint8_t *blocks = calloc(1, (nr + 7) / 8);
	int err;

	if (!blocks)
		return -ENOMEM;
	for (uint64_t b = 0; b < nr; b++)
		if (block_has_data(r, &m->set.regions[region], b))
			blocks[b / 8] |= (uint8_t)(1 << b % 8);
	err = peer_send2(m->peer, WIRE_AHEAD, &wa, sizeof(wa), blocks, (uint32_t)((nr + 7) / 8));
	free(blocks);
	return err;
}

/* All pages with data. Logging is on: what is written from here on is dirty later. */
static int find_first_set(struct migration *m)
{
	int err = dirty_drop(m->vm->dirty);

	for (unsigned int i = 0; i < m->vm->nr_regions && !err; i++) {
		struct adding a = { &m->set, i };

		err = region_each_data(&m->vm->regions[i], add_run, &a);
		if (!err)
			err = tell_ahead(m, i);
	}
	return err;
}

static void on_logging(void *arg, int status, const void *body, uint32_t len)
{
	struct migration *m = arg;
	int err;

	(void)body;
	(void)len;
	if (m->state != SRC_PRECOPY || migration_is_over(m->status))
		return;
	if (status) {
		blame(m, "its VMM cannot log dirty pages: %s", strerror(-status));
		step(m, EV_VMM_LOST);
		return;
	}
	set_status(m, MIGRATION_ACTIVE);
	m->active_ns = now_ns();
	m->report.setup_ns = m->active_ns - m->started_ns;
	err = find_first_set(m);
	if (err) {
		blame(m, "cannot walk its memory: %s", strerror(-err));
		step(m, EV_VMM_LOST);
		return;
	}
	m->report.remaining_pages = m->set.nr_set;
	send_round(m);
}

/* ---- the peer ---- */

static void take_running(struct migration *m, const struct wire_running *r)
{
	uint64_t now = now_ns();

	m->report.actual_ns[PART_START] = now - m->go_ns;
	m->report.downtime_ns = now - m->last_exit_ns;
	if (!memcmp(m->connector.welcome.host, m->f->host, 16) && r->first_entry_ns > m->last_exit_ns) {
		m->report.blackout_ns = r->first_entry_ns - m->last_exit_ns;
		m->report.actual_ns[PART_START] = r->first_entry_ns - m->go_ns;
	}
	step(m, EV_PEER_RUNNING);
}

static void take_ready(struct migration *m, const struct wire_ready *r)
{
	uint64_t now = now_ns();

	if (r->attempt != m->attempt || m->state < SRC_SENDING || m->state > SRC_WAIT_READY)
		return; /* of a try that was called off */
	m->ready_ns = now;
	m->peer_is_ready = true;
	m->report.actual_ns[PART_LOAD] = now - (m->sent_ns ? m->sent_ns : now);
	if (m->params.strict && now - m->last_exit_ns +
	    predictor_upper(&m->predictor, PART_START) > limit_ns(m))
		step(m, EV_OVER_BUDGET);
	else if (m->state == SRC_WAIT_READY)
		step(m, EV_PEER_READY);
}

static void on_message(void *owner, uint32_t type, const void *body, uint32_t len)
{
	struct migration *m = owner;
	struct wire_failed failed;
	struct wire_ready ready;
	struct wire_running running;

	if (type == WIRE_PREPARED && len == 0) {
		step(m, EV_PEER_PREPARED);
	} else if (type == WIRE_READY && len == sizeof(ready)) {
		memcpy(&ready, body, len);
		take_ready(m, &ready);
	} else if (type == WIRE_RUNNING && len == sizeof(running) && m->state == SRC_GO_SENT) {
		memcpy(&running, body, len);
		take_running(m, &running);
	} else if (type == WIRE_FAILED && len == sizeof(failed)) {
		memcpy(&failed, body, len);
		failed.text[WIRE_TEXT_LEN - 1] = '\0';
		blame(m, "the destination: %s", failed.text);
		/* It says so only of a guest that never ran there and never will. */
		step(m, m->state == SRC_GO_SENT ? EV_PEER_NEVER_RAN : EV_PEER_LOST);
	} else {
		blame(m, "the destination sent message %u of %u bytes, which fits nothing", type, len);
		step(m, EV_PEER_LOST);
	}
}

static void on_peer_lost(void *owner, int err)
{
	struct migration *m = owner;

	blame(m, "control connection to %s: %s", m->connector.uri, strerror(-err));
	peer_close(m->peer);
	m->peer = NULL;
	step(m, EV_PEER_LOST);
}

static const struct peer_ops peer_ops = { on_message, on_peer_lost };

static void on_vm_lost(void *owner)
{
	struct migration *m = owner;

	m->vm->watcher = NULL;
	blame(m, "its VMM (pid %d) closed the connection or died", m->vm->pid);
	step(m, EV_VMM_LOST);
}

/* ---- the switchover ---- */

static void on_journaled(void *arg, int err)
{
	struct migration *m = arg;

	if (err) {
		blame(m, "the journal cannot be synced: %s", strerror(-err));
		step(m, EV_CANCEL);
		return;
	}
	step(m, EV_JOURNALED);
}

static void begin_journal(struct migration *m)
{
	int err = journal_begin(m->f->journal, m->id, m->name, true, m->connector.uri);

	if (err)
		on_journaled(m, err);
	else
		journal_sync(m->f->journal, on_journaled, m);
}

static void on_budget(void *owner)
{
	struct migration *m = owner;

	if (m->state < SRC_STOPPING || m->state > SRC_WAIT_READY)
		return;
	notice_report("vm %s: switchover called off in state %s after %llu us, limit %u ms",
		      m->name, src_state_name(m->state),
		      (unsigned long long)(now_ns() - m->stop_asked_ns) / 1000,
		      m->params.downtime_limit_ms);
	step(m, EV_OVER_BUDGET);
}

/* The guest must run here again within the limit: leave time for resuming. */
static void arm_budget(struct migration *m, uint64_t from_ns)
{
	uint64_t rest = predictor_upper(&m->predictor, PART_START) + MARGIN_NS;

	if (m->params.strict)
		loop_timer_at(&m->budget, from_ns + (limit_ns(m) > rest ? limit_ns(m) - rest : 1));
}

static void on_paused(void *arg, int status, const void *body, uint32_t len)
{
	struct migration *m = arg;
	struct vmferry_msg_paused p;

	if (m->state != SRC_STOPPING)
		return; /* called off meanwhile: RESUME follows */
	if (status || len != sizeof(p)) {
		blame(m, "its VMM cannot stop the guest: %s", strerror(-status));
		step(m, EV_VMM_LOST);
		return;
	}
	memcpy(&p, body, sizeof(p));
	/* Believed only where it can be true. */
	m->last_exit_ns = p.last_exit_ns > m->stop_asked_ns && p.last_exit_ns < now_ns() ?
				  p.last_exit_ns : m->stop_asked_ns;
	m->stopped_ns = p.stopped_ns;
	m->harvested_ns = now_ns();
	arm_budget(m, m->last_exit_ns);
	step(m, EV_STOPPED);
}

static void stop_vcpus(struct migration *m)
{
	m->attempt++;
	m->report.tries++;
	m->is_saved = m->peer_is_ready = false;
	m->rest_sent_ns = m->saved_ns = m->sent_ns = m->ready_ns = 0;
	loop_timer_stop(&m->pause);
	m->stop_asked_ns = m->last_exit_ns = now_ns();
	set_status(m, MIGRATION_DEVICE);
	arm_budget(m, m->stop_asked_ns);
	vm_ask(m->vm, VM_PAUSE, NULL, 0, -1, on_paused, m);
}

static void on_saved(void *arg, int status, const void *body, uint32_t len)
{
	struct migration *m = arg;
	struct vmferry_msg_saved s;

	if (m->state != SRC_SENDING || m->is_saved)
		return; /* of a try that was called off */
	if (status || len != sizeof(s)) {
		blame(m, "its VMM cannot save the state: %s", strerror(-status));
		step(m, EV_VMM_LOST);
		return;
	}
	memcpy(&s, body, sizeof(s));
	if (s.len > m->vm->state_size) {
		blame(m, "its state is %llu bytes, but it registered %llu at most",
		      (unsigned long long)s.len, (unsigned long long)m->vm->state_size);
		step(m, EV_VMM_LOST);
		return;
	}
	m->state_len = s.len;
	m->is_saved = true;
	m->saved_ns = now_ns();
	start_state_if_ready(m);
}

static void send_rest(struct migration *m)
{
	vm_ask(m->vm, VM_SAVE, NULL, 0, m->state_fd, on_saved, m);
	if (m->state != SRC_SENDING || collect(m))
		return;
	predictor_predict(&m->predictor, m->set.nr_set << 12, m->vm->state_size,
			  &m->report.predicted);
	start_job(m, JOB_REST);
}

static void send_go(struct migration *m)
{
	loop_timer_stop(&m->budget);
	m->go_ns = now_ns();
	/* Written before GO leaves: a daemon that restarts must not take it for unsent. */
	if (journal_note(m->f->journal, m->id, JOURNAL_GO)) {
		blame(m, "the journal cannot take GO");
		/* GO has not left: the peer is told so, and the guest goes on here. */
		step(m, EV_PEER_NEVER_RAN);
		return;
	}
	if (peer_send(m->peer, WIRE_GO, NULL, 0)) {
		blame(m, "the control connection broke while GO was being sent");
		step(m, EV_PEER_LOST);
	}
}

static void on_resumed(void *arg, int status, const void *body, uint32_t len)
{
	struct migration *m = arg;
	struct vmferry_msg_resumed r = { 0 };

	if (status) {
		if (status != -ECONNRESET)
			error_report("vm %s: its VMM cannot resume the guest: %s; the guest is stopped at "
				     "the source; look at the VMM (pid %d)",
				     m->name, strerror(-status), m->vm->pid);
		step(m, EV_VMM_LOST);
		return;
	}
	if (len == sizeof(r))
		memcpy(&r, body, sizeof(r));
	if (r.first_entry_ns > m->last_exit_ns && r.first_entry_ns - m->last_exit_ns > m->report.stall_ns)
		m->report.stall_ns = r.first_entry_ns - m->last_exit_ns;
	step(m, EV_RESUMED);
}

static void retry(struct migration *m)
{
	const struct prediction *p = &m->report.predicted;

	set_status(m, MIGRATION_ACTIVE);
	/* What is known now of a part that did not even end. */
	if (m->is_saved && m->sent_ns && !m->ready_ns)
		predictor_learn(&m->predictor, PART_LOAD, now_ns() - m->sent_ns);
	predictor_predict(&m->predictor, 0, m->vm->state_size, &m->report.predicted);
	if (m->report.tries >= m->params.max_tries || p->upper_ns > limit_ns(m)) {
		blame(m,
		      "%u switchovers were called off to keep the limit of %u ms; needs about %llu ms, "
		      "of which pages %llu and load %llu; raise --downtime-limit",
		      m->report.tries, m->params.downtime_limit_ms,
		      (unsigned long long)(p->upper_ns / NS_PER_MS),
		      (unsigned long long)(p->part_ns[PART_PAGES] / NS_PER_MS),
		      (unsigned long long)(predictor_upper(&m->predictor, PART_LOAD) / NS_PER_MS));
		step(m, EV_CANCEL);
		return;
	}
	loop_timer_at(&m->pause, now_ns() + RETRY_AFTER_NS);
}

/* ---- the end ---- */

static void close_connections(struct migration *m)
{
	__atomic_store_n(&m->share.abort, true, __ATOMIC_RELAXED);
	for (unsigned int i = 0; i < CHANNEL_MAX; i++)
		if (m->channels[i])
			channel_send_abort(m->channels[i]);
	migration_read_report(m, &m->report);
	for (unsigned int i = 0; i < CHANNEL_MAX; i++) {
		channel_send_close(m->channels[i]);
		m->channels[i] = NULL;
	}
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
		set_status(m, MIGRATION_COMPLETED);
		return;
	}
	if (!m->cancelled)
		error_report("vm %s: not moved: %s; %s", m->name, m->error,
			     m->vm->sock ? "the guest runs on at the source; retry with \"vmferry migrate\"" :
					   "its VMM is gone, and the guest with it");
	set_status(m, m->cancelled ? MIGRATION_CANCELLED : MIGRATION_FAILED);
}

static void finish(struct migration *m)
{
	m->ended_ns = now_ns();
	loop_timer_fini(&m->budget);
	loop_timer_fini(&m->timeout);
	loop_timer_fini(&m->pause);
	journal_forget(m->f->journal, m);
	close_connections(m);
	if (m->state == SRC_FAILED && journal_find(m->f->journal, m->id))
		journal_note(m->f->journal, m->id, JOURNAL_NEVER);
	loop_event_fini(&m->sent);
	page_set_fini(&m->set);
	let_go_of_vm(m);
	report_end(m);
	close(m->state_fd);
	m->state_fd = -1;
	token_bucket_fini(&m->bucket);
}

static void on_peer_answered(void *arg, bool runs_there)
{
	struct migration *m = arg;

	m->recovery = NULL;
	step(m, runs_there ? EV_PEER_RUNNING : EV_PEER_NEVER_RAN);
}

static void hold(struct migration *m)
{
	set_status(m, MIGRATION_HELD);
	error_report("vm %s: %s after GO was sent: the guest is held paused here, for it may run at %s; "
		     "asking there until it answers; if you know better: \"vmferry resolve %s --gone\" or "
		     "\"--run-here\"", m->name, m->error, m->connector.uri, m->name);
	peer_close(m->peer);
	m->peer = NULL;
	m->recovery = recovery_ask_peer(m->f, m->id, m->name, m->connector.uri, on_peer_answered, m);
}

static void release(struct migration *m)
{
	recovery_release(m->f, m->vm, m->id);
	m->report.actual_ns[PART_STOP] = m->harvested_ns - m->last_exit_ns;
	if (m->rest_sent_ns && m->sent_ns) {
		m->report.actual_ns[PART_SAVE] =
			m->saved_ns > m->rest_sent_ns ? m->saved_ns - m->rest_sent_ns : 0;
		m->report.actual_ns[PART_PAGES] =
			m->sent_ns - m->harvested_ns - m->report.actual_ns[PART_SAVE];
	}
}

static void tell(struct migration *m, enum wire_type type)
{
	struct wire_failed why = { "" };

	snprintf(why.text, sizeof(why.text), "%.*s", WIRE_TEXT_LEN - 1,
		 m->error[0] ? m->error : "cancelled");
	if (m->peer)
		peer_send(m->peer, type, &why, type == WIRE_CANCEL ? sizeof(why) : 0);
}

/* Each action in the order of its bit: what matters most for the guest comes first. */
static void carry_out(struct migration *m, unsigned int actions)
{
	if (actions & ACT_JOURNAL_BEGIN)
		begin_journal(m);
	if (actions & ACT_PREPARE_PEER && m->peer && peer_send(m->peer, WIRE_PREPARE, NULL, 0))
		step(m, EV_PEER_LOST);
	if (actions & ACT_STOP_VCPUS)
		stop_vcpus(m);
	if (actions & ACT_SEND_REST)
		send_rest(m);
	if (actions & ACT_RESUME_GUEST)
		vm_ask(m->vm, VM_RESUME, NULL, 0, -1, on_resumed, m);
	if (actions & ACT_TELL_ABORT)
		tell(m, WIRE_ABORT);
	if (actions & ACT_SEND_GO)
		send_go(m);
	if (actions & ACT_TELL_CANCEL)
		tell(m, WIRE_CANCEL);
	if (actions & ACT_HOLD)
		hold(m);
	if (actions & ACT_RELEASE)
		release(m);
	if (actions & ACT_FINISH)
		finish(m);
	if (actions & ACT_RETRY)
		retry(m);
}

static void step(struct migration *m, enum src_event event)
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
	carry_out(m, actions);
}

/* ---- the beginning ---- */

static int open_channels(struct migration *m)
{
	struct connector *c = &m->connector;
	int err = 0;

	m->share = (struct channel_share){ .regions = m->vm->regions,
					   .nr_regions = m->vm->nr_regions,
					   .nr_channels = m->params.channels,
					   .state_fd = m->state_fd,
					   .bucket = &m->bucket,
					   .zstd_level = m->params.zstd_level,
					   .event = &m->sent };
	for (unsigned int i = 0; i < m->params.channels && !err; i++) {
		int sock = c->channels[i];

		c->channels[i] = -1;
		err = channel_send_open(sock, i, &m->share, &m->channels[i]);
	}
	if (!err) {
		int sock = c->control;

		c->control = -1;
		err = peer_open(m->f->loop, sock, &peer_ops, m, &m->peer);
	}
	return err;
}

static void on_connected(void *owner)
{
	struct migration *m = owner;
	struct connector *c = &m->connector;
	int err = c->error;

	if (m->status == MIGRATION_CANCELLING || migration_is_over(m->status)) {
		step(m, EV_CANCEL);
	} else if (err) {
		blame(m, "%s: %s", c->uri, c->text);
		step(m, EV_PEER_LOST);
	} else {
		m->report.huge = c->plan_ok.huge;
		err = open_channels(m);
		if (err) {
			blame(m, "cannot open channels: %s", strerror(-err));
			step(m, EV_CANCEL);
		} else {
			vm_ask(m->vm, VM_START_LOG, NULL, 0, -1, on_logging, m);
		}
	}
	connector_fini(c);
}

static void on_timeout(void *owner)
{
	struct migration *m = owner;

	if (m->state > SRC_PREPARED)
		return;
	blame(m, "not done within the timeout of %u s%s%s", m->params.timeout_s,
	      m->report.advice[0] ? ": " : "", m->report.advice);
	step(m, EV_CANCEL);
}

static int describe_plan(struct migration *m)
{
	struct connector *c = &m->connector;
	struct vm *vm = m->vm;

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

static void free_migration(struct migration *m)
{
	for (struct migration **p = &m->f->outgoing; *p; p = &(*p)->next)
		if (*p == m) {
			*p = m->next;
			break;
		}
	recovery_stop(m->recovery);
	connector_fini(&m->connector);
	free(m->connector.regions);
	vm_put(m->vm);
	free(m);
}

static const char *why_not(struct ferry *f, const char *name, const struct migration_params *p,
			   struct vm *vm, char *text, size_t len)
{
	if (!vm) {
		snprintf(text, len, vm_find(&f->vms, name, true) ?
			 "vm %s: waits here for a guest and has none to send; migrate it from where it runs" :
			 "vm %s: not known here; \"vmferry list\" shows those that are", name);
		return text;
	}
	if (vm->is_busy || (migration_find(f, name) && !migration_is_over(migration_find(f, name)->status)))
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
	else if (vm->state_size > MAX_STATE)
		snprintf(text, len, "vm %s: its state is larger than 4 GiB", name);
	else
		return NULL;
	return text;
}

static int start(struct migration *m)
{
	struct loop *l = m->f->loop;
	int err = 0;

	if (getrandom(m->id, sizeof(m->id), 0) != sizeof(m->id))
		return -EIO;
	m->state_fd = memfd_create("vmferry-state", MFD_CLOEXEC);
	if (m->state_fd < 0 || ftruncate(m->state_fd, (off_t)m->vm->state_size))
		return -errno;
	/* Room for the state now: nothing is allocated in the blackout. */
	if (m->vm->state_size && fallocate(m->state_fd, 0, 0, (off_t)m->vm->state_size))
		return -errno;
	err = page_set_init(&m->set, m->vm->sizes, m->vm->nr_regions);
	if (!err)
		err = loop_event_init(&m->sent, l, on_sent, m);
	if (!err)
		err = loop_timer_init(&m->budget, l, on_budget, m);
	if (!err)
		err = loop_timer_init(&m->timeout, l, on_timeout, m);
	if (!err)
		err = loop_timer_init(&m->pause, l, on_pause_over, m);
	if (!err)
		err = describe_plan(m);
	if (!err && m->params.timeout_s)
		loop_timer_at(&m->timeout, now_ns() + m->params.timeout_s * NS_PER_S);
	m->connector.done = on_connected;
	m->connector.owner = m;
	return err ? err : connector_start(&m->connector, l);
}

/** migration_start() - begin to move @name to @uri; on refusal @why says it in words */
int migration_start(struct ferry *f, const char *name, const char *uri,
		    const struct migration_params *params, char *why, size_t why_len)
{
	struct vm *vm = vm_find(&f->vms, name, false);
	struct migration *m;
	int err;

	if (why_not(f, name, params, vm, why, why_len))
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
	token_bucket_init(&m->bucket, params->max_bandwidth, m->started_ns);
	predictor_init(&m->predictor);
	convergence_init(&m->convergence, params->throttle);
	err = start(m);
	if (err) {
		snprintf(why, why_len, "vm %s: cannot begin: %s", name, strerror(-err));
		loop_event_fini(&m->sent);
		loop_timer_fini(&m->budget);
		loop_timer_fini(&m->timeout);
		loop_timer_fini(&m->pause);
		page_set_fini(&m->set);
		if (m->state_fd >= 0)
			close(m->state_fd);
		free_migration(m);
		return err;
	}
	m->watcher = (struct vm_watcher){ on_vm_lost, m };
	vm->watcher = &m->watcher;
	vm->is_busy = true;
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
	blame(m, "cancelled");
	if (m->connector.thread_is_up)
		set_status(m, MIGRATION_CANCELLING);
	else
		step(m, EV_CANCEL);
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
	step(m, run_here ? EV_PEER_NEVER_RAN : EV_PEER_RUNNING);
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
			blame(m, "%s", reason);
			step(m, EV_CANCEL);
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

/** migration_read_report() - the account so far */
void migration_read_report(struct migration *m, struct migration_report *to)
{
	struct dirty_counters d;

	if (m->channels[0]) {
		struct channel_counters sum = { 0 };

		for (unsigned int i = 0; i < CHANNEL_MAX && m->channels[i]; i++) {
			struct channel_counters c;

			channel_send_counters(m->channels[i], &c);
			sum.wire += c.wire;
			sum.raw_pages += c.raw_pages;
			sum.zero_pages += c.zero_pages;
			sum.packed_pages += c.packed_pages;
			sum.packed_bytes += c.packed_bytes;
			sum.busy_ns += c.busy_ns;
		}
		m->report.counters = sum;
		dirty_read_counters(m->vm->dirty, &d);
		m->report.throttled_ns = d.throttled_ns;
		m->report.ring_full = d.ring_full;
		m->report.tracker_is_ring = d.flags & VMFERRY_AREA_RING;
	}
	m->report.goodput = m->predictor.goodput;
	m->report.total_ns = migration_elapsed_ns(m);
	if (to != &m->report)
		*to = m->report;
}
