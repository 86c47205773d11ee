/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef PAGES_CHANNEL_H
#define PAGES_CHANNEL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"
#include "base/token_bucket.h"
#include "dirty.h"
#include "packet.h"
#include "page_set.h"
#include "place.h"
#include "region.h"

#define CHANNEL_MAX 16
#define CHANNEL_TIMEOUT_MS 10000

/**
 * struct channel_counters - what a channel has moved; written by its thread, relaxed
 * @wire: bytes on the connection; @busy_ns: time spent in rounds, waits for the
 * bandwidth limit left out; @zero_ns: part of it that looked at stripes of nothing but zeros;
 * @again_pages: not sent, for they were dirty again before their turn came
 */
struct channel_counters {
	uint64_t wire, raw_pages, zero_pages, packed_pages, packed_bytes, busy_ns,
		zero_ns, again_pages;
};

/**
 * struct channel_share - what all sending channels of a migration have in common
 * @dirty: what is dirty again; NULL: nobody looks
 * @abort: set to make all give up
 */
struct channel_share {
	const struct region *regions;
	unsigned int nr_regions;
	const struct dirty *dirty;
	unsigned int nr_channels;
	int state_fd;
	struct token_bucket *bucket;
	int zstd_level; /* 0: no compression */
	bool abort;
	struct loop_event *event; /* raised when a job ends */
};

/** enum channel_job_kind - ROUND: pages of @set; STATE: device state and the final mark */
enum channel_job_kind { CHANNEL_NONE, CHANNEL_ROUND, CHANNEL_STATE };

struct channel_job {
	enum channel_job_kind kind;
	const struct page_set *set;
	bool unlimited; /* the bandwidth limit does not hold in a blackout */
	uint64_t state_len;
	uint32_t mark_nr; /* of the mark behind it: round or attempt; 0: none */
};

/* Sending: one thread, one job at a time. */
struct channel_sender;
int channel_send_open(int sock, unsigned int index, struct channel_share *share,
		      struct channel_sender **out);
void channel_send_close(struct channel_sender *c);
void channel_send_start(struct channel_sender *c, const struct channel_job *job);
bool channel_send_is_done(struct channel_sender *c, int *err);
void channel_send_abort(struct channel_sender *c);
void channel_send_counters(const struct channel_sender *c, struct channel_counters *to);

/* Receiving: one thread that places what comes until the connection ends; see channel_recv.c for who calls what. */
struct channel_receiver;
struct channel_recv_config {
	unsigned int index, nr_channels;
	struct place *place;
	const uint64_t *sizes;
	unsigned int nr_regions;
	int state_fd;
	uint64_t state_size;
	struct loop_event *event; /* raised at each mark and at the end */
};
int channel_recv_open(const struct channel_recv_config *cfg, struct channel_receiver **out);
void channel_recv_connect(struct channel_receiver *c, int sock);
bool channel_recv_is_connected(const struct channel_receiver *c);
void channel_recv_end(struct channel_receiver *c);
void channel_recv_close(struct channel_receiver *c);
uint32_t channel_recv_mark(const struct channel_receiver *c, enum packet_mark mark);
bool channel_recv_ended(const struct channel_receiver *c, int *err);
void channel_recv_counters(const struct channel_receiver *c, struct channel_counters *to);

void channel_count(uint64_t *counter, uint64_t n);
void channel_copy_counters(const struct channel_counters *from, struct channel_counters *to);

#endif
