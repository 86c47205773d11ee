// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The journal's file on the disk: read at start-up, appended to, compacted. Whoever calls may block.
 *
 * Theory of operation
 *
 *   journal_disk_load()   file -> table
 *   journal_disk_open()   appends to it; writes it anew where it cannot be continued, or where most of it is history
 *   journal_disk_write()  @unwritten -> file -> @unsynced
 *   journal_disk_sync()   @unsynced -> @synced; if the sync fails, back to @unwritten
 *
 * A sync that fails is not repeated: the kernel may have dropped the pages and say that all is well the next time. The
 * lines since the last good sync are written once more, behind what is there and behind a line's end of their own. A
 * line twice says the same.
 *
 * A file is written anew beside the old one: lines, fsync(), rename(), fsync() of the folder. Without the last one a
 * loss of power may bring the old file back, without what was appended and synced since. So no sync succeeds before it.
 * What is written anew is read from the file, never from the loop's table: the file alone tells all, and the loop may
 * change its table at any time. At start-up the loop does not run yet, and the table that was just read is used.
 *
 * A disk that is full changes nothing of what is there. Each later write tries again all that is still to be done.
 */
#include "journal_disk.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"

#define KIND "vmferry-journal"
#define SMALL (64 << 10) /* bytes that are not worth a compaction */
#define FIRST_FORMAT_KEPT 256 /* closed entries of the format before: its writer kept as many */
#define FIRST_FORMAT_READ 8192 /* more than those before the oldest are left out: seldom, for it walks all */
#define BLOCK (64 << 10)

/** journal_disk_init() - journal_disk_fini() is owed in any case */
int journal_disk_init(struct journal_disk *d, const char *path, const uint8_t machine[16])
{
	*d = (struct journal_disk){ .fd = -1, .path = strdup(path) };
	memcpy(d->machine, machine, 16);
	STAILQ_INIT(&d->unwritten);
	STAILQ_INIT(&d->unsynced);
	STAILQ_INIT(&d->synced);
	if (asprintf(&d->new_path, "%s.new", path) < 0)
		d->new_path = NULL;
	if (asprintf(&d->first_path, "%s.1", path) < 0)
		d->first_path = NULL;
	return d->path && d->new_path && d->first_path ? 0 : -ENOMEM;
}

void journal_disk_fini(struct journal_disk *d)
{
	if (d->path && d->fd >= 0)
		close(d->fd);
	free(d->path);
	free(d->new_path);
	free(d->first_path);
}

/* ---- reading ---- */

struct loading {
	struct journal_table *t;
	struct journal_reader r;
	unsigned int nr_closed;
	uint8_t id[16];
	bool has_id;
	int err;
};

/* Keeps all that are open, and the newest @most of those that are closed. */
static void prune(struct loading *g, unsigned int most)
{
	struct journal_kept *k, *next;

	for (k = TAILQ_FIRST(&g->t->order); k && g->nr_closed > most; k = next) {
		next = TAILQ_NEXT(k, order);
		if (journal_mark_is_open(k->e.mark))
			continue;
		journal_table_remove(g->t, k);
		free(k);
		g->nr_closed--;
	}
}

static void drop_line(struct loading *g, struct journal_kept *k, unsigned int line, const struct journal_entry *e)
{
	if (line == JOURNAL_LINE_FORGOT) {
		memcpy(g->id, e->peer_journal, 16);
		g->has_id = true;
	}
	if (!k)
		return;
	journal_table_remove(g->t, k);
	free(k);
}

static void on_line(void *arg, unsigned int line, const struct journal_entry *e)
{
	struct loading *g = arg;
	struct journal_kept *k = journal_table_find(g->t, e->id, e->role);
	bool was_closed = k && !journal_mark_is_open(k->e.mark);

	if (line > JOURNAL_NEVER) {
		g->nr_closed -= was_closed;
		drop_line(g, k, line, e);
		return;
	}
	if (!k) {
		k = journal_kept_new(e->id, e->role);
		if (!k) {
			g->err = -ENOMEM;
			return;
		}
		journal_table_add(g->t, k);
	}
	journal_kept_set(k, e, (enum journal_mark)line);
	g->nr_closed += !journal_mark_is_open(k->e.mark) - was_closed;
	/* The format before has no line that drops an entry. */
	if (g->r.format == JOURNAL_FILE_FIRST && g->nr_closed > FIRST_FORMAT_READ + g->t->nr / 2)
		prune(g, FIRST_FORMAT_KEPT);
}

static void measure(struct journal_table *t)
{
	char text[JOURNAL_LINE_ROOM];
	struct journal_kept *k;

	TAILQ_FOREACH(k, &t->order, order)
		journal_table_set_len(t, k, journal_file_line(text, k->e.mark, &k->e, k->e.when_s, NULL));
}

/**
 * journal_disk_load() - read the file into @t
 * @id: the journal's id; left alone where it has to be another one than the file's: @must_rewrite is set then
 *
 * Return: 0, also where there is no file; or a negative errno.
 */
int journal_disk_load(struct journal_disk *d, struct journal_table *t, uint8_t id[16])
{
	struct loading g = { .t = t, .r = { .take = on_line, .arg = &g } };
	int err = journal_file_read(d->path, KIND, &g.r);

	if (!err)
		err = g.err;
	if (err)
		return err;
	d->is_first = g.r.format == JOURNAL_FILE_FIRST;
	if (d->is_first)
		prune(&g, FIRST_FORMAT_KEPT);
	measure(t);
	d->end = g.r.end;
	d->must_rewrite = g.r.format != JOURNAL_FILE_SECOND || g.r.is_damaged || memcmp(g.r.second, d->machine, 16);
	if (!d->must_rewrite)
		memcpy(id, g.has_id ? g.id : g.r.first, 16);
	return 0;
}

/* ---- writing it anew ---- */

static int write_whole(int fd, const char *text, size_t len)
{
	ssize_t n = write(fd, text, len);

	if (n < 0)
		return -errno;
	return (size_t)n == len ? 0 : -ENOSPC;
}

static int write_table(int fd, const uint8_t id[16], const uint8_t machine[16], const struct journal_table *t)
{
	CLEANUP_FREE char *text = malloc(BLOCK + JOURNAL_LINE_ROOM);
	const struct journal_kept *k;
	size_t len;
	int err = 0;

	if (!text)
		return -ENOMEM;
	len = journal_file_header(text, KIND, id, machine);
	TAILQ_FOREACH(k, &t->order, order) {
		len += journal_file_line(text + len, k->e.mark, &k->e, k->e.when_s, NULL);
		if (len < BLOCK)
			continue;
		err = write_whole(fd, text, len);
		if (err)
			return err;
		len = 0;
	}
	err = write_whole(fd, text, len);
	return err || !fsync(fd) ? err : -errno;
}

static int sync_folder(struct journal_disk *d)
{
	CLEANUP_FREE char *path = strdup(d->path);
	CLEANUP_CLOSE int fd = path ? open(dirname(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

	if (!path)
		return -ENOMEM;
	if (fd < 0 || fsync(fd))
		return -errno;
	d->must_sync_folder = false;
	STAILQ_CONCAT(&d->synced, &d->unsynced); /* the file was synced before it was renamed */
	return 0;
}

/* The format before is kept beside the file until that is written anew once more. */
static int keep_first(struct journal_disk *d)
{
	if (unlink(d->first_path) && errno != ENOENT)
		return -errno;
	if (d->is_first && link(d->path, d->first_path))
		return -errno;
	return 0;
}

static int rewrite_from(struct journal_disk *d, const uint8_t id[16], const struct journal_table *t)
{
	CLEANUP_CLOSE int fd = open(d->new_path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	int err = fd < 0 ? -errno : write_table(fd, id, d->machine, t);

	if (!err)
		err = keep_first(d);
	if (!err && rename(d->new_path, d->path))
		err = -errno;
	if (err) {
		if (fd >= 0)
			unlink(d->new_path);
		return err;
	}
	if (d->fd >= 0)
		close(d->fd);
	d->size = lseek(fd, 0, SEEK_END);
	d->compact_at = SMALL;
	d->fd = take_fd(&fd);
	d->must_rewrite = d->is_first = d->must_end_line = false;
	d->must_sync_folder = true;
	return sync_folder(d);
}

static int rewrite(struct journal_disk *d, const uint8_t id[16], int (*judge)(struct journal_disk *d))
{
	struct journal_table t;
	uint8_t unused[16];
	int err = journal_table_init(&t);

	if (err)
		return err;
	err = journal_disk_load(d, &t, unused);
	if (!err && judge)
		err = judge(d);
	if (!err)
		err = rewrite_from(d, id, &t);
	journal_table_fini(&t);
	return err;
}

/*
 * A file that this daemon has written is not compacted once it is damaged, torn or gone: an entry that cannot be read
 * would be left out of it, and its id would stay. The next start sees the damage, and takes another id and stamp.
 */
static int refuse_damage(struct journal_disk *d)
{
	if (!d->must_rewrite && d->end == lseek(d->fd, 0, SEEK_END))
		return 0;
	d->must_rewrite = false;
	return -EBADMSG;
}

/* What a crash tore off at the end would swallow the next line. */
static int open_to_append(struct journal_disk *d)
{
	CLEANUP_CLOSE int fd = open(d->path, O_WRONLY | O_APPEND | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	d->size = lseek(fd, 0, SEEK_END);
	if (d->size > d->end && ftruncate(fd, d->end))
		return -errno;
	d->size = d->end;
	d->fd = take_fd(&fd);
	return 0;
}

/**
 * journal_disk_open() - after journal_disk_load()
 * @id: the journal's
 * @t: what was read
 *
 * Return: 0, or a negative errno: journal_disk_write() tries again.
 */
int journal_disk_open(struct journal_disk *d, const uint8_t id[16], const struct journal_table *t)
{
	d->compact_at = SMALL;
	if (d->must_rewrite)
		return rewrite_from(d, id, t);
	d->size = d->end;
	if (journal_disk_is_wasteful(d, t->live_bytes) && !rewrite_from(d, id, t))
		return 0;
	return d->fd < 0 ? open_to_append(d) : 0;
}

/** journal_disk_is_wasteful() - is most of the file history? @live_bytes: what its entries need */
bool journal_disk_is_wasteful(const struct journal_disk *d, size_t live_bytes)
{
	return d->size > d->compact_at && (size_t)d->size / 2 > live_bytes;
}

/** journal_disk_compact() - write it anew; if that fails, the file goes on as it is, and the next try comes later */
void journal_disk_compact(struct journal_disk *d, const uint8_t id[16])
{
	int err = rewrite(d, id, refuse_damage);

	if (!err)
		return;
	d->compact_at = d->size + SMALL;
	if (err == -EBADMSG)
		error_report("journal %s: it was damaged, replaced or removed while this daemon runs; guests are not touched "
			     "by this; look at the disk, then restart the daemon", d->path);
	else
		notice_report("journal %s: cannot be compacted: %s; it goes on as it is", d->path, strerror(-err));
}

/* ---- lines ---- */

static int write_line(struct journal_disk *d, const struct journal_job *job)
{
	const struct journal_kept *k = job->of;
	bool is_renewal = job->line == JOURNAL_LINE_FORGOT;
	char text[JOURNAL_LINE_ROOM + 1] = "\n";
	size_t before = d->must_end_line;
	size_t len = before + journal_file_line(text + before, job->line, &k->e, job->when_s,
						is_renewal ? k->renewed : NULL);
	off_t begin = lseek(d->fd, 0, SEEK_END);
	int err = write_whole(d->fd, text, len);

	d->size = begin + (off_t)len;
	if (!err) {
		d->must_end_line = false;
		return 0;
	}
	/* A torn line would swallow the next one. If it stays, it is damage for the next start. */
	if (begin < 0 || ftruncate(d->fd, begin)) {
		d->must_end_line = true;
		error_report("journal %s: a line that did not fit cannot be taken back: %s; the next start takes it for damage",
			     d->path, strerror(errno));
	}
	return err;
}

/**
 * journal_disk_write() - write what the file lacks, in order, up to the first line that cannot be written
 * @id: the journal's, should the file have to be written anew
 */
int journal_disk_write(struct journal_disk *d, const uint8_t id[16])
{
	struct journal_job *job;
	int err = 0;

	if (d->must_rewrite)
		err = rewrite(d, id, NULL);
	else if (d->fd < 0)
		err = open_to_append(d);
	if (!err && d->must_sync_folder)
		err = sync_folder(d);
	while (!err && (job = STAILQ_FIRST(&d->unwritten))) {
		err = write_line(d, job);
		if (err)
			break;
		STAILQ_REMOVE_HEAD(&d->unwritten, next);
		STAILQ_INSERT_TAIL(&d->unsynced, job, next);
	}
	return err;
}

/** journal_disk_sync() - after journal_disk_write() has returned 0 */
int journal_disk_sync(struct journal_disk *d)
{
	if (!fdatasync(d->fd)) {
		STAILQ_CONCAT(&d->synced, &d->unsynced);
		return 0;
	}
	STAILQ_CONCAT(&d->unsynced, &d->unwritten);
	STAILQ_CONCAT(&d->unwritten, &d->unsynced);
	d->must_end_line = true;
	return -errno;
}
