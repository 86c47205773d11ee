/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef PAGES_PACKET_H
#define PAGES_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PACKET_MAX_DESCS 256
#define PACKET_MAX_PAYLOAD (2U << 20)
#define PACKET_HEADER_LEN 64
#define PACKET_DESC_LEN 24
#define PACKET_MAX_HEAD (PACKET_HEADER_LEN + PACKET_MAX_DESCS * PACKET_DESC_LEN)
#define PACKET_STRIPE_SHIFT 16 /* a page keeps its channel: (offset / 64 KiB) mod n */
#define PACKET_STRIPE (1U << PACKET_STRIPE_SHIFT)

#define PACKET_REGION_STATE 0xffff /* offsets are into the device state, not RAM */

/** enum packet_kind - what a descriptor's range holds; no payload for ZERO */
enum packet_kind { PACKET_ZERO = 1, PACKET_RAW, PACKET_ZSTD };

/** enum packet_mark - the last packet of a round, or of a switchover attempt */
enum packet_mark { PACKET_UNMARKED, PACKET_FINAL, PACKET_ROUND_END, PACKET_NR_MARKS };

/**
 * struct packet_desc - one range, within one stripe of 64 KiB
 * @len: bytes of the range; @payload: bytes that travel for it
 */
struct packet_desc {
	uint16_t region;
	uint16_t kind;
	uint32_t len;
	uint64_t off;
	uint32_t payload;
};

/**
 * struct packet - header and descriptors, decoded
 * @mark: what this channel has sent the last of with this packet; @mark_nr: which one
 */
struct packet {
	uint32_t nr_descs;
	uint32_t payload;
	uint64_t number;
	enum packet_mark mark;
	uint32_t mark_nr;
	struct packet_desc desc[PACKET_MAX_DESCS];
};

/**
 * struct packet_limits - what a receiver accepts
 * @sizes: bytes of each region; @state_size: bytes of device state at most
 * @channel, @nr_channels: which stripes this channel may carry
 */
struct packet_limits {
	const uint64_t *sizes;
	unsigned int nr_regions;
	uint64_t state_size;
	unsigned int channel, nr_channels;
};

size_t packet_encode(const struct packet *p, uint8_t *to);
int packet_decode_header(struct packet *p, const uint8_t *from);
int packet_decode_descs(struct packet *p, const uint8_t *from, const struct packet_limits *lim);

#endif
