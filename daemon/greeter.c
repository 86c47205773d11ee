// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Greets every connection of a peer, and hands it to the incoming migration it is for.
 *
 *   connection -> hello within 5 s -> control: a new incoming
 *                                  -> channel k: joins the incoming of its id
 *                                  -> resolve: answered from journal and state
 *                                  -> settle: what the source knows of the outcome, compared with the journal
 *
 * Whoever connects costs a bounded amount until it has said hello: 5 s, one struct greeter of
 * at most MAX_GREETERS, and of the log what limited.c leaves it. One more than that ends the
 * oldest: a peer says hello within a round trip.
 */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/deadline.h"
#include "base/error.h"
#include "base/limited.h"
#include "incoming.h"
#include "outcome.h"
#include "peer/address.h"

#define MAX_GREETERS 256

struct greeter {
	struct ferry *f;
	struct loop_source source;
	struct loop_timer patience;
	struct wire_hello hello;
	size_t len;
	TAILQ_ENTRY(greeter) entry;
};

TAILQ_HEAD(greeter_list, greeter);

/**
 * struct greeter_set - where the peers of one daemon connect, and who has not said hello yet
 * @all: @nr of them, the oldest first
 */
struct greeter_set {
	struct loop_source listener;
	struct greeter_list all;
	unsigned int nr;
};

static void free_greeter(struct greeter *g)
{
	TAILQ_REMOVE(&g->f->greeters->all, g, entry);
	g->f->greeters->nr--;
	loop_remove(g->f->loop, &g->source);
	loop_timer_fini(&g->patience);
	if (g->source.fd >= 0)
		close(g->source.fd);
	free(g);
}

/* Its address, without a look at any name server. */
static const char *who(const struct greeter *g, char *text, size_t len)
{
	struct sockaddr_storage sa = { 0 };
	socklen_t sa_len = sizeof(sa);

	if (getpeername(g->source.fd, (struct sockaddr *)&sa, &sa_len) || sa.ss_family == AF_UNIX ||
	    getnameinfo((struct sockaddr *)&sa, sa_len, text, (socklen_t)len, NULL, 0, NI_NUMERICHOST))
		return "a process of this host";
	return text;
}

static void refused(const struct greeter *g, const char *why)
{
	char text[64];

	limited_notice(g->f->limited, LIMITED_REFUSED, "refused a connection from %s: %s",
		       who(g, text, sizeof(text)), why);
}

static void welcome(struct greeter *g, int status, const char *text)
{
	struct wire_welcome w = { .magic = WIRE_MAGIC, .version = WIRE_OLDEST, .newest = WIRE_VERSION, .status = status };

	memcpy(w.host, g->f->host, 16);
	journal_id(g->f->journal, w.journal);
	snprintf(w.text, sizeof(w.text), "%s", text);
	if (send(g->source.fd, &w, sizeof(w), MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof(w))
		refused(g, "it hung up during the greeting");
	else if (status < 0)
		refused(g, text);
}

/* Takes the socket out of the greeter, which ends here. */
static int take_socket(struct greeter *g)
{
	int sock = dup(g->source.fd);

	free_greeter(g);
	return sock;
}

static void begin_incoming(struct greeter *g)
{
	struct incoming *in = incoming_new(g->f, g->hello.id);

	welcome(g, in ? 0 : -ENOMEM, in ? "" : "out of memory");
	if (in)
		incoming_take_control(in, take_socket(g));
	else
		free_greeter(g);
}

static void join_channel(struct greeter *g)
{
	struct incoming *in = incoming_wants(g->f, &g->hello);
	uint32_t k = g->hello.channel;

	welcome(g, in ? 0 : -EINVAL, in ? "" : "this channel belongs to no migration here");
	if (in)
		incoming_take_channel(in, k, take_socket(g));
	else
		free_greeter(g);
}

static void refuse_version(struct greeter *g)
{
	const struct wire_hello *h = &g->hello;
	char text[WIRE_WELCOME_TEXT_LEN], theirs[40], needed[40];

	snprintf(text, sizeof(text), "this vmferryd needs %s of the wire, yours speaks %s; update %s",
		 wire_version_words(wire_oldest_for(h->role), WIRE_VERSION, needed),
		 wire_version_words(h->version, h->newest, theirs),
		 wire_is_older(h->role, h->version, h->newest) ? "yours" : "this one");
	welcome(g, -EPROTONOSUPPORT, text);
}

static void resolve(struct greeter *g, uint32_t version)
{
	enum wire_resolved answer = outcome_resolve(g->f, g->hello.id, g->hello.journal);

	/* A version 2 source takes whatever else it does not know for "ask again", too; this says so. */
	welcome(g, answer == WIRE_RESOLVED_UNKNOWN && version < 3 ? WIRE_RESOLVED_LATER : answer, "");
}

static void settle(struct greeter *g)
{
	uint32_t o = g->hello.outcome;

	if (o == WIRE_OUTCOME_THERE || o == WIRE_OUTCOME_HERE)
		welcome(g, outcome_settle(g->f, g->hello.id, o), "");
	else
		welcome(g, -EINVAL, "bad outcome in hello");
}

static void greet(struct greeter *g)
{
	const struct wire_hello *h = &g->hello;
	uint32_t version = wire_common(h->version, h->newest);

	if (h->magic != WIRE_MAGIC) {
		welcome(g, -EPROTO, "this is a vmferryd; it does not understand what you say");
	} else if (!version || (h->role <= WIRE_SETTLE && version < wire_oldest_for(h->role))) {
		refuse_version(g);
	} else if (h->role == WIRE_CONTROL && !incoming_find(g->f, h->id)) {
		begin_incoming(g);
		return;
	} else if (h->role == WIRE_CHANNEL) {
		join_channel(g);
		return;
	} else if (h->role == WIRE_RESOLVE) {
		resolve(g, version);
	} else if (h->role == WIRE_SETTLE) {
		settle(g);
	} else if (h->role == WIRE_CONTROL) {
		welcome(g, -EALREADY, "this migration has its control connection here already");
	} else {
		welcome(g, -EINVAL, "bad role in hello");
	}
	free_greeter(g);
}

static void greeter_ready(struct loop_source *s, uint32_t events)
{
	struct greeter *g = s->owner;
	ssize_t n = recv(s->fd, (char *)&g->hello + g->len, sizeof(g->hello) - g->len, MSG_DONTWAIT);

	(void)events;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		free_greeter(g);
		return;
	}
	g->len += (size_t)n;
	if (g->len == sizeof(g->hello))
		greet(g);
	else if (g->len >= 8 && g->hello.magic != WIRE_MAGIC)
		greet(g); /* no need to hear the rest */
}

static void greeter_impatient(void *owner)
{
	refused(owner, "it did not say who it is in time");
	free_greeter(owner);
}

static void accept_ready(struct loop_source *s, uint32_t events)
{
	struct ferry *f = s->owner;
	struct greeter_set *set = f->greeters;
	int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct greeter *g = fd >= 0 ? calloc(1, sizeof(*g)) : NULL;

	(void)events;
	if (!g) {
		if (fd >= 0)
			close(fd);
		return;
	}
	address_tune(fd);
	g->f = f;
	g->source = (struct loop_source){ .fd = fd, .ready = greeter_ready, .owner = g, .name = "greeting" };
	if (loop_timer_init(&g->patience, f->loop, greeter_impatient, g) ||
	    loop_add(f->loop, &g->source, EPOLLIN)) {
		loop_timer_fini(&g->patience);
		close(fd);
		free(g);
		return;
	}
	loop_timer_at(&g->patience, now_ns() + WIRE_HELLO_TIMEOUT_MS * NS_PER_MS);
	TAILQ_INSERT_TAIL(&set->all, g, entry);
	if (++set->nr <= MAX_GREETERS)
		return;
	refused(TAILQ_FIRST(&set->all), "too many others connect");
	free_greeter(TAILQ_FIRST(&set->all));
}

/** greeter_listen() - let peers connect at @uri */
int greeter_listen(struct ferry *f, const char *uri)
{
	struct greeter_set *set = calloc(1, sizeof(*set));
	char why[160];
	int fd;

	if (!set)
		return -ENOMEM;
	fd = address_listen(uri, why, sizeof(why));
	if (fd < 0) {
		error_report("cannot listen for peers at %s: %s", uri, why);
		free(set);
		return fd;
	}
	TAILQ_INIT(&set->all);
	set->listener = (struct loop_source){ .fd = fd, .ready = accept_ready, .owner = f, .name = "peers" };
	f->greeters = set;
	return loop_add(f->loop, &set->listener, EPOLLIN);
}

/** greeter_stop() - no more connections. Nothing to do if nobody listens */
void greeter_stop(struct ferry *f)
{
	struct greeter_set *set = f->greeters;

	if (!set)
		return;
	loop_remove(f->loop, &set->listener);
	close(set->listener.fd);
	while (!TAILQ_EMPTY(&set->all))
		free_greeter(TAILQ_FIRST(&set->all));
	f->greeters = NULL;
	free(set);
}
