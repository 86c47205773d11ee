// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The guest's console and ferryvm's messages: no thread that runs the guest, or answers
 * vmferryd, waits for whoever reads them.
 *
 * Theory of operation: standard output and standard error have a ring of bytes and a thread
 * each. A byte or a message is put into the ring under a lock; the thread takes bytes out
 * under the lock and writes them without it. What does not fit is dropped, a message as a
 * whole, and counted; the thread says how much was lost at the place where it is missing.
 * Before output_open() messages are written directly: then there is no guest yet.
 */
#include "output.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RING_LEN (256U << 10) /* a power of two */
#define FLUSH_PATIENCE_S 1

/**
 * struct stream - one of the two; all fields but the first three: @lock
 * @put, @taken: bytes ever put into the ring and taken out of it
 * @lost: bytes dropped since the writer last said so
 * @is_writing: the thread has taken bytes that are not written yet
 * @wake: there is something to write; @idle: there is nothing left
 */
struct stream {
	int fd;
	const char *name;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake, idle;
	uint32_t put, taken;
	uint64_t lost;
	bool is_writing;
	char ring[RING_LEN];
};

static struct stream console = { .fd = STDOUT_FILENO, .name = "console" };
static struct stream messages = { .fd = STDERR_FILENO, .name = "messages" };
static bool is_open;

static void write_all(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t n = write(fd, text, len);

		if (n < 0 && errno == EAGAIN) {
			struct pollfd room = { fd, POLLOUT, 0 };

			poll(&room, 1, -1);
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return; /* closed: there is no reader to come */
		text += n;
		len -= (size_t)n;
	}
}

/* Bytes from the ring, up to the place where some are missing. */
static uint32_t take_locked(struct stream *s, char *to, uint32_t room)
{
	uint32_t len = s->put - s->taken < room ? s->put - s->taken : room;

	for (uint32_t i = 0; i < len; i++)
		to[i] = s->ring[s->taken++ % RING_LEN];
	return len;
}

static uint32_t say_lost_locked(struct stream *s, char *to, uint32_t room)
{
	int n = snprintf(to, room, "\nferryvm: %llu bytes of its %s were lost: nobody read them in time\n",
			 (unsigned long long)s->lost, s->name);

	s->lost = 0;
	return n < 0 ? 0 : (uint32_t)n;
}

static void *writer_thread(void *arg)
{
	struct stream *s = arg;
	char chunk[4096];

	pthread_mutex_lock(&s->lock);
	for (;;) {
		uint32_t len = take_locked(s, chunk, sizeof(chunk));

		if (!len && s->lost)
			len = say_lost_locked(s, chunk, sizeof(chunk));
		if (!len) {
			pthread_cond_broadcast(&s->idle);
			pthread_cond_wait(&s->wake, &s->lock);
			continue;
		}
		s->is_writing = true;
		pthread_mutex_unlock(&s->lock);
		write_all(s->fd, chunk, len);
		pthread_mutex_lock(&s->lock);
		s->is_writing = false;
	}
	return NULL;
}

/* All of @text or nothing. While a loss is not said yet nothing is put behind it. */
static void put(struct stream *s, const char *text, uint32_t len)
{
	pthread_mutex_lock(&s->lock);
	if (s->lost || RING_LEN - (s->put - s->taken) < len) {
		s->lost += len;
	} else {
		for (uint32_t i = 0; i < len; i++)
			s->ring[s->put++ % RING_LEN] = text[i];
	}
	if (!s->is_writing)
		pthread_cond_signal(&s->wake);
	pthread_mutex_unlock(&s->lock);
}

static int start(struct stream *s)
{
	pthread_condattr_t attr;
	int err;

	pthread_mutex_init(&s->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->wake, &attr);
	pthread_cond_init(&s->idle, &attr);
	pthread_condattr_destroy(&attr);
	err = -pthread_create(&s->thread, NULL, writer_thread, s);
	if (!err) {
		pthread_setname_np(s->thread, s->name);
		pthread_detach(s->thread); /* it ends with the process */
	}
	return err;
}

/** output_open() - before the guest and the session begin; Return: 0 or a negative errno */
int output_open(void)
{
	sigset_t all, before;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	err = start(&console);
	if (!err)
		err = start(&messages);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	is_open = !err;
	return err;
}

/** output_console() - one byte of the guest's console; any thread */
void output_console(char c)
{
	put(&console, &c, 1);
}

/** output_say() - a message on standard error, with its end of line; any thread */
void output_say(const char *fmt, ...)
{
	char text[1024];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	if ((size_t)n >= sizeof(text))
		n = sizeof(text) - 1;
	if (is_open)
		put(&messages, text, (uint32_t)n);
	else
		write_all(STDERR_FILENO, text, (size_t)n);
}

static void flush(struct stream *s, const struct timespec *until)
{
	int err = 0;

	pthread_mutex_lock(&s->lock);
	while (!err && (s->is_writing || s->put != s->taken || s->lost))
		err = pthread_cond_timedwait(&s->idle, &s->lock, until);
	pthread_mutex_unlock(&s->lock);
}

/** output_flush() - before the process ends: wait until all is written, for a second at most */
void output_flush(void)
{
	struct timespec until;

	if (!is_open)
		return;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += FLUSH_PATIENCE_S;
	flush(&messages, &until);
	flush(&console, &until);
}
