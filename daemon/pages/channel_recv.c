// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A receiving channel: socket -> packets -> guest RAM, on a thread of its own.
 *
 * Theory of operation: raw payload is received into the mapped region itself; packed
 * payload into a bounce buffer and unpacked from there. A mark is published (release)
 * only after everything before it is in place; the loop reads it (acquire) before it has
 * the state loaded, or tells the source that a round is in place.
 *
 *   channel_recv_open()     a work    the thread is made, and waits for its connection
 *   channel_recv_connect()  the loop  the thread receives
 *   channel_recv_end()      a work    the connection ends, and with it what the thread waits for
 *   channel_recv_close()    a work    the thread is joined
 *
 * The loop makes no thread and joins none. It does not end a connection either: that waits
 * while the thread is copying from the socket.
 */
#include <errno.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fault.h"
#include "channel.h"
#include "io.h"
#include "packet.h"
#include "page_codec.h"

/* A source that keeps its guest running between rounds says nothing for that long. */
#define IDLE_TIMEOUT_MS 3600000

struct channel_receiver {
	struct channel_recv_config cfg;
	struct packet_limits limits;
	int sock;	 /* -1: none yet; the caller's until @wake is posted, read-only then */
	bool is_awake;	 /* @wake was posted; the caller's */
	sem_t wake;
	struct channel_io *io;
	struct page_codec *codec;
	struct channel_counters counters;
	uint8_t *state;
	uint8_t *bounce;
	pthread_t thread;
	bool thread_is_up;
	uint32_t marks[PACKET_NR_MARKS]; /* last number of each; atomic */
	bool ended;	/* atomic */
	int error;	/* before @ended */
	struct packet packet;
	uint8_t descs[PACKET_MAX_DESCS * PACKET_DESC_LEN];
};

static int recv_bytes(struct channel_receiver *c, void *to, size_t len)
{
	struct iovec iov = { to, len };

	return len ? io_recv(c->io, &iov, 1) : 0;
}

static uint8_t *target(struct channel_receiver *c, const struct packet_desc *d)
{
	if (d->region == PACKET_REGION_STATE)
		return c->state + d->off;
	return place_at(c->cfg.place, d->region, d->off, d->len);
}

static int recv_payload(struct channel_receiver *c)
{
	struct packet *p = &c->packet;
	struct iovec iov[PACKET_MAX_DESCS];
	uint32_t used = 0;
	int nr = 0;

	for (uint32_t i = 0; i < p->nr_descs; i++) {
		const struct packet_desc *d = &p->desc[i];

		if (d->kind == PACKET_RAW) {
			iov[nr++] = (struct iovec){ target(c, d), d->len };
		} else if (d->kind == PACKET_ZSTD) {
			iov[nr++] = (struct iovec){ c->bounce + used, d->payload };
			used += d->payload;
		}
	}
	return nr ? io_recv(c->io, iov, nr) : 0;
}

static int place_rest(struct channel_receiver *c)
{
	struct packet *p = &c->packet;
	uint32_t used = 0;
	int err = 0;

	for (uint32_t i = 0; i < p->nr_descs && !err; i++) {
		const struct packet_desc *d = &p->desc[i];

		if (d->kind == PACKET_ZERO) {
			place_zero(c->cfg.place, d->region, d->off, d->len);
			channel_count(&c->counters.zero_pages, d->len >> 12);
		} else if (d->kind == PACKET_ZSTD) {
			err = page_codec_unpack(c->codec, c->bounce + used, d->payload,
						target(c, d), d->len);
			used += d->payload;
			channel_count(&c->counters.packed_pages, d->len >> 12);
		} else {
			channel_count(&c->counters.raw_pages, d->len >> 12);
		}
	}
	return err;
}

static int recv_packet(struct channel_receiver *c)
{
	struct packet *p = &c->packet;
	uint8_t head[PACKET_HEADER_LEN];
	int err = recv_bytes(c, head, sizeof(head));

	if (!err)
		err = packet_decode_header(p, head);
	if (!err)
		err = recv_bytes(c, c->descs, p->nr_descs * PACKET_DESC_LEN);
	if (!err)
		err = packet_decode_descs(p, c->descs, &c->limits);
	if (!err)
		err = recv_payload(c);
	if (!err)
		err = place_rest(c);
	if (err)
		return err;
	channel_count(&c->counters.wire,
		      PACKET_HEADER_LEN + p->nr_descs * PACKET_DESC_LEN + p->payload);
	if (p->mark != PACKET_UNMARKED) {
		/* Pairs with the acquire in channel_recv_mark(): all is in place. */
		__atomic_store_n(&c->marks[p->mark], p->mark_nr, __ATOMIC_RELEASE);
		loop_event_raise(c->cfg.event);
	}
	return 0;
}

/* Its thread waits in the kernel, not in a loop. */
static int begin(struct channel_receiver *c)
{
	if (ioctl(c->sock, FIONBIO, &(int){ 0 }))
		return -errno;
	return io_plain_open(c->sock, IDLE_TIMEOUT_MS, &c->io);
}

static void *recv_thread(void *arg)
{
	struct channel_receiver *c = arg;
	char name[16];
	int err;

	snprintf(name, sizeof(name), "recv%u", c->cfg.index);
	pthread_setname_np(pthread_self(), name);
	while (sem_wait(&c->wake))
		;
	if (c->sock < 0)
		return NULL; /* it never came */
	err = begin(c);
	while (!err)
		err = recv_packet(c);
	fault_point("receiver-ends");
	c->error = err;
	__atomic_store_n(&c->ended, true, __ATOMIC_RELEASE);
	loop_event_raise(c->cfg.event);
	return NULL;
}

/** channel_recv_open() - a thread that waits for channel_recv_connect(); may block */
int channel_recv_open(const struct channel_recv_config *cfg, struct channel_receiver **out)
{
	struct channel_receiver *c = calloc(1, sizeof(*c));
	int err;

	if (!c)
		return -ENOMEM;
	c->cfg = *cfg;
	c->sock = -1;
	sem_init(&c->wake, 0, 0);
	c->limits = (struct packet_limits){ cfg->sizes, cfg->nr_regions, cfg->state_size,
					    cfg->index, cfg->nr_channels };
	c->bounce = malloc(PACKET_MAX_PAYLOAD);
	c->state = mmap(NULL, cfg->state_size ? cfg->state_size : 1, PROT_READ | PROT_WRITE,
			MAP_SHARED, cfg->state_fd, 0);
	if (c->state == MAP_FAILED)
		c->state = NULL;
	err = c->bounce && c->state ? page_codec_open(1, &c->codec) : -ENOMEM;
	if (!err)
		err = -pthread_create(&c->thread, NULL, recv_thread, c);
	if (err) {
		channel_recv_close(c);
		return err;
	}
	c->thread_is_up = true;
	*out = c;
	return 0;
}

/** channel_recv_connect() - @sock, taken over, is its connection; once, never blocks */
void channel_recv_connect(struct channel_receiver *c, int sock)
{
	c->sock = sock;
	c->is_awake = true;
	sem_post(&c->wake);
}

bool channel_recv_is_connected(const struct channel_receiver *c)
{
	return c->sock >= 0;
}

/** channel_recv_end() - its thread ends soon; may block; NULL is fine */
void channel_recv_end(struct channel_receiver *c)
{
	if (!c)
		return;
	if (c->sock >= 0)
		shutdown(c->sock, SHUT_RDWR);
	if (!c->is_awake)
		sem_post(&c->wake);
	c->is_awake = true;
}

/** channel_recv_close() - waits for its thread, frees; may block; NULL is fine */
void channel_recv_close(struct channel_receiver *c)
{
	if (!c)
		return;
	channel_recv_end(c);
	if (c->thread_is_up)
		pthread_join(c->thread, NULL);
	io_close(c->io);
	page_codec_close(c->codec);
	if (c->state)
		munmap(c->state, c->cfg.state_size ? c->cfg.state_size : 1);
	free(c->bounce);
	if (c->sock >= 0)
		close(c->sock);
	sem_destroy(&c->wake);
	free(c);
}

/** channel_recv_mark() - number of the last @mark; all before it is placed */
uint32_t channel_recv_mark(const struct channel_receiver *c, enum packet_mark mark)
{
	return __atomic_load_n(&c->marks[mark], __ATOMIC_ACQUIRE);
}

bool channel_recv_ended(const struct channel_receiver *c, int *err)
{
	bool ended = __atomic_load_n(&c->ended, __ATOMIC_ACQUIRE);

	*err = ended ? c->error : 0;
	return ended;
}

void channel_recv_counters(const struct channel_receiver *c, struct channel_counters *to)
{
	channel_copy_counters(&c->counters, to);
}
