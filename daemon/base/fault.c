// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Fault points: a test stops a thread of the daemon at a named place for as long as it likes.
 *
 * Theory of operation: the environment variable VMFERRY_FAULTS names a folder. While that folder
 * has a file NAME, a thread that reaches fault_point("NAME") makes a file NAME.held and waits until
 * NAME is gone. Without the variable a fault point costs one comparison. Only works of base/worker.h and
 * other threads that may block have fault points; the loop has none.
 */
#include "fault.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

/** fault_point() - waits while a test holds the point @name; not for the loop's thread */
void fault_point(const char *name)
{
	const char *folder = secure_getenv("VMFERRY_FAULTS");
	char path[512], held[520];
	int fd;

	if (!folder || (size_t)snprintf(path, sizeof(path), "%s/%s", folder, name) >= sizeof(path))
		return;
	if (access(path, F_OK))
		return;
	snprintf(held, sizeof(held), "%s.held", path);
	fd = open(held, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	if (fd >= 0)
		close(fd);
	while (!access(path, F_OK))
		nanosleep(&(struct timespec){ .tv_nsec = 5000000 }, NULL);
	unlink(held);
}
