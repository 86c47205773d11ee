// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: no packet makes the receiver write outside guest RAM, or on another channel's page.
 * Seen to fail: without the check of the stripe's owner, without the overflow-safe bound.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "pages/packet.h"

static const uint64_t sizes[] = { 1 << 20, 3 << 20 };
static const struct packet_limits limits = { sizes, 2, 100000, 1, 2 };
static uint8_t bytes[PACKET_MAX_HEAD];

static struct packet good(void)
{
	struct packet p = { .nr_descs = 3, .payload = 4096 + 100 + 4464, .number = 7 };

	p.desc[0] = (struct packet_desc){ 0, PACKET_RAW, 4096, 0x10000, 4096 };
	p.desc[1] = (struct packet_desc){ 1, PACKET_ZSTD, 65536, 0x30000, 100 };
	p.desc[2] = (struct packet_desc){ PACKET_REGION_STATE, PACKET_RAW, 4464, 95536, 4464 };
	return p;
}

static int round_trip(const struct packet *p, struct packet *q)
{
	int err;

	packet_encode(p, bytes);
	err = packet_decode_header(q, bytes);
	return err ? err : packet_decode_descs(q, bytes + PACKET_HEADER_LEN, &limits);
}

static void what_is_encoded_is_decoded(void **state)
{
	struct packet p = good(), q = { 0 };

	(void)state;
	p.mark = PACKET_FINAL;
	p.mark_nr = 3;
	assert_int_equal(round_trip(&p, &q), 0);
	assert_int_equal(q.nr_descs, 3);
	assert_int_equal(q.mark, PACKET_FINAL);
	assert_int_equal(q.mark_nr, 3);
	assert_int_equal(q.number, 7);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(q.desc[i].off, p.desc[i].off);
		assert_int_equal(q.desc[i].len, p.desc[i].len);
		assert_int_equal(q.desc[i].kind, p.desc[i].kind);
		assert_int_equal(q.desc[i].payload, p.desc[i].payload);
	}
}

static void bad_descriptors_are_refused(void **state)
{
	static const struct packet_desc bad[] = {
		{ 2, PACKET_RAW, 4096, 0x10000, 4096 },	     /* no such region */
		{ 0, PACKET_RAW, 4096, 0x100000, 4096 },     /* behind the end */
		{ 0, PACKET_RAW, 8192, 0xff000, 8192 },	     /* across the end */
		{ 0, PACKET_RAW, 4096, ~0ULL << 12, 4096 },  /* overflow */
		{ 0, PACKET_RAW, 4096, 0x10800, 4096 },	     /* not a page */
		{ 0, PACKET_RAW, 100, 0x10000, 100 },	     /* not whole pages */
		{ 0, PACKET_RAW, 0, 0x10000, 0 },	     /* empty */
		{ 0, PACKET_RAW, 4096, 0x20000, 4096 },	     /* the other channel's stripe */
		{ 0, PACKET_RAW, 0x20000, 0x10000, 0x20000 },/* more than a stripe */
		{ 0, PACKET_RAW, 8192, 0x1f000, 8192 },	     /* across two stripes */
		{ 0, PACKET_RAW, 4096, 0x10000, 4095 },	     /* payload does not fit */
		{ 0, PACKET_ZERO, 4096, 0x10000, 4096 },     /* zero with payload */
		{ 0, PACKET_ZSTD, 4096, 0x10000, 4096 },     /* not smaller */
		{ 0, PACKET_ZSTD, 4096, 0x10000, 0 },	     /* nothing to unpack */
		{ 0, 9, 4096, 0x10000, 4096 },		     /* no such kind */
		{ PACKET_REGION_STATE, PACKET_RAW, 5000, 95536, 5000 }, /* behind the state */
		{ PACKET_REGION_STATE, PACKET_ZERO, 4096, 65536, 0 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct packet p = { .nr_descs = 1, .payload = bad[i].payload }, q = { 0 };

		p.desc[0] = bad[i];
		if (round_trip(&p, &q) != -EBADMSG)
			fail_msg("descriptor %zu was accepted", i);
	}
}

static void bad_headers_are_refused(void **state)
{
	struct packet p = good(), q = { 0 };

	(void)state;
	p.payload++;
	assert_int_equal(round_trip(&p, &q), -EBADMSG);
	p = good();
	packet_encode(&p, bytes);
	for (size_t i = 0; i < 8; i++) { /* magic, version, unknown flags */
		uint8_t old = bytes[i];

		bytes[i] ^= 0x40;
		assert_int_equal(packet_decode_header(&q, bytes), -EBADMSG);
		bytes[i] = old;
	}
	memset(bytes + 8, 0xff, 4);
	assert_int_equal(packet_decode_header(&q, bytes), -EBADMSG);
}

/* Random damage: decoding never accepts what lies outside. Seed fixed and printed. */
static void damaged_packets_never_lead_outside(void **state)
{
	unsigned int seed = 20251;

	(void)state;
	print_message("seed %u\n", seed);
	srandom(seed);
	for (int i = 0; i < 200000; i++) {
		struct packet p = good(), q = { 0 };

		packet_encode(&p, bytes);
		for (long n = random() % 8; n >= 0; n--)
			bytes[random() % (PACKET_HEADER_LEN + 3 * PACKET_DESC_LEN)] = (uint8_t)random();
		if (packet_decode_header(&q, bytes) || packet_decode_descs(&q, bytes + PACKET_HEADER_LEN, &limits))
			continue;
		for (uint32_t d = 0; d < q.nr_descs; d++) {
			uint64_t size = q.desc[d].region == PACKET_REGION_STATE ? 100000 : sizes[q.desc[d].region];

			assert_true(q.desc[d].off + q.desc[d].len <= size);
			assert_int_equal((q.desc[d].off >> 16) % 2, 1);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_encoded_is_decoded),
		cmocka_unit_test(bad_descriptors_are_refused),
		cmocka_unit_test(bad_headers_are_refused),
		cmocka_unit_test(damaged_packets_never_lead_outside),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
