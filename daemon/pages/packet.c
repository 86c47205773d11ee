// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Packets to bytes and back. No I/O; every bound is checked here and nowhere else, so
 * that this file can be fuzzed alone.
 *
 *   header  0 u32 magic  4 u16 version  6 u16 mark  8 u32 descriptors  12 u32 payload bytes
 *          16 u64 number  24 u32 number of the mark  28..63 zero
 *   descriptor  0 u16 region  2 u16 kind  4 u32 length  8 u64 offset  16 u32 payload  20 zero
 *
 * All little-endian. The payload of all descriptors follows in their order.
 */
#include "packet.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#define MAGIC 0x4b505646 /* "FVPK" */
#define VERSION 1
#define PAGE 4096

static void put16(uint8_t *p, uint16_t v)
{
	v = htole16(v);
	memcpy(p, &v, 2);
}

static void put32(uint8_t *p, uint32_t v)
{
	v = htole32(v);
	memcpy(p, &v, 4);
}

static void put64(uint8_t *p, uint64_t v)
{
	v = htole64(v);
	memcpy(p, &v, 8);
}

static uint16_t get16(const uint8_t *p)
{
	uint16_t v;

	memcpy(&v, p, 2);
	return le16toh(v);
}

static uint32_t get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, 4);
	return le32toh(v);
}

static uint64_t get64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, 8);
	return le64toh(v);
}

/** packet_encode() - @to has room for PACKET_MAX_HEAD; Return: bytes written */
size_t packet_encode(const struct packet *p, uint8_t *to)
{
	uint8_t *d = to + PACKET_HEADER_LEN;

	memset(to, 0, PACKET_HEADER_LEN + p->nr_descs * PACKET_DESC_LEN);
	put32(to, MAGIC);
	put16(to + 4, VERSION);
	put16(to + 6, (uint16_t)p->mark);
	put32(to + 8, p->nr_descs);
	put32(to + 12, p->payload);
	put64(to + 16, p->number);
	put32(to + 24, p->mark_nr);
	for (uint32_t i = 0; i < p->nr_descs; i++, d += PACKET_DESC_LEN) {
		put16(d, p->desc[i].region);
		put16(d + 2, p->desc[i].kind);
		put32(d + 4, p->desc[i].len);
		put64(d + 8, p->desc[i].off);
		put32(d + 16, p->desc[i].payload);
	}
	return (size_t)(d - to);
}

/** packet_decode_header() - the first PACKET_HEADER_LEN bytes; -EBADMSG if they are wrong */
int packet_decode_header(struct packet *p, const uint8_t *from)
{
	if (get32(from) != MAGIC || get16(from + 4) != VERSION || get16(from + 6) >= PACKET_NR_MARKS)
		return -EBADMSG;
	p->mark = (enum packet_mark)get16(from + 6);
	p->nr_descs = get32(from + 8);
	p->payload = get32(from + 12);
	p->number = get64(from + 16);
	p->mark_nr = get32(from + 24);
	if (p->nr_descs > PACKET_MAX_DESCS || p->payload > PACKET_MAX_PAYLOAD)
		return -EBADMSG;
	return 0;
}

static int check_place(const struct packet_desc *d, const struct packet_limits *lim)
{
	bool is_state = d->region == PACKET_REGION_STATE;
	uint64_t size = is_state ? lim->state_size : 0;

	if (!is_state) {
		if (d->region >= lim->nr_regions || d->off % PAGE || d->len % PAGE)
			return -EBADMSG;
		size = lim->sizes[d->region];
	}
	if (!d->len || d->len > PACKET_STRIPE || d->off > size || d->len > size - d->off)
		return -EBADMSG;
	if (d->off >> PACKET_STRIPE_SHIFT != (d->off + d->len - 1) >> PACKET_STRIPE_SHIFT ||
	    (d->off >> PACKET_STRIPE_SHIFT) % lim->nr_channels != lim->channel)
		return -EBADMSG;
	return 0;
}

static int check_kind(const struct packet_desc *d)
{
	switch (d->kind) {
	case PACKET_ZERO:
		return d->payload || d->region == PACKET_REGION_STATE ? -EBADMSG : 0;
	case PACKET_RAW:
		return d->payload == d->len ? 0 : -EBADMSG;
	case PACKET_ZSTD:
		return d->payload && d->payload < d->len ? 0 : -EBADMSG;
	default:
		return -EBADMSG;
	}
}

/** packet_decode_descs() - what follows the header; -EBADMSG if any of it is out of bounds */
int packet_decode_descs(struct packet *p, const uint8_t *from, const struct packet_limits *lim)
{
	uint64_t payload = 0;

	for (uint32_t i = 0; i < p->nr_descs; i++, from += PACKET_DESC_LEN) {
		struct packet_desc *d = &p->desc[i];

		*d = (struct packet_desc){ .region = get16(from),
					   .kind = get16(from + 2),
					   .len = get32(from + 4),
					   .off = get64(from + 8),
					   .payload = get32(from + 16) };
		if (check_place(d, lim) || check_kind(d))
			return -EBADMSG;
		payload += d->payload;
	}
	return payload == p->payload ? 0 : -EBADMSG;
}
