// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Rounds: what to send next, and when it has all been sent.
 *
 * Theory of operation: one job runs at a time, on all channels at once. The page set is
 * written here only while no job runs; a running job reads it. Bits taken from the
 * shared area stay in the set until a job that sent them has ended: a job that fails or
 * is given up loses no page.
 *
 * A round is over when the peer has it in place. What has only left for the sockets'
 * buffers, tens of megabytes, would otherwise be waited for in the blackout, and a goodput
 * measured without it would promise too much.
 */
#include "precopy.h"

#include <errno.h>
#include <stdlib.h>

#include "base/deadline.h"
#include "page_codec.h"

static bool all_are_done(struct precopy *p)
{
	bool all = true;

	for (unsigned int i = 0; i < p->share.nr_channels; i++) {
		int err = 0;

		if (!p->channels[i])
			return false;
		if (!channel_send_is_done(p->channels[i], &err))
			all = false;
		if (err) {
			p->ops->failed(p->owner, i, err);
			return false;
		}
	}
	return all;
}

static void on_sent(void *owner)
{
	struct precopy *p = owner;
	enum precopy_job job = p->job;
	struct channel_counters sum;
	uint64_t ns, zero_ns;

	if (p->is_aborted || !all_are_done(p) || job == PRECOPY_NONE)
		return;
	if (job == PRECOPY_ROUND && p->placed_round < p->round)
		return;
	p->job = PRECOPY_NONE;
	if (job != PRECOPY_STATE)
		p->set_is_sent = true;
	precopy_counters(p, &sum);
	ns = now_ns() - p->started_ns;
	zero_ns = (sum.zero_ns - p->zero_ns_before) / p->share.nr_channels;
	p->ops->done(p->owner, job, sum.wire - p->bytes_before, ns, ns > zero_ns ? ns - zero_ns : 1);
}

/**
 * precopy_init() - nothing is mapped or started yet, see precopy_make_room()
 *
 * Context: the loop. precopy_fini() is owed also after a failure.
 */
int precopy_init(struct precopy *p, struct loop *loop, const struct precopy_config *c,
		 const struct precopy_ops *ops, void *owner)
{
	p->ops = ops;
	p->owner = owner;
	p->dirty = c->dirty;
	p->sizes = c->sizes;
	p->share = (struct channel_share){ .regions = c->regions,
					   .nr_regions = c->nr_regions,
					   .dirty = c->dirty,
					   .state_fd = -1,
					   .bucket = &p->bucket,
					   .zstd_level = c->zstd_level,
					   .event = &p->sent };
	token_bucket_init(&p->bucket, c->max_bandwidth, now_ns());
	return loop_event_init(&p->sent, loop, on_sent, p);
}

/** precopy_make_room() - maps the page set; may block */
int precopy_make_room(struct precopy *p)
{
	return page_set_init(&p->set, p->sizes, p->share.nr_regions);
}

/** precopy_set_state_fd() - before precopy_open(): where PRECOPY_STATE finds the state; the caller's file */
void precopy_set_state_fd(struct precopy *p, int fd)
{
	p->share.state_fd = fd;
}

/** precopy_fini() - on the loop; it does not block if precopy_close() has returned before */
void precopy_fini(struct precopy *p)
{
	precopy_close(p);
	loop_event_fini(&p->sent);
	token_bucket_fini(&p->bucket);
}

/** precopy_open() - makes @socks channels; those taken over are -1 afterwards; may block: it makes threads */
int precopy_open(struct precopy *p, int *socks, unsigned int nr)
{
	int err = 0;

	p->share.nr_channels = nr;
	for (unsigned int i = 0; i < nr && !err; i++) {
		int sock = socks[i];

		socks[i] = -1;
		err = channel_send_open(sock, i, &p->share, &p->channels[i]);
	}
	return err;
}

static bool is_stopped(const struct precopy *p)
{
	return __atomic_load_n(&p->share.abort, __ATOMIC_RELAXED);
}

/** precopy_stop() - what is under way ends soon: a walk, a job. Context: any thread, at any time */
void precopy_stop(struct precopy *p)
{
	__atomic_store_n(&p->share.abort, true, __ATOMIC_RELAXED);
}

/**
 * precopy_abort() - makes a running job, or a walk, fail soon; no callback comes any more
 *
 * Context: the loop; does not block. Nobody else may be in precopy_open().
 */
void precopy_abort(struct precopy *p)
{
	p->is_aborted = true;
	p->job = PRECOPY_NONE;
	precopy_stop(p);
	for (unsigned int i = 0; i < CHANNEL_MAX; i++)
		if (p->channels[i])
			channel_send_abort(p->channels[i]);
}

/**
 * precopy_close() - ends the channels' threads and unmaps the page set; may block
 *
 * Any thread. A running job is made to fail. Calling it again is fine.
 */
void precopy_close(struct precopy *p)
{
	precopy_stop(p);
	for (unsigned int i = 0; i < CHANNEL_MAX; i++)
		if (p->channels[i])
			channel_send_abort(p->channels[i]);
	for (unsigned int i = 0; i < CHANNEL_MAX; i++) {
		channel_send_close(p->channels[i]);
		p->channels[i] = NULL;
	}
	page_set_fini(&p->set);
}

struct adding {
	struct page_set *set;
	unsigned int region;
};

static void add_run(void *arg, uint64_t off, uint64_t len)
{
	struct adding *a = arg;
	uint64_t first = off / REGION_PAGE;

	page_set_add(a->set, a->region, first, (off + len + REGION_PAGE - 1) / REGION_PAGE - first);
}

/** precopy_find_first() - all pages with data; logging is on: later writes are dirty later */
int precopy_find_first(struct precopy *p)
{
	int err = dirty_drop(p->dirty);

	for (unsigned int i = 0; i < p->share.nr_regions && !err && !is_stopped(p); i++) {
		struct adding a = { &p->set, i };

		err = region_each_data(&p->share.regions[i], add_run, &a);
	}
	return err;
}

/*
 * A block is worth faulting in ahead if all of it is to be sent and wherever one looks
 * there is data: faulting in allocates, and what is zero must stay a hole over there.
 */
static bool block_has_data(const struct region *r, const struct page_bits *b, uint64_t block)
{
	uint64_t first = block * (REGION_BLOCK / REGION_PAGE);

	if (first + REGION_BLOCK / REGION_PAGE > b->nr_pages)
		return false;
	for (uint64_t w = first / 64; w < (first + REGION_BLOCK / REGION_PAGE) / 64; w++)
		if (b->words[w] != ~0ULL)
			return false;
	for (uint64_t k = 0; k < 8; k++)
		if (page_is_zero(r->map + ((first + k * 73 % 512) << 12)))
			return false;
	return true;
}

/**
 * precopy_blocks() - which blocks of @region the destination should fault in ahead
 * @blocks: a bitmap, the caller frees it; NULL if there is no memory for it
 * Return: the number of blocks
 */
uint64_t precopy_blocks(const struct precopy *p, unsigned int region, uint8_t **blocks)
{
	const struct region *r = &p->share.regions[region];
	uint64_t nr = (r->size + REGION_BLOCK - 1) / REGION_BLOCK;

	*blocks = calloc(1, (nr + 7) / 8);
	for (uint64_t b = 0; *blocks && b < nr && !is_stopped(p); b++)
		if (block_has_data(r, &p->set.regions[region], b))
			(*blocks)[b / 8] |= (uint8_t)(1 << b % 8);
	return nr;
}

/** precopy_collect() - add what is dirty to the set; no job may run; @may_wait: on a thread that may block */
int precopy_collect(struct precopy *p, bool may_wait)
{
	if (p->set_is_sent)
		page_set_clear(&p->set);
	p->set_is_sent = false;
	return may_wait ? dirty_collect(p->dirty, &p->set, NULL) : dirty_collect_now(p->dirty, &p->set);
}

/**
 * precopy_start() - the last job must have ended; @state_len, @attempt: of PRECOPY_STATE
 *
 * After precopy_abort() nothing is begun: the channels are another thread's, or gone.
 */
void precopy_start(struct precopy *p, enum precopy_job job, uint64_t state_len, uint32_t attempt)
{
	struct channel_job j = { .kind = job == PRECOPY_STATE ? CHANNEL_STATE : CHANNEL_ROUND,
				 .set = &p->set,
				 .unlimited = job != PRECOPY_ROUND,
				 .state_len = state_len,
				 .mark_nr = attempt };
	struct channel_counters sum;

	if (p->is_aborted)
		return;
	if (job == PRECOPY_ROUND)
		j.mark_nr = ++p->round;
	p->job = job;
	p->started_ns = now_ns();
	precopy_counters(p, &sum);
	p->bytes_before = sum.wire;
	p->zero_ns_before = sum.zero_ns;
	for (unsigned int i = 0; i < p->share.nr_channels; i++)
		channel_send_start(p->channels[i], &j);
}

/** precopy_placed() - the peer says that all of @round is in place there */
void precopy_placed(struct precopy *p, uint32_t round)
{
	p->placed_round = round;
	on_sent(p);
}

/** precopy_counters() - sums over the channels; false: there are none now */
bool precopy_counters(const struct precopy *p, struct channel_counters *sum)
{
	*sum = (struct channel_counters){ 0 };
	for (unsigned int i = 0; i < CHANNEL_MAX && p->channels[i]; i++) {
		struct channel_counters c;

		channel_send_counters(p->channels[i], &c);
		sum->wire += c.wire;
		sum->raw_pages += c.raw_pages;
		sum->zero_pages += c.zero_pages;
		sum->packed_pages += c.packed_pages;
		sum->packed_bytes += c.packed_bytes;
		sum->busy_ns += c.busy_ns;
		sum->zero_ns += c.zero_ns;
		sum->again_pages += c.again_pages;
	}
	return p->channels[0] != NULL;
}
