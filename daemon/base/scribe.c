// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Writes small files from a thread of its own: a file system may take its time, and the
 * loop, which may have a guest standing still, must not wait for it. In order; nothing is
 * synced: what is written here no guest depends on.
 */
#include "scribe.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

struct page {
	char *path, *text;
	bool replaces;
	struct page *next;
};

struct scribe {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct page *first, **end; /* @lock */
	bool quit;		   /* @lock */
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

static void *scribe_thread(void *arg)
{
	struct scribe *s = arg;

	pthread_mutex_lock(&s->lock);
	while (s->first || !s->quit) {
		struct page *p = s->first;

		if (!p) {
			pthread_cond_wait(&s->wake, &s->lock);
			continue;
		}
		s->first = p->next;
		if (!s->first)
			s->end = &s->first;
		pthread_mutex_unlock(&s->lock);
		carry_out(p);
		free_page(p);
		pthread_mutex_lock(&s->lock);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

int scribe_open(struct scribe **out)
{
	struct scribe *s = calloc(1, sizeof(*s));
	int err;

	if (!s)
		return -ENOMEM;
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->wake, NULL);
	s->end = &s->first;
	err = -pthread_create(&s->thread, NULL, scribe_thread, s);
	if (err) {
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
	pthread_mutex_lock(&s->lock);
	s->quit = true;
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
	pthread_join(s->thread, NULL);
	pthread_cond_destroy(&s->wake);
	pthread_mutex_destroy(&s->lock);
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
	pthread_mutex_lock(&s->lock);
	*s->end = p;
	s->end = &p->next;
	pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
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
