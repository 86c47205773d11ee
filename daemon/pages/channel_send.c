// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A sending channel: extents -> packets -> socket, on a thread of its own.
 *
 * Theory of operation
 *
 * A job is handed over without a lock, for a thread that is preempted while it holds one would stop the
 * loop: the loop writes @job and posts @wake; the thread waits for @wake and reads @job; at the end it
 * writes @error and @done, with release, and raises the event; the loop reads @done, with acquire. One
 * job at a time: the loop writes no @job before it has seen @done. A page set is read-only until all
 * channels are done.
 *
 * Every channel walks the whole set and takes its own stripes: 64 KiB stripe s of
 * a region belongs to channel s mod n, so two copies of a page from two rounds travel on
 * one connection, in order, and rounds need no barrier.
 *
 *   set -> stripe (16 pages) -> runs of zero, raw or packed pages -> descriptors
 *       -> packet full? header, descriptors and the runs in one vector to the socket
 *
 * While the guest runs, a page that is dirty again before its turn is left out: the next
 * round has it in any case. So what is hot goes last in a round: it is the likelier to be
 * dirty again by then, and what is sent is newer.
 *
 * The runs are copied into the socket. Handing it the memfd's pages (sendfile) saves that
 * copy and still lost: 0.80 s against 0.61 s for 2 GiB and a fifth more CPU, because the
 * receiver then gathers 4 KiB fragments instead of 32 KiB ones (medians of 4 in turns).
 */
#include <errno.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/deadline.h"
#include "channel.h"
#include "io.h"
#include "packet.h"
#include "page_codec.h"

#define STRIPE_PAGES (PACKET_STRIPE / 4096)
#define FLUSH_AT (1U << 20)
#define BLOCK_WORDS (REGION_BLOCK / 4096 / 64)
/* Harvests of the last second or two that found the block dirty. 256: never; for tests/bench/hot_pages.py */
#ifndef CHANNEL_HOT
#define CHANNEL_HOT 8
#endif
/* 0: all of a round is sent, dirty again or not; for the same */
#ifndef CHANNEL_LEAVES_OUT
#define CHANNEL_LEAVES_OUT 1
#endif
#define MAX_WAIT_NS 50000000ULL	  /* look for an abort this often */

struct channel_sender {
	unsigned int index;
	int sock;
	struct channel_share *share;
	struct channel_io *io;
	struct page_codec *codec;
	struct channel_counters counters;

	pthread_t thread;
	bool thread_is_up;
	sem_t wake;
	struct channel_job job; /* the loop's until @wake is posted, then the thread's until @done */
	atomic_bool done;	/* the thread sets it, the loop clears it */
	atomic_int error;	/* the thread's; stays once set */
	atomic_bool quit;

	/* the thread's own */
	struct packet packet;
	uint8_t head[PACKET_MAX_HEAD];
	const uint8_t *from[PACKET_MAX_DESCS]; /* payload of each descriptor */
	uint8_t *pack_buf;
	uint32_t pack_used;
	uint64_t waited_ns;
	bool unlimited;
	uint64_t *put_off[VMFERRY_MAX_REGIONS]; /* a bit a block: hot when its turn came */
	bool has_put_off;
};

static bool must_stop(const struct channel_sender *c)
{
	return __atomic_load_n(&c->share->abort, __ATOMIC_RELAXED);
}

/* Pays for @bytes; sleeps off the debt in slices. */
static int pay(struct channel_sender *c, uint64_t bytes)
{
	uint64_t wait;

	if (c->unlimited)
		return 0;
	wait = token_bucket_take(c->share->bucket, bytes, now_ns());
	while (wait && !must_stop(c)) {
		uint64_t ns = wait < MAX_WAIT_NS ? wait : MAX_WAIT_NS;
		struct timespec ts = { 0, (long)ns };

		nanosleep(&ts, NULL);
		c->waited_ns += ns;
		wait -= ns;
	}
	return must_stop(c) ? -ECANCELED : 0;
}

static int send_packet(struct channel_sender *c, size_t head_len)
{
	struct iovec iov[IO_MAX_IOV];
	int nr = 0;

	iov[nr++] = (struct iovec){ c->head, head_len };
	for (uint32_t i = 0; i < c->packet.nr_descs; i++)
		if (c->packet.desc[i].payload)
			iov[nr++] = (struct iovec){ (void *)c->from[i], c->packet.desc[i].payload };
	return io_send(c->io, iov, nr);
}

static int flush(struct channel_sender *c)
{
	struct packet *p = &c->packet;
	size_t len;
	int err;

	if (!p->nr_descs && p->mark == PACKET_UNMARKED)
		return 0;
	if (must_stop(c))
		return -ECANCELED;
	len = packet_encode(p, c->head);
	err = pay(c, len + p->payload);
	if (!err)
		err = send_packet(c, len);
	if (!err)
		channel_count(&c->counters.wire, len + p->payload);
	p->number++;
	p->nr_descs = p->payload = 0;
	c->pack_used = 0;
	return err;
}

static int add(struct channel_sender *c, const struct packet_desc *d, const uint8_t *from)
{
	struct packet *p = &c->packet;

	c->from[p->nr_descs] = from;
	p->desc[p->nr_descs++] = *d;
	p->payload += d->payload;
	if (p->nr_descs == PACKET_MAX_DESCS || p->payload >= FLUSH_AT)
		return flush(c);
	return 0;
}

static int add_data(struct channel_sender *c, unsigned int region, uint64_t off, uint32_t len)
{
	const uint8_t *from = c->share->regions[region].map + off;
	struct packet_desc d = { .region = (uint16_t)region, .kind = PACKET_RAW, .len = len,
				 .off = off, .payload = len };
	uint32_t n = 0;

	if (c->codec && c->pack_used + len <= FLUSH_AT + PACKET_STRIPE)
		n = page_codec_pack(c->codec, from, len, c->pack_buf + c->pack_used, len);
	if (n) {
		d.kind = PACKET_ZSTD;
		d.payload = n;
		from = c->pack_buf + c->pack_used;
		c->pack_used += n;
		channel_count(&c->counters.packed_pages, len >> 12);
		channel_count(&c->counters.packed_bytes, n);
	} else {
		channel_count(&c->counters.raw_pages, len >> 12);
	}
	return add(c, &d, from);
}

static int add_zero(struct channel_sender *c, unsigned int region, uint64_t off, uint32_t len)
{
	struct packet_desc d = { .region = (uint16_t)region, .kind = PACKET_ZERO, .len = len,
				 .off = off };

	channel_count(&c->counters.zero_pages, len >> 12);
	return add(c, &d, NULL);
}

/* @bits: pages to send of the stripe that begins at page @first */
static int send_stripe(struct channel_sender *c, unsigned int region, uint64_t first,
		       uint32_t bits)
{
	const uint8_t *map = c->share->regions[region].map;
	uint64_t start = now_ns(), data_pages = c->counters.raw_pages + c->counters.packed_pages;
	int err = 0;

	for (uint32_t i = 0; i < STRIPE_PAGES && bits >> i && !err;) {
		uint32_t begin = i;
		bool zero;

		if (!(bits & 1U << i)) {
			i++;
			continue;
		}
		zero = page_is_zero(map + ((first + i) << 12));
		do {
			i++;
		} while (i < STRIPE_PAGES && bits & 1U << i &&
			 page_is_zero(map + ((first + i) << 12)) == zero);
		err = (zero ? add_zero : add_data)(c, region, (first + begin) << 12,
						   (i - begin) << 12);
	}
	if (data_pages == c->counters.raw_pages + c->counters.packed_pages)
		channel_count(&c->counters.zero_ns, now_ns() - start);
	return err;
}

/*
 * Our stripes of a word. @clean_only: leave out what is dirty again; it stays so until the
 * next round takes it: nothing collects during a job.
 */
static int send_word(struct channel_sender *c, unsigned int region, uint64_t word, uint64_t bits,
		     bool clean_only)
{
	uint64_t again = clean_only ? bits & dirty_peek(c->share->dirty, region, word) : 0;
	int err = 0;

	for (uint64_t s = 0; s < 64 / STRIPE_PAGES && !err; s++) {
		uint64_t stripe = word * (64 / STRIPE_PAGES) + s, own = 0xffffULL << (s * STRIPE_PAGES);
		uint32_t part = (uint32_t)((bits & ~again & own) >> (s * STRIPE_PAGES));

		if (!(bits & own) || stripe % c->share->nr_channels != c->index)
			continue;
		if (again & own)
			channel_count(&c->counters.again_pages, (uint64_t)__builtin_popcountll(again & own));
		err = send_stripe(c, region, stripe * STRIPE_PAGES, part);
	}
	return err;
}

static size_t put_off_size(const struct region *r)
{
	return (r->size / REGION_BLOCK + 64) / 64 * 8;
}

/* The rest of the packet, marked as the last one of something. */
static int flush_marked(struct channel_sender *c, enum packet_mark mark, uint32_t nr)
{
	int err;

	c->packet.mark = nr ? mark : PACKET_UNMARKED;
	c->packet.mark_nr = nr;
	err = flush(c);
	c->packet.mark = PACKET_UNMARKED;
	c->packet.mark_nr = 0;
	return err;
}

/* In the first turn: is this for the second? In the second: was it put off? */
static bool is_put_off(struct channel_sender *c, unsigned int region, uint64_t word, bool second)
{
	uint64_t block = word / BLOCK_WORDS;
	uint64_t *bits = &c->put_off[region][block / 64], bit = 1ULL << (block % 64);
	unsigned int heat;

	if (second || *bits & bit)
		return *bits & bit;
	heat = dirty_heat(c->share->dirty, region, word * 64);
	if (heat < CHANNEL_HOT)
		return false;
	*bits |= bit;
	c->has_put_off = true;
	return true;
}

static int send_turn(struct channel_sender *c, const struct page_set *set, bool second)
{
	bool runs = CHANNEL_LEAVES_OUT && c->share->dirty && !c->unlimited; /* the guest */
	int err = 0;

	for (unsigned int r = 0; r < set->nr_regions; r++) {
		const struct page_bits *b = &set->regions[r];

		for (uint64_t u = 0; u < b->nr_summary; u++) {
			for (uint64_t sum = b->summary[u]; sum && !err; sum &= sum - 1) {
				uint64_t w = u * 64 + (uint64_t)__builtin_ctzll(sum);

				if (!runs || is_put_off(c, r, w, second) == second)
					err = send_word(c, r, w, b->words[w], runs);
			}
			if (err)
				return err;
		}
	}
	return 0;
}

static void forget_put_off(struct channel_sender *c)
{
	for (unsigned int r = 0; r < c->share->nr_regions && c->has_put_off; r++)
		memset(c->put_off[r], 0, put_off_size(&c->share->regions[r]));
	c->has_put_off = false;
}

static int send_round(struct channel_sender *c, const struct page_set *set, uint32_t mark_nr)
{
	int err = send_turn(c, set, false);

	if (!err && c->has_put_off)
		err = send_turn(c, set, true);
	forget_put_off(c);
	if (err)
		return err;
	return flush_marked(c, PACKET_ROUND_END, mark_nr);
}

/* The state's stripes that are ours, then the final mark in the last packet. */
static int send_state(struct channel_sender *c, uint64_t len, uint32_t mark_nr)
{
	uint8_t *buf = c->pack_buf;
	int err = 0;

	for (uint64_t off = (uint64_t)c->index << PACKET_STRIPE_SHIFT; off < len && !err;
	     off += (uint64_t)c->share->nr_channels << PACKET_STRIPE_SHIFT) {
		uint32_t n = len - off < PACKET_STRIPE ? (uint32_t)(len - off) : PACKET_STRIPE;
		struct packet_desc d = { .region = PACKET_REGION_STATE, .kind = PACKET_RAW,
					 .len = n, .off = off, .payload = n };

		if (c->pack_used + n > FLUSH_AT)
			err = flush(c);
		if (!err && pread(c->share->state_fd, buf + c->pack_used, n, (off_t)off) != (ssize_t)n)
			err = -EIO;
		if (err)
			break;
		c->pack_used += n;
		err = add(c, &d, buf + c->pack_used - n);
	}
	return err ? err : flush_marked(c, PACKET_FINAL, mark_nr);
}

static int carry_out(struct channel_sender *c, const struct channel_job *job)
{
	uint64_t start = now_ns();
	int err;

	c->waited_ns = 0;
	c->unlimited = job->unlimited;
	if (job->kind == CHANNEL_ROUND)
		err = send_round(c, job->set, job->mark_nr);
	else
		err = send_state(c, job->state_len, job->mark_nr);
	channel_count(&c->counters.busy_ns, now_ns() - start - c->waited_ns);
	return err;
}

static void *send_thread(void *arg)
{
	struct channel_sender *c = arg;
	char name[16];

	snprintf(name, sizeof(name), "send%u", c->index);
	pthread_setname_np(pthread_self(), name);
	for (;;) {
		while (sem_wait(&c->wake))
			;
		/* Pairs with the release in channel_send_close(). It comes instead of a job, or amid one. */
		if (atomic_load_explicit(&c->quit, memory_order_acquire))
			return NULL;
		if (!atomic_load_explicit(&c->error, memory_order_relaxed))
			atomic_store_explicit(&c->error, carry_out(c, &c->job), memory_order_relaxed);
		/* Pairs with the acquire in channel_send_is_done(). Else the next job is written while this one is read. */
		atomic_store_explicit(&c->done, true, memory_order_release);
		loop_event_raise(c->share->event);
	}
}

/** channel_send_open() - takes over @sock, also on failure */
int channel_send_open(int sock, unsigned int index, struct channel_share *share,
		      struct channel_sender **out)
{
	struct channel_sender *c = calloc(1, sizeof(*c));
	int err;

	if (!c) {
		close(sock);
		return -ENOMEM;
	}
	c->index = index;
	c->sock = sock;
	c->share = share;
	atomic_init(&c->done, true);
	sem_init(&c->wake, 0, 0);
	c->pack_buf = malloc(FLUSH_AT + 2 * PACKET_STRIPE);
	err = c->pack_buf ? io_plain_open(sock, CHANNEL_TIMEOUT_MS, &c->io) : -ENOMEM;
	for (unsigned int r = 0; r < share->nr_regions && !err; r++) {
		c->put_off[r] = calloc(1, put_off_size(&share->regions[r]));
		err = c->put_off[r] ? 0 : -ENOMEM;
	}
	if (!err && share->zstd_level)
		err = page_codec_open(share->zstd_level, &c->codec);
	if (!err)
		err = -pthread_create(&c->thread, NULL, send_thread, c);
	if (err) {
		channel_send_close(c);
		return err;
	}
	c->thread_is_up = true;
	*out = c;
	return 0;
}

/** channel_send_close() - waits for the thread: channel_send_abort() first if a job may be running; any thread */
void channel_send_close(struct channel_sender *c)
{
	if (!c)
		return;
	if (c->thread_is_up) {
		/* Pairs with the acquire in send_thread(): it takes no @job that was never written. */
		atomic_store_explicit(&c->quit, true, memory_order_release);
		sem_post(&c->wake);
		pthread_join(c->thread, NULL);
	}
	io_close(c->io);
	page_codec_close(c->codec);
	for (unsigned int r = 0; r < VMFERRY_MAX_REGIONS; r++)
		free(c->put_off[r]);
	free(c->pack_buf);
	close(c->sock);
	sem_destroy(&c->wake);
	free(c);
}

/** channel_send_start() - hand over a job; the last one must be done; waits for nobody */
void channel_send_start(struct channel_sender *c, const struct channel_job *job)
{
	c->job = *job;
	/* The post orders it before the thread's store of true. */
	atomic_store_explicit(&c->done, false, memory_order_relaxed);
	sem_post(&c->wake);
}

/** channel_send_is_done() - *err: 0, or why this channel is of no more use */
bool channel_send_is_done(struct channel_sender *c, int *err)
{
	/* Pairs with the release in send_thread(): the job and its page set are the loop's again, the error is set. */
	bool done = atomic_load_explicit(&c->done, memory_order_acquire);

	*err = done ? atomic_load_explicit(&c->error, memory_order_relaxed) : 0;
	return done;
}

/** channel_send_abort() - make a running job fail soon */
void channel_send_abort(struct channel_sender *c)
{
	shutdown(c->sock, SHUT_RDWR);
}

void channel_send_counters(const struct channel_sender *c, struct channel_counters *to)
{
	channel_copy_counters(&c->counters, to);
}
