// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Decisions, on disk before they are acted on.
 *
 * Theory of operation
 *
 * One line a decision: MARK ID VM ROLE PEER. Each line goes to two files:
 *
 *   the marks, on a tmpfs: written at once, before the decision is acted on. They survive
 *       the death of this process. That is enough for "go", "done" and "never": the death
 *       of the whole host takes the guest at the source, or at the destination, with it,
 *       so nobody is left to run it twice.
 *   the journal, on a disk: written by a thread, for even a write without a sync can wait
 *       for milliseconds for the file system, and a blackout must not. "begun" is synced
 *       there before the vCPUs stop.
 *
 * At start-up both are read, the marks last, for they are never behind; then the journal
 * is written anew and the marks are emptied.
 *
 * The entries that are still open are kept, and the last CLOSED_KEPT closed ones, for
 * peers that ask late.
 */
#include "journal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"

#define CLOSED_KEPT 256

struct waiter {
	void (*synced)(void *arg, int err);
	void *arg;
	struct waiter *next;
};

struct line {
	struct journal_entry entry; /* a copy */
	struct line *next;
};

struct journal {
	int fd;	      /* the journal; the thread's once it is up */
	int marks_fd; /* the marks; the loop's */
	char *path;
	struct journal_entry *entries; /* newest first */
	pthread_t thread;
	bool thread_is_up;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct line *lines, **lines_end;	 /* not yet in the journal; @lock */
	struct line *unwritten; /* nor could they be written: no sync succeeds before they are; the thread's */
	struct waiter *asked, *syncing, *synced; /* @lock */
	int sync_error;		       /* @lock */
	bool quit;		       /* @lock */
	struct loop_event event;
};

static const char *const marks[] = { "", "begun", "go", "done", "never" };

static bool is_open(const struct journal_entry *e)
{
	return e->mark == JOURNAL_BEGUN || e->mark == JOURNAL_GO;
}

static void hex(const uint8_t id[16], char text[33])
{
	for (int i = 0; i < 16; i++)
		sprintf(text + i * 2, "%02x", id[i]);
}

static int write_entry(int fd, const struct journal_entry *e)
{
	char line[512], id[33];
	off_t begin;
	int n, err;

	hex(e->id, id);
	n = snprintf(line, sizeof(line), "%s %s %s %s %s\n", marks[e->mark], id,
		     e->is_source ? "source" : "destination", e->peer[0] ? e->peer : "-", e->vm);
	begin = lseek(fd, 0, SEEK_END);
	errno = ENOSPC; /* of a short write */
	if (write(fd, line, (size_t)n) == n)
		return 0;
	err = -errno;
	/* A torn line would swallow the next one. */
	if (begin >= 0 && ftruncate(fd, begin))
		error_report("journal: a line that did not fit cannot be taken back: %s", strerror(errno));
	return err;
}

/* Keeps the open entries and the newest closed ones. */
static void prune(struct journal *j)
{
	unsigned int closed = 0;

	for (struct journal_entry **p = &j->entries; *p;) {
		struct journal_entry *e = *p;

		if (is_open(e) || closed++ < CLOSED_KEPT) {
			p = &e->next;
			continue;
		}
		*p = e->next;
		free(e);
	}
}

static struct journal_entry *add(struct journal *j, const uint8_t id[16])
{
	struct journal_entry *e = journal_find(j, id);

	if (e)
		return e;
	prune(j);
	e = calloc(1, sizeof(*e));
	if (!e)
		return NULL;
	memcpy(e->id, id, 16);
	e->next = j->entries;
	j->entries = e;
	return e;
}

static void take_line(struct journal *j, char *line)
{
	char mark[16], id_text[33], role[16], peer[256], vm[64];
	struct journal_entry *e;
	uint8_t id[16];

	/* A line cut short by a crash was not acted on yet; it does not count. */
	if (!strchr(line, '\n') ||
	    sscanf(line, "%15s %32s %15s %255s %63[^\n]", mark, id_text, role, peer, vm) != 5)
		return;
	for (int i = 0; i < 16; i++)
		if (sscanf(id_text + i * 2, "%2hhx", &id[i]) != 1)
			return;
	e = add(j, id);
	if (!e)
		return;
	e->is_source = !strcmp(role, "source");
	strcpy(e->peer, strcmp(peer, "-") ? peer : "");
	strcpy(e->vm, vm);
	for (int m = JOURNAL_BEGUN; m <= JOURNAL_NEVER; m++)
		if (!strcmp(mark, marks[m]))
			e->mark = (enum journal_mark)m;
}

/* So that reading them back leaves the newest first again. */
static int write_oldest_first(int fd, const struct journal_entry *newest)
{
	int err = 0;

	for (const struct journal_entry *end = NULL, *e; end != newest && !err; end = e) {
		for (e = newest; e->next != end; e = e->next)
			;
		err = write_entry(fd, e);
	}
	return err;
}

static int rewrite(struct journal *j)
{
	char path[300];
	int fd, err;

	snprintf(path, sizeof(path), "%s.new", j->path);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	prune(j);
	err = write_oldest_first(fd, j->entries);
	if (!err && (fsync(fd) || rename(path, j->path)))
		err = -errno;
	if (err)
		close(fd);
	else
		j->fd = fd;
	return err;
}

/* In order, up to the first that cannot be written: that one and what follows stay in @lines. */
static int write_lines(struct journal *j, struct line **lines)
{
	while (*lines) {
		struct line *l = *lines;
		int err = write_entry(j->fd, &l->entry);

		if (err)
			return err;
		*lines = l->next;
		free(l);
	}
	return 0;
}

/* The new ones behind those that could not be written before. */
static void take_lines_locked(struct journal *j)
{
	struct line **end = &j->unwritten;

	while (*end)
		end = &(*end)->next;
	*end = j->lines;
	j->lines = NULL;
	j->lines_end = &j->lines;
}

static void *sync_thread(void *arg)
{
	struct journal *j = arg;

	pthread_mutex_lock(&j->lock);
	while (!j->quit) {
		struct waiter *mine = j->asked;
		int err;

		if (!mine && !j->lines) {
			pthread_cond_wait(&j->wake, &j->lock);
			continue;
		}
		take_lines_locked(j);
		j->asked = NULL;
		j->syncing = mine; /* journal_forget() may still strike one out */
		pthread_mutex_unlock(&j->lock);
		err = write_lines(j, &j->unwritten);
		if (err)
			error_report("journal %s: %s; no guest is moved until there is room; guests are not "
				     "touched by this", j->path, strerror(-err));
		if (mine && fdatasync(j->fd) && !err)
			err = -errno;
		pthread_mutex_lock(&j->lock);
		j->sync_error = err;
		j->syncing = NULL;
		while (mine) {
			struct waiter *w = mine;

			mine = w->next;
			w->next = j->synced;
			j->synced = w;
		}
		loop_event_raise(&j->event);
	}
	pthread_mutex_unlock(&j->lock);
	return NULL;
}

static void on_synced(void *owner)
{
	struct journal *j = owner;
	struct waiter *w;
	int err;

	for (;;) {
		pthread_mutex_lock(&j->lock);
		w = j->synced;
		if (w)
			j->synced = w->next;
		err = j->sync_error;
		pthread_mutex_unlock(&j->lock);
		if (!w)
			return;
		if (w->synced)
			w->synced(w->arg, err);
		free(w);
	}
}

static void read_file(struct journal *j, const char *path)
{
	FILE *f = fopen(path, "re");
	char line[600];

	while (f && fgets(line, sizeof(line), f))
		take_line(j, line);
	if (f)
		fclose(f);
}

/** journal_open() - @path: on a disk; @marks: on a tmpfs; both are read, then appended to */
int journal_open(struct loop *l, const char *path, const char *marks_path, struct journal **out)
{
	struct journal *j = calloc(1, sizeof(*j));
	int err;

	if (!j)
		return -ENOMEM;
	j->fd = j->marks_fd = -1;
	j->lines_end = &j->lines;
	pthread_mutex_init(&j->lock, NULL);
	pthread_cond_init(&j->wake, NULL);
	j->path = strdup(path);
	read_file(j, path);
	read_file(j, marks_path);
	err = j->path ? rewrite(j) : -ENOMEM;
	if (!err) {
		j->marks_fd = open(marks_path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
		err = j->marks_fd < 0 ? -errno : 0;
	}
	if (!err)
		err = loop_event_init(&j->event, l, on_synced, j);
	if (!err)
		err = -pthread_create(&j->thread, NULL, sync_thread, j);
	if (err) {
		journal_close(j);
		return err;
	}
	j->thread_is_up = true;
	*out = j;
	return 0;
}

void journal_close(struct journal *j)
{
	if (!j)
		return;
	pthread_mutex_lock(&j->lock);
	j->quit = true;
	pthread_cond_signal(&j->wake);
	pthread_mutex_unlock(&j->lock);
	if (j->thread_is_up)
		pthread_join(j->thread, NULL);
	loop_event_fini(&j->event);
	while (j->entries) {
		struct journal_entry *e = j->entries;

		j->entries = e->next;
		free(e);
	}
	for (struct waiter *lists[] = { j->asked, j->synced }, **p = lists; p < lists + 2; p++)
		while (*p) {
			struct waiter *w = *p;

			*p = w->next;
			free(w);
		}
	take_lines_locked(j); /* nobody else is left */
	if (j->fd >= 0)
		write_lines(j, &j->unwritten);
	while (j->unwritten) {
		struct line *l = j->unwritten;

		j->unwritten = l->next;
		free(l);
	}
	if (j->fd >= 0)
		close(j->fd);
	if (j->marks_fd >= 0)
		close(j->marks_fd);
	pthread_cond_destroy(&j->wake);
	pthread_mutex_destroy(&j->lock);
	free(j->path);
	free(j);
}

/* To the marks now, to the journal soon. */
static int record(struct journal *j, const struct journal_entry *e)
{
	struct line *l = calloc(1, sizeof(*l));
	int err = l ? write_entry(j->marks_fd, e) : -ENOMEM;

	if (err) {
		free(l);
		return err;
	}
	l->entry = *e;
	pthread_mutex_lock(&j->lock);
	*j->lines_end = l;
	j->lines_end = &l->next;
	pthread_cond_signal(&j->wake);
	pthread_mutex_unlock(&j->lock);
	return 0;
}

/** journal_begin() - write "begun"; call journal_sync() before acting on it */
int journal_begin(struct journal *j, const uint8_t id[16], const char *vm, bool is_source,
		  const char *peer)
{
	struct journal_entry *e = add(j, id);

	if (!e)
		return -ENOMEM;
	snprintf(e->vm, sizeof(e->vm), "%s", vm);
	snprintf(e->peer, sizeof(e->peer), "%s", peer ? peer : "");
	e->is_source = is_source;
	e->mark = JOURNAL_BEGUN;
	return record(j, e);
}

/** journal_note() - write @mark, unsynced; a migration that never began is noted too */
int journal_note(struct journal *j, const uint8_t id[16], enum journal_mark mark)
{
	struct journal_entry *e = add(j, id);
	int err;

	if (!e)
		return -ENOMEM;
	if (!e->vm[0])
		strcpy(e->vm, "-");
	e->mark = mark;
	err = record(j, e);
	if (err)
		error_report("marks of the journal in the run directory: %s; the guest is not touched by this; "
			     "make room there", strerror(-err));
	return err;
}

/** journal_sync() - call @synced on the loop once all written so far is on disk */
void journal_sync(struct journal *j, void (*synced)(void *arg, int err), void *arg)
{
	struct waiter *w = calloc(1, sizeof(*w));

	if (!w) {
		synced(arg, -ENOMEM);
		return;
	}
	w->synced = synced;
	w->arg = arg;
	pthread_mutex_lock(&j->lock);
	w->next = j->asked;
	j->asked = w;
	pthread_cond_signal(&j->wake);
	pthread_mutex_unlock(&j->lock);
}

/** journal_forget() - @arg is about to be freed: its answers are dropped */
void journal_forget(struct journal *j, void *arg)
{
	pthread_mutex_lock(&j->lock);
	for (struct waiter *lists[] = { j->asked, j->syncing, j->synced }, **p = lists;
	     p < lists + 3; p++)
		for (struct waiter *w = *p; w; w = w->next)
			if (w->arg == arg)
				w->synced = NULL;
	pthread_mutex_unlock(&j->lock);
}

struct journal_entry *journal_find(struct journal *j, const uint8_t id[16])
{
	for (struct journal_entry *e = j->entries; e; e = e->next)
		if (!memcmp(e->id, id, 16))
			return e;
	return NULL;
}

/** journal_open_entry() - the newest entry of @vm without an outcome, NULL: none */
struct journal_entry *journal_open_entry(struct journal *j, const char *vm, bool is_source)
{
	for (struct journal_entry *e = j->entries; e; e = e->next)
		if (e->is_source == is_source && is_open(e) && !strcmp(e->vm, vm))
			return e;
	return NULL;
}
