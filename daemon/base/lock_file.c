// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A file or a folder that one process holds: two daemons never share a folder.
 *
 * Theory of operation: flock() on the file. The kernel gives the lock back when the process ends, however it ends. The
 * file stays: were it removed, a process that waits to open it could lock a file that nobody else finds. It has the
 * holder's pid as text, for the words alone: a disk that is full takes no text, and the lock holds all the same.
 *
 * A folder is held by two locks: on the folder itself, and on the file "lock" in it. A disk that is full or read-only has
 * no room for a new file, and a network file system may lock no folder: one of the two is enough. The file comes second,
 * and an older daemon takes it alone.
 */
#include "lock_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "cleanup.h"

/** struct lock_file - @fd: of the file; @folder_fd: of its folder; -1: it is not held */
struct lock_file {
	int fd, folder_fd;
};

static pid_t read_holder(int fd)
{
	char text[32] = "";

	return pread(fd, text, sizeof(text) - 1, 0) > 0 ? (pid_t)strtol(text, NULL, 10) : 0;
}

/* What is left behind the line's end is of an older one. If it cannot be written, the file names nobody. */
static void write_holder(int fd)
{
	char text[32];
	int n = snprintf(text, sizeof(text), "%d\n", getpid());

	if (pwrite(fd, text, (size_t)n, 0) != n && ftruncate(fd, 0))
		return;
}

/**
 * lock_file_take() - hold @path until lock_file_release(), or until the process ends
 * @holder: with -EWOULDBLOCK, the pid of the process that holds it; 0: not known
 *
 * Return: 0; -EWOULDBLOCK: another holds it; or a negative errno: the file cannot be made.
 */
int lock_file_take(const char *path, struct lock_file **out, pid_t *holder)
{
	CLEANUP_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	struct lock_file *l;

	*holder = 0;
	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB)) {
		int err = -errno;

		*holder = read_holder(fd);
		return err;
	}
	l = malloc(sizeof(*l));
	if (!l)
		return -ENOMEM;
	write_holder(fd);
	*l = (struct lock_file){ .fd = take_fd(&fd), .folder_fd = -1 };
	*out = l;
	return 0;
}

/* Return: the descriptor that holds @folder, or a negative errno */
static int lock_folder_itself(const char *folder)
{
	CLEANUP_CLOSE int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB))
		return -errno;
	return take_fd(&fd);
}

static pid_t holder_of(const char *path)
{
	CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);

	return fd < 0 ? 0 : read_holder(fd);
}

static bool has_no_room(int err)
{
	return err == -ENOSPC || err == -EDQUOT || err == -EROFS;
}

/**
 * lock_folder_take() - hold @folder until lock_file_release(), or until the process ends
 * @holder: as with lock_file_take(), as far as the file "lock" in it tells
 *
 * Return: 0; -EWOULDBLOCK: another holds it; or a negative errno: neither the folder nor the file can be locked.
 */
int lock_folder_take(const char *folder, struct lock_file **out, pid_t *holder)
{
	CLEANUP_CLOSE int folder_fd = lock_folder_itself(folder);
	CLEANUP_FREE char *path = NULL;
	int err;

	*holder = 0;
	if (asprintf(&path, "%s/lock", folder) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	if (folder_fd == -EWOULDBLOCK) {
		*holder = holder_of(path);
		return -EWOULDBLOCK;
	}
	err = lock_file_take(path, out, holder);
	if (folder_fd >= 0 && has_no_room(err)) {
		*out = malloc(sizeof(**out));
		if (!*out)
			return -ENOMEM;
		**out = (struct lock_file){ .fd = -1 };
		err = 0;
	}
	if (!err)
		(*out)->folder_fd = take_fd(&folder_fd);
	return err;
}

/** lock_file_release() - NULL is fine */
void lock_file_release(struct lock_file *l)
{
	if (!l)
		return;
	if (l->fd >= 0)
		close(l->fd);
	if (l->folder_fd >= 0)
		close(l->folder_fd);
	free(l);
}
