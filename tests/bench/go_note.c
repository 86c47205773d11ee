// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What it costs to write GO down while the guest stands still: NOTES notes by the daemon's own journal, each of a migration
 * of its own that was synced before. The marks are in RUN-DIR, as the daemon's are on a tmpfs; the journal is in
 * STATE-DIR, on a disk. Prints nanoseconds: the median, the 99th percentile, the longest.
 *   go_note NOTES RUN-DIR STATE-DIR
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/deadline.h"
#include "control/journal.h"

static struct loop *loop;

static void fail(const char *what, int err)
{
	fprintf(stderr, "go_note: %s: %s\n", what, strerror(-err));
	exit(1);
}

static void on_synced(void *arg, int err)
{
	(void)arg;
	if (err)
		fail("sync", err);
	loop_stop(loop);
}

/* Return: ns */
static uint64_t one(struct journal *j, unsigned int n)
{
	struct journal_entry e = { .role = JOURNAL_SOURCE, .vm = "web1", .peer = "tcp:192.0.2.1:4747" };
	uint64_t began;
	int err;

	memcpy(e.id, &n, sizeof(n));
	err = journal_begin(j, &e);
	if (err)
		fail("begin", err);
	journal_sync(j, on_synced, NULL);
	loop_run(loop);
	began = now_ns();
	err = journal_note(j, e.id, JOURNAL_SOURCE, JOURNAL_GO);
	began = now_ns() - began;
	if (!err)
		err = journal_note(j, e.id, JOURNAL_SOURCE, JOURNAL_DONE);
	if (!err)
		err = journal_settled(j, e.id, JOURNAL_SOURCE);
	if (err)
		fail("note", err);
	return began;
}

static int by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
	unsigned int nr = argc == 4 ? (unsigned int)atoi(argv[1]) : 0;
	struct journal_config c = { .boot = "bench" };
	uint64_t *ns = calloc(nr ? nr : 1, sizeof(*ns));
	char path[300], marks[300];
	struct journal *j;
	int err;

	if (!nr || !ns) {
		fprintf(stderr, "usage: go_note NOTES RUN-DIR STATE-DIR\n");
		return 2;
	}
	snprintf(path, sizeof(path), "%s/go-note-%d", argv[3], getpid());
	snprintf(marks, sizeof(marks), "%s/go-note-%d-marks", argv[2], getpid());
	c.path = path;
	c.marks_path = marks;
	c.loop = loop = loop_new();
	if (!loop || worker_open(loop, &c.worker))
		fail("start", -ENOMEM);
	err = journal_open(&c, &j);
	if (err)
		fail(path, err);
	for (unsigned int n = 0; n < nr; n++)
		ns[n] = one(j, n);
	worker_drain(c.worker, now_ns() + 60 * NS_PER_S);
	journal_close(j);
	worker_close(c.worker);
	loop_free(loop);
	unlink(path);
	unlink(marks);
	qsort(ns, nr, sizeof(*ns), by_size);
	printf("%llu %llu %llu\n", (unsigned long long)ns[nr / 2], (unsigned long long)ns[nr * 99ULL / 100],
	       (unsigned long long)ns[nr - 1]);
	free(ns);
	return 0;
}
