// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: the journal holds at its ends: a disk or a tmpfs that fails in the middle of an operation loses no line, and
 * nothing is said or believed that is not true.
 * Each test names the change in the code with which it was seen to fail.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "journal_steps.h"

/* What the work calls, too: the disk and the tmpfs of a test fail as these say. */
static atomic_bool fail_ftruncate, fail_fdatasync;

int __real_ftruncate(int fd, off_t len);
int __real_fdatasync(int fd);
int __wrap_ftruncate(int fd, off_t len);
int __wrap_fdatasync(int fd);

int __wrap_ftruncate(int fd, off_t len)
{
	if (!fail_ftruncate)
		return __real_ftruncate(fd, len);
	errno = EIO;
	return -1;
}

int __wrap_fdatasync(int fd)
{
	if (!fail_fdatasync)
		return __real_fdatasync(fd);
	errno = EIO;
	return -1;
}

static struct rlimit limit_before;

/* No file of this process grows beyond @size; LIFT: as before. */
#define LIFT (-1)
static void limit_files(off_t size)
{
	struct rlimit l = limit_before;

	signal(SIGXFSZ, SIG_IGN);
	if (size == LIFT) {
		setrlimit(RLIMIT_FSIZE, &limit_before);
		return;
	}
	getrlimit(RLIMIT_FSIZE, &limit_before);
	l = limit_before;
	l.rlim_cur = (rlim_t)size;
	setrlimit(RLIMIT_FSIZE, &l);
}

static off_t size_of(const char *file)
{
	struct stat st;

	assert_int_equal(stat(file, &st), 0);
	return st.st_size;
}


static void drain(void)
{
	assert_true(worker_drain(worker, now_ns() + PATIENCE_S * NS_PER_S));
}

static int teardown_ends(void **state)
{
	fail_ftruncate = fail_fdatasync = false;
	if (limit_before.rlim_max)
		limit_files(LIFT);
	return teardown(state);
}

/* ---- the disk ---- */

/* Seen to fail: without must_end_line after ftruncate() has failed: the next line is a part of the torn one. */
static void a_torn_line_that_stays_swallows_no_other(void **state)
{
	struct journal *j = open_journal();

	(void)state;
	assert_int_equal(begin(j, id1, JOURNAL_SOURCE, "a-name-that-is-long", "tcp:a-host-that-is-long:4747"), 0);
	assert_int_equal(sync_now(j), 0);
	j = open_again(j); /* the marks are short now, and have room below the limit */
	limit_files(size_of(path) + 10);
	fail_ftruncate = true;
	assert_int_equal(begin(j, id2, JOURNAL_SOURCE, "w", "tcp:h:2"), 0);
	assert_int_equal(sync_now(j), -EFBIG);
	limit_files(LIFT);
	fail_ftruncate = false;
	assert_int_equal(sync_now(j), 0);
	close_journal(j);
	unlink(marks);
	j = open_journal();
	assert_int_equal(journal_nr_kept(j), 2);
	assert_int_equal(journal_find(j, id2, JOURNAL_SOURCE)->mark, JOURNAL_BEGUN);
	close_journal(j);
}

/*
 * A sync has failed. A write without a sync works, and says nothing of the next sync; only one that succeeds ends it, and
 * nobody has to ask for that. Seen to fail: with a sync for questions alone.
 */
static void only_a_sync_says_that_all_is_well(void **state)
{
	struct journal *j = open_journal();

	(void)state;
	fail_fdatasync = true;
	assert_int_equal(begin(j, id1, JOURNAL_SOURCE, "web1", "tcp:h:1"), 0);
	assert_int_equal(sync_now(j), -EIO);
	assert_non_null(strstr(journal_why(j), strerror(EIO)));
	assert_int_equal(journal_note(j, id1, JOURNAL_SOURCE, JOURNAL_GO), 0);
	drain();
	assert_non_null(strstr(journal_why(j), strerror(EIO)));
	fail_fdatasync = false;
	assert_int_equal(journal_note(j, id1, JOURNAL_SOURCE, JOURNAL_DONE), 0);
	drain();
	assert_string_equal(journal_why(j), "");
	close_journal(j);
}

/* ---- the marks ---- */

/* Bytes that are preallocated behind the last line. */
static off_t room_in_marks(void)
{
	off_t size = size_of(marks), at = size;
	char *text = malloc((size_t)size);
	int fd = open(marks, O_RDONLY);

	assert_int_equal(read(fd, text, (size_t)size), size);
	close(fd);
	while (at && !text[at - 1])
		at--;
	free(text);
	return size - at;
}

/*
 * Marks that are long would begin anew, but something is noted meanwhile: what comes between the stop and GO finds room
 * in the ones that go on. Seen to fail: with room made only if no new marks are prepared; with 64 KiB more than there
 * were, however many lines have come.
 */
static void marks_that_go_on_have_room(void **state)
{
	struct journal *j = open_journal();
	uint8_t id[16] = { 6 };

	(void)state;
	for (int n = 0; n < 4000; n++) {
		id[1] = (uint8_t)n;
		id[2] = (uint8_t)(n >> 8);
		assert_int_equal(begin(j, id, JOURNAL_SOURCE, "web1", "tcp:h:1"), 0);
		assert_int_equal(journal_settled(j, id, JOURNAL_SOURCE), 0);
	}
	drain();
	assert_int_equal(room_in_marks(), 0);
	journal_sync(j, on_synced, NULL);
	assert_int_equal(begin(j, id2, JOURNAL_DESTINATION, "web2", ""), 0);
	assert_int_equal(loop_run(loop), 0);
	assert_true(size_of(marks) > 1 << 20);
	assert_in_range(room_in_marks(), 16 << 10, 128 << 10);
	close_journal(j);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_torn_line_that_stays_swallows_no_other, setup, teardown_ends),
		cmocka_unit_test_setup_teardown(only_a_sync_says_that_all_is_well, setup, teardown_ends),
		cmocka_unit_test_setup_teardown(marks_that_go_on_have_room, setup, teardown_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
