// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Writes small files from a thread of its own: a file system may take its time, and the
 * loop, which may have a guest standing still, must not wait for it. In order; nothing is
 * synced: what is written here no guest depends on.
 *
 * Theory of operation: callers push pages on a stack (release) and post a semaphore; the thread
 * takes the whole stack (acquire) and turns it over. There is no lock: a thread that is
 * preempted while it holds one would stop the loop.
 */
#include "scribe.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "fault.h"

struct page {
	char *path, *text;
	bool replaces;
	struct page *next;
};

struct scribe {
	_Atomic(struct page *) handed;
	sem_t wake;
	atomic_bool quit;
	pthread_t thread;
};

static int write_text(const char *path, const char *mode, const char *text)
{
	FILE *f = fopen(path, mode);
	int err = 0;

	if (!f)
		return -errno;
	if (fputs(text, f) < 0)
		err = -errno;
	if (fclose(f) && !err)
		err = -errno;
	return err;
}

static void carry_out(const struct page *p)
{
	char temporary[512];
	int err;

	if (p->replaces) {
		snprintf(temporary, sizeof(temporary), "%s.new", p->path);
		err = write_text(temporary, "we", p->text);
		if (!err && rename(temporary, p->path))
			err = -errno;
	} else {
		err = write_text(p->path, "ae", p->text);
	}
	if (err)
		notice_report("%s cannot be written: %s; no guest is concerned", p->path, strerror(-err));
}

static void free_page(struct page *p)
{
	if (!p)
		return;
	free(p->path);
	free(p->text);
	free(p);
}

static void write_all(struct page *newest)
{
	struct page *oldest = NULL, *next;

	for (struct page *p = newest; p; p = next) {
		next = p->next;
		p->next = oldest;
		oldest = p;
	}
	for (struct page *p = oldest; p; p = next) {
		next = p->next;
		carry_out(p);
		free_page(p);
	}
}

static void *scribe_thread(void *arg)
{
	struct scribe *s = arg;

	for (;;) {
		struct page *pages;
		bool quit;

		while (sem_wait(&s->wake))
			;
		/* First: nothing is handed over after it was set. */
		quit = atomic_load_explicit(&s->quit, memory_order_acquire);
		pages = atomic_exchange_explicit(&s->handed, NULL, memory_order_acquire);
		if (!pages && quit)
			return NULL;
		fault_point("scribe");
		write_all(pages);
	}
}

int scribe_open(struct scribe **out)
{
	struct scribe *s = calloc(1, sizeof(*s));
	int err;

	if (!s)
		return -ENOMEM;
	sem_init(&s->wake, 0, 0);
	err = -pthread_create(&s->thread, NULL, scribe_thread, s);
	if (err) {
		sem_destroy(&s->wake);
		free(s);
		return err;
	}
	*out = s;
	return 0;
}

/** scribe_close() - writes what is left; NULL is fine */
void scribe_close(struct scribe *s)
{
	if (!s)
		return;
	/* Pairs with the acquire in scribe_thread(): it sees all that was handed over. */
	atomic_store_explicit(&s->quit, true, memory_order_release);
	sem_post(&s->wake);
	pthread_join(s->thread, NULL);
	sem_destroy(&s->wake);
	free(s);
}

static void take(struct scribe *s, const char *path, char *text, bool replaces)
{
	struct page *p = calloc(1, sizeof(*p));

	if (p)
		*p = (struct page){ strdup(path), text, replaces, NULL };
	if (!p || !p->path || !text) {
		if (p)
			free_page(p);
		else
			free(text);
		notice_report("%s cannot be written: out of memory; no guest is concerned", path);
		return;
	}
	p->next = atomic_load_explicit(&s->handed, memory_order_relaxed);
	while (!atomic_compare_exchange_weak_explicit(&s->handed, &p->next, p, memory_order_release,
						      memory_order_relaxed))
		;
	sem_post(&s->wake);
}

/** scribe_append() - takes @text over */
void scribe_append(struct scribe *s, const char *path, char *text)
{
	take(s, path, text, false);
}

/** scribe_replace() - the file then has @text and nothing else, or stays as it was; takes @text over */
void scribe_replace(struct scribe *s, const char *path, char *text)
{
	take(s, path, text, true);
}
