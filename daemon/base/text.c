// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Text from outside: which names are taken, and how the rest is made fit for a line of the log and for JSON.
 *
 * A line's end in such a text would begin a line of its own in the log, with a priority and an object of the
 * sender's choice. Bytes that are not UTF-8 make a JSON document that no client reads.
 */
#include "text.h"

#include <stdint.h>
#include <string.h>

/** text_is_name() - 1 or more printable ASCII characters, no blank among them, with a NUL within @room bytes */
bool text_is_name(const char *text, size_t room)
{
	size_t len = strnlen(text, room);

	for (size_t i = 0; i < len; i++)
		if (text[i] <= ' ' || text[i] > '~')
			return false;
	return len && len < room;
}

/* Bytes of the UTF-8 sequence at @s, of which @len bytes are there; 0: it is none. RFC 3629, section 4. */
static size_t sequence_len(const uint8_t *s, size_t len, uint32_t *code)
{
	static const uint32_t smallest[] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t n = s[0] < 0x80 ? 1 : s[0] < 0xc0 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf8 ? 4 : 0;

	if (!n || n > len)
		return 0;
	*code = n == 1 ? s[0] : s[0] & (0x7fU >> n);
	for (size_t i = 1; i < n; i++) {
		if ((s[i] & 0xc0) != 0x80)
			return 0;
		*code = *code << 6 | (s[i] & 0x3f);
	}
	if (*code < smallest[n] || *code > 0x10ffff || (*code >= 0xd800 && *code < 0xe000))
		return 0;
	return n;
}

/* Control characters, those of 8 bits too, and Unicode's own ends of a line. */
static bool is_control(uint32_t code)
{
	return code < ' ' || (code >= 0x7f && code < 0xa0) || code == 0x2028 || code == 0x2029;
}

/**
 * text_make_printable() - each byte of @text that is no printable UTF-8 becomes a question mark
 * @len: bytes; a sequence that is cut off there is none
 */
void text_make_printable(char *text, size_t len)
{
	uint8_t *s = (uint8_t *)text;
	uint32_t code;

	for (size_t i = 0, n; i < len; i += n) {
		n = sequence_len(s + i, len - i, &code);
		if (n && !is_control(code))
			continue;
		n = n ? n : 1;
		memset(s + i, '?', n);
	}
}
