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
 * The two sides of a migration are two entries, also where one daemon is both: the journal's key is id and role.
 *
 * The entries that are still open are kept, and the last CLOSED_KEPT closed ones, for
 * peers that ask late.
 *
 * The loop and the thread share no lock: a thread that is preempted while it holds one stops
 * the loop, and with it every guest that stands still.
 *
 *   loop:    record(), journal_sync() -> stack "handed" -> semaphore
 *   thread:  takes the whole stack -> lines to the journal -> one sync for all questions
 *            -> stack "finished" -> event
 *   loop:    event -> takes the whole stack -> synced() of each question
 *
 * A job is pushed with release and taken with acquire; the thread pushes the last answer
 * before it raises the event. What synced() calls is the loop's alone: the thread never
 * reads it, so journal_forget() may change it at any time.
 *
 * The marks are preallocated and locked in memory, so that a decision costs one write
 * without an allocation and without a page that was swapped out. What is not written yet
 * reads as zeros. More is preallocated before a sync is answered, never in a blackout.
 */
#include "journal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fault.h"

#define CLOSED_KEPT 256
#define MARKS_AHEAD (64 << 10) /* bytes preallocated at a time, some 500 lines */

/**
 * struct job - what the loop hands to the thread
 * @next: of the list it is in: handed, unwritten, or finished
 * @is_question: answered once all lines before it are on the disk; else it is a line
 * @line: a copy
 * @err: the answer; the thread writes it before the job is finished
 * @synced, @arg, @next_asked: of a question; the loop's alone
 */
struct job {
	struct job *next;
	bool is_question;
	struct journal_entry line;
	int err;
	void (*synced)(void *arg, int err);
	void *arg;
	struct job *next_asked;
};

struct kept {
	struct journal_entry e;
	struct kept *next;
};

struct journal {
	char *path;
	_Atomic(struct job *) handed, finished;
	sem_t wake;
	atomic_bool quit;
	pthread_t thread;
	bool thread_is_up;
	struct loop_event event;
	/* The loop's: */
	struct kept *entries; /* newest first */
	struct job *asked;    /* questions without an answer, newest first */
	int marks_fd;
	_Atomic off_t marks_at; /* where the next line goes; the thread reads it */
	/* The thread's once it is up: */
	int fd;
	struct job *unwritten; /* oldest first: no sync succeeds before they are written */
	off_t marks_room;
	void *marks_map; /* only to keep it in memory */
	size_t marks_map_len;
};

static const char *const marks[] = { "", "begun", "go", "done", "never" };
static const char *const roles[] = { "", "source", "destination" };

static bool is_open(const struct journal_entry *e)
{
	return e->mark == JOURNAL_BEGUN || e->mark == JOURNAL_GO;
}

static void hex(const uint8_t id[16], char text[33])
{
	for (int i = 0; i < 16; i++)
		sprintf(text + i * 2, "%02x", id[i]);
}

static int format_line(char *line, size_t room, const struct journal_entry *e)
{
	char id[33];

	hex(e->id, id);
	return snprintf(line, room, "%s %s %s %s %s\n", marks[e->mark], id, roles[e->role],
			e->peer[0] ? e->peer : "-", e->vm);
}

static int write_entry(int fd, const struct journal_entry *e)
{
	char line[512];
	int n = format_line(line, sizeof(line), e), err;
	off_t begin = lseek(fd, 0, SEEK_END);

	errno = ENOSPC; /* of a short write */
	if (write(fd, line, (size_t)n) == n)
		return 0;
	err = -errno;
	/* A torn line would swallow the next one. */
	if (begin >= 0 && ftruncate(fd, begin))
		error_report("journal: a line that did not fit cannot be taken back: %s", strerror(errno));
	return err;
}

/* One write into what is preallocated; a line that did not fit is overwritten by the next one. */
static int write_mark(struct journal *j, const struct journal_entry *e)
{
	off_t at = atomic_load_explicit(&j->marks_at, memory_order_relaxed);
	char line[512];
	int n = format_line(line, sizeof(line), e), err;
	ssize_t done;

	errno = ENOSPC; /* of a short write */
	done = pwrite(j->marks_fd, line, (size_t)n, at);
	if (done == n) {
		atomic_store_explicit(&j->marks_at, at + n, memory_order_relaxed);
		return 0;
	}
	err = -errno;
	if (done > 0) {
		memset(line, 0, (size_t)done);
		if (pwrite(j->marks_fd, line, (size_t)done, at) != done)
			error_report("marks: a line that did not fit cannot be taken back: %s", strerror(errno));
	}
	return err;
}

/* Keeps the open entries and the newest closed ones. */
static void prune(struct journal *j)
{
	unsigned int closed = 0;

	for (struct kept **p = &j->entries; *p;) {
		struct kept *k = *p;

		if (is_open(&k->e) || closed++ < CLOSED_KEPT) {
			p = &k->next;
			continue;
		}
		*p = k->next;
		free(k);
	}
}

static struct journal_entry *find(struct journal *j, const uint8_t id[16], enum journal_role role)
{
	for (struct kept *k = j->entries; k; k = k->next)
		if (k->e.role == role && !memcmp(k->e.id, id, 16))
			return &k->e;
	return NULL;
}

static struct journal_entry *add(struct journal *j, const uint8_t id[16], enum journal_role role)
{
	struct journal_entry *e = find(j, id, role);
	struct kept *k;

	if (e)
		return e;
	prune(j);
	k = calloc(1, sizeof(*k));
	if (!k)
		return NULL;
	memcpy(k->e.id, id, 16);
	k->e.role = role;
	k->next = j->entries;
	j->entries = k;
	return &k->e;
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
	e = add(j, id, !strcmp(role, roles[JOURNAL_SOURCE]) ? JOURNAL_SOURCE : JOURNAL_DESTINATION);
	if (!e)
		return;
	strcpy(e->peer, strcmp(peer, "-") ? peer : "");
	strcpy(e->vm, vm);
	for (int m = JOURNAL_BEGUN; m <= JOURNAL_NEVER; m++)
		if (!strcmp(mark, marks[m]))
			e->mark = (enum journal_mark)m;
}

/* So that reading them back leaves the newest first again. */
static int write_oldest_first(int fd, const struct kept *newest)
{
	int err = 0;

	for (const struct kept *end = NULL, *k; end != newest && !err; end = k) {
		for (k = newest; k->next != end; k = k->next)
			;
		err = write_entry(fd, &k->e);
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

static void unlock_marks(struct journal *j)
{
	if (j->marks_map)
		munmap(j->marks_map, j->marks_map_len);
	j->marks_map = NULL;
}

/* Preallocates room for marks. A failure is ignored: write_mark() works without, it only takes longer. */
static void preallocate_marks(struct journal *j)
{
	off_t at = atomic_load_explicit(&j->marks_at, memory_order_relaxed), room = j->marks_room + MARKS_AHEAD;
	void *map;

	/* Not posix_fallocate(): where it cannot preallocate, it writes, and the loop may write just there. */
	if (at + MARKS_AHEAD / 2 < j->marks_room || fallocate(j->marks_fd, 0, 0, room))
		return;
	map = mmap(NULL, (size_t)room, PROT_READ, MAP_SHARED, j->marks_fd, 0);
	if (map != MAP_FAILED) {
		mlock(map, (size_t)room); /* no page of it is swapped out from here on */
		unlock_marks(j);
		j->marks_map = map;
		j->marks_map_len = (size_t)room;
	}
	j->marks_room = room;
}

static void push(_Atomic(struct job *) *stack, struct job *job)
{
	struct job *top = atomic_load_explicit(stack, memory_order_relaxed);

	do
		job->next = top;
	while (!atomic_compare_exchange_weak_explicit(stack, &top, job, memory_order_release, memory_order_relaxed));
}

/* All of it, the oldest first. */
static struct job *take_all(_Atomic(struct job *) *stack)
{
	struct job *job = atomic_exchange_explicit(stack, NULL, memory_order_acquire), *oldest = NULL;

	while (job) {
		struct job *next = job->next;

		job->next = oldest;
		oldest = job;
		job = next;
	}
	return oldest;
}

/* In order, up to the first that cannot be written: that one and what follows stay. */
static int write_lines(struct journal *j)
{
	while (j->unwritten) {
		struct job *l = j->unwritten;
		int err = write_entry(j->fd, &l->line);

		if (err)
			return err;
		j->unwritten = l->next;
		free(l);
	}
	return 0;
}

/* Lines go behind those that could not be written before; Return: the questions, in order. */
static struct job *keep_lines(struct journal *j, struct job *jobs)
{
	struct job *questions = NULL, **asked = &questions, **unwritten = &j->unwritten, *next;

	while (*unwritten)
		unwritten = &(*unwritten)->next;
	for (; jobs; jobs = next) {
		struct job ***end = jobs->is_question ? &asked : &unwritten;

		next = jobs->next;
		jobs->next = NULL;
		**end = jobs;
		*end = &jobs->next;
	}
	return questions;
}

static void carry_out(struct journal *j, struct job *jobs)
{
	struct job *questions = keep_lines(j, jobs), *next;
	int err = write_lines(j);

	if (err)
		error_report("journal %s: %s; no guest is moved until there is room; guests are not "
			     "touched by this", j->path, strerror(-err));
	if (!questions)
		return;
	fault_point("journal-sync");
	if (fdatasync(j->fd) && !err)
		err = -errno;
	preallocate_marks(j);
	for (; questions; questions = next) {
		next = questions->next;
		questions->err = err;
		push(&j->finished, questions);
	}
	loop_event_raise(&j->event);
}

static void *sync_thread(void *arg)
{
	struct journal *j = arg;

	for (;;) {
		struct job *jobs;
		bool quit;

		while (sem_wait(&j->wake))
			;
		/* First: nothing is handed over after it was set. */
		quit = atomic_load_explicit(&j->quit, memory_order_acquire);
		jobs = take_all(&j->handed);
		if (jobs)
			carry_out(j, jobs);
		else if (quit)
			return NULL;
	}
}

static void strike_off(struct journal *j, struct job *question)
{
	struct job **p = &j->asked;

	while (*p != question)
		p = &(*p)->next_asked;
	*p = question->next_asked;
}

static void on_synced(void *owner)
{
	struct journal *j = owner;
	struct job *next;

	for (struct job *q = take_all(&j->finished); q; q = next) {
		next = q->next;
		/* Still among @asked: what an answer before it has ended, journal_forget() strikes out. */
		if (q->synced)
			q->synced(q->arg, q->err);
		strike_off(j, q);
		free(q);
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

/** journal_open() - @path: on a disk; @marks_path: on a tmpfs; both are read, then appended to */
int journal_open(struct loop *l, const char *path, const char *marks_path, struct journal **out)
{
	struct journal *j = calloc(1, sizeof(*j));
	int err;

	if (!j)
		return -ENOMEM;
	j->fd = j->marks_fd = -1;
	sem_init(&j->wake, 0, 0);
	j->path = strdup(path);
	read_file(j, path);
	read_file(j, marks_path);
	err = j->path ? rewrite(j) : -ENOMEM;
	if (!err) {
		j->marks_fd = open(marks_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		err = j->marks_fd < 0 ? -errno : 0;
	}
	if (!err) {
		preallocate_marks(j);
		err = loop_event_init(&j->event, l, on_synced, j);
	}
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

/** journal_close() - writes what is left; questions are not answered any more; NULL is fine */
void journal_close(struct journal *j)
{
	if (!j)
		return;
	/* Pairs with the acquire in sync_thread(): it sees all that was handed over. */
	atomic_store_explicit(&j->quit, true, memory_order_release);
	sem_post(&j->wake);
	if (j->thread_is_up)
		pthread_join(j->thread, NULL);
	loop_event_fini(&j->event);
	while (j->entries) {
		struct kept *k = j->entries;

		j->entries = k->next;
		free(k);
	}
	while (j->asked) {
		struct job *q = j->asked;

		j->asked = q->next_asked;
		free(q);
	}
	while (j->unwritten) {
		struct job *l = j->unwritten;

		j->unwritten = l->next;
		free(l);
	}
	unlock_marks(j);
	if (j->fd >= 0)
		close(j->fd);
	if (j->marks_fd >= 0)
		close(j->marks_fd);
	sem_destroy(&j->wake);
	free(j->path);
	free(j);
}

static void hand_over(struct journal *j, struct job *job)
{
	push(&j->handed, job);
	sem_post(&j->wake);
}

/* To the marks now, to the journal soon. */
static int record(struct journal *j, const struct journal_entry *e)
{
	struct job *l = calloc(1, sizeof(*l));
	int err = l ? write_mark(j, e) : -ENOMEM;

	if (err) {
		free(l);
		return err;
	}
	l->line = *e;
	hand_over(j, l);
	return 0;
}

/** journal_begin() - write @e as "begun", whatever its mark; call journal_sync() before acting on it */
int journal_begin(struct journal *j, const struct journal_entry *e)
{
	struct journal_entry *mine = add(j, e->id, e->role);

	if (!mine)
		return -ENOMEM;
	*mine = *e;
	mine->mark = JOURNAL_BEGUN;
	return record(j, mine);
}

/** journal_note() - write @mark, unsynced; a migration that never began is noted too */
int journal_note(struct journal *j, const uint8_t id[16], enum journal_role role, enum journal_mark mark)
{
	struct journal_entry *e = add(j, id, role);
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

/** journal_sync() - call @synced on the loop once all written so far is on disk; NULL: nobody waits */
void journal_sync(struct journal *j, void (*synced)(void *arg, int err), void *arg)
{
	struct job *q = calloc(1, sizeof(*q));

	if (!q) {
		if (synced)
			synced(arg, -ENOMEM);
		return;
	}
	q->is_question = true;
	q->synced = synced;
	q->arg = arg;
	q->next_asked = j->asked;
	j->asked = q;
	hand_over(j, q);
}

/** journal_forget() - @arg is about to be freed: its answers are dropped */
void journal_forget(struct journal *j, const void *arg)
{
	for (struct job *q = j->asked; q; q = q->next_asked)
		if (q->arg == arg)
			q->synced = NULL;
}

/** journal_find() - what is known of migration @id on the side of @role, NULL: nothing */
const struct journal_entry *journal_find(struct journal *j, const uint8_t id[16], enum journal_role role)
{
	return find(j, id, role);
}

/** journal_open_entry() - the newest entry of @vm without an outcome, NULL: none */
const struct journal_entry *journal_open_entry(struct journal *j, const char *vm, enum journal_role role)
{
	for (struct kept *k = j->entries; k; k = k->next)
		if (k->e.role == role && is_open(&k->e) && !strcmp(k->e.vm, vm))
			return &k->e;
	return NULL;
}
