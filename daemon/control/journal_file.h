/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CONTROL_JOURNAL_FILE_H
#define CONTROL_JOURNAL_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "journal.h"

#define JOURNAL_LINE_ROOM 1400 /* bytes; the longest line has 1,130 of them */

/** enum journal_line - what a line says; the first ones are enum journal_mark's */
enum journal_line {
	JOURNAL_LINE_SETTLED = JOURNAL_NEVER + 1, /* the other side knows the outcome: the entry is dropped */
	JOURNAL_LINE_FORGOT,			  /* the operator drops it; the journal has another id from here on */
	JOURNAL_LINE_NR,
};

/** enum journal_format - what was found at a path */
enum journal_format {
	JOURNAL_FILE_NONE, /* no file, or none with a line */
	JOURNAL_FILE_FIRST, /* lines without a header and without sums, as written before format 2 */
	JOURNAL_FILE_SECOND,
};

/**
 * struct journal_reader - a file that is being read, and what was found
 * @take: called for each whole line, in order; with JOURNAL_LINE_FORGOT, @e->peer_journal is the journal's new id
 * @format: of the file
 * @is_damaged: something that was written cannot be read; false for the last line, which a crash may tear
 * @first, @second: the two ids of the header: journal and machine, or stamp and boot
 * @end: bytes up to the end of the last whole line
 */
struct journal_reader {
	void (*take)(void *arg, unsigned int line, const struct journal_entry *e);
	void *arg;
	enum journal_format format;
	bool is_damaged;
	uint8_t first[16], second[16];
	off_t end;
};

int journal_file_read(const char *path, const char *kind, struct journal_reader *r);
size_t journal_file_header(char text[JOURNAL_LINE_ROOM], const char *kind, const uint8_t first[16],
			   const uint8_t second[16]);
size_t journal_file_line(char text[JOURNAL_LINE_ROOM], unsigned int line, const struct journal_entry *e,
			 uint64_t when_s, const uint8_t peer_journal[16]);

#endif
