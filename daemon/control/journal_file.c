// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The text of the journal's two files: lines out, and whole files in. What is done with them is journal.c's.
 *
 * Theory of operation
 *
 *   vmferry-journal 2 JOURNAL MACHINE SUM        of the journal: its own id, and the host's
 *   vmferry-marks 2 STAMP BOOT SUM               of the marks
 *   MARK ID ROLE VM PEER PEERJOURNAL STAMP WHEN SUM
 *
 * A line has the whole entry, so that the last line of an entry is enough. SUM is the CRC-32C of what stands before it,
 * without the blank. Ids are 32 hexadecimal digits. In VM and PEER each byte that is no printable ASCII character,
 * blank and '%' are written as %XX; an empty one is "-". Empty lines and lines that begin with '#' are skipped.
 *
 * A crash tears at most the end of a file. A last line without an end, or with a wrong sum, was not acted on: it does
 * not count. A wrong sum before the last line is damage: what stood there may be anything.
 *
 * Files without a header are of the format before: MARK ID ROLE PEER VM, without sums. They are read, never written.
 *
 * Why text, and not SQLite: SQLite would replace the formatting, reading and compacting of the journal (some 350 lines)
 * with some 120 lines of statements. The marks stay text in any case: one write to a preallocated file, without a
 * lock. So encoder and reader stay, too. SQLite adds a library, two more files, locks of its own, and a layer of file
 * operations of some 200 lines for each test that loses power after any byte. What a journal needs of a data base is
 * one thing: a prefix of what was written is valid. Append, fdatasync() and a sum in each line give it.
 */
#include "journal_file.h"

#include <errno.h>
#include <fcntl.h>
#include <isa-l/crc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"

#define BLOCK (1 << 20) /* bytes read at a time; no line is longer */

static const char *const marks[] = { "", "begun", "go", "done", "never", "settled", "forgot" };
static const char *const roles[] = { "", "source", "destination" };
static const char digits[] = "0123456789abcdef";

_Static_assert(sizeof(marks) / sizeof(marks[0]) == JOURNAL_LINE_NR, "a name for each line");

static uint32_t sum(const char *text, size_t len)
{
	return ~crc32_iscsi((unsigned char *)(uintptr_t)text, (int)len, ~0U);
}

/* ---- out ---- */

static char *put_text(char *to, const char *text)
{
	return stpcpy(to, text);
}

static char *put_id(char *to, const uint8_t id[16])
{
	*to++ = ' ';
	for (int i = 0; i < 16; i++) {
		*to++ = digits[id[i] >> 4];
		*to++ = digits[id[i] & 15];
	}
	return to;
}

static char *put_encoded(char *to, const char *text)
{
	*to++ = ' ';
	if (!*text || !strcmp(text, "-"))
		return put_text(to, *text ? "%2d" : "-");
	for (; *text; text++) {
		uint8_t byte = (uint8_t)*text;

		if (byte > 0x20 && byte < 0x7f && byte != '%') {
			*to++ = *text;
			continue;
		}
		*to++ = '%';
		*to++ = digits[byte >> 4];
		*to++ = digits[byte & 15];
	}
	return to;
}

static size_t close_line(char *line, char *to)
{
	return (size_t)(to - line) + (size_t)sprintf(to, " %08x\n", sum(line, (size_t)(to - line)));
}

/**
 * journal_file_header() - the first line of a file
 * @kind: "vmferry-journal" or "vmferry-marks"
 *
 * Return: its length.
 */
size_t journal_file_header(char text[JOURNAL_LINE_ROOM], const char *kind, const uint8_t first[16],
			   const uint8_t second[16])
{
	return close_line(text, put_id(put_id(put_text(put_text(text, kind), " 2"), first), second));
}

/**
 * journal_file_line() - a line of an entry
 * @line: enum journal_mark or enum journal_line
 * @e: its mark and time are ignored; its peer_journal, too, if @peer_journal is not NULL
 *
 * Return: its length.
 */
size_t journal_file_line(char text[JOURNAL_LINE_ROOM], unsigned int line, const struct journal_entry *e,
			 uint64_t when_s, const uint8_t peer_journal[16])
{
	char *to = put_id(put_text(text, marks[line]), e->id);

	*to++ = ' ';
	to = put_encoded(put_encoded(put_text(to, roles[e->role]), e->vm), e->peer);
	to = put_id(put_id(to, peer_journal ? peer_journal : e->peer_journal), e->stamp);
	return close_line(text, to + sprintf(to, " %llu", (unsigned long long)when_s));
}

/* ---- in ---- */

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The next word of a line, up to a blank or the line's end; the words end with NUL then. */
static char *take_word(char **at)
{
	char *word = *at, *end = strchr(word, ' ');

	if (end)
		*end = '\0';
	*at = end ? end + 1 : word + strlen(word);
	return word;
}

static bool take_id(char **at, uint8_t id[16])
{
	const char *word = take_word(at);

	for (int i = 0; i < 16; i++) {
		int high = digit(word[i * 2]), low = high < 0 ? -1 : digit(word[i * 2 + 1]);

		if (low < 0)
			return false;
		id[i] = (uint8_t)(high << 4 | low);
	}
	return !word[32];
}

static bool take_encoded(char **at, char *to, size_t room)
{
	const char *word = take_word(at);
	size_t n = 0;

	if (!*word)
		return false;
	if (!strcmp(word, "-"))
		word = "";
	for (; *word && n < room - 1; word++) {
		int high, low;

		if (*word != '%') {
			to[n++] = *word;
			continue;
		}
		high = digit(word[1]);
		low = high < 0 ? -1 : digit(word[2]);
		if (low < 0 || !(high | low))
			return false;
		to[n++] = (char)(high << 4 | low);
		word += 2;
	}
	to[n] = '\0';
	return !*word;
}

static unsigned int take_name(char **at, const char *const *names, unsigned int nr)
{
	const char *word = take_word(at);

	for (unsigned int i = 1; i < nr; i++)
		if (!strcmp(word, names[i]))
			return i;
	return 0;
}

/* Cuts the sum off; Return: false if it is wrong. */
static bool take_sum(char *line, size_t *len)
{
	uint32_t said = 0;

	if (*len < 10 || line[*len - 9] != ' ')
		return false;
	for (int i = 8; i; i--) {
		int d = digit(line[*len - (size_t)i]);

		if (d < 0)
			return false;
		said = said << 4 | (uint32_t)d;
	}
	*len -= 9;
	line[*len] = '\0';
	return said == sum(line, *len) && !memchr(line, '\0', *len);
}

static bool take_header(char *line, size_t len, const char *kind, struct journal_reader *r)
{
	size_t n = strlen(kind);

	if (!take_sum(line, &len) || len < n + 3 || strncmp(line + n, " 2 ", 3))
		return false;
	line += n + 3;
	return take_id(&line, r->first) && take_id(&line, r->second) && !*line;
}

static bool take_second(char *line, size_t len, unsigned int *mark, struct journal_entry *e)
{
	char *end;

	if (!take_sum(line, &len))
		return false;
	*mark = take_name(&line, marks, JOURNAL_LINE_NR);
	if (!*mark || !take_id(&line, e->id))
		return false;
	e->role = (enum journal_role)take_name(&line, roles, JOURNAL_DESTINATION + 1);
	if (!e->role || !take_encoded(&line, e->vm, sizeof(e->vm)) || !take_encoded(&line, e->peer, sizeof(e->peer)) ||
	    !take_id(&line, e->peer_journal) || !take_id(&line, e->stamp))
		return false;
	e->when_s = strtoull(line, &end, 10);
	return end > line && !*end;
}

/* The name came last, and may have blanks; a peer may not. */
static bool take_first(char *line, unsigned int *mark, struct journal_entry *e)
{
	const char *peer;

	*mark = take_name(&line, marks, JOURNAL_NEVER + 1);
	if (!*mark || !take_id(&line, e->id))
		return false;
	e->role = (enum journal_role)take_name(&line, roles, JOURNAL_DESTINATION + 1);
	peer = take_word(&line);
	if (!e->role || !*peer || strlen(peer) >= sizeof(e->peer) || !*line || strlen(line) >= sizeof(e->vm))
		return false;
	strcpy(e->peer, strcmp(peer, "-") ? peer : "");
	strcpy(e->vm, line);
	memset(e->peer_journal, 0, sizeof(e->peer_journal));
	memset(e->stamp, 0, sizeof(e->stamp));
	e->when_s = 0;
	return true;
}

/**
 * struct reading - where a file is being read
 * @at: offset in the file of the next line
 * @has_header, @has_line: what was seen so far
 * @has_bad: the last line could not be read
 */
struct reading {
	struct journal_reader *r;
	const char *kind;
	off_t at;
	bool has_header, has_line, has_bad;
	struct journal_entry e;
};

/* Return: false for a file that a later vmferryd wrote. */
static bool take_first_line(struct reading *g, char *line, size_t len)
{
	size_t n = strlen(g->kind);

	g->has_line = true;
	g->has_header = !strncmp(line, g->kind, n);
	if (!g->has_header)
		return true;
	g->r->format = JOURNAL_FILE_SECOND;
	if (len > n + 3 && strncmp(line + n, " 2 ", 3) && take_sum(line, &len))
		return false;
	g->r->is_damaged = !take_header(line, len, g->kind, g->r);
	return true;
}

/* Without a header it is the format before, or the header was damaged: the sum tells. */
static bool take_either(struct reading *g, char *line, size_t len, unsigned int *mark)
{
	char copy[JOURNAL_LINE_ROOM];

	if (len < sizeof(copy)) {
		memcpy(copy, line, len + 1);
		if (take_second(copy, len, mark, &g->e)) {
			g->r->format = JOURNAL_FILE_SECOND;
			g->r->is_damaged = true;
			return true;
		}
	}
	if (!take_first(line, mark, &g->e))
		return false;
	if (!g->r->format)
		g->r->format = JOURNAL_FILE_FIRST;
	return true;
}

/* @line ends with NUL, which was the line's end; Return: as take_first_line() */
static bool take_line(struct reading *g, char *line, size_t len)
{
	struct journal_reader *r = g->r;
	unsigned int mark;
	bool is_good;

	if (!len || *line == '#')
		return true;
	if (!g->has_line) {
		if (!take_first_line(g, line, len))
			return false;
		if (g->has_header)
			return true;
	}
	if (g->has_bad && r->format != JOURNAL_FILE_FIRST)
		r->is_damaged = true;
	is_good = g->has_header ? take_second(line, len, &mark, &g->e) : take_either(g, line, len, &mark);
	g->has_bad = !is_good;
	if (is_good)
		r->take(r->arg, mark, &g->e);
	return true;
}

/* Return: how many bytes of @text were whole lines, or a negative errno. */
static ssize_t take_lines(struct reading *g, char *text, size_t len)
{
	char *line = text, *end;

	while ((end = memchr(line, '\n', len - (size_t)(line - text)))) {
		*end = '\0';
		if (!take_line(g, line, (size_t)(end - line)))
			return -EPROTONOSUPPORT;
		g->at += end + 1 - line;
		line = end + 1;
		if (!g->has_bad)
			g->r->end = g->at;
	}
	return line - text;
}

/**
 * journal_file_read() - read a file of either format
 * @kind: as in journal_file_header()
 * @r: @take and @arg are the caller's, the rest is filled in
 *
 * Return: 0, also where there is no file; -EPROTONOSUPPORT: a later vmferryd wrote it; another negative errno: it
 * cannot be read to its end.
 */
int journal_file_read(const char *path, const char *kind, struct journal_reader *r)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
	CLEANUP_FREE char *text = malloc(BLOCK);
	struct reading g = { .r = r, .kind = kind };
	size_t len = 0;
	ssize_t n;

	*r = (struct journal_reader){ .take = r->take, .arg = r->arg };
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!text)
		return -ENOMEM;
	while ((n = read(fd, text + len, BLOCK - len)) > 0) {
		len += (size_t)n;
		n = take_lines(&g, text, len);
		if (n < 0)
			return (int)n;
		len -= (size_t)n;
		memmove(text, text + n, len);
		if (len < BLOCK)
			continue;
		/* No line is so long: it is a hole, or the room that was preallocated. */
		g.at += (off_t)len;
		g.has_bad = true;
		len = 0;
	}
	if (n < 0)
		return -errno;
	/* One bad line, without a good one before it, is all that a file without a header has. */
	if (g.has_line && !r->format)
		r->format = JOURNAL_FILE_SECOND, r->is_damaged = true;
	return 0;
}
