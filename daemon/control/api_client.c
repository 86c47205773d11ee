// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The connections of the control socket: lines in, lines out; nobody waits for a client.
 *
 * Theory of operation
 *
 *   recv -> c->in -> whole line? -> waiting (FIFO of clients) -> work(): one line of one client a turn
 *   say  -> c->out (list) -> client_ready() in the next turn -> send
 *
 * A command may take a good part of a millisecond, and a client may send commands without
 * end: one turn of the loop runs one command, of the client that has waited longest, and
 * after a command no other one runs for REST times its duration. Whatever clients do, the
 * loop has most of its time, and the host's processors, for migrations.
 * Nothing is received from a client that has a line waiting, or that does not read its
 * answers (more than MAX_UNREAD of them): its commands wait in its own socket.
 *
 * To say something only queues it, so that an event costs the caller no system call: events
 * are told while guests stand still. Events wait for a client that does not read
 * them up to MAX_EVENTS; then the client is disconnected. A client that is to be
 * disconnected leaves the loop at once and is freed by work(), when no caller has it in hand.
 */
#include "api_client.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/deadline.h"
#include "base/limited.h"

#define MAX_LINE 65536
#define MAX_UNREAD 65536
#define MAX_EVENTS (256 << 10)
#define REST 3
#define MAX_CLIENTS 64

struct message {
	struct message *next;
	size_t len;
	bool is_event;
	char text[];
};

TAILQ_HEAD(client_list, api_client);

/**
 * struct api_client - one connection
 * @events: what epoll looks for
 * @is_waiting: in the list of those that have a line
 * @listens: it has said that it understands us: it is told events
 * @has_ended: it sends no more; it goes when it has read its answers
 * @is_doomed: it is freed by work()
 * @in, @in_len: received and not yet worked off
 * @out, @out_end: to be sent; @sent: bytes of the first message that have been; @queued: bytes in all
 * @queued_events: bytes of the events among them
 */
struct api_client {
	struct api_clients *all;
	struct loop_source source;
	TAILQ_ENTRY(api_client) entry, waiting;
	uint32_t events;
	bool is_waiting, listens, has_ended, is_doomed;
	char in[MAX_LINE];
	size_t in_len;
	struct message *out, **out_end;
	size_t sent, queued, queued_events;
};

/**
 * struct api_clients - a control socket; owned by the loop's thread
 * @source: accepts; @work: runs commands and frees clients, called by loop_again() alone
 * @rest: calls @work when the next command may run, at @rest_ns
 * @clients: all; @waiting: those that have a whole line, the longest-waiting first
 */
struct api_clients {
	struct loop *loop;
	struct limited *limited;
	struct loop_source source, work;
	struct loop_timer rest;
	uint64_t rest_ns;
	struct client_list clients, waiting;
	unsigned int nr, nr_doomed;
	const struct api_client_ops *ops;
	void *owner;
};

static bool has_line(const struct api_client *c)
{
	return memchr(c->in, '\n', c->in_len);
}

static void free_client(struct api_client *c)
{
	struct api_clients *a = c->all;

	TAILQ_REMOVE(&a->clients, c, entry);
	if (c->is_waiting)
		TAILQ_REMOVE(&a->waiting, c, waiting);
	a->nr--;
	loop_remove(a->loop, &c->source);
	close(c->source.fd);
	while (c->out) {
		struct message *m = c->out;

		c->out = m->next;
		free(m);
	}
	free(c);
}

static void doom(struct api_client *c)
{
	if (c->is_doomed)
		return;
	c->is_doomed = true;
	c->all->nr_doomed++;
	loop_remove(c->all->loop, &c->source);
	loop_again(c->all->loop, &c->all->work);
}

/* Decides what is next for @c, after anything has changed. */
static void settle(struct api_client *c)
{
	struct api_clients *a = c->all;
	bool is_slow = c->queued > MAX_UNREAD;
	uint32_t events = c->queued ? EPOLLOUT : 0;

	if (c->is_doomed)
		return;
	if (c->has_ended && !c->queued && !has_line(c)) {
		doom(c);
		return;
	}
	if (has_line(c)) {
		if (!is_slow && !c->is_waiting) {
			TAILQ_INSERT_TAIL(&a->waiting, c, waiting);
			c->is_waiting = true;
			loop_again(a->loop, &a->work);
		}
	} else if (!is_slow && !c->has_ended) {
		events |= EPOLLIN;
	}
	if (events != c->events)
		loop_modify(a->loop, &c->source, events);
	c->events = events;
}

/* ---- sending ---- */

static void flush(struct api_client *c)
{
	size_t left = LOOP_TURN_BYTES;

	while (c->out && left) {
		struct message *m = c->out;
		size_t len = m->len - c->sent;
		ssize_t n = send(c->source.fd, m->text + c->sent, len < left ? len : left,
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			if (errno != EAGAIN)
				doom(c);
			return;
		}
		c->sent += (size_t)n;
		c->queued -= (size_t)n;
		left -= (size_t)n;
		if (c->sent < m->len)
			continue;
		if (m->is_event)
			c->queued_events -= m->len;
		c->out = m->next;
		c->sent = 0;
		free(m);
		if (!c->out)
			c->out_end = &c->out;
	}
}

static void queue(struct api_client *c, const char *text, bool is_event)
{
	size_t len = strlen(text);
	struct message *m = c->is_doomed ? NULL : malloc(sizeof(*m) + len + 2);

	if (!m) {
		doom(c);
		return;
	}
	*m = (struct message){ .len = len + 2, .is_event = is_event };
	memcpy(m->text, text, len);
	memcpy(m->text + len, "\r\n", 2);
	*c->out_end = m;
	c->out_end = &m->next;
	c->queued += m->len;
	if (is_event)
		c->queued_events += m->len;
	loop_again(c->all->loop, &c->source);
}

/** api_client_say() - queue an answer for @c; it is sent in the loop's next turn */
void api_client_say(struct api_client *c, const char *text)
{
	queue(c, text, false);
}

/** api_clients_tell() - say an event to all that listen; a client that does not read is disconnected */
void api_clients_tell(struct api_clients *a, const char *text)
{
	struct api_client *c;

	TAILQ_FOREACH(c, &a->clients, entry) {
		if (!c->listens || c->is_doomed)
			continue;
		if (c->queued_events <= MAX_EVENTS) {
			queue(c, text, true);
			continue;
		}
		limited_notice(a->limited, LIMITED_CLIENT,
			       "control socket: a client does not read its events; it is disconnected");
		doom(c);
	}
}

/** api_client_listens() - from now on it is told events */
void api_client_listens(struct api_client *c)
{
	c->listens = true;
}

bool api_client_is_listening(const struct api_client *c)
{
	return c->listens;
}

/* ---- receiving ---- */

static void receive(struct api_client *c)
{
	ssize_t n = recv(c->source.fd, c->in + c->in_len, sizeof(c->in) - c->in_len, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0)
		doom(c);
	if (n == 0)
		c->has_ended = true;
	if (n <= 0)
		return;
	c->in_len += (size_t)n;
	if (c->in_len == sizeof(c->in) && !has_line(c)) {
		limited_notice(c->all->limited, LIMITED_CLIENT,
			       "control socket: a client sent a line of more than %d bytes; it is disconnected",
			       MAX_LINE);
		doom(c);
	}
}

static void client_ready(struct loop_source *s, uint32_t events)
{
	struct api_client *c = s->owner;

	if (c->queued)
		flush(c);
	if (!c->is_doomed && events & ~(uint32_t)EPOLLOUT && !has_line(c) && !c->has_ended &&
	    c->queued <= MAX_UNREAD)
		receive(c);
	settle(c);
}

static void run_line(struct api_client *c)
{
	char *end = memchr(c->in, '\n', c->in_len);
	size_t len = (size_t)(end - c->in);

	if (len > 1)
		c->all->ops->line(c->all->owner, c, c->in, len);
	c->in_len -= len + 1;
	memmove(c->in, end + 1, c->in_len);
}

static void free_doomed(struct api_clients *a)
{
	struct api_client *c = TAILQ_FIRST(&a->clients), *next;

	for (; c && a->nr_doomed; c = next) {
		next = TAILQ_NEXT(c, entry);
		if (!c->is_doomed)
			continue;
		a->nr_doomed--;
		free_client(c);
	}
}

static void run_next(struct api_clients *a)
{
	struct api_client *c = TAILQ_FIRST(&a->waiting);
	uint64_t began = now_ns(), now;

	TAILQ_REMOVE(&a->waiting, c, waiting);
	c->is_waiting = false;
	run_line(c);
	settle(c);
	now = now_ns();
	a->rest_ns = now + REST * (now - began);
}

/* One command, of the client that has waited longest, unless there was one just before. */
static void work(struct loop_source *s, uint32_t events)
{
	struct api_clients *a = s->owner;

	(void)events;
	free_doomed(a);
	if (!TAILQ_EMPTY(&a->waiting) && now_ns() >= a->rest_ns)
		run_next(a);
	if (!TAILQ_EMPTY(&a->waiting))
		loop_timer_at(&a->rest, a->rest_ns);
	if (a->nr_doomed)
		loop_again(a->loop, &a->work);
}

static void on_rested(void *owner)
{
	struct api_clients *a = owner;

	loop_again(a->loop, &a->work);
}

static void accept_ready(struct loop_source *s, uint32_t events)
{
	struct api_clients *a = s->owner;
	int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct api_client *c;

	(void)events;
	if (fd < 0)
		return;
	c = a->nr < MAX_CLIENTS ? calloc(1, sizeof(*c)) : NULL;
	if (!c) {
		limited_notice(a->limited, LIMITED_CLIENT, "control socket: refused a client: %s",
			       a->nr < MAX_CLIENTS ? "out of memory" : "there are too many");
		close(fd);
		return;
	}
	c->all = a;
	c->source = (struct loop_source){ .fd = fd, .ready = client_ready, .owner = c, .name = "client" };
	c->events = EPOLLIN;
	c->out_end = &c->out;
	if (loop_add(a->loop, &c->source, EPOLLIN)) {
		close(fd);
		free(c);
		return;
	}
	TAILQ_INSERT_TAIL(&a->clients, c, entry);
	a->nr++;
	a->ops->came(a->owner, c);
}

/** api_clients_open() - serve who connects to @listen_fd, which is taken over, also on failure */
int api_clients_open(struct loop *l, struct limited *limited, int listen_fd, const struct api_client_ops *ops,
		     void *owner, struct api_clients **out)
{
	struct api_clients *a = calloc(1, sizeof(*a));
	int err = a ? 0 : -ENOMEM;

	if (!err) {
		TAILQ_INIT(&a->clients);
		TAILQ_INIT(&a->waiting);
		a->loop = l;
		a->limited = limited;
		a->ops = ops;
		a->owner = owner;
		a->work = (struct loop_source){ .fd = -1, .ready = work, .owner = a, .name = "command" };
		a->source = (struct loop_source){ .fd = listen_fd, .ready = accept_ready, .owner = a,
						  .name = "clients" };
		err = loop_timer_init(&a->rest, l, on_rested, a);
	}
	if (!err)
		err = loop_add(l, &a->source, EPOLLIN);
	if (err) {
		if (a)
			loop_timer_fini(&a->rest);
		close(listen_fd);
		free(a);
		return err;
	}
	*out = a;
	return 0;
}

/** api_clients_close() - what was said and fits into the sockets is sent; NULL is fine */
void api_clients_close(struct api_clients *a)
{
	struct api_client *c;

	if (!a)
		return;
	while ((c = TAILQ_FIRST(&a->clients))) {
		if (!c->is_doomed)
			flush(c);
		free_client(c);
	}
	loop_timer_fini(&a->rest);
	loop_remove(a->loop, &a->work);
	loop_remove(a->loop, &a->source);
	close(a->source.fd);
	free(a);
}
