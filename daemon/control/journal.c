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
 * At start-up both are read, the marks last, for they are never behind. What the journal lacks is written to it and
 * synced, and the marks begin anew. If the disk takes nothing, the new marks get what the journal lacks instead, and the
 * daemon starts: guests wait for it. journal_why() says what is wrong, and each sync tries again.
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
 * The loop and the work share no lock. A job is in a list that either of them has: the loop hands over what has gathered
 * when it begins the work, and takes back what is on the disk when that is done. A job is a part of its entry, so a
 * decision allocates nothing. Of an entry with a job out, the loop changes only what the work does not read.
 *
 *   loop:  record(), journal_sync() -> @handed, @asked -> begin_work()
 *   work:  lines to the journal -> one sync for all questions
 *   loop:  on_done() -> synced() of each question, in order -> begin_work() for what has come meanwhile
 */
#include "journal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/vfs.h>
#include <linux/magic.h>
#include <time.h>

#include "base/error.h"
#include "base/fault.h"
#include "journal_disk.h"
#include "journal_marks.h"

#define MARKS "vmferry-marks"

/** struct question - who waits for a sync; the loop's alone */
struct question {
	void (*synced)(void *arg, int err);
	void *arg;
	STAILQ_ENTRY(question) next;
};

STAILQ_HEAD(questions, question);

/**
 * struct run - what the loop tells the work when it begins, and what the work answers
 * @is_question: somebody waits for a sync
 * @is_compaction: the file is to be written anew
 */
struct run {
	uint8_t id[16];
	off_t marks_at;
	bool is_question, is_compaction;
	int err;
};

/**
 * struct journal
 * @disk: the work's while it is out
 * @gone: dropped entries whose lines are not on the disk yet
 * @handed, @asked: what came since the work began
 * @out: questions of the work that is out
 * @answered: questions that are being answered
 * @is_id_on_disk: see journal_id()
 * @is_wasteful: the file is to be compacted
 */
struct journal {
	struct worker *worker;
	struct work work;
	struct run run;
	struct journal_disk disk;
	struct journal_marks marks;
	uint8_t id[16], stamp[16];
	struct journal_table table;
	struct journal_order gone;
	struct journal_jobs handed;
	struct questions asked, out, answered;
	bool is_id_on_disk, is_wasteful;
	char why[160];
};

static uint64_t now_s(void)
{
	return (uint64_t)time(NULL);
}

static int new_id(uint8_t id[16])
{
	return getrandom(id, 16, 0) == 16 ? 0 : -EIO;
}

/* ---- the work ---- */

static void carry_out(struct work *w)
{
	struct journal *j = w->owner;
	struct run *r = &j->run;

	r->err = journal_disk_write(&j->disk, r->id);
	if (r->is_question) {
		fault_point("journal-sync");
		if (!r->err)
			r->err = journal_disk_sync(&j->disk);
		journal_marks_make_room(&j->marks, r->marks_at);
	} else if (!r->err && r->is_compaction) {
		journal_disk_compact(&j->disk, r->id);
	}
}

/* A question goes before a compaction: somebody waits for its answer. */
static void begin_work(struct journal *j)
{
	bool is_question = !STAILQ_EMPTY(&j->asked);

	if (j->work.is_out || (STAILQ_EMPTY(&j->handed) && !is_question && !j->is_wasteful))
		return;
	STAILQ_CONCAT(&j->disk.unwritten, &j->handed);
	STAILQ_CONCAT(&j->out, &j->asked);
	j->run = (struct run){ .marks_at = j->marks.at, .is_question = is_question, .is_compaction = j->is_wasteful };
	memcpy(j->run.id, j->id, 16);
	worker_do(j->worker, &j->work);
}

static void take_synced(struct journal *j)
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

/* Once, until it changes. */
static void say(struct journal *j, int err)
{
	char why[sizeof(j->why)] = "";

	if (err)
		snprintf(why, sizeof(why), "journal %.100s: %s", j->disk.path, strerror(-err));
	if (!strcmp(why, j->why))
		return;
	memcpy(j->why, why, sizeof(why));
	if (err)
		error_report("%s; no guest is moved until it can be written; guests are not touched by this", why);
	else
		notice_report("journal %s: it can be written again", j->disk.path);
}

static void on_done(struct work *w)
{
	struct journal *j = w->owner;
	struct question *q;
	int err = j->run.err;

	take_synced(j);
	say(j, err);
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

/* ---- start and end ---- */

/** struct marks_reading - the marks of the daemon before */
struct marks_reading {
	struct journal *j;
	struct journal_reader r;
	bool is_tmpfs;
	int err;
};

static void queue(struct journal_jobs *jobs, struct journal_kept *k, unsigned int line, uint64_t when_s)
{
	struct journal_job *job = &k->jobs[line];

	job->line = line;
	job->when_s = when_s;
	k->nr_out++;
	STAILQ_INSERT_TAIL(jobs, job, next);
}

static void retire(struct journal *j, struct journal_kept *k)
{
	journal_table_remove(&j->table, k);
	k->is_gone = true;
	TAILQ_INSERT_TAIL(&j->gone, k, order);
}

static void drop_mark(struct journal *j, struct journal_kept *k, unsigned int line, const struct journal_entry *e)
{
	if (line == JOURNAL_LINE_FORGOT)
		memcpy(j->id, e->peer_journal, 16);
	if (!k)
		return;
	memcpy(k->renewed, e->peer_journal, 16);
	retire(j, k);
	queue(&j->disk.unwritten, k, line, e->when_s);
}

static void on_mark(void *arg, unsigned int line, const struct journal_entry *e)
{
	struct marks_reading *g = arg;
	struct journal_kept *k = journal_table_find(&g->j->table, e->id, e->role);
	enum journal_mark on_disk = k ? k->on_disk : 0;

	if (line > JOURNAL_NEVER) {
		drop_mark(g->j, k, line, e);
		return;
	}
	if (!k) {
		k = journal_kept_new(e->id, e->role);
		if (!k) {
			g->err = -ENOMEM;
			return;
		}
		journal_table_add(&g->j->table, k);
	}
	k->e = *e;
	k->e.mark = (enum journal_mark)line;
	k->on_disk = on_disk;
	/* The format before has no stamp. Its marks are of this boot if a tmpfs has them, and hold all that followed. */
	if (g->r.format == JOURNAL_FILE_FIRST && g->is_tmpfs)
		memcpy(k->e.stamp, g->j->stamp, 16);
}

static bool is_on_tmpfs(const char *path)
{
	struct statfs st;

	return !statfs(path, &st) && st.f_type == TMPFS_MAGIC;
}

/* Reads the marks, and carries their stamp on if they are whole, and the journal that took older ones over is, too. */
static int read_marks(struct journal *j, const struct journal_config *c)
{
	struct marks_reading g = { .j = j, .r = { .take = on_mark, .arg = &g }, .is_tmpfs = is_on_tmpfs(c->marks_path) };
	struct journal_kept *k;
	int err = journal_file_read(c->marks_path, MARKS, &g.r);

	if (!err)
		err = g.err;
	if (err)
		return err;
	if (!j->disk.must_rewrite && g.r.format == JOURNAL_FILE_SECOND && !g.r.is_damaged &&
	    !memcmp(g.r.second, c->boot, 16))
		memcpy(j->stamp, g.r.first, 16);
	TAILQ_FOREACH(k, &j->table.order, order)
		if (k->e.mark != k->on_disk)
			queue(&j->disk.unwritten, k, k->e.mark, k->e.when_s);
	return 0;
}

static int write_mark(struct journal *j, struct journal_kept *k, unsigned int line, uint64_t when_s)
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

/* What the journal could not take stands in the new marks. */
static int begin_marks(struct journal *j, const struct journal_config *c)
{
	const struct journal_jobs *lists[] = { &j->disk.unsynced, &j->disk.unwritten };
	char text[JOURNAL_LINE_ROOM];
	int err = journal_marks_create(&j->marks, c->marks_path);

	if (!err)
		err = journal_marks_write(&j->marks, text, journal_file_header(text, MARKS, j->stamp, c->boot));
	for (int i = 0; i < 2; i++) {
		const struct journal_job *job;

		STAILQ_FOREACH(job, lists[i], next)
			if (!err)
				err = write_mark(j, job->of, job->line, job->when_s);
	}
	if (!err)
		err = journal_marks_commit(&j->marks);
	if (err)
		error_report("marks of the journal, %s: %s", c->marks_path, strerror(-err));
	return err;
}

static void init(struct journal *j, const struct journal_config *c)
{
	j->worker = c->worker;
	j->work = (struct work){ .run = carry_out, .done = on_done, .owner = j };
	j->marks.fd = -1;
	TAILQ_INIT(&j->gone);
	STAILQ_INIT(&j->handed);
	STAILQ_INIT(&j->asked);
	STAILQ_INIT(&j->out);
	STAILQ_INIT(&j->answered);
}

/* Return: 0, also if the disk takes nothing: @why says so then. */
static int start(struct journal *j, const struct journal_config *c)
{
	int err = new_id(j->id);

	if (!err)
		err = new_id(j->stamp);
	if (!err)
		err = journal_disk_load(&j->disk, &j->table, j->id);
	if (!err)
		err = read_marks(j, c);
	if (err)
		return err;
	err = journal_disk_open(&j->disk, j->id, &j->table);
	if (!err)
		err = journal_disk_write(&j->disk, j->id);
	if (!err)
		err = journal_disk_sync(&j->disk);
	say(j, err);
	take_synced(j);
	return begin_marks(j, c);
}

/**
 * journal_open() - read both files, and continue them
 *
 * Context: blocks as long as the disk takes.
 * Return: 0, also if the disk is full or takes nothing for another reason, see journal_why(). -EPROTONOSUPPORT: a later
 * vmferryd wrote one of the files. Another negative errno: a file cannot be read, or the marks cannot be written.
 */
int journal_open(const struct journal_config *c, struct journal **out)
{
	struct journal *j = calloc(1, sizeof(*j));
	int err;

	if (!j)
		return -ENOMEM;
	init(j, c);
	err = journal_disk_init(&j->disk, c->path, c->machine);
	if (!err)
		err = journal_table_init(&j->table);
	if (!err)
		err = start(j, c);
	if (err) {
		journal_close(j);
		return err;
	}
	*out = j;
	return 0;
}

static void free_questions(struct questions *list)
{
	struct question *q;

	while ((q = STAILQ_FIRST(list))) {
		STAILQ_REMOVE_HEAD(list, next);
		free(q);
	}
}

/**
 * journal_close() - write what is left; questions are not answered any more; NULL is fine
 *
 * Context: after worker_drain(), also after worker_close(): what is left is written here. May block.
 */
void journal_close(struct journal *j)
{
	struct journal_kept *k;

	if (!j)
		return;
	STAILQ_CONCAT(&j->disk.unwritten, &j->handed);
	if (!STAILQ_EMPTY(&j->disk.unwritten) && j->marks.at)
		say(j, journal_disk_write(&j->disk, j->id));
	free_questions(&j->asked);
	free_questions(&j->out);
	free_questions(&j->answered);
	while ((k = TAILQ_FIRST(&j->gone))) {
		TAILQ_REMOVE(&j->gone, k, order);
		free(k);
	}
	if (j->table.buckets)
		journal_table_fini(&j->table);
	journal_marks_close(&j->marks);
	journal_disk_fini(&j->disk);
	free(j);
}

/** journal_why() - why nothing can be written to the disk, in words; "": it can. Valid until the loop goes on. */
const char *journal_why(const struct journal *j)
{
	return j->why;
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

/* To the marks now, to the journal soon; nothing is changed if that fails. */
static int record(struct journal *j, struct journal_kept *k, unsigned int line)
{
	uint64_t when_s = now_s();
	int err = write_mark(j, k, line, when_s);

	if (err) {
		error_report("marks of the journal in the run directory: %s; the guest is not touched by this; "
			     "make room there", strerror(-err));
		return err;
	}
	if (line <= JOURNAL_NEVER) {
		k->e.mark = (enum journal_mark)line;
		k->e.when_s = when_s;
	}
	queue(&j->handed, k, line, when_s);
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
		retire(j, k);
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
	int err = k ? new_id(k->renewed) : -ENOENT;

	if (!err)
		err = record(j, k, JOURNAL_LINE_FORGOT);
	if (err)
		return err;
	memcpy(j->id, k->renewed, 16);
	retire(j, k);
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
 * @after: NULL: the oldest; else one that is still there
 *
 * Return: NULL after the newest.
 */
const struct journal_entry *journal_next(struct journal *j, const struct journal_entry *after)
{
	const struct journal_kept *k = after ? journal_table_find(&j->table, after->id, after->role) : NULL;

	if (after && !k)
		return NULL;
	k = k ? TAILQ_NEXT(k, order) : TAILQ_FIRST(&j->table.order);
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
