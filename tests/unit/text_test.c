// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: a name is printable ASCII without blanks; whatever a peer or a VMM says becomes one line of valid UTF-8.
 * Seen to fail: with "<" for "<=" in text_is_name() a blank is part of a name; without the question for the smallest
 * code an overlong letter passes; without is_control() a line end does.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/text.h"

static void names(void **state)
{
	static const char *const good[] = { "a", "web1", "!~", "{}\"\\", "x/../y" };
	static const char *const bad[] = { "", " web1", "web 1", "web1 ", "x\ny", "x\ty", "x\x7f", "x\x80", "\xc3\xa9t\xc3\xa9" };
	char long_name[64];

	(void)state;
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_true(text_is_name(good[i], 64));
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(text_is_name(bad[i], 64));
	memset(long_name, 'x', sizeof(long_name));
	assert_false(text_is_name(long_name, sizeof(long_name))); /* no NUL */
	long_name[63] = '\0';
	assert_true(text_is_name(long_name, sizeof(long_name)));
}

static void becomes(const char *from, const char *to)
{
	char text[64];

	snprintf(text, sizeof(text), "%s", from);
	text_make_printable(text, strlen(text));
	assert_string_equal(text, to);
}

static void texts(void **state)
{
	(void)state;
	becomes("", "");
	becomes("plain ~ text", "plain ~ text");
	becomes("a\n<3>b\r\tc\x1b[31m\x7f", "a?<3>b??c?[31m?");
	becomes("\xc3\xa9t\xc3\xa9 \xe2\x82\xac \xf0\x9f\x90\xa7", "\xc3\xa9t\xc3\xa9 \xe2\x82\xac \xf0\x9f\x90\xa7");
	becomes("\xc2\x85|\xe2\x80\xa8|\xe2\x80\xa9", "??|???|???");			/* other ends of a line */
	becomes("\xff|\x80|\xc3|\xe2\x82|\xf0\x9f\x90", "?|?|?|??|???");		/* cut off, or none */
	becomes("\xc0\x8a|\xe0\x80\x8a|\xf0\x80\x80\x8a", "??|???|????");		/* overlong line ends */
	becomes("\xc1\x81|\xe0\x9f\xbf|\xf0\x8f\xbf\xbf", "??|???|????");		/* overlong */
	becomes("\xed\xa0\x80|\xf4\x90\x80\x80|\xf8\x88\x80\x80\x80", "???|????|?????"); /* no characters */
}

/* Every sequence of up to three bytes: what comes out is taken as it is. */
static void what_is_printable_stays(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 1U << 24; i += 7) {
		char once[4] = { (char)i, (char)(i >> 8), (char)(i >> 16) }, twice[4];

		text_make_printable(once, 3);
		memcpy(twice, once, sizeof(twice));
		text_make_printable(twice, 3);
		assert_memory_equal(once, twice, sizeof(once));
		for (int k = 0; k < 3; k++)
			assert_true((uint8_t)once[k] >= ' ' && once[k] != 0x7f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names),
		cmocka_unit_test(texts),
		cmocka_unit_test(what_is_printable_stays),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
