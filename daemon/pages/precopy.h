/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef PAGES_PRECOPY_H
#define PAGES_PRECOPY_H

#include "channel.h"
#include "dirty.h"

/** enum precopy_job - ROUND: guest runs; REST: last pages, guest stopped; STATE: devices */
enum precopy_job { PRECOPY_NONE, PRECOPY_ROUND, PRECOPY_REST, PRECOPY_STATE };

/**
 * struct precopy_ops - called on the loop
 * @done: @job ended: @bytes on the wire in @ns, of which the channels sent for @sending_ns
 * (the rest was spent on looking at zeros, which tells nothing of the connection)
 * @failed: @channel is of no more use
 */
struct precopy_ops {
	void (*done)(void *owner, enum precopy_job job, uint64_t bytes, uint64_t ns,
		     uint64_t sending_ns);
	void (*failed)(void *owner, unsigned int channel, int err);
};

/**
 * struct precopy - what is to be sent, and the channels that send it
 * @set: pages of the next job, or of the one that runs: then only read
 * @set_is_sent: all of @set has left; the next collect begins with an empty one
 *
 * The loop's, but for the calls that may block: while one of them is under way on another thread all
 * of it is that thread's.
 */
struct precopy {
	struct page_set set;
	bool set_is_sent;
	enum precopy_job job;

	/* private */
	const struct precopy_ops *ops;
	void *owner;
	struct dirty *dirty;
	const uint64_t *sizes;
	bool is_aborted;
	uint64_t started_ns, bytes_before, zero_ns_before;
	uint32_t round;	       /* number of the last one begun */
	uint32_t placed_round; /* the peer has it all in place */
	struct channel_share share;
	struct token_bucket bucket;
	struct loop_event sent;
	struct channel_sender *channels[CHANNEL_MAX];
};

/** struct precopy_config - all of it stays the caller's until precopy_fini() */
struct precopy_config {
	const struct region *regions;
	const uint64_t *sizes;
	unsigned int nr_regions;
	struct dirty *dirty;
	uint64_t max_bandwidth; /* bytes a second, 0: no limit */
	int zstd_level;
};

int precopy_init(struct precopy *p, struct loop *loop, const struct precopy_config *c,
		 const struct precopy_ops *ops, void *owner);
void precopy_fini(struct precopy *p);
int precopy_make_room(struct precopy *p);
void precopy_set_state_fd(struct precopy *p, int fd);
int precopy_open(struct precopy *p, int *socks, unsigned int nr);
void precopy_stop(struct precopy *p);
void precopy_abort(struct precopy *p);
void precopy_close(struct precopy *p);

int precopy_find_first(struct precopy *p);
uint64_t precopy_blocks(const struct precopy *p, unsigned int region, uint8_t **blocks);
int precopy_collect(struct precopy *p, bool may_wait);
void precopy_start(struct precopy *p, enum precopy_job job, uint64_t state_len, uint32_t attempt);
void precopy_placed(struct precopy *p, uint32_t round);
bool precopy_counters(const struct precopy *p, struct channel_counters *sum);

#endif
