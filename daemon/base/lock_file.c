// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A file that one process holds: two daemons never share a folder.
 *
 * Theory of operation: flock() on the file. The kernel gives the lock back when the process ends, however it ends. The
 * file stays: were it removed, a process that waits to open it could lock a file that nobody else finds. It has the
 * holder's pid as text, for the words alone: a disk that is full takes no text, and the lock holds all the same.
 */
#include "lock_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "cleanup.h"

struct lock_file {
	int fd;
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
	l->fd = take_fd(&fd);
	*out = l;
	return 0;
}

/** lock_file_release() - NULL is fine */
void lock_file_release(struct lock_file *l)
{
	if (!l)
		return;
	close(l->fd);
	free(l);
}
