// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: what is written in any format and with any byte is read again; history is compacted and damage is not; a disk
 * that takes nothing ends no start.
 * Each test names the change in the code with which it was seen to fail.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <linux/magic.h>
#include <sys/resource.h>
#include <sys/vfs.h>

#include "journal_steps.h"

/* The marks are on a tmpfs, as a daemon's are. */
static int setup_tmpfs(void **state)
{
	(void)state;
	return setup_in("/dev/shm");
}

/* Seen to fail: with a blank, a line's end, '%' or a byte over 0x7e written as it is; with "-" written as it is. */
static void any_byte_is_read_again(void **state)
{
	struct journal_entry e = { .role = JOURNAL_SOURCE };
	static const char *const names[] = { "-", "--", "%", "%41", " ", "", "a b", "x\n<3>go 00", "\xff\xfe", "#" };
	struct journal *j = open_journal();
	uint8_t id[16] = { 8 };

	(void)state;
	for (int from = 1; from < 256; from += 50) {
		int n = 0;

		for (int byte = from; byte < from + 50 && byte < 256; byte++)
			e.vm[n] = e.peer[n] = (char)byte, n++;
		e.vm[n] = e.peer[n] = '\0';
		memset(e.peer_journal, from, 16);
		e.id[0] = (uint8_t)from;
		assert_int_equal(journal_begin(j, &e), 0);
	}
	memset(e.vm, 0x80, sizeof(e.vm) - 1);
	memset(e.peer, ' ', sizeof(e.peer) - 1); /* the longest line */
	e.id[0] = 9;
	assert_int_equal(journal_begin(j, &e), 0);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		id[1] = (uint8_t)i;
		assert_int_equal(begin(j, id, JOURNAL_SOURCE, names[i], names[i]), 0);
	}
	for (int again = 0; again < 2; again++) {
		const struct journal_entry *found;

		j = open_again(j);
		for (int from = 1; from < 256; from += 50) {
			e.id[0] = (uint8_t)from;
			found = journal_find(j, e.id, JOURNAL_SOURCE);
			assert_non_null(found);
			assert_int_equal(strlen(found->vm), from == 251 ? 5 : 50);
			for (int n = 0; n < (from == 251 ? 5 : 50); n++) {
				assert_int_equal((uint8_t)found->vm[n], from + n);
				assert_int_equal((uint8_t)found->peer[n], from + n);
			}
			assert_int_equal(found->peer_journal[3], from);
			assert_in_range(found->when_s, 1600000000, 0xffffffffffffULL);
		}
		e.id[0] = 9;
		found = journal_find(j, e.id, JOURNAL_SOURCE);
		assert_string_equal(found->vm, e.vm);
		assert_string_equal(found->peer, e.peer);
		for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
			id[1] = (uint8_t)i;
			found = journal_find(j, id, JOURNAL_SOURCE);
			assert_non_null(found);
			assert_string_equal(found->vm, names[i]);
			assert_string_equal(found->peer, names[i]);
		}
	}
	close_journal(j);
}

static void copy(const char *from, const char *to)
{
	char text[4096];
	int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	ssize_t n = in < 0 ? -1 : read(in, text, sizeof(text));

	if (n <= 0)
		print_error("%s cannot be read: run this where the tree is\n", from);
	assert_true(n > 0);
	assert_int_equal(write(out, text, (size_t)n), n);
	close(in);
	close(out);
}

static bool is_on_tmpfs(const char *file)
{
	struct statfs st;

	assert_int_equal(statfs(file, &st), 0);
	return st.f_type == TMPFS_MAGIC;
}

/* @is_proven: its marks are on a tmpfs, as they are not where /dev/shm is a folder of a disk */
static void check_first_format(struct journal *j, bool is_proven)
{
	static const struct {
		const char *vm, *peer;
		enum journal_role role;
		enum journal_mark mark;
	} were[] = {
		{ "web1", "tcp:10.0.0.2:4747", JOURNAL_SOURCE, JOURNAL_BEGUN },
		{ "web2", "", JOURNAL_DESTINATION, JOURNAL_GO },
		{ "web3", "unix:/run/there", JOURNAL_SOURCE, JOURNAL_GO },
		{ "web4", "", JOURNAL_DESTINATION, JOURNAL_DONE },
		{ "web5", "tcp:[fe80::1]:4747", JOURNAL_SOURCE, JOURNAL_NEVER },
		{ "a name with spaces", "tcp:h:1", JOURNAL_SOURCE, JOURNAL_DONE },
		{ "web6", "", JOURNAL_DESTINATION, JOURNAL_BEGUN },
	};

	assert_int_equal(journal_nr_kept(j), 7);
	for (int i = 0; i < 7; i++) {
		const struct journal_entry *e;
		uint8_t id[16];

		for (int n = 0; n < 16; n++)
			id[n] = (uint8_t)(i * 16 + n);
		e = journal_find(j, id, were[i].role);
		assert_non_null(e);
		assert_string_equal(e->vm, were[i].vm);
		assert_string_equal(e->peer, were[i].peer);
		assert_int_equal(e->mark, were[i].mark);
		assert_int_equal(journal_proves_no_go(j, e), is_proven && e->mark == JOURNAL_BEGUN);
	}
}

/*
 * tests/unit/data/journal-1 was written by the daemon of the format before. It is kept beside the new one until that is
 * compacted. What its marks on a tmpfs say to have begun is proven: they are of this boot. Seen to fail: without
 * take_first(); without keep_first(); with the stamp for entries of the disk, too, or for none.
 */
static void a_journal_of_the_format_before_is_converted(void **state)
{
	char first[80];

	(void)state;
	snprintf(first, sizeof(first), "%s.1", path);
	for (int has_marks = 0; has_marks < 2; has_marks++) {
		struct journal *j;
		bool is_proven;

		copy("tests/unit/data/journal-1", path);
		if (has_marks)
			copy("tests/unit/data/journal-1", marks);
		is_proven = has_marks && is_on_tmpfs(marks);
		j = open_journal();
		for (int again = 0; again < 3; again++) {
			check_first_format(j, is_proven);
			assert_string_equal(journal_why(j), "");
			assert_int_equal(access(first, F_OK), 0);
			j = open_again(j);
		}
		for (int n = 0; n < 1000; n++) {
			const uint8_t id[16] = { 200, (uint8_t)n, (uint8_t)(n >> 8) };

			assert_int_equal(begin(j, id, JOURNAL_SOURCE, "web1", "tcp:h:1"), 0);
			assert_int_equal(journal_settled(j, id, JOURNAL_SOURCE), 0);
		}
		assert_int_equal(sync_now(j), 0);
		j = open_again(j);
		assert_int_not_equal(access(first, F_OK), 0);
		check_first_format(j, is_proven);
		close_journal(j);
		remove_files();
	}
}

/* A downgrade must not empty what it cannot read. Seen to fail: with take_first_line() that reads it as damaged. */
static void a_journal_of_a_later_format_is_left_alone(void **state)
{
	static const char header[] = "vmferry-journal 3 some thing";
	struct journal *j = open_journal();
	char line[64], text[64] = "";
	int fd;

	(void)state;
	assert_int_equal(begin(j, id1, JOURNAL_SOURCE, "web1", "tcp:h:1"), 0);
	close_journal(j);
	/* CRC-32C of the header: sums hold over versions. */
	snprintf(line, sizeof(line), "%s %s\n", header, "cbb7a2b2");
	fd = open(path, O_WRONLY | O_TRUNC);
	assert_int_equal(write(fd, line, strlen(line)), strlen(line));
	close(fd);
	assert_int_equal(try_to_open(&j), -EPROTONOSUPPORT);
	fd = open(path, O_RDONLY);
	assert_true(read(fd, text, sizeof(text) - 1) > 0);
	close(fd);
	assert_string_equal(text, line);
}

static off_t size_of(const char *file)
{
	struct stat st;

	assert_int_equal(stat(file, &st), 0);
	return st.st_size;
}

/*
 * Most of a file is history: it is written anew, while it runs and at start-up, and what is live stays. Seen to fail:
 * with journal_disk_is_wasteful() false; with marks that never begin anew.
 */
static void history_is_compacted(void **state)
{
	struct journal *j = open_journal();
	uint8_t id[16] = { 6 }, before[16], after[16];

	(void)state;
	assert_int_equal(begin(j, id1, JOURNAL_SOURCE, "web1", "tcp:h:1"), 0);
	assert_int_equal(journal_note(j, id1, JOURNAL_SOURCE, JOURNAL_GO), 0);
	journal_id(j, before);
	for (int n = 0; n < 4000; n++) {
		id[1] = (uint8_t)n;
		id[2] = (uint8_t)(n >> 8);
		assert_int_equal(begin(j, id, JOURNAL_SOURCE, "web1", "tcp:h:1"), 0);
		assert_int_equal(journal_settled(j, id, JOURNAL_SOURCE), 0);
		if (n % 100 == 99)
			assert_int_equal(sync_now(j), 0);
	}
	assert_true(worker_drain(worker, now_ns() + PATIENCE_S * NS_PER_S));
	assert_true(size_of(path) < 100000);
	assert_true(size_of(marks) < 1 << 20);
	assert_int_equal(begin(j, id2, JOURNAL_DESTINATION, "web2", ""), 0);
	assert_int_equal(sync_now(j), 0);
	for (int again = 0; again < 2; again++) {
		j = open_again(j);
		journal_id(j, after);
		assert_memory_equal(before, after, 16);
		assert_int_equal(journal_nr_kept(j), 2);
		assert_int_equal(journal_find(j, id1, JOURNAL_SOURCE)->mark, JOURNAL_GO);
		assert_true(proves(j, id2, JOURNAL_DESTINATION));
	}
	close_journal(j);
}

static void grow_history(struct journal *j, int from)
{
	uint8_t id[16] = { 6 };

	for (int n = from; n < from + 1000; n++) {
		id[1] = (uint8_t)n;
		id[2] = (uint8_t)(n >> 8);
		assert_int_equal(begin(j, id, JOURNAL_SOURCE, "web1", "tcp:h:1"), 0);
		assert_int_equal(journal_settled(j, id, JOURNAL_SOURCE), 0);
	}
	assert_int_equal(sync_now(j), 0);
	assert_true(worker_drain(worker, now_ns() + PATIENCE_S * NS_PER_S));
}

/*
 * The file loses a line, or all, while the daemon runs: a compaction does not hide that behind the same id. Seen to fail:
 * without refuse_damage(); without its look at the damage. Its look at the end is not tested.
 */
static void damage_is_not_compacted_away(void **state)
{
	(void)state;
	for (int i = 0; i < 3; i++) {
		struct journal *j = open_journal();
		uint8_t before[16], after[16];
		off_t size;

		assert_int_equal(begin(j, id1, JOURNAL_DESTINATION, "web1", ""), 0);
		assert_int_equal(journal_note(j, id1, JOURNAL_DESTINATION, JOURNAL_DONE), 0);
		journal_id(j, before);
		assert_int_equal(sync_now(j), 0);
		if (i == 0)
			spoil(path, -20);
		else if (i == 1)
			unlink(path);
		grow_history(j, 0);
		if (i == 2) {
			assert_int_equal(begin(j, id2, JOURNAL_DESTINATION, "web2", ""), 0);
			assert_int_equal(sync_now(j), 0);
			spoil(path, -20);
		}
		size = i == 1 ? 0 : size_of(path);
		grow_history(j, 1000);
		assert_true(i == 1 ? access(path, F_OK) != 0 : size_of(path) > size);
		close_journal(j);
		unlink(marks); /* the host loses power */
		boot[0]++;
		j = open_journal();
		journal_id(j, after);
		assert_memory_not_equal(before, after, 16);
		close_journal(j);
		remove_files();
	}
}

/* ---- a disk that takes nothing ---- */

/* Comments up to 8 KiB, and the disk has no "go": it lags behind the marks. */
static void let_the_disk_lag(void)
{
	static const char padding[64] = "##############################################################\n#";
	char text[4096];
	int fd = open(path, O_RDWR | O_APPEND);
	ssize_t n = read(fd, text, sizeof(text) - 1);
	char *go;

	assert_true(n > 0);
	text[n] = '\0';
	go = strstr(text, "\ngo ");
	assert_non_null(go);
	assert_int_equal(ftruncate(fd, go + 1 - text), 0);
	for (int i = 0; i < 128; i++)
		assert_int_equal(write(fd, padding, 63), 63);
	close(fd);
}

/*
 * The daemon starts, knows all, proves what it proved, and promises nothing; as often as it starts. With room again the
 * disk gets what it lacks. Seen to fail: with an error of journal_disk_open() returned by start(); with new marks that
 * lack what the disk could not take; with a new stamp then.
 */
static void a_disk_that_takes_nothing_ends_no_start(void **state)
{
	struct journal *j = open_journal();
	struct rlimit before, small;
	uint8_t id[16], same[16];

	(void)state;
	assert_int_equal(begin(j, id2, JOURNAL_DESTINATION, "web2", ""), 0);
	assert_int_equal(begin(j, id1, JOURNAL_SOURCE, "web1", "tcp:h:1"), 0);
	assert_int_equal(sync_now(j), 0);
	assert_int_equal(journal_note(j, id1, JOURNAL_SOURCE, JOURNAL_GO), 0);
	journal_id(j, id);
	close_journal(j);
	let_the_disk_lag();
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &before);
	small = before;
	small.rlim_cur = 4096;
	setrlimit(RLIMIT_FSIZE, &small);
	for (int again = 0; again < 3; again++) {
		j = open_journal();
		assert_non_null(strstr(journal_why(j), strerror(EFBIG)));
		assert_int_equal(journal_find(j, id1, JOURNAL_SOURCE)->mark, JOURNAL_GO);
		assert_true(proves(j, id2, JOURNAL_DESTINATION));
		journal_id(j, same);
		assert_memory_equal(id, same, 16);
		assert_int_equal(begin(j, id3, JOURNAL_SOURCE, "web3", "tcp:h:3"), 0);
		assert_int_equal(sync_now(j), -EFBIG);
		close_journal(j);
	}
	j = open_journal();
	setrlimit(RLIMIT_FSIZE, &before);
	assert_int_equal(sync_now(j), 0);
	assert_string_equal(journal_why(j), "");
	close_journal(j);
	unlink(marks);
	j = open_journal();
	assert_int_equal(journal_find(j, id1, JOURNAL_SOURCE)->mark, JOURNAL_GO);
	assert_int_equal(journal_find(j, id3, JOURNAL_SOURCE)->mark, JOURNAL_BEGUN);
	close_journal(j);
}

/* The first start of all; and an absent entry proves nothing as long as the id is not on the disk. */
static void a_disk_without_the_folder_ends_no_start(void **state)
{
	char folder[80], file[96];
	struct journal_config c = { .loop = loop, .worker = worker, .path = file, .marks_path = marks };
	struct journal *j;
	uint8_t id[16];

	(void)state;
	snprintf(folder, sizeof(folder), "%s-folder", path);
	snprintf(file, sizeof(file), "%s/journal", folder);
	assert_int_equal(journal_open(&c, &j), 0);
	assert_string_not_equal(journal_why(j), "");
	journal_id(j, id);
	assert_memory_equal(id, zeros, 16);
	assert_int_equal(begin(j, id1, JOURNAL_SOURCE, "web1", "tcp:h:1"), 0);
	assert_int_equal(sync_now(j), -ENOENT);
	assert_int_equal(mkdir(folder, 0700), 0);
	assert_int_equal(sync_now(j), 0);
	journal_id(j, id);
	assert_memory_not_equal(id, zeros, 16);
	close_journal(j);
	unlink(marks);
	assert_int_equal(journal_open(&c, &j), 0);
	assert_int_equal(journal_find(j, id1, JOURNAL_SOURCE)->mark, JOURNAL_BEGUN);
	close_journal(j);
	unlink(file);
	rmdir(folder);
}

static bool is_in_marks(const char *what)
{
	size_t room = 4 << 20;
	char *text = malloc(room);
	int fd = open(marks, O_RDONLY);
	ssize_t n = read(fd, text, room);
	bool is = n > 0 && memmem(text, (size_t)n, what, strlen(what));

	close(fd);
	free(text);
	return is;
}

/* Marks begin anew after a sync, and never without what came after that began. Seen to fail: without the look at @at. */
static void what_is_noted_meanwhile_stays_in_the_marks(void **state)
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
	assert_true(worker_drain(worker, now_ns() + PATIENCE_S * NS_PER_S));
	journal_sync(j, on_synced, NULL);
	assert_int_equal(begin(j, id2, JOURNAL_DESTINATION, "web2", ""), 0);
	assert_int_equal(loop_run(loop), 0);
	assert_true(is_in_marks("begun 0200"));
	assert_int_equal(sync_now(j), 0);
	assert_true(worker_drain(worker, now_ns() + PATIENCE_S * NS_PER_S));
	assert_false(is_in_marks("begun 0600"));
	assert_int_equal(journal_note(j, id2, JOURNAL_DESTINATION, JOURNAL_GO), 0);
	assert_true(is_in_marks("go 0200"));
	j = open_again(j);
	assert_int_equal(journal_nr_kept(j), 1);
	assert_int_equal(journal_find(j, id2, JOURNAL_DESTINATION)->mark, JOURNAL_GO);
	close_journal(j);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(any_byte_is_read_again, setup, teardown),
		cmocka_unit_test_setup_teardown(a_journal_of_the_format_before_is_converted, setup_tmpfs, teardown),
		cmocka_unit_test_setup_teardown(a_journal_of_a_later_format_is_left_alone, setup, teardown),
		cmocka_unit_test_setup_teardown(history_is_compacted, setup, teardown),
		cmocka_unit_test_setup_teardown(damage_is_not_compacted_away, setup, teardown),
		cmocka_unit_test_setup_teardown(a_disk_that_takes_nothing_ends_no_start, setup, teardown),
		cmocka_unit_test_setup_teardown(a_disk_without_the_folder_ends_no_start, setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_noted_meanwhile_stays_in_the_marks, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
