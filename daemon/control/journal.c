// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Decisions, on disk before they are acted on.
 *
 * Theory of operation
 *
 * Each decision is one line, and goes to two files:
 *
 *   the marks, on a tmpfs: written at once, before the decision is acted on. They survive the death of this process,
 *       and not that of the host. journal_marks.c.
 *   the journal, on a disk: written by a work, for even a write without a sync can wait for milliseconds for the file
 *       system, and a blackout must not. "begun" is synced there before the vCPUs stop. journal_disk.c.
 *
 * At start-up both are read, the marks last, for they are never behind. All that the marks say is written to the journal
 * once more and synced, and the marks begin anew. What the journal has of it already may never have been synced, and one
 * line twice says the same. If the disk takes nothing, the new marks get these lines instead, and the daemon starts:
 * guests wait for it. journal_why() says what is wrong, and each sync tries again. Marks that have become long begin anew
 * in the same way after a sync, with the same stamp. journal_start.c.
 *
 * If the tmpfs has no room for new marks, those of the daemon before go on. Where they must not, since their stamp is not
 * carried on, no decision can be noted until there is room: guests are recovered as the journal says, and none is moved.
 *
 * Invariant: a line that no sync has covered stands in the marks.
 *
 * What proves that GO was neither sent nor heard. An entry "begun" proves it only as long as nothing that followed it
 * can be lost. Each marks file has a stamp, 16 random bytes, and "begun" has that of the marks in which it stands. A
 * restart carries the stamp on. It becomes another one when a mark may be lost: after a boot, for a tmpfs does not
 * outlive it; when the marks are gone or damaged; when the journal is, which may have taken marks over at a restart.
 * No entry at all proves it only in a journal whose id the peer knows from before. The id changes when an entry may be
 * missing: in a new or damaged journal, on another host, and when the operator has an entry forgotten.
 *
 * An entry stays until the other side has acknowledged its outcome, journal_settled(), or the operator drops it,
 * journal_drop(). The two sides of a migration are two entries, also where one daemon is both: the key is id and role.
 * No mark may contradict what an entry says: journal_may_note().
 *
 * The loop and the work share no lock. A job is in a list that either of them has: the loop hands over what has
 * gathered when it begins the work, and takes back what is on the disk when that is done. A job is a part of its entry,
 * so a decision allocates nothing. Of an entry with a job out, the loop changes only what the work does not read.
 *
 *   loop:  record(), journal_sync() -> @handed, @asked -> begin_work()
 *   work:  lines to the journal -> one sync for all questions
 *   loop:  journal_done() -> synced() of each question, in order -> begin_work() for what has come meanwhile
 */
#include "journal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "base/error.h"
#include "base/fault.h"
#include "journal_private.h"

#define MARKS_LONG (1 << 20) /* bytes; longer marks begin anew, some 1,300 migrations later */

static uint64_t now_s(void)
{
	return (uint64_t)time(NULL);
}

/** journal_new_id() - 16 random bytes */
int journal_new_id(uint8_t id[16])
{
	return getrandom(id, 16, 0) == 16 ? 0 : -EIO;
}

/** journal_queue() - the line @line of @k goes to the end of @jobs */
void journal_queue(struct journal_jobs *jobs, struct journal_kept *k, unsigned int line, uint64_t when_s)
{
	struct journal_job *job = &k->jobs[line];

	job->line = line;
	job->when_s = when_s;
	k->nr_out++;
	STAILQ_INSERT_TAIL(jobs, job, next);
}

/** journal_retire() - @k is no entry any more; it is freed when its lines are on the disk */
void journal_retire(struct journal *j, struct journal_kept *k)
{
	journal_table_remove(&j->table, k);
	k->is_gone = true;
	TAILQ_INSERT_TAIL(&j->gone, k, order);
}

/** journal_write_mark() - the line @line of @k, to the marks */
int journal_write_mark(struct journal *j, struct journal_kept *k, unsigned int line, uint64_t when_s)
{
	char text[JOURNAL_LINE_ROOM];
	size_t len = journal_file_line(text, line, &k->e, when_s, line == JOURNAL_LINE_FORGOT ? k->renewed : NULL);
	int err = journal_marks_write(&j->marks, text, len);

	if (err)
		return err;
	if (k->is_gone || !k->e.mark)
		k->len = len;
	else
		journal_table_set_len(&j->table, k, len);
	return 0;
}

/* ---- the work ---- */

/* After a sync of all that these marks say. */
static bool prepare_next_marks(struct journal *j)
{
	char text[JOURNAL_LINE_ROOM];
	int err = journal_marks_create(&j->next_marks, j->marks.path);

	if (!err)
		err = journal_marks_write(&j->next_marks, text, journal_file_header(text, JOURNAL_MARKS, j->stamp, j->boot));
	return !err;
}

/** journal_carry_out() - what the work does; nothing here is called by the loop meanwhile */
void journal_carry_out(struct work *w)
{
	struct journal *j = w->owner;
	struct run *r = &j->run;

	journal_marks_close(&j->old_marks);
	journal_marks_abandon(&j->next_marks);
	r->err = journal_disk_write(&j->disk, r->id);
	if (r->must_sync) {
		fault_point("journal-sync");
		if (!r->err)
			r->err = journal_disk_sync(&j->disk);
		if (!r->err && r->marks_at > MARKS_LONG)
			r->has_next_marks = prepare_next_marks(j);
		/* Also where new ones are ready: if something is noted meanwhile, these go on. */
		journal_marks_make_room(&j->marks, r->marks_at);
	} else if (!r->err && r->is_compaction) {
		journal_disk_compact(&j->disk, r->id);
	}
}

/* A question goes before a compaction: somebody waits for its answer. */
static void begin_work(struct journal *j)
{
	bool is_question = !STAILQ_EMPTY(&j->asked);

	/* A write that works says nothing of the next sync: after a failure each work syncs, until that succeeds. */
	if (j->work.is_out || (STAILQ_EMPTY(&j->handed) && !is_question && !j->is_wasteful))
		return;
	STAILQ_CONCAT(&j->disk.unwritten, &j->handed);
	STAILQ_CONCAT(&j->out, &j->asked);
	j->run = (struct run){ .marks_at = j->marks.at, .must_sync = is_question || *j->why, .is_compaction = j->is_wasteful };
	memcpy(j->run.id, j->id, 16);
	worker_do(j->worker, &j->work);
}

/** journal_take_synced() - take back from the work the jobs whose lines are on the disk */
void journal_take_synced(struct journal *j)
{
	struct journal_job *job;

	while ((job = STAILQ_FIRST(&j->disk.synced))) {
		struct journal_kept *k = job->of;

		STAILQ_REMOVE_HEAD(&j->disk.synced, next);
		if (--k->nr_out || !k->is_gone)
			continue;
		TAILQ_REMOVE(&j->gone, k, order);
		free(k);
	}
	j->is_id_on_disk = !j->disk.must_rewrite && !j->disk.must_sync_folder;
}

/* If something was noted since the work began, the new file lacks it: the next sync tries again. */
static void change_marks(struct journal *j)
{
	if (!j->run.has_next_marks || j->marks.at != j->run.marks_at || journal_marks_commit(&j->next_marks))
		return;
	j->old_marks = j->marks;
	j->marks = j->next_marks;
	j->next_marks = (struct journal_marks){ .fd = -1 };
}

/* Once, until it changes; @was is what was said last. */
static void say(char was[160], const char *what, const char *path, int err)
{
	char why[160] = "";

	if (err)
		snprintf(why, sizeof(why), "%s %.100s: %s", what, path, strerror(-err));
	if (!strcmp(why, was))
		return;
	memcpy(was, why, sizeof(why));
	if (err)
		error_report("%s; no guest is moved until it can be written; guests are not touched by this", why);
	else
		notice_report("%s %s: it can be written again", what, path);
}

/** journal_say() - what became of a write to the disk */
void journal_say(struct journal *j, int err)
{
	say(j->why, "journal", j->disk.path, err);
}

/** journal_say_marks() - what became of a write to the marks */
void journal_say_marks(struct journal *j, int err)
{
	say(j->marks_why, "marks of the journal", j->marks_path, err);
}

/** journal_done() - the work has ended */
void journal_done(struct work *w)
{
	struct journal *j = w->owner;
	struct question *q;
	int err = j->run.err;

	journal_take_synced(j);
	change_marks(j);
	journal_say(j, err);
	j->is_wasteful = !err && journal_disk_is_wasteful(&j->disk, j->table.live_bytes);
	STAILQ_CONCAT(&j->answered, &j->out);
	/* The rest is in the list still: what an answer has ended, journal_forget() strikes out. */
	while ((q = STAILQ_FIRST(&j->answered))) {
		STAILQ_REMOVE_HEAD(&j->answered, next);
		if (q->synced)
			q->synced(q->arg, err);
		free(q);
	}
	begin_work(j);
}

/** journal_why() - why nothing can be written, to the disk or the marks, in words; "": it can. Valid until the loop goes on. */
const char *journal_why(const struct journal *j)
{
	return *j->why ? j->why : j->marks_why;
}

/**
 * journal_id() - of the journal; zeros: an absent entry proves nothing
 *
 * A source learns the id before it moves a guest, and asks with it later. If it still is this journal's id then, no
 * entry was lost in between: a migration without an entry never got to PREPARED here.
 */
void journal_id(const struct journal *j, uint8_t id[16])
{
	memset(id, 0, 16);
	if (j->is_id_on_disk)
		memcpy(id, j->id, 16);
}

/* ---- decisions ---- */

/* Where there was no room for them, there may be now. What is to stand in them is the work's while that is out. */
static bool has_marks(struct journal *j)
{
	return j->marks.fd >= 0 || (!j->work.is_out && !journal_begin_marks(j));
}

/* To the marks now, to the journal soon; nothing is changed if that fails. */
static int record(struct journal *j, struct journal_kept *k, unsigned int line)
{
	uint64_t when_s = now_s();
	int err = has_marks(j) ? journal_write_mark(j, k, line, when_s) : j->marks_err;

	journal_say_marks(j, err);
	if (err)
		return err;
	if (line <= JOURNAL_NEVER) {
		k->e.mark = (enum journal_mark)line;
		k->e.when_s = when_s;
	}
	journal_queue(&j->handed, k, line, when_s);
	begin_work(j);
	return 0;
}

/* As record(), of an entry that is not there yet. */
static int record_new(struct journal *j, struct journal_kept *k, enum journal_mark mark)
{
	int err = record(j, k, mark);

	if (err)
		free(k);
	else
		journal_table_add(&j->table, k);
	return err;
}

/**
 * journal_begin() - write @e as "begun"; call journal_sync() before acting on it
 *
 * A migration that begins its next try writes nothing: it has begun.
 *
 * Return: 0; -EEXIST: what is there contradicts @e: it has an outcome, or GO is passed, or it is of another VM or peer;
 * -ENOSPC: JOURNAL_KEPT_MOST entries are kept, and a destination begins no more; -ENOMEM, or an errno of the marks.
 * After an error all is as before.
 */
int journal_begin(struct journal *j, const struct journal_entry *e)
{
	struct journal_kept *k = journal_table_find(&j->table, e->id, e->role);
	int may = journal_may_note(k, e->role, JOURNAL_BEGUN);

	if (may < 0)
		return may;
	if (!may)
		return strcmp(k->e.vm, e->vm) || strcmp(k->e.peer, e->peer) ? -EEXIST : 0;
	if (e->role == JOURNAL_DESTINATION && j->table.nr >= JOURNAL_KEPT_MOST)
		return -ENOSPC;
	k = journal_kept_new(e->id, e->role);
	if (!k)
		return -ENOMEM;
	strcpy(k->e.vm, e->vm);
	strcpy(k->e.peer, e->peer);
	memcpy(k->e.peer_journal, e->peer_journal, 16);
	memcpy(k->e.stamp, j->stamp, 16);
	return record_new(j, k, JOURNAL_BEGUN);
}

/**
 * journal_note() - write @mark to the marks, and soon to the disk; see journal_sync()
 *
 * One write to the marks, and no allocation, except for "done" of a destination that has no entry. What the entry says
 * already is not written again.
 *
 * Return: 0; -EEXIST: @mark contradicts the entry, see journal_may_note(); -ENOENT: there is no entry, and @mark needs
 * one; -ENOMEM, or an errno of the marks. After an error all is as before: do not act on the decision.
 */
int journal_note(struct journal *j, const uint8_t id[16], enum journal_role role, enum journal_mark mark)
{
	struct journal_kept *k = journal_table_find(&j->table, id, role);
	int may = journal_may_note(k, role, mark);

	if (may <= 0)
		return may;
	if (k)
		return record(j, k, mark);
	k = journal_kept_new(id, role);
	if (!k)
		return -ENOMEM;
	strcpy(k->e.vm, "-");
	return record_new(j, k, mark);
}

/**
 * journal_settled() - the other side has acknowledged the outcome: drop the entry
 *
 * Return: 0; -ENOENT: there is none; an errno of the marks: the entry stays. Call journal_sync() if a loss of power must
 * not bring the entry back.
 */
int journal_settled(struct journal *j, const uint8_t id[16], enum journal_role role)
{
	struct journal_kept *k = journal_table_find(&j->table, id, role);
	int err = k ? record(j, k, JOURNAL_LINE_SETTLED) : -ENOENT;

	if (!err)
		journal_retire(j, k);
	return err;
}

/**
 * journal_drop() - the operator says that nobody will ask for this entry any more
 *
 * The journal has another id afterwards: that an entry is absent proves nothing to who knows the one before. Both
 * stand in one line, so no crash parts them.
 *
 * Return: as journal_settled().
 */
int journal_drop(struct journal *j, const uint8_t id[16], enum journal_role role)
{
	struct journal_kept *k = journal_table_find(&j->table, id, role);
	int err = k ? journal_new_id(k->renewed) : -ENOENT;

	if (!err)
		err = record(j, k, JOURNAL_LINE_FORGOT);
	if (err)
		return err;
	memcpy(j->id, k->renewed, 16);
	journal_retire(j, k);
	return 0;
}

/** journal_sync() - call @synced on the loop once all written so far is on disk; NULL: nobody waits */
void journal_sync(struct journal *j, void (*synced)(void *arg, int err), void *arg)
{
	struct question *q = calloc(1, sizeof(*q));

	if (!q) {
		if (synced)
			synced(arg, -ENOMEM);
		return;
	}
	q->synced = synced;
	q->arg = arg;
	STAILQ_INSERT_TAIL(&j->asked, q, next);
	begin_work(j);
}

/** journal_forget() - @arg is about to be freed: its answers are dropped */
void journal_forget(struct journal *j, const void *arg)
{
	struct questions *lists[] = { &j->asked, &j->out, &j->answered };
	struct question *q;

	for (int i = 0; i < 3; i++)
		STAILQ_FOREACH(q, lists[i], next)
			if (q->arg == arg)
				q->synced = NULL;
}

/* ---- questions ---- */

/** journal_find() - what is known of migration @id on the side of @role, NULL: nothing */
const struct journal_entry *journal_find(struct journal *j, const uint8_t id[16], enum journal_role role)
{
	const struct journal_kept *k = journal_table_find(&j->table, id, role);

	return k ? &k->e : NULL;
}

/** journal_open_entry() - the newest entry of @vm without an outcome, NULL: none */
const struct journal_entry *journal_open_entry(struct journal *j, const char *vm, enum journal_role role)
{
	const struct journal_kept *k;

	TAILQ_FOREACH_REVERSE(k, &j->table.order, journal_order, order)
		if (k->e.role == role && journal_mark_is_open(k->e.mark) && !strcmp(k->e.vm, vm))
			return &k->e;
	return NULL;
}

/**
 * journal_next() - the entries, oldest first
 * @after: NULL: the oldest; else one that was here since this journal was opened; it may be gone
 *
 * Return: the oldest of those that were added after @after; NULL: there is none.
 */
const struct journal_entry *journal_next(struct journal *j, const struct journal_entry *after)
{
	const struct journal_kept *k = after ? journal_table_find(&j->table, after->id, after->role) : NULL;

	/* Dropped, and maybe added again: that is another one. */
	if (k && k->e.number == after->number)
		k = TAILQ_NEXT(k, order);
	else
		for (k = TAILQ_FIRST(&j->table.order); k && after && k->e.number <= after->number;)
			k = TAILQ_NEXT(k, order);
	return k ? &k->e : NULL;
}

/**
 * journal_proves_no_go() - does @e, an entry of @j, prove that GO was neither sent nor heard on this side
 *
 * It does if it says "begun", and no mark that followed can be lost: see the theory of operation above.
 */
bool journal_proves_no_go(const struct journal *j, const struct journal_entry *e)
{
	return e->mark == JOURNAL_BEGUN && !memcmp(e->stamp, j->stamp, 16);
}

/** journal_nr_kept() - how many entries there are, of both roles, open and closed; see JOURNAL_KEPT_MOST */
unsigned int journal_nr_kept(const struct journal *j)
{
	return j->table.nr;
}

/** journal_newest_number() - of the entry that was added last, which may be gone; 0: none was since the journal was opened */
uint64_t journal_newest_number(const struct journal *j)
{
	return j->table.nr_added;
}
