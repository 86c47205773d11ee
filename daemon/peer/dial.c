// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Connects to a peer and greets it: the control connection over the first address that answers, then
 * all channels at once over the same address.
 *
 * Theory of operation
 *
 *   one try:    WAITING -> CONNECTING -> GREETING -> HEARING -> WELCOMED
 *                  ^____________| (queue of a Unix socket is full)
 *               any of them -> FAILED
 *
 *   dial_first():     try 0, after 250 ms try 1 beside it, after 250 ms try 2 beside both, ...; the
 *                     first welcome wins and the other tries are closed (RFC 8305)
 *   dial_channels():  all tries begin at once; the first failure ends all of them
 *
 * An address that is slow is not given up for the next one: both stay on their way. A try counts as
 * answered when the welcome is there, not when TCP is connected: a host that is stopped, or a queue of
 * connections that nobody takes, connects as well.
 *
 * All sockets are non-blocking and all waits are one poll(), which also watches cancel_fd. So the
 * caller's thread ends at once when it is told to, without a signal and without another thread that
 * touches its sockets. The deadline of a try is that of the whole welcome: a peer that sends a byte a
 * second gains nothing.
 */
#include "dial.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/deadline.h"

#define QUEUE_IS_FULL_NS (10 * NS_PER_MS) /* connect() to a Unix socket fails then, it does not wait */

enum try_state { TRY_WAITING, TRY_CONNECTING, TRY_GREETING, TRY_HEARING, TRY_WELCOMED, TRY_FAILED };

/**
 * struct try - one connection on its way to a welcome
 * @host: the host id that the welcome must have; NULL: any
 * @done: bytes of @hello sent, or of @welcome heard
 * @version: that both speak, once @welcome is whole
 * @again_ns: in TRY_WAITING: when to connect
 */
struct try {
	const struct address *to;
	const uint8_t *host;
	enum try_state state;
	int sock, error;
	size_t done;
	uint64_t again_ns, deadline_ns;
	uint32_t version;
	struct wire_hello hello;
	struct wire_welcome welcome;
	char why[WIRE_TEXT_LEN + 64];
};

/** struct dial - tries that are made together; @begun of them are on their way or over */
struct dial {
	const struct dial_limits *limits;
	struct try tries[DIAL_MAX];
	unsigned int nr, begun;
	uint64_t next_ns;
};

static void __attribute__((format(printf, 3, 4))) fail(struct try *t, int err, const char *fmt, ...)
{
	va_list ap;

	t->state = TRY_FAILED;
	t->error = err;
	cleanup_close_fd(&t->sock);
	va_start(ap, fmt);
	vsnprintf(t->why, sizeof(t->why), fmt, ap);
	va_end(ap);
}

static void fail_late(struct try *t, uint64_t step_ns)
{
	double s = (double)step_ns / NS_PER_S;

	if (t->state == TRY_HEARING)
		fail(t, -ETIMEDOUT, "connected, but no welcome within %g s; is it a vmferryd?", s);
	else if (t->state == TRY_WAITING)
		fail(t, -ETIMEDOUT, "its queue of connections was full for %g s", s);
	else
		fail(t, -ETIMEDOUT, "no answer within %g s", s);
}

static const char *host_words(const uint8_t id[16], char text[40])
{
	snprintf(text, 40, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", id[0],
		 id[1], id[2], id[3], id[4], id[5], id[6], id[7], id[8], id[9], id[10], id[11], id[12],
		 id[13], id[14], id[15]);
	return text;
}

static void fail_version(struct try *t)
{
	const struct wire_welcome *w = &t->welcome;
	char theirs[40], needed[40];

	fail(t, -EPROTONOSUPPORT, "the vmferryd there speaks %s of the wire, this one needs %s; update %s",
	     wire_version_words(w->version, w->newest, theirs),
	     wire_version_words(wire_oldest_for(t->hello.role), WIRE_VERSION, needed),
	     wire_is_older(t->hello.role, w->version, w->newest) ? "that one" : "this one");
}

/*
 * The host first: another host refuses the channel, and its words say nothing of the cause. Then the version: of
 * what another one says the rest may mean something else.
 */
static void judge_welcome(struct try *t)
{
	struct wire_welcome *w = &t->welcome;
	char one[40], other[40];

	w->text[WIRE_WELCOME_TEXT_LEN - 1] = '\0';
	t->version = wire_common(w->version, w->newest);
	if (t->host && memcmp(t->host, w->host, sizeof(w->host)))
		fail(t, -EXDEV, "two hosts answer at this address (boot ids %s and %s); give an address that "
		     "only one of them has", host_words(t->host, one), host_words(w->host, other));
	else if (t->version < wire_oldest_for(t->hello.role))
		fail_version(t);
	else if (w->status < 0)
		fail(t, w->status, "refused: %s", w->text);
	else if (ioctl(t->sock, FIONBIO, &(int){ 0 }))
		fail(t, -errno, "%s", strerror(errno));
	else
		t->state = TRY_WELCOMED;
}

static void hear(struct try *t)
{
	ssize_t n = recv(t->sock, (char *)&t->welcome + t->done, sizeof(t->welcome) - t->done, 0);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		fail(t, n ? -errno : -ECONNRESET, "no welcome: %s; is it a vmferryd?",
		     n ? strerror(errno) : "it closed the connection");
		return;
	}
	t->done += (size_t)n;
	if (t->done >= sizeof(t->welcome.magic) && t->welcome.magic != WIRE_MAGIC)
		fail(t, -EBADMSG, "no welcome: what answers there is no vmferryd");
	else if (t->done == sizeof(t->welcome))
		judge_welcome(t);
}

static void greet(struct try *t)
{
	ssize_t n = send(t->sock, (const char *)&t->hello + t->done, sizeof(t->hello) - t->done, MSG_NOSIGNAL);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0) {
		fail(t, -errno, "no welcome: %s; is it a vmferryd?", strerror(errno));
		return;
	}
	t->done += (size_t)n;
	if (t->done == sizeof(t->hello)) {
		t->state = TRY_HEARING;
		t->done = 0;
	}
}

static void connected(struct try *t)
{
	int err = 0;
	socklen_t len = sizeof(err);

	if (getsockopt(t->sock, SOL_SOCKET, SO_ERROR, &err, &len))
		err = errno;
	if (err) {
		fail(t, -err, "%s", strerror(err));
		return;
	}
	t->state = TRY_GREETING;
	greet(t);
}

static void begin(struct try *t)
{
	t->sock = socket(t->to->sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (t->sock < 0) {
		fail(t, -errno, "%s", strerror(errno));
		return;
	}
	address_tune(t->sock);
	if (!connect(t->sock, (const struct sockaddr *)&t->to->sa, t->to->len)) {
		t->state = TRY_GREETING;
		greet(t);
	} else if (errno == EINPROGRESS) {
		t->state = TRY_CONNECTING;
	} else if (errno == EAGAIN && t->to->sa.ss_family == AF_UNIX) {
		t->state = TRY_WAITING;
		t->again_ns = now_ns() + QUEUE_IS_FULL_NS;
		cleanup_close_fd(&t->sock);
	} else {
		fail(t, -errno, "%s", strerror(errno));
	}
}

static bool is_on_its_way(const struct try *t)
{
	return t->state < TRY_WELCOMED;
}

/* The next address is due when the last one had its time alone, or when nothing is on its way. */
static void begin_due(struct dial *d)
{
	while (d->begun < d->nr) {
		uint64_t now = now_ns();
		bool any = false;

		for (unsigned int i = 0; i < d->begun; i++)
			any |= is_on_its_way(&d->tries[i]);
		if (any && now < d->next_ns)
			return;
		d->tries[d->begun].deadline_ns = now + d->limits->step_ns;
		begin(&d->tries[d->begun++]);
		d->next_ns = now + d->limits->stagger_ns;
	}
}

static int ms_until(uint64_t at_ns)
{
	uint64_t now = now_ns();

	return now >= at_ns ? 0 : (int)((at_ns - now) / NS_PER_MS) + 1;
}

static bool is_cancelled(const struct dial_limits *limits)
{
	struct pollfd p = { .fd = limits->cancel_fd, .events = POLLIN };

	return poll(&p, 1, 0) > 0;
}

static void advance(struct try *t, short revents, uint64_t step_ns)
{
	if (t->state == TRY_WAITING && now_ns() >= t->again_ns && now_ns() < t->deadline_ns)
		begin(t);
	else if (t->state == TRY_CONNECTING && revents)
		connected(t);
	else if (t->state == TRY_GREETING && revents)
		greet(t);
	else if (t->state == TRY_HEARING && revents)
		hear(t);
	if (is_on_its_way(t) && now_ns() >= t->deadline_ns)
		fail_late(t, step_ns);
}

/* Waits until a try can go on, the next one is due, a deadline has passed, or dialling is cancelled. */
static void wait_and_advance(struct dial *d)
{
	struct pollfd p[DIAL_MAX + 1] = { { .fd = d->limits->cancel_fd, .events = POLLIN } };
	uint64_t wake = d->begun < d->nr ? d->next_ns : UINT64_MAX;

	for (unsigned int i = 0; i < d->begun; i++) {
		const struct try *t = &d->tries[i];

		p[i + 1] = (struct pollfd){ .fd = -1, .events = t->state == TRY_HEARING ? POLLIN : POLLOUT };
		if (!is_on_its_way(t))
			continue;
		if (t->state == TRY_WAITING)
			wake = t->again_ns < wake ? t->again_ns : wake;
		else
			p[i + 1].fd = t->sock;
		wake = t->deadline_ns < wake ? t->deadline_ns : wake;
	}
	if (poll(p, d->begun + 1, ms_until(wake)) < 0)
		memset(p, 0, sizeof(p)); /* interrupted: nothing is known of any socket */
	for (unsigned int i = 0; i < d->begun; i++)
		advance(&d->tries[i], p[i + 1].revents, d->limits->step_ns);
}

static void dial_init(struct dial *d, const struct dial_limits *limits, unsigned int nr)
{
	memset(d, 0, sizeof(*d));
	d->limits = limits;
	d->nr = nr < DIAL_MAX ? nr : DIAL_MAX;
	for (unsigned int i = 0; i < DIAL_MAX; i++)
		d->tries[i].sock = -1;
}

static void dial_fini(struct dial *d)
{
	for (unsigned int i = 0; i < DIAL_MAX; i++)
		cleanup_close_fd(&d->tries[i].sock);
}

/* Every address that was tried, with what it said. */
static void tell_all(const struct dial *d, const char *uri, char *why, size_t len)
{
	size_t at = 0;

	if (d->nr == 1 && !strcmp(uri, d->tries[0].to->uri)) {
		snprintf(why, len, "%s", d->tries[0].why);
		return;
	}
	why[0] = '\0';
	for (unsigned int i = 0; i < d->nr && at < len; i++) {
		const struct try *t = &d->tries[i];
		size_t need = strlen(t->to->uri) + strlen(t->why) + sizeof("; : ; and 16 more");

		if (i && at + need > len) {
			snprintf(why + at, len - at, "; and %u more", d->nr - i);
			return;
		}
		at += (size_t)snprintf(why + at, len - at, "%s%s: %s", i ? "; " : "", t->to->uri, t->why);
	}
}

/**
 * dial_first() - connect to the first of @nr addresses of @uri whose peer answers @hello
 * @why: gets the reason in words on failure: what was tried, and what each address said
 *
 * Context: a thread that may wait for some seconds; its signals blocked.
 * Return: 0 with @found filled in; -ECANCELED; or the negative errno of the first address.
 */
int dial_first(const char *uri, const struct address *list, unsigned int nr,
	       const struct wire_hello *hello, const struct dial_limits *limits,
	       struct dial_found *found, char *why, size_t why_len)
{
	struct dial d;
	int err = -EINPROGRESS;

	dial_init(&d, limits, nr);
	for (unsigned int i = 0; i < d.nr; i++) {
		d.tries[i].to = &list[i];
		d.tries[i].hello = *hello;
	}
	while (err == -EINPROGRESS && !is_cancelled(limits)) {
		unsigned int nr_failed = 0;

		begin_due(&d);
		for (unsigned int i = 0; i < d.begun; i++) {
			struct try *t = &d.tries[i];

			nr_failed += t->state == TRY_FAILED;
			if (t->state != TRY_WELCOMED)
				continue;
			*found = (struct dial_found){ *t->to, take_fd(&t->sock), t->version, t->welcome };
			dial_fini(&d);
			return 0;
		}
		if (nr_failed == d.nr)
			err = d.tries[0].error;
		else
			wait_and_advance(&d);
	}
	dial_fini(&d);
	if (err == -EINPROGRESS)
		err = -ECANCELED;
	else
		tell_all(&d, uri, why, why_len);
	return err;
}

/**
 * dial_channels() - connect @nr channels to the address that answered, all at once
 * @hello: of the control connection; role and channel are filled in here
 * @socks: get the connections, blocking, on success; they are the caller's to close
 *
 * Context: as dial_first().
 * Return: 0, -ECANCELED, or the negative errno of the first channel that failed, with @why.
 */
int dial_channels(const struct dial_found *peer, const struct wire_hello *hello, unsigned int nr,
		  const struct dial_limits *limits, int *socks, char *why, size_t why_len)
{
	struct dial_limits at_once = *limits;
	unsigned int nr_welcomed;
	struct dial d;

	at_once.stagger_ns = 0;
	dial_init(&d, &at_once, nr);
	for (unsigned int i = 0; i < d.nr; i++) {
		d.tries[i].to = &peer->at;
		d.tries[i].host = peer->welcome.host;
		d.tries[i].hello = *hello;
		d.tries[i].hello.role = WIRE_CHANNEL;
		d.tries[i].hello.channel = i;
	}
	while (!is_cancelled(limits)) {
		begin_due(&d);
		nr_welcomed = 0;
		for (unsigned int i = 0; i < d.nr; i++) {
			nr_welcomed += d.tries[i].state == TRY_WELCOMED;
			if (d.tries[i].state != TRY_FAILED)
				continue;
			snprintf(why, why_len, "channel %u: %s", i, d.tries[i].why);
			dial_fini(&d);
			return d.tries[i].error;
		}
		for (unsigned int i = 0; i < d.nr && nr_welcomed == d.nr; i++)
			socks[i] = take_fd(&d.tries[i].sock);
		if (nr_welcomed == d.nr)
			return 0;
		wait_and_advance(&d);
	}
	dial_fini(&d);
	return -ECANCELED;
}

/* ---- one request on the control connection, before the loop takes it over ---- */

static int wait_for(int sock, short events, uint64_t deadline_ns, const struct dial_limits *limits)
{
	struct pollfd p[] = { { .fd = sock, .events = events }, { .fd = limits->cancel_fd, .events = POLLIN } };

	if (now_ns() >= deadline_ns)
		return -ETIMEDOUT;
	return poll(p, 2, ms_until(deadline_ns)) > 0 && p[1].revents ? -ECANCELED : 0;
}

static int send_all(int sock, const void *from, size_t len, uint64_t deadline_ns,
		    const struct dial_limits *limits)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = send(sock, (const char *)from + done, len - done, MSG_NOSIGNAL | MSG_DONTWAIT);
		int err = n < 0 && errno != EAGAIN && errno != EINTR ? -errno : 0;

		if (!err && n < 0)
			err = wait_for(sock, POLLOUT, deadline_ns, limits);
		if (err)
			return err;
		done += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

static int recv_all(int sock, void *to, size_t len, uint64_t deadline_ns, const struct dial_limits *limits)
{
	for (size_t done = 0; done < len;) {
		int err = wait_for(sock, POLLIN, deadline_ns, limits);
		ssize_t n = err ? 0 : recv(sock, (char *)to + done, len - done, MSG_DONTWAIT);

		if (err)
			return err;
		if (!n)
			return -ECONNRESET;
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		done += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

/**
 * dial_ask() - send one message on the control connection and hear one
 *
 * Context: as dial_first(). One deadline holds for both.
 * Return: 0; -ECANCELED; -ETIMEDOUT; -EBADMSG: the answer is longer than @room; or another negative errno.
 */
int dial_ask(int sock, uint32_t type, const void *body, uint32_t len, const struct dial_limits *limits,
	     uint32_t *answer_type, void *answer, uint32_t room, uint32_t *answer_len)
{
	uint64_t deadline_ns = now_ns() + limits->step_ns;
	struct wire_msg m = { type, len };
	int err = send_all(sock, &m, sizeof(m), deadline_ns, limits);

	if (!err)
		err = send_all(sock, body, len, deadline_ns, limits);
	if (!err)
		err = recv_all(sock, &m, sizeof(m), deadline_ns, limits);
	if (!err && m.len > room)
		err = -EBADMSG;
	if (!err)
		err = recv_all(sock, answer, m.len, deadline_ns, limits);
	*answer_type = m.type;
	*answer_len = m.len;
	return err;
}
