// SPDX-License-Identifier: GPL-2.0-or-later
/* Promise: what is packed is unpacked to the byte; damage is an error, never a wrong page. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "pages/page_codec.h"

static uint8_t from[65536], packed[65536], back[65536 + 64];

static void one_byte_anywhere_makes_a_page_not_zero(void **state)
{
	static uint8_t page[4096] __attribute__((aligned(4096)));

	(void)state;
	assert_true(page_is_zero(page));
	for (int i = 0; i < 4096; i++) {
		page[i] = 1;
		assert_false(page_is_zero(page));
		page[i] = 0;
	}
}

static void packs_and_unpacks_to_the_byte(void **state)
{
	struct page_codec *c;
	uint32_t n;

	(void)state;
	assert_int_equal(page_codec_open(1, &c), 0);
	for (uint32_t len = 4096; len <= 65536; len += 4096) {
		for (uint32_t i = 0; i < len; i++)
			from[i] = (uint8_t)(i / 64);
		n = page_codec_pack(c, from, len, packed, sizeof(packed));
		assert_in_range(n, 1, len / 4);
		memset(back, 0xee, sizeof(back));
		assert_int_equal(page_codec_unpack(c, packed, n, back, len), 0);
		assert_memory_equal(from, back, len);
		assert_int_equal(back[len], 0xee);
		assert_int_equal(page_codec_unpack(c, packed, n, back, len - 4096), -EBADMSG);
		assert_int_equal(page_codec_unpack(c, packed, n - 1, back, len), -EBADMSG);
	}
	page_codec_close(c);
}

static void incompressible_pages_are_left_raw(void **state)
{
	struct page_codec *c;

	(void)state;
	srandom(5);
	for (size_t i = 0; i < sizeof(from); i++)
		from[i] = (uint8_t)random();
	assert_int_equal(page_codec_open(1, &c), 0);
	assert_int_equal(page_codec_pack(c, from, sizeof(from), packed, sizeof(packed)), 0);
	assert_int_equal(page_codec_unpack(c, from, 1000, back, 4096), -EBADMSG);
	page_codec_close(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_byte_anywhere_makes_a_page_not_zero),
		cmocka_unit_test(packs_and_unpacks_to_the_byte),
		cmocka_unit_test(incompressible_pages_are_left_raw),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
