// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The marks: a decision costs one write to a file on a tmpfs, without an allocation.
 *
 * Theory of operation
 *
 *   journal_marks_create()     a new file beside the old one
 *   journal_marks_write()      its header, and what the journal on the disk lacks
 *   journal_marks_commit()     takes the old one's place: a crash finds either of them whole
 *   journal_marks_write()      one line each
 *
 * A tmpfs that is full has no page for a new file. The old one goes on then: what was preallocated there has room.
 *
 *   journal_marks_abandon()    the new file goes
 *   journal_marks_continue()   the old one, behind its last whole line
 *
 * The file is preallocated and locked in memory. A line needs no page then, and none that was swapped out. What is not
 * written yet reads as zeros. journal_marks_make_room() preallocates more before a sync is answered, never between stop
 * and GO. A work calls it while the loop may write: it touches neither @at nor the bytes before the room.
 */
#include "journal_marks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"

#define AHEAD (64 << 10) /* bytes preallocated at a time, some 300 lines */

static void unlock_room(struct journal_marks *m)
{
	if (m->map)
		munmap(m->map, m->map_len);
	m->map = NULL;
}

/* No page of it is swapped out from here on. */
static void lock_room(struct journal_marks *m, off_t room)
{
	void *map = room ? mmap(NULL, (size_t)room, PROT_READ, MAP_SHARED, m->fd, 0) : MAP_FAILED;

	if (map == MAP_FAILED)
		return;
	mlock(map, (size_t)room);
	unlock_room(m);
	m->map = map;
	m->map_len = (size_t)room;
}

/**
 * journal_marks_make_room() - preallocate what comes after @at
 *
 * A failure is ignored: journal_marks_write() works without, it only takes longer.
 */
void journal_marks_make_room(struct journal_marks *m, off_t at)
{
	off_t room = (at > m->room ? at : m->room) + AHEAD; /* many lines may have come since the last time */

	/* Not posix_fallocate(): where it cannot preallocate, it writes, and the loop may write just there. */
	if (at + AHEAD / 2 < m->room || fallocate(m->fd, 0, 0, room))
		return;
	lock_room(m, room);
	m->room = room;
}

static int set_paths(struct journal_marks *m, const char *path)
{
	m->fd = -1;
	m->path = strdup(path);
	if (m->path && asprintf(&m->new_path, "%s.new", path) >= 0)
		return 0;
	m->new_path = NULL;
	return -ENOMEM;
}

/**
 * journal_marks_create() - begin a new file; journal_marks_commit() puts it in the place of @path
 * @m: zeroes; journal_marks_close() or journal_marks_abandon() is owed in any case
 */
int journal_marks_create(struct journal_marks *m, const char *path)
{
	int err = set_paths(m, path);

	if (err)
		return err;
	m->fd = open(m->new_path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (m->fd < 0)
		return -errno;
	journal_marks_make_room(m, 0);
	return 0;
}

/**
 * journal_marks_continue() - go on with the file at @path instead of a new one
 * @m: zeroes; journal_marks_close() is owed in any case
 * @end: of its last whole line; what a crash has torn behind it is written over, and does not count until then
 */
int journal_marks_continue(struct journal_marks *m, const char *path, off_t end)
{
	int err = set_paths(m, path);

	if (err)
		return err;
	m->fd = open(path, O_RDWR | O_CLOEXEC);
	if (m->fd < 0)
		return -errno;
	m->at = end;
	m->room = lseek(m->fd, 0, SEEK_END);
	lock_room(m, m->room);
	return 0;
}

int journal_marks_commit(struct journal_marks *m)
{
	return rename(m->new_path, m->path) ? -errno : 0;
}

/**
 * journal_marks_write() - one write into what is preallocated
 *
 * Return: 0, or a negative errno: the line is not there, and the next one takes its place.
 */
int journal_marks_write(struct journal_marks *m, const char *text, size_t len)
{
	static const char zeros[256];
	ssize_t done;
	int err;

	errno = ENOSPC; /* of a short write */
	done = pwrite(m->fd, text, len, m->at);
	if (done == (ssize_t)len) {
		m->at += done;
		return 0;
	}
	err = -errno;
	for (off_t at = m->at; done > 0;) {
		size_t n = (size_t)done < sizeof(zeros) ? (size_t)done : sizeof(zeros);

		if (pwrite(m->fd, zeros, n, at) != (ssize_t)n) {
			error_report("marks: a line that did not fit cannot be taken back: %s", strerror(errno));
			break;
		}
		at += (off_t)n;
		done -= (ssize_t)n;
	}
	return err;
}

/** journal_marks_abandon() - as journal_marks_close(), of a new file that is not to take the old one's place */
void journal_marks_abandon(struct journal_marks *m)
{
	if (m->new_path && m->fd >= 0)
		unlink(m->new_path);
	journal_marks_close(m);
}

/** journal_marks_close() - the file stays */
void journal_marks_close(struct journal_marks *m)
{
	unlock_room(m);
	if (m->path && m->fd >= 0)
		close(m->fd);
	free(m->path);
	free(m->new_path);
	*m = (struct journal_marks){ .fd = -1 };
}
