/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef UNIT_JOURNAL_STEPS_H
#define UNIT_JOURNAL_STEPS_H
/* Steps of the journal's tests: its two files, its loop and its worker. Include it after cmocka.h. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/deadline.h"
#include "control/journal.h"

#define PATIENCE_S 240 /* a test that hangs is ended */

static char path[64], marks[80];
static const uint8_t zeros[16], id1[16] = { 1 }, id2[16] = { 2 }, id3[16] = { 3 };
static uint8_t boot[16], machine[16];
static struct loop *loop;
static struct worker *worker;
static int synced = 99;

static inline int try_to_open(struct journal **j)
{
	struct journal_config c = { .loop = loop, .worker = worker, .path = path, .marks_path = marks };

	memcpy(c.boot, boot, sizeof(boot));
	memcpy(c.machine, machine, sizeof(machine));
	return journal_open(&c, j);
}

static inline struct journal *open_journal(void)
{
	struct journal *j;

	assert_int_equal(try_to_open(&j), 0);
	return j;
}

static inline void close_journal(struct journal *j)
{
	assert_true(worker_drain(worker, now_ns() + PATIENCE_S * NS_PER_S));
	journal_close(j);
}

static inline struct journal *open_again(struct journal *j)
{
	close_journal(j);
	return open_journal();
}

static inline int begin(struct journal *j, const uint8_t id[16], enum journal_role role, const char *vm, const char *peer)
{
	struct journal_entry e = { .role = role };

	memcpy(e.id, id, sizeof(e.id));
	strcpy(e.vm, vm);
	strcpy(e.peer, peer);
	return journal_begin(j, &e);
}

static inline void on_synced(void *arg, int err)
{
	(void)arg;
	synced = err;
	loop_stop(loop);
}

static inline int sync_now(struct journal *j)
{
	synced = 99;
	journal_sync(j, on_synced, NULL);
	assert_int_equal(loop_run(loop), 0);
	return synced;
}

static inline bool proves(struct journal *j, const uint8_t id[16], enum journal_role role)
{
	return journal_proves_no_go(j, journal_find(j, id, role));
}

/* Puts @byte in the place of the one at @at, counted from the end if negative. */
static inline void spoil(const char *file, off_t at)
{
	int fd = open(file, O_RDWR);
	char c;

	assert_true(fd >= 0);
	at = lseek(fd, at, at < 0 ? SEEK_END : SEEK_SET);
	assert_int_equal(pread(fd, &c, 1, at), 1);
	c ^= 1;
	assert_int_equal(pwrite(fd, &c, 1, at), 1);
	close(fd);
}

static inline void remove_files(void)
{
	static const char *const ends[] = { "", ".new", ".1", "-marks", "-marks.new" };
	char file[96];

	for (unsigned int i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
		snprintf(file, sizeof(file), "%s%s", path, ends[i]);
		unlink(file);
	}
}

static inline int setup_in(const char *folder)
{
	alarm(PATIENCE_S);
	snprintf(path, sizeof(path), "%s/vmferry-journal-%d", folder, getpid());
	snprintf(marks, sizeof(marks), "%s-marks", path);
	remove_files();
	memset(boot, 'b', sizeof(boot));
	memset(machine, 'm', sizeof(machine));
	loop = loop_new();
	return !loop || worker_open(loop, &worker);
}

static inline int setup(void **state)
{
	(void)state;
	return setup_in("/tmp");
}

static inline int teardown(void **state)
{
	(void)state;
	remove_files();
	worker_close(worker);
	loop_free(loop);
	alarm(0);
	return 0;
}

#endif
