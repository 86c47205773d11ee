// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The control connection: decisions travel here and never queue behind pages.
 *
 * Theory of operation: messages are small and few, so they are sent at once; what the
 * socket does not take is kept and sent when it can. Received bytes are kept until a
 * message is whole. A peer that sends an impossible length is lost.
 *
 * A peer may send without end. In one turn of the loop at most LOOP_TURN_MESSAGES are
 * delivered and at most LOOP_TURN_BYTES are received and sent. As long as a whole message
 * is kept nothing more is received, so what is kept is bounded, too.
 */
#include "peer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_QUEUED (4U << 20)

struct peer {
	struct loop_source source;
	struct loop *loop;
	const struct peer_ops *ops;
	void *owner;
	uint8_t *in, *out;
	size_t in_len, in_room, out_at, out_len, out_room; /* to be sent: out_len bytes from out_at on */
	bool waits_for_room;
	bool *gone; /* set when closed from within a callback */
};

static int grow(uint8_t **buf, size_t *room, size_t need)
{
	uint8_t *p;

	if (need <= *room)
		return 0;
	p = realloc(*buf, need * 2);
	if (!p)
		return -ENOMEM;
	*buf = p;
	*room = need * 2;
	return 0;
}

/* Asks epoll for room in the socket only as long as something waits for it. */
static int wait_for_room(struct peer *p, bool waits)
{
	if (waits == p->waits_for_room)
		return 0;
	p->waits_for_room = waits;
	return loop_modify(p->loop, &p->source, waits ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static int flush(struct peer *p)
{
	size_t left = LOOP_TURN_BYTES;

	while (p->out_len && left) {
		ssize_t n = send(p->source.fd, p->out + p->out_at, p->out_len < left ? p->out_len : left,
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0)
			return -errno;
		p->out_at += (size_t)n;
		p->out_len -= (size_t)n;
		left -= (size_t)n;
	}
	if (!p->out_len)
		p->out_at = 0;
	return wait_for_room(p, p->out_len);
}

/* Is a whole message kept, or one that is too long to be one? */
static bool holds_message(const struct peer *p, size_t at)
{
	struct wire_msg m;

	if (p->in_len - at < sizeof(m))
		return false;
	memcpy(&m, p->in + at, sizeof(m));
	return m.len > WIRE_MAX_BODY || p->in_len - at - sizeof(m) >= m.len;
}

/* Works off whole messages, as many as one turn may have. Return: 0; -EBADMSG; 1: the peer is gone */
static int deliver(struct peer *p)
{
	unsigned int left = LOOP_TURN_MESSAGES;
	bool gone = false;
	size_t at = 0;
	int err = 0;

	p->gone = &gone;
	while (left-- && holds_message(p, at)) {
		struct wire_msg m;

		memcpy(&m, p->in + at, sizeof(m));
		if (m.len > WIRE_MAX_BODY) {
			err = -EBADMSG;
			break;
		}
		p->ops->message(p->owner, m.type, p->in + at + sizeof(m), m.len);
		if (gone)
			return 1;
		at += sizeof(m) + m.len;
	}
	p->gone = NULL;
	p->in_len -= at;
	memmove(p->in, p->in + at, p->in_len);
	if (!err && holds_message(p, 0))
		loop_again(p->loop, &p->source);
	return err;
}

static int receive(struct peer *p)
{
	int err = grow(&p->in, &p->in_room, p->in_len + 4096);
	size_t room = p->in_room - p->in_len;
	ssize_t n;

	if (err)
		return err;
	do {
		n = recv(p->source.fd, p->in + p->in_len, room < LOOP_TURN_BYTES ? room : LOOP_TURN_BYTES,
			 MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	if (n > 0)
		p->in_len += (size_t)n;
	if (n < 0 && errno != EAGAIN)
		return -errno;
	return n ? 0 : -ECONNRESET;
}

static void peer_ready(struct loop_source *s, uint32_t events)
{
	struct peer *p = s->owner;
	int err = 0;

	if (events & EPOLLOUT)
		err = flush(p);
	if (!err && !holds_message(p, 0))
		err = receive(p);
	if (!err)
		err = deliver(p);
	if (err < 0)
		p->ops->lost(p->owner, err);
}

/** peer_open() - takes over @sock, also on failure */
int peer_open(struct loop *l, int sock, const struct peer_ops *ops, void *owner, struct peer **out)
{
	struct peer *p = calloc(1, sizeof(*p));
	int err = p ? 0 : -ENOMEM;

	if (!err) {
		p->source = (struct loop_source){ .fd = sock, .ready = peer_ready, .owner = p, .name = "peer" };
		p->loop = l;
		p->ops = ops;
		p->owner = owner;
		if (fcntl(sock, F_SETFL, O_NONBLOCK))
			err = -errno;
	}
	if (!err)
		err = loop_add(l, &p->source, EPOLLIN);
	if (err) {
		close(sock);
		free(p);
		return err;
	}
	*out = p;
	return 0;
}

void peer_close(struct peer *p)
{
	if (!p)
		return;
	if (p->gone)
		*p->gone = true;
	loop_remove(p->loop, &p->source);
	close(p->source.fd);
	free(p->in);
	free(p->out);
	free(p);
}

int peer_send2(struct peer *p, uint32_t type, const void *a, uint32_t a_len, const void *b,
	       uint32_t b_len)
{
	struct wire_msg m = { type, a_len + b_len };
	size_t len = sizeof(m) + a_len + b_len;
	uint8_t *at;
	int err;

	if (p->out_len + len > MAX_QUEUED)
		return -EAGAIN; /* a peer that does not read */
	if (p->out_at && p->out_at >= p->out_len) { /* no byte is moved twice for each time it is sent */
		memmove(p->out, p->out + p->out_at, p->out_len);
		p->out_at = 0;
	}
	err = grow(&p->out, &p->out_room, p->out_at + p->out_len + len);
	if (err)
		return err;
	at = p->out + p->out_at + p->out_len;
	memcpy(at, &m, sizeof(m));
	if (a_len)
		memcpy(at + sizeof(m), a, a_len);
	if (b_len)
		memcpy(at + sizeof(m) + a_len, b, b_len);
	p->out_len += len;
	return flush(p);
}

/** peer_send() - queue a message and send what the socket takes at once */
int peer_send(struct peer *p, uint32_t type, const void *body, uint32_t len)
{
	return peer_send2(p, type, body, len, NULL, 0);
}

/** peer_host_id() - the boot id: two daemons with the same one share a clock */
void peer_host_id(uint8_t host[16])
{
	char text[64] = "";
	FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
	unsigned int n = 0, byte;

	memset(host, 0, 16);
	if (!f)
		return;
	if (!fgets(text, sizeof(text), f))
		text[0] = '\0';
	fclose(f);
	for (const char *p = text; *p && n < 16; p++)
		if (*p != '-' && sscanf(p, "%2x", &byte) == 1) {
			host[n++] = (uint8_t)byte;
			p++;
		}
}
