// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Where messages go: one line each on standard error, whole and in order, from any thread.
 *
 * Theory of operation
 *
 *   any thread: format on the stack -> claim a slot (tail) -> copy -> publish (turn)
 *   writer:     wait for a published slot (head) -> write(2) -> free it (turn, head)
 *
 * Between log_open() and log_close() only the writer thread writes to standard error, so a
 * pipe that nobody reads blocks the writer and nobody else. The queue has a fixed number of
 * slots and no lock: a thread that is preempted between claim and publication delays the
 * messages after its own, not the threads that queue them. A message that finds no slot is
 * counted; the writer says how many were lost as soon as it can write again. Notices may
 * fill only a part of the slots, so that errors still fit after a flood of notices.
 *
 * Before log_open() a message is written by the calling thread: then only options are read.
 * After log_close() messages are dropped.
 */
#include "error.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "deadline.h"
#include "text.h"

#define LINE_MAX_LEN 1016
#define NR_SLOTS 256U /* a power of two */
#define NOTICE_SLOTS (NR_SLOTS - NR_SLOTS / 4)
#define CLOSE_PATIENCE_MS 1000

enum log_state { LOG_DIRECT, LOG_OPEN, LOG_CLOSED };

/**
 * struct slot - one message
 * @turn: position that may claim the slot; one more: its message is published; atomic
 */
struct slot {
	uint32_t turn;
	uint32_t len;
	char text[LINE_MAX_LEN];
};
_Static_assert(sizeof(struct slot) == 1024, "slots have no padding");

/**
 * struct log - the queue; there is one, because there is one standard error
 * @tail: next position to claim, any thread; @head: next one to write, the writer; atomic
 * @lost: messages that found no slot since the writer last said so; atomic
 * @quit: the writer ends when the queue is empty; atomic
 * @wake: eventfd, something was queued, lost, or @quit was set
 * @ended: eventfd, the writer writes no more
 */
static struct log {
	enum log_state state;
	bool is_terminal;
	uint32_t tail, head;
	uint32_t lost;
	bool quit;
	int wake, ended;
	pthread_t writer;
	struct slot slots[NR_SLOTS];
} queue = { .wake = -1, .ended = -1 };

static void write_line(const char *text, size_t len)
{
	while (len) {
		ssize_t n = write(STDERR_FILENO, text, len);

		if (n < 0 && errno == EAGAIN) {
			/* Whoever made the pipe wants it not to block: wait for room here. */
			struct pollfd room = { STDERR_FILENO, POLLOUT, 0 };

			poll(&room, 1, -1);
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return; /* nowhere left to say it */
		text += n;
		len -= (size_t)n;
	}
}

/* Texts of peers and VMMs are parts of messages: each message stays one line, whatever they say. */
static size_t finish_line(char *line, size_t room, int prefix, int text)
{
	size_t len = (size_t)prefix + (size_t)(text < 0 ? 0 : text);

	if (len > room - 2)
		len = room - 2; /* it was cut */
	text_make_printable(line, len);
	line[len++] = '\n';
	return len;
}

/* False: no slot is free for a message of this kind. */
static bool enqueue(const char *line, size_t len, uint32_t limit)
{
	uint32_t at = __atomic_load_n(&queue.tail, __ATOMIC_RELAXED);
	struct slot *s;

	for (;;) {
		uint32_t turn;

		if (at - __atomic_load_n(&queue.head, __ATOMIC_RELAXED) >= limit)
			return false;
		s = &queue.slots[at % NR_SLOTS];
		/* Pairs with the release in take_slot(). Else this text mixes with the one that is written. */
		turn = __atomic_load_n(&s->turn, __ATOMIC_ACQUIRE);
		if (turn != at) {
			uint32_t now = __atomic_load_n(&queue.tail, __ATOMIC_RELAXED);

			if (now == at)
				return false; /* not yet written */
			at = now;
			continue;
		}
		if (__atomic_compare_exchange_n(&queue.tail, &at, at + 1, true, __ATOMIC_RELAXED,
						__ATOMIC_RELAXED))
			break;
	}
	memcpy(s->text, line, len);
	s->len = (uint32_t)len;
	/* Pairs with the acquire in take_slot(). Else the writer reads a text that is not whole. */
	__atomic_store_n(&s->turn, at + 1, __ATOMIC_RELEASE);
	return true;
}

static void report(int priority, const char *fmt, va_list ap)
{
	enum log_state state = __atomic_load_n(&queue.state, __ATOMIC_ACQUIRE);
	char line[LINE_MAX_LEN];
	bool is_terminal = state == LOG_OPEN ? queue.is_terminal : isatty(STDERR_FILENO);
	int n = is_terminal ? 0 : snprintf(line, sizeof(line), "<%d>", priority);
	int m = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
	size_t len = finish_line(line, sizeof(line), n, m);

	if (state == LOG_DIRECT) {
		write_line(line, len);
		return;
	}
	if (state == LOG_CLOSED)
		return;
	if (!enqueue(line, len, priority <= 3 ? NR_SLOTS : NOTICE_SLOTS))
		__atomic_add_fetch(&queue.lost, 1, __ATOMIC_RELAXED);
	eventfd_write(queue.wake, 1);
}

/* ---- the writer ---- */

/* The next message that is published; NULL: none is yet. */
static const struct slot *take_slot(uint32_t head)
{
	const struct slot *s = &queue.slots[head % NR_SLOTS];

	/* Pairs with the release in enqueue(). */
	return __atomic_load_n(&s->turn, __ATOMIC_ACQUIRE) == head + 1 ? s : NULL;
}

static void give_back(uint32_t head)
{
	/* Pairs with the acquire in enqueue(). Else the next text mixes with this one. */
	__atomic_store_n(&queue.slots[head % NR_SLOTS].turn, head + NR_SLOTS, __ATOMIC_RELEASE);
	__atomic_store_n(&queue.head, head + 1, __ATOMIC_RELAXED);
}

static void say_lost(void)
{
	uint32_t lost = __atomic_exchange_n(&queue.lost, 0, __ATOMIC_RELAXED);
	char line[128];
	int n;

	if (!lost)
		return;
	n = snprintf(line, sizeof(line), "%s%u message%s lost: standard error was not read in time",
		     queue.is_terminal ? "" : "<4>", lost, lost == 1 ? " was" : "s were");
	write_line(line, finish_line(line, sizeof(line), 0, n));
}

static void *writer_thread(void *unused)
{
	uint32_t head = __atomic_load_n(&queue.head, __ATOMIC_RELAXED);

	for (;;) {
		/* Before the queue is looked at: what is queued before the quit is written. */
		bool quit = __atomic_load_n(&queue.quit, __ATOMIC_ACQUIRE);
		const struct slot *s;
		eventfd_t n;

		while ((s = take_slot(head))) {
			write_line(s->text, s->len);
			give_back(head++);
		}
		say_lost();
		if (quit)
			break;
		if (eventfd_read(queue.wake, &n) && errno != EINTR)
			break;
	}
	eventfd_write(queue.ended, 1);
	return unused;
}

static void close_events(void)
{
	if (queue.wake >= 0)
		close(queue.wake);
	if (queue.ended >= 0)
		close(queue.ended);
	queue.wake = queue.ended = -1;
}

static int start_writer(void)
{
	sigset_t all, before;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	err = -pthread_create(&queue.writer, NULL, writer_thread, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!err)
		pthread_setname_np(queue.writer, "log");
	return err;
}

/**
 * log_open() - from now on no call of error_report() or notice_report() waits for a reader
 *
 * Context: called before the process has other threads.
 * Return: 0, or a negative errno: messages are still written directly.
 */
int log_open(void)
{
	int err;

	queue.is_terminal = isatty(STDERR_FILENO);
	queue.wake = eventfd(0, EFD_CLOEXEC);
	queue.ended = eventfd(0, EFD_CLOEXEC);
	if (queue.wake < 0 || queue.ended < 0) {
		err = -errno;
		close_events();
		return err;
	}
	queue.head = queue.tail = queue.lost = 0;
	queue.quit = false;
	/* Touches all slots: no report takes a page fault while a guest stands still. */
	for (uint32_t i = 0; i < NR_SLOTS; i++) {
		memset(&queue.slots[i], 0, sizeof(queue.slots[i]));
		queue.slots[i].turn = i;
	}
	err = start_writer();
	if (err) {
		close_events();
		return err;
	}
	__atomic_store_n(&queue.state, LOG_OPEN, __ATOMIC_RELEASE);
	return 0;
}

/**
 * log_close() - write what is queued, for a second at most
 *
 * When nobody reads standard error the rest is lost and the writer stays where it is until
 * the process ends; then log_open() must not be called again. Does nothing if the log is not open.
 */
void log_close(void)
{
	struct pollfd ended = { queue.ended, POLLIN, 0 };
	uint64_t until = now_ns() + CLOSE_PATIENCE_MS * NS_PER_MS;
	uint64_t now;
	int n = 0;

	if (queue.state != LOG_OPEN)
		return;
	__atomic_store_n(&queue.state, LOG_CLOSED, __ATOMIC_RELEASE);
	/* Pairs with the acquire in writer_thread(). */
	__atomic_store_n(&queue.quit, true, __ATOMIC_RELEASE);
	eventfd_write(queue.wake, 1);
	while (n <= 0 && (now = now_ns()) < until)
		n = poll(&ended, 1, (int)((until - now) / NS_PER_MS) + 1);
	if (n <= 0) {
		pthread_detach(queue.writer);
		return;
	}
	pthread_join(queue.writer, NULL);
	close_events();
}

/** error_report() - object, fact, the guest's state, next step; once, where most is known */
void error_report(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	report(3, fmt, ap);
	va_end(ap);
}

/** notice_report() - something an operator may want to know later */
void notice_report(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	report(5, fmt, ap);
	va_end(ap);
}
