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
static atomic_bool fail_ftruncate, fail_fdatasync, fail_marks, fail_new_marks;

int __real_ftruncate(int fd, off_t len);
int __real_fdatasync(int fd);
int __wrap_ftruncate(int fd, off_t len);
int __wrap_fdatasync(int fd);
ssize_t __real_pwrite(int fd, const void *text, size_t len, off_t at);
ssize_t __wrap_pwrite(int fd, const void *text, size_t len, off_t at);

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

static bool is_new_file(int fd)
{
	char link[64], name[128];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, name, sizeof(name));
	return n > 4 && !memcmp(name + n - 4, ".new", 4);
}

/* Of the marks alone: the journal appends by write(). */
ssize_t __wrap_pwrite(int fd, const void *text, size_t len, off_t at)
{
	if (!fail_marks && !(fail_new_marks && is_new_file(fd)))
		return __real_pwrite(fd, text, len, at);
	errno = ENOSPC;
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

/* The marks are on a tmpfs, as a daemon's are. */
static int setup_tmpfs(void **state)
{
	(void)state;
	return setup_in("/dev/shm");
}

static int teardown_ends(void **state)
{
	fail_ftruncate = fail_fdatasync = fail_marks = fail_new_marks = false;
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

/* The file ends before the first line that begins with @what, if that is not ""; with @len bytes of comments. */
static void cut_at(const char *what, int len)
{
	static const char padding[64] = "##############################################################\n";
	char text[16384];
	int fd = open(path, O_RDWR | O_APPEND);
	ssize_t n = read(fd, text, sizeof(text) - 1);
	char *at;

	assert_true(n > 0);
	text[n] = '\0';
	at = *what ? strstr(text, what) : text + n;
	assert_non_null(at);
	assert_int_equal(ftruncate(fd, at - text), 0);
	for (; len > 0; len -= 63)
		assert_int_equal(write(fd, padding, 63), 63);
	close(fd);
}

/*
 * The daemon before has written "go", and no sync has covered it. The next start finds it, but its first write fails, and
 * so does all until the disk has lost the line. The marks still have it. Seen to fail: with only what the file lacks
 * written to the disk, or to the new marks: "begun" proves then that GO was not heard, which it was.
 */
static void what_no_sync_has_covered_stays_in_the_marks(void **state)
{
	struct journal *j = open_journal();

	(void)state;
	assert_int_equal(begin(j, id1, JOURNAL_DESTINATION, "web1", ""), 0);
	assert_int_equal(sync_now(j), 0);
	assert_int_equal(journal_note(j, id1, JOURNAL_DESTINATION, JOURNAL_GO), 0);
	assert_int_equal(begin(j, id2, JOURNAL_SOURCE, "web2", "tcp:h:2"), 0);
	close_journal(j);
	cut_at("begun 0200", 8192); /* the next start has something to write, and cannot */
	limit_files(4096);
	j = open_journal();
	assert_non_null(strstr(journal_why(j), strerror(EFBIG)));
	assert_int_equal(journal_find(j, id1, JOURNAL_DESTINATION)->mark, JOURNAL_GO);
	close_journal(j);
	limit_files(LIFT);
	cut_at("go 0100", 0);
	for (int again = 0; again < 2; again++) {
		j = open_journal();
		assert_string_equal(journal_why(j), "");
		assert_int_equal(journal_find(j, id1, JOURNAL_DESTINATION)->mark, JOURNAL_GO);
		assert_false(journal_proves_no_go(j, journal_find(j, id1, JOURNAL_DESTINATION)));
		assert_non_null(journal_find(j, id2, JOURNAL_SOURCE));
		close_journal(j);
	}
}

/*
 * The same where the daemon before was told that the sync has failed: the kernel says that all is well from then on. Seen
 * to fail: as above.
 */
static void what_a_failed_sync_should_have_covered_is_written_again(void **state)
{
	struct journal *j = open_journal();
	off_t size;

	(void)state;
	assert_int_equal(begin(j, id1, JOURNAL_DESTINATION, "web1", ""), 0);
	assert_int_equal(sync_now(j), 0);
	fail_fdatasync = true;
	assert_int_equal(journal_note(j, id1, JOURNAL_DESTINATION, JOURNAL_GO), 0);
	assert_int_equal(sync_now(j), -EIO);
	fail_fdatasync = false;
	close_journal(j);
	size = size_of(path);
	j = open_journal(); /* the file has "go" in the kernel's cache */
	assert_true(size_of(path) > size);
	close_journal(j);
}

/*
 * As the first, of an entry that was dropped: it does not come back. Seen to fail: with what is dropped left out where the
 * file has no such entry any more.
 */
static void an_entry_that_was_dropped_does_not_come_back(void **state)
{
	struct journal *j = open_journal();

	(void)state;
	assert_int_equal(begin(j, id1, JOURNAL_SOURCE, "web1", "tcp:h:1"), 0);
	assert_int_equal(sync_now(j), 0);
	j = open_again(open_again(j)); /* the marks lack it now */
	assert_int_equal(journal_settled(j, id1, JOURNAL_SOURCE), 0);
	close_journal(j);
	cut_at("", 8192);
	limit_files(4096);
	close_journal(open_journal());
	limit_files(LIFT);
	cut_at("settled 0100", 0);
	j = open_journal();
	assert_int_equal(journal_nr_kept(j), 0);
	close_journal(j);
}

/* ---- the marks ---- */

/* A crash in the middle of a write: what it leaves is no line. */
static void tear_marks(void)
{
	char text[65536], junk[3000];
	int fd = open(marks, O_RDWR);
	ssize_t n = read(fd, text, sizeof(text));

	assert_true(n > (ssize_t)sizeof(junk));
	while (n && !text[n - 1])
		n--;
	memset(junk, 'x', sizeof(junk));
	assert_int_equal(__real_pwrite(fd, junk, sizeof(junk), n), sizeof(junk));
	close(fd);
}

/*
 * A tmpfs without room for a new file ends no start, and stops no migration as long as the old file has room: it goes on.
 * What stood there stays, what was torn is no line's beginning, and what was proven is. Seen to fail: without
 * continue_marks(); with the old file's beginning written over.
 */
static void marks_that_cannot_begin_anew_go_on(void **state)
{
	struct journal *j = open_journal();

	(void)state;
	assert_int_equal(begin(j, id1, JOURNAL_DESTINATION, "web1", ""), 0);
	assert_int_equal(begin(j, id2, JOURNAL_SOURCE, "web2", "tcp:h:2"), 0);
	assert_int_equal(sync_now(j), 0);
	close_journal(j);
	tear_marks();
	fail_new_marks = true;
	for (int again = 0; again < 2; again++) {
		j = open_journal();
		assert_string_equal(journal_why(j), "");
		assert_true(journal_proves_no_go(j, journal_find(j, id1, JOURNAL_DESTINATION)));
		assert_int_equal(begin(j, id3, JOURNAL_SOURCE, "web3", "tcp:h:3"), 0);
		assert_int_equal(journal_note(j, id2, JOURNAL_SOURCE, JOURNAL_GO), 0);
		assert_int_equal(sync_now(j), 0);
		close_journal(j);
	}
	fail_new_marks = false;
	unlink(path);
	j = open_journal(); /* the marks alone must do */
	assert_int_equal(journal_nr_kept(j), 3);
	assert_int_equal(journal_find(j, id2, JOURNAL_SOURCE)->mark, JOURNAL_GO);
	assert_int_equal(journal_find(j, id3, JOURNAL_SOURCE)->mark, JOURNAL_BEGUN);
	close_journal(j);
}

/*
 * No room, and no marks that may go on, as after a loss of power: the daemon starts, knows all, notes nothing and says why.
 * With room again the next decision is noted. Seen to fail: with journal_open() that fails; without the next try in
 * record(); with old marks removed that the disk lacks.
 */
static void a_tmpfs_that_takes_nothing_ends_no_start(void **state)
{
	struct journal *j = open_journal();

	(void)state;
	assert_int_equal(begin(j, id1, JOURNAL_SOURCE, "web1", "tcp:h:1"), 0);
	assert_int_equal(sync_now(j), 0);
	assert_int_equal(journal_note(j, id1, JOURNAL_SOURCE, JOURNAL_GO), 0);
	close_journal(j);
	boot[0]++;
	fail_marks = fail_fdatasync = true; /* the old marks are the only place that has "go" for sure */
	for (int again = 0; again < 3; again++) {
		j = open_journal();
		assert_int_equal(journal_find(j, id1, JOURNAL_SOURCE)->mark, JOURNAL_GO);
		assert_int_equal(begin(j, id2, JOURNAL_DESTINATION, "web2", ""), -ENOSPC);
		assert_int_equal(journal_note(j, id1, JOURNAL_SOURCE, JOURNAL_NEVER), -ENOSPC);
		assert_int_equal(journal_find(j, id1, JOURNAL_SOURCE)->mark, JOURNAL_GO);
		assert_int_equal(journal_nr_kept(j), 1);
		assert_non_null(strstr(journal_why(j), strerror(fail_fdatasync ? EIO : ENOSPC)));
		if (again == 2)
			break;
		close_journal(j);
		cut_at("go 0100", 0);
		fail_fdatasync = !again; /* the third time the disk works */
	}
	fail_marks = false;
	assert_int_equal(begin(j, id2, JOURNAL_DESTINATION, "web2", ""), 0);
	assert_string_equal(journal_why(j), "");
	assert_true(journal_proves_no_go(j, journal_find(j, id2, JOURNAL_DESTINATION)));
	assert_int_equal(sync_now(j), 0);
	j = open_again(j);
	assert_int_equal(journal_find(j, id1, JOURNAL_SOURCE)->mark, JOURNAL_GO);
	assert_true(journal_proves_no_go(j, journal_find(j, id2, JOURNAL_DESTINATION)));
	close_journal(j);
}

/*
 * The journal is gone, and gets another id, but its marks cannot begin anew: the next start does not read the old ones,
 * which have an id that peers know. Seen to fail: without unlink() in journal_begin_marks().
 */
static void marks_that_must_not_go_on_are_not_read_again(void **state)
{
	struct journal *j = open_journal();
	uint8_t first[16], second[16], third[16];

	(void)state;
	assert_int_equal(begin(j, id1, JOURNAL_DESTINATION, "web1", ""), 0);
	assert_int_equal(journal_drop(j, id1, JOURNAL_DESTINATION), 0);
	journal_id(j, first);
	close_journal(j);
	unlink(path);
	fail_marks = true;
	j = open_journal();
	journal_id(j, second);
	assert_memory_not_equal(first, second, 16);
	fail_marks = false;
	j = open_again(j);
	journal_id(j, third);
	assert_memory_equal(second, third, 16);
	close_journal(j);
}

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

/* ---- the list ---- */

/*
 * Somebody reads the entries page by page while they are dropped and added: each that stays is read once, and the list has
 * an end. Seen to fail: with the oldest after an entry that is gone; with the end of the list; with the next one of an
 * entry that was added again, from any place; with numbers that the files' lines overwrite.
 */
static void a_list_goes_on_behind_an_entry_that_is_gone(void **state)
{
	struct journal *j = open_journal();
	struct journal_entry was;
	const struct journal_entry *e;
	uint8_t id[16] = { 6 };
	int nr = 0;

	(void)state;
	for (int n = 0; n < 10; n++) {
		id[1] = (uint8_t)n;
		assert_int_equal(begin(j, id, JOURNAL_SOURCE, "web1", "tcp:h:1"), 0);
	}
	assert_int_equal(sync_now(j), 0);
	j = open_again(open_again(j)); /* from the marks, then from the disk */
	for (e = journal_next(j, NULL); e; e = journal_next(j, &was)) {
		was = *e;
		if (was.id[0] == 6)
			assert_int_equal(was.id[1], nr++);
		if (nr % 2)
			assert_int_equal(journal_settled(j, was.id, JOURNAL_SOURCE), 0);
		if (nr == 5 || nr == 7) /* that very one is added again: it is the newest now */
			assert_int_equal(begin(j, was.id, JOURNAL_SOURCE, "web1", "tcp:h:1"), 0);
		if (nr == 8) {
			id[0] = 7;
			assert_int_equal(begin(j, id, JOURNAL_SOURCE, "web1", "tcp:h:1"), 0);
			break;
		}
	}
	assert_int_equal(nr, 8);
	for (e = journal_next(j, &was); e; e = journal_next(j, e))
		nr++;
	assert_int_equal(nr, 13); /* two, the two that were added again, and a new one */
	close_journal(j);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_torn_line_that_stays_swallows_no_other, setup, teardown_ends),
		cmocka_unit_test_setup_teardown(only_a_sync_says_that_all_is_well, setup, teardown_ends),
		cmocka_unit_test_setup_teardown(what_no_sync_has_covered_stays_in_the_marks, setup, teardown_ends),
		cmocka_unit_test_setup_teardown(what_a_failed_sync_should_have_covered_is_written_again, setup, teardown_ends),
		cmocka_unit_test_setup_teardown(an_entry_that_was_dropped_does_not_come_back, setup, teardown_ends),
		cmocka_unit_test_setup_teardown(marks_that_cannot_begin_anew_go_on, setup_tmpfs, teardown_ends),
		cmocka_unit_test_setup_teardown(a_tmpfs_that_takes_nothing_ends_no_start, setup, teardown_ends),
		cmocka_unit_test_setup_teardown(marks_that_must_not_go_on_are_not_read_again, setup, teardown_ends),
		cmocka_unit_test_setup_teardown(marks_that_go_on_have_room, setup_tmpfs, teardown_ends),
		cmocka_unit_test_setup_teardown(a_list_goes_on_behind_an_entry_that_is_gone, setup, teardown_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
