// SPDX-License-Identifier: GPL-2.0-or-later
/* The journal's start and end: what both files say, what the disk lacks of it, and marks that begin anew. See journal.c. */
#include <errno.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/error.h"
#include "journal_private.h"

/** struct marks_reading - the marks of the daemon before */
struct marks_reading {
	struct journal *j;
	struct journal_reader r;
	bool is_tmpfs;
	int err;
};

static void drop_mark(struct journal *j, struct journal_kept *k, unsigned int line, const struct journal_entry *e)
{
	/* A journal that must have another id keeps that: peers know the one in this line. */
	if (line == JOURNAL_LINE_FORGOT && !j->disk.must_rewrite)
		memcpy(j->id, e->peer_journal, 16);
	memcpy(k->renewed, j->id, 16);
	journal_retire(j, k);
	journal_queue(&j->disk.unwritten, k, line, e->when_s);
}

static void on_mark(void *arg, unsigned int line, const struct journal_entry *e)
{
	struct marks_reading *g = arg;
	struct journal_kept *k = journal_table_find(&g->j->table, e->id, e->role);

	if (!k) {
		k = journal_kept_new(e->id, e->role);
		if (!k) {
			g->err = -ENOMEM;
			return;
		}
		journal_table_add(&g->j->table, k);
		journal_kept_set(k, e, (enum journal_mark)0);
	}
	if (line > JOURNAL_NEVER) {
		drop_mark(g->j, k, line, e);
		return;
	}
	journal_kept_set(k, e, (enum journal_mark)line);
	k->is_marked = true;
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
	int err = journal_file_read(c->marks_path, JOURNAL_MARKS, &g.r);

	if (!err)
		err = g.err;
	if (err)
		return err;
	if (!j->disk.must_rewrite && g.r.format == JOURNAL_FILE_SECOND && !g.r.is_damaged &&
	    !memcmp(g.r.second, c->boot, 16)) {
		memcpy(j->stamp, g.r.first, 16);
		j->marks_end = g.r.end;
	}
	/* All of them, also what the journal's file has already: what was read there, a sync may never have covered. */
	TAILQ_FOREACH(k, &j->table.order, order)
		if (k->is_marked)
			journal_queue(&j->disk.unwritten, k, k->e.mark, k->e.when_s);
	return 0;
}

/* Invariant: what no sync has covered stands in the marks. So all that the old ones say is there, or on the disk now. */
static int new_marks(struct journal *j)
{
	const struct journal_jobs *lists[] = { &j->disk.unsynced, &j->disk.unwritten };
	char text[JOURNAL_LINE_ROOM];
	int err = journal_marks_create(&j->marks, j->marks_path);

	if (!err)
		err = journal_marks_write(&j->marks, text, journal_file_header(text, JOURNAL_MARKS, j->stamp, j->boot));
	for (int i = 0; i < 2; i++) {
		const struct journal_job *job;

		STAILQ_FOREACH(job, lists[i], next)
			if (!err)
				err = journal_write_mark(j, job->of, job->line, job->when_s);
	}
	if (!err)
		err = journal_marks_commit(&j->marks);
	if (err)
		journal_marks_abandon(&j->marks);
	return err;
}

/* They hold all that the new ones would. */
static int continue_marks(struct journal *j, int why)
{
	int err = journal_marks_continue(&j->marks, j->marks_path, j->marks_end);

	if (err)
		journal_marks_close(&j->marks);
	else
		notice_report("marks of the journal %s: no new file can be begun: %s; the old one goes on; make room there",
			      j->marks_path, strerror(-why));
	return err;
}

/**
 * journal_begin_marks() - a new file; if there is no room for one, the old one goes on, or makes room for it
 *
 * Old marks that must not go on, and of which the disk has all, are removed: they would be read again by the next start,
 * which would take their stamp, and an id that was dropped.
 *
 * Context: the loop's, while no work is out; there are no marks.
 * Return: 0, or a negative errno, which is said: no decision can be noted, and the next one tries again.
 */
int journal_begin_marks(struct journal *j)
{
	int err = new_marks(j);

	if (err && j->marks_end && !continue_marks(j, err))
		err = 0;
	else if (err && !j->marks_end && !*j->why && !unlink(j->marks_path))
		err = new_marks(j);
	j->marks_err = err;
	journal_say_marks(j, err);
	return err;
}

static void init(struct journal *j, const struct journal_config *c)
{
	j->worker = c->worker;
	j->work = (struct work){ .run = journal_carry_out, .done = journal_done, .owner = j };
	j->marks.fd = j->next_marks.fd = j->old_marks.fd = -1;
	memcpy(j->boot, c->boot, 16);
	TAILQ_INIT(&j->gone);
	STAILQ_INIT(&j->handed);
	STAILQ_INIT(&j->asked);
	STAILQ_INIT(&j->out);
	STAILQ_INIT(&j->answered);
}

/*
 * The first sync covers what the daemon before has written and not synced, also one of an earlier version, whose marks may
 * lack such lines. If it fails, such lines may be lost later: nothing that has begun before proves anything then.
 */
static int sync_first(struct journal *j)
{
	int err = journal_disk_sync(&j->disk);

	if (!err)
		return 0;
	if (journal_new_id(j->stamp))
		memset(j->stamp, 0, sizeof(j->stamp)); /* zeros: of no entry that has begun */
	j->marks_end = 0;
	return err;
}

/* Return: 0, also if the disk or the tmpfs takes nothing: journal_why() says so then. */
static int start(struct journal *j, const struct journal_config *c)
{
	int err = journal_new_id(j->id);

	j->marks_path = strdup(c->marks_path);
	if (!j->marks_path)
		return -ENOMEM;
	if (!err)
		err = journal_new_id(j->stamp);
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
		err = sync_first(j);
	journal_say(j, err);
	journal_take_synced(j);
	journal_begin_marks(j);
	return 0;
}

/**
 * journal_open() - read both files, and continue them
 *
 * Context: blocks as long as the disk takes.
 * Return: 0, also if the disk or the tmpfs is full or takes nothing for another reason, see journal_why().
 * -EPROTONOSUPPORT: a later vmferryd wrote one of the files. Another negative errno: a file cannot be read.
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
	if (!STAILQ_EMPTY(&j->disk.unwritten) && j->marks.at) {
		int err = journal_disk_write(&j->disk, j->id);

		if (err)
			journal_say(j, err);
	}
	free_questions(&j->asked);
	free_questions(&j->out);
	free_questions(&j->answered);
	while ((k = TAILQ_FIRST(&j->gone))) {
		TAILQ_REMOVE(&j->gone, k, order);
		free(k);
	}
	if (j->table.buckets)
		journal_table_fini(&j->table);
	journal_marks_close(&j->old_marks);
	journal_marks_abandon(&j->next_marks);
	journal_marks_close(&j->marks);
	free(j->marks_path);
	journal_disk_fini(&j->disk);
	free(j);
}
