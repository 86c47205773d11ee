// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Do a guest's vCPUs get a processor when they want one? Where others want it, too, each stop and
 * each start of a thread takes as long as theirs have their turn: milliseconds, which nobody who
 * times a blackout from the outside sees, and which a small limit cannot spare.
 *
 * The scheduler counts, for every thread, how long it was ready to run and did not, and how
 * often it got its turn (Documentation/scheduler/sched-stats.rst). Two looks make a mean. A wait
 * is counted when it ends, so some of it may be from before the first look. Where it is more than
 * twice the time between them it is none: threads that went to sleep may be left on the queue for
 * a while (EEVDF's delayed dequeue), and are counted as waiting there.
 */
#include "runqueue.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/deadline.h"

#define SELDOM 8 /* a thread that waits less than such a part of its time is served at once, as a rule */

static void look_at(struct runqueue_look *l, int task, const char *tid)
{
	char path[64], text[80];
	uint64_t ran;
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "%.20s/schedstat", tid);
	fd = openat(task, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return; /* it has ended */
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return;
	text[n] = '\0';
	if (sscanf(text, "%" SCNu64 " %" SCNu64 " %" SCNu64, &ran, &l->thread[l->nr].waited_ns,
		   &l->thread[l->nr].slices) == 3)
		l->thread[l->nr++].tid = (uint32_t)strtoul(tid, NULL, 10);
}

/** runqueue_look() - at all threads of process @pid; a kernel that does not count shows none */
void runqueue_look(struct runqueue_look *l, int pid)
{
	struct dirent *e;
	char path[32];
	DIR *d;

	l->nr = 0;
	l->at_ns = now_ns();
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	d = opendir(path);
	if (!d)
		return;
	while (l->nr < RUNQUEUE_THREADS && (e = readdir(d)))
		if (e->d_name[0] != '.')
			look_at(l, dirfd(d), e->d_name);
	closedir(d);
}

/**
 * runqueue_wait_ns() - how long, in the mean, the thread that waited longest between two looks
 * had to wait for its turn; 0: none had to, worth speaking of
 */
uint64_t runqueue_wait_ns(const struct runqueue_look *before, const struct runqueue_look *now)
{
	uint64_t worst = 0, between = now->at_ns - before->at_ns;

	for (unsigned int i = 0; i < now->nr; i++)
		for (unsigned int k = 0; k < before->nr; k++) {
			uint64_t waited = now->thread[i].waited_ns - before->thread[k].waited_ns;
			uint64_t slices = now->thread[i].slices - before->thread[k].slices;

			if (now->thread[i].tid != before->thread[k].tid || !slices)
				continue;
			if (waited > between / SELDOM && waited <= 2 * between && waited / slices > worst)
				worst = waited / slices;
		}
	return worst;
}
