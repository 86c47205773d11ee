/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CONTROL_JOURNAL_MARKS_H
#define CONTROL_JOURNAL_MARKS_H

#include <stddef.h>
#include <sys/types.h>

/**
 * struct journal_marks - the file on the tmpfs that gets each decision at once
 * @fd: -1: there is none
 * @at: where the next line goes; the loop's
 * @room, @map, @map_len: what is preallocated and kept in memory; the caller's of journal_marks_make_room()
 */
struct journal_marks {
	char *path, *new_path;
	int fd;
	off_t at;
	off_t room;
	void *map;
	size_t map_len;
};

int journal_marks_create(struct journal_marks *m, const char *path);
int journal_marks_continue(struct journal_marks *m, const char *path, off_t end);
int journal_marks_commit(struct journal_marks *m);
int journal_marks_write(struct journal_marks *m, const char *text, size_t len);
void journal_marks_make_room(struct journal_marks *m, off_t at);
void journal_marks_abandon(struct journal_marks *m);
void journal_marks_close(struct journal_marks *m);

#endif
