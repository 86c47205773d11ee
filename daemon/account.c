// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The account of a switchover at the source: when what happened, how long each part took,
 * what is learned from it, what was believed before.
 *
 * Theory of operation: while the guest stands still only times are noted. They are made
 * into parts, learned and remembered once it runs again, here or there.
 *
 *   last exit   stopped  harvested  rest sent/saved  state sent  READY   GO    first entry
 *      |---stop---|--harvest--|---pages---|-save-|----state---|-load+trip-|-----start-----|
 *
 * The parts follow one another without a gap: their sum is the blackout. The first entry
 * is the destination's, on our clock: see decide/clock.c.
 *
 * A try that was called off teaches what ended, and of the part that did not that it takes
 * at least so long; what loading took the destination tells when it is over. One slow try,
 * or two, may be a busy host's: until there were RULE of them a lesson after which nothing
 * more could be tried is only kept at hand.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/deadline.h"
#include "base/error.h"
#include "control/learned.h"
#include "migration_private.h"

#define RULE 3
#define STALE_S 300 /* hosts change: what was learned before may not be true any more, and one try breaks no limit */

/* host:port without the port; the path of a socket. */
static void name_pair(struct migration *m, char *to, size_t len)
{
	const char *uri = strchr(m->connector.uri, ':') ? strchr(m->connector.uri, ':') + 1 : m->connector.uri;
	const char *port = strrchr(uri, ':');
	int n = port && uri[0] != '/' ? (int)(port - uri) : (int)strlen(uri);

	snprintf(to, len, "%.*s, %u vCPUs, %llu MiB, %s", n > 120 ? 120 : n, n > 120 ? uri + n - 120 : uri,
		 m->vm->nr_vcpus, (unsigned long long)vm_ram_size(m->vm) >> 20,
		 m->report.tracker_is_kmod ? "kmod" : "vmm");
}

/**
 * account_begin() - dirty logging is on: who tracks is known, and so what has been learned of it
 *
 * account_learn() and account_learned() follow.
 */
void account_begin(struct migration *m)
{
	struct vm *vm = m->vm;

	migration_note_tracker(m);
	predictor_init(&m->predictor);
	for (unsigned int i = 0; i < vm->nr_devices; i++)
		predictor_add_device(&m->predictor, vm->devices[i].name, vm->devices[i].kind,
				     vm->devices[i].state_size);
	name_pair(m, m->pair, sizeof(m->pair));
	clock_init(&m->clock);
	m->lesson = m->predictor; /* account_learn()'s copy: others read the predictor meanwhile */
}

/** account_learn() - what may block: reading files, attaching the probe */
void account_learn(struct migration *m)
{
	m->learned_age_s = learned_read(m->f->learned_dir, m->pair, &m->lesson);
	m->missed_before = blackout_missed(m->f->blackouts);
	m->new_slot = blackout_watch(m->f->blackouts, m->vm->peer_pid);
}

/** account_learned() - on the loop, after account_learn() */
void account_learned(struct migration *m)
{
	m->predictor = m->lesson;
	m->is_stale = m->learned_age_s > STALE_S;
	m->probe_slot = m->new_slot;
	blackout_say_watched(m->f->blackouts, m->probe_slot, m->vm->peer_pid);
}

/** account_stopping() - PAUSE is being asked: a new try */
void account_stopping(struct migration *m)
{
	m->t = (struct try_times){ .stop_asked = now_ns() };
	m->t.last_exit = m->t.stop_asked;
	m->believed = m->expected = m->report.predicted;
	memset(m->report.actual_ns, 0, sizeof(m->report.actual_ns));
}

/** account_stopped() - all vCPUs stand still and the last harvest is published */
void account_stopped(struct migration *m, const struct vmferry_msg_paused *p)
{
	uint64_t seen = blackout_last_exit_ns(m->f->blackouts, m->probe_slot);
	uint64_t now = now_ns();

	/* Believed only where it can be true; what nobody knows began when it was asked for. */
	if (p->last_exit_ns > m->t.stop_asked && p->last_exit_ns < now)
		m->t.last_exit = p->last_exit_ns;
	if (seen > m->t.stop_asked && seen < now)
		m->t.last_exit = seen;
	m->t.stopped = p->stopped_ns > m->t.last_exit && p->stopped_ns < now ? p->stopped_ns : now;
	m->t.harvested = now;
	blackout_arm(m->f->blackouts, m->probe_slot);
}

/** account_expect() - what is still to come, now that the last pages are known */
void account_expect(struct migration *m)
{
	predictor_predict(&m->predictor, m->precopy.set.nr_set << 12, m->vm->state_size, &m->expected);
}

/**
 * account_budget_ns() - of the limit, before it would be called off: what is left is for resuming here
 *
 * And for waiting for a processor, which no part of a blackout shows: a vCPU that others keep from
 * running stands still before it leaves the guest, and after it was let in.
 */
uint64_t account_budget_ns(const struct migration *m)
{
	uint64_t limit = migration_limit_ns(m);
	uint64_t reserve = predictor_resume_ns(&m->predictor) + m->report.wait_ns + migration_margin_ns(m);

	return m->params.strict ? less(limit, reserve) : limit;
}

/** account_is_hopeless() - the limit will be crossed if all from @next on goes as usual */
bool account_is_hopeless(const struct migration *m, enum predictor_part next)
{
	uint64_t elapsed = now_ns() - m->t.last_exit;

	/* A guess calls nothing off: the timer will, and then it is known. */
	return m->params.strict && !m->expected.is_cold && elapsed + predictor_from(&m->expected, next) > migration_limit_ns(m);
}

static uint64_t later(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* Parts from the times that were reached; @entry_ns 0: none. Return: the part that did not end. */
static enum predictor_part fill_parts(const struct migration *m, uint64_t entry_ns, uint64_t *ns)
{
	const struct try_times *t = &m->t;
	uint64_t both = t->rest_sent && t->saved ? later(t->rest_sent, t->saved) : 0;

	if (!t->harvested)
		return PART_STOP;
	ns[PART_STOP] = less(t->stopped, t->last_exit);
	ns[PART_HARVEST] = less(t->harvested, t->stopped);
	if (!t->rest_sent)
		return t->saved || !m->vm->nr_devices ? PART_PAGES : PART_SAVE;
	ns[PART_PAGES] = less(t->rest_sent, t->harvested);
	if (!both)
		return PART_SAVE;
	ns[PART_SAVE] = less(t->saved, t->rest_sent);
	if (!t->sent)
		return PART_STATE;
	ns[PART_STATE] = less(t->sent, both);
	if (!t->ready)
		return PART_LOAD;
	ns[PART_LOAD] = m->loaded.load_ns < t->ready - t->sent ? m->loaded.load_ns : t->ready - t->sent;
	ns[PART_TRIP] = t->ready - t->sent - ns[PART_LOAD];
	if (!entry_ns)
		return PART_START;
	ns[PART_START] = less(entry_ns, t->ready);
	return PART_NR;
}

static uint64_t learn_devices(struct predictor *p, const uint64_t *ns, uint32_t nr, bool load)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < p->nr_devices && i < nr; i++) {
		struct predictor_device *d = &p->device[i];

		estimate_learn(load ? &d->load : &d->save, d->size, ns[i]);
		sum += ns[i];
	}
	return sum;
}

static void learn_load(struct predictor *p, const struct wire_ready *r)
{
	predictor_learn_part(p, PART_LOAD, 0, less(r->load_ns, learn_devices(p, r->device_ns, r->nr_devices, true)));
}

/* All parts before @end; what bytes and devices took of them is not the parts' own. */
static void learn_parts(const struct migration *m, struct predictor *p, const uint64_t *ns, enum predictor_part end)
{
	if (end > PART_STOP)
		predictor_learn_part(p, PART_STOP, 0, ns[PART_STOP]);
	if (end > PART_HARVEST)
		predictor_learn_part(p, PART_HARVEST, 0, ns[PART_HARVEST]);
	if (m->t.rest_sent)
		predictor_learn_part(p, PART_PAGES, m->rest_bytes, ns[PART_PAGES]);
	if (m->t.saved)
		predictor_learn_part(p, PART_SAVE, 0, less(m->t.saved - m->t.harvested,
							learn_devices(p, m->saved_ns, p->nr_devices, false)));
	if (end > PART_STATE)
		predictor_learn_part(p, PART_STATE, m->state_len, ns[PART_STATE]);
	if (end > PART_LOAD) {
		learn_load(p, &m->loaded);
		predictor_learn_part(p, PART_TRIP, m->rest_bytes + m->state_len, ns[PART_TRIP]);
	}
	if (end > PART_START)
		predictor_learn_part(p, PART_START, 0, ns[PART_START]);
}

/* Of the part that did not end in @ns: at least that long. */
static void learn_open_part(const struct migration *m, struct predictor *p, enum predictor_part part, uint64_t ns)
{
	struct predictor_device *d = m->expected.device >= 0 ? &p->device[m->expected.device] : NULL;

	/* It may have been about to end, as far as anything is known of it. */
	if (ns <= m->expected.part[part].mean_ns && !m->expected.is_cold)
		return;
	if (part == PART_SAVE && d)
		estimate_learn(&d->save, d->size, ns);
	else if (part != PART_LOAD) /* of that the destination tells: WIRE_DROPPED */
		predictor_learn_part(p, part, part == PART_PAGES ? m->expected.rest_bytes :
					     part == PART_STATE ? m->state_len : 0, ns);
}

/* By how much a guess was wrong teaches nothing of the next prediction. */
static void learn_total(const struct migration *m, struct predictor *p, uint64_t ns)
{
	if (!m->believed.is_cold)
		predictor_learn_total(p, m->believed.sum_ns, ns);
}

static void remember(struct migration *m, enum blackout_end end, uint64_t blackout_ns, uint64_t error_ns,
		     enum blackout_by by)
{
	struct blackout_record r = { .when_s = (uint64_t)time(NULL),
				     .end = end,
				     .by = by,
				     .limit_ns = migration_limit_ns(m),
				     .blackout_ns = blackout_ns,
				     .error_ns = error_ns,
				     .expected = m->believed };

	snprintf(r.vm, sizeof(r.vm), "%s", m->name);
	snprintf(r.peer, sizeof(r.peer), "%.*s", (int)sizeof(r.peer) - 1, m->connector.uri);
	memcpy(r.actual_ns, m->report.actual_ns, sizeof(r.actual_ns));
	blackouts_add(m->f->blackouts, &r);
}

/** account_moved() - the guest runs there */
void account_moved(struct migration *m, const struct wire_running *r)
{
	uint64_t theirs = r->entry_ns ? r->entry_ns : r->vmm_entry_ns, error = 0, entry, now = now_ns();
	struct migration_report *to = &m->report;
	int64_t offset = 0;

	to->timed_by = r->entry_ns ? (enum blackout_by)(r->by & 3) : BLACKOUT_BY_VMM;
	to->downtime_ns = now - m->t.last_exit;
	/* One clock, as far as can be told: then there is no error. */
	if (!clock_offset(&m->clock, now, &offset, &error) || offset < -ONE_CLOCK_NS || offset > ONE_CLOCK_NS ||
	    memcmp(m->connector.welcome.host, m->f->host, 16)) {
		to->clock_error_ns = error;
		to->clock_offset_ns = offset;
	} else {
		offset = 0;
	}
	entry = theirs - (uint64_t)offset;
	if (theirs && m->clock.nr && entry > m->t.last_exit && entry < now + to->clock_error_ns)
		to->blackout_ns = entry - m->t.last_exit;
	else
		entry = now;
	fill_parts(m, entry, to->actual_ns);
	if (m->has_lesson)
		m->predictor = m->lesson;
	learn_parts(m, &m->predictor, to->actual_ns, PART_NR);
	learn_total(m, &m->predictor, entry - m->t.last_exit);
	remember(m, BLACKOUT_MOVED, entry - m->t.last_exit, to->clock_error_ns, to->timed_by);
}

static uint64_t resumed_at(const struct migration *m, uint64_t vmm_says_ns, enum blackout_by *by)
{
	/* Without an answer to PAUSE nothing was armed. */
	uint64_t seen = m->t.harvested ? blackout_first_entry_ns(m->f->blackouts, m->probe_slot) : 0;

	*by = seen ? blackout_by(m->f->blackouts, m->probe_slot) : BLACKOUT_BY_VMM;
	return seen ? seen : vmm_says_ns;
}

static struct predictor *lesson_of(struct migration *m)
{
	if (!m->has_lesson)
		m->lesson = m->predictor;
	m->has_lesson = true;
	return &m->lesson;
}

/** account_called_off() - the guest runs again here; a while ago, so that the probe has seen it */
void account_called_off(struct migration *m)
{
	struct predictor *p = lesson_of(m);
	enum predictor_part open;
	enum blackout_by by;
	uint64_t entry = resumed_at(m, m->t.resumed, &by), stall = less(entry, m->t.last_exit);

	if (stall > m->report.stall_ns)
		m->report.stall_ns = stall;
	estimate_learn(&p->resume, 0, less(entry, m->t.resume_asked));
	open = fill_parts(m, 0, m->report.actual_ns);
	remember(m, BLACKOUT_CALLED_OFF, stall, 0, by);
	learn_parts(m, p, m->report.actual_ns, open);
	/* After GO the guest was held until somebody knew: that tells nothing of how long a start takes. */
	if (!m->t.go) {
		learn_open_part(m, p, open, less(m->t.resume_asked, m->t.last_exit));
		learn_total(m, p, m->t.resume_asked - m->t.last_exit + predictor_from(&m->expected, open));
	}
	m->t.resume_asked = 0;
}

/** account_dropped() - the destination tells what loading took, of a try that was called off */
void account_dropped(struct migration *m, const struct wire_ready *r)
{
	if (r->load_ns && !m->t.ready) /* else it is learned already */
		learn_load(lesson_of(m), r);
}

/**
 * account_may_try_again() - a try was called off, and all is known of it
 * @best: what one would take with nothing left to send
 * Return: false: not even that would be expected to make the limit, or there were enough tries
 */
bool account_may_try_again(struct migration *m, struct prediction *best)
{
	predictor_predict(&m->lesson, 0, m->vm->state_size, best);
	if (m->report.tries >= m->params.max_tries)
		return false;
	if (best->whole.likely_ns <= account_budget_ns(m)) {
		m->predictor = m->lesson;
		m->has_lesson = false;
		return true;
	}
	return m->report.tries < RULE;
}

/** account_end() - the migration is over, the guest runs; account_close() and account_closed() follow */
void account_end(struct migration *m)
{
	if (m->t.resume_asked && m->t.resumed) /* a RESUME that failed took no time that could be learned */
		account_called_off(m);
	if (m->has_lesson)
		m->predictor = m->lesson;
	account_read_brownout(m);
}

/** account_close() - the part of account_end() that may block: detaching the probe, preparing files */
void account_close(struct migration *m)
{
	if (m->report.tries)
		learned_write(m->f->scribe, m->f->learned_dir, m->pair, &m->predictor);
	if (m->closing_slot >= 0)
		m->missed_after = blackout_missed(m->f->blackouts);
	blackout_unwatch(m->f->blackouts, m->closing_slot);
}

/** account_closed() - on the loop, after account_close() */
void account_closed(struct migration *m)
{
	if (m->closing_slot >= 0)
		m->report.probe_missed = m->missed_after - m->missed_before;
	m->closing_slot = -1;
}

/** account_read_brownout() - what dirty tracking has cost each vCPU so far */
void account_read_brownout(struct migration *m)
{
	if (m->probe_slot >= 0)
		m->report.nr_brownouts = blackout_brownout(m->f->blackouts, m->probe_slot, m->report.brownout,
							   MIGRATION_MAX_VCPUS);
}

static const char *why_so_long(const struct migration *m, const struct prediction *p, char *text, size_t len)
{
	int most = 0;

	for (int i = 1; i < PART_NR; i++)
		if (p->part[i].mean_ns > p->part[most].mean_ns)
			most = i;
	if (p->device >= 0 && p->device_ns >= p->part[most].mean_ns / 2)
		snprintf(text, len, "of which %.1f the device %s", (double)p->device_ns / 1e6,
			 m->predictor.device[p->device].name);
	else if (p->data_ns >= p->whole.mean_ns / 2)
		snprintf(text, len, "of which %.1f are %.1f MB over the network", (double)p->data_ns / 1e6,
			 (double)(p->rest_bytes + p->state_bytes) / 1e6);
	else
		snprintf(text, len, "of which %.1f are \"%s\"", (double)p->part[most].mean_ns / 1e6,
			 predictor_part_name((enum predictor_part)most));
	return text;
}

/** account_words() - "needs 84.0 ms, of which 61.0 the device nic0; limit 50" */
const char *account_words(const struct migration *m, const struct prediction *p, char *text, size_t len)
{
	double resume = (double)predictor_resume_ns(&m->predictor) / 1e6;
	char why[96];

	if (p->whole.likely_ns <= migration_limit_ns(m) && p->whole.likely_ns > account_budget_ns(m)) {
		if (m->report.wait_ns)
			snprintf(text, len, "needs %.1f ms, and in reserve %.1f for resuming here and %.1f for which its vCPUs "
				 "wait for a processor: this host is busy; limit %u", (double)p->whole.likely_ns / 1e6,
				 resume, (double)m->report.wait_ns / 1e6, m->params.downtime_limit_ms);
		else
			snprintf(text, len, "needs %.1f ms, and %.1f in reserve, for so long has resuming here taken; limit %u",
				 (double)p->whole.likely_ns / 1e6, resume, m->params.downtime_limit_ms);
		return text;
	}
	snprintf(text, len, "needs %.1f ms, %s; limit %u%s", (double)p->whole.upper_ns / 1e6,
		 why_so_long(m, p, why, sizeof(why)), m->params.downtime_limit_ms,
		 p->is_cold ? " (partly guessed: no whole switchover between these hosts was measured yet)" : "");
	return text;
}
