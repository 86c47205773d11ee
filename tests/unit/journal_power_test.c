// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: the host may lose power after any byte that the journal writes. What was said to be on the disk is there then,
 * nothing is there that was not decided, and the journal can be continued.
 *
 * A recorder stands between the journal and the kernel. It keeps a copy of each file with the length that a sync has
 * covered. After each byte of each write, and after each other operation, it gives the journal what the disk may have:
 * any length from the one that is covered to the one that was written, of the old file, too, as long as the folder was
 * not synced after the rename. A sync that fails has lost what it should cover: that reads as zeros.
 *
 * Seen to fail: without fsync() of the new file, without fsync() of the folder, with a folder's failed sync ignored,
 * without fdatasync(), with lines that a failed sync did not cover taken for written, without the line's end before them,
 * without ftruncate() in open_to_append().
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "journal_steps.h"

#define NR_FILES 16
#define NR_FDS 64

/** struct file - one inode: what was written, and what a sync has covered */
struct file {
	char *text;
	size_t len, covered;
};

static struct file files[NR_FILES];
static int nr_files;
static int of_fd[NR_FDS];  /* index in files plus one */
static int named, before = -1; /* what the path names; what it may still name after a loss of power */
static int beside = -1;	   /* what path.new names */
static atomic_bool is_recording; /* also asked by the loop, while a work writes */
static bool is_quick;
static int fail_sync, fail_folder;
static unsigned int nr_states;

int __real_open(const char *file, int flags, ...);
int __real_close(int fd);
ssize_t __real_write(int fd, const void *text, size_t len);
int __real_ftruncate(int fd, off_t len);
int __real_fsync(int fd);
int __real_fdatasync(int fd);
int __real_rename(const char *from, const char *to);
int __wrap_open(const char *file, int flags, ...);
int __wrap_close(int fd);
ssize_t __wrap_write(int fd, const void *text, size_t len);
int __wrap_ftruncate(int fd, off_t len);
int __wrap_fsync(int fd);
int __wrap_fdatasync(int fd);
int __wrap_rename(const char *from, const char *to);

static void check_all(void);
static void check_written(int file, size_t from);

static struct file *file_of(int fd)
{
	return is_recording && fd >= 0 && fd < NR_FDS && of_fd[fd] ? &files[of_fd[fd] - 1] : NULL;
}

static int new_file(void)
{
	if (nr_files == NR_FILES)
		abort();
	files[nr_files] = (struct file){ .text = calloc(1, 1 << 20) };
	return nr_files++;
}

int __wrap_open(const char *file, int flags, ...)
{
	char beside_path[80];
	int mode = 0, fd;
	va_list args;

	va_start(args, flags);
	if (flags & O_CREAT)
		mode = va_arg(args, int);
	va_end(args);
	fd = __real_open(file, flags, mode);
	snprintf(beside_path, sizeof(beside_path), "%s.new", path);
	if (!is_recording || fd < 0 || fd >= NR_FDS || !(flags & O_WRONLY))
		return fd;
	if (!strcmp(file, beside_path))
		of_fd[fd] = (beside = new_file()) + 1;
	else if (!strcmp(file, path))
		of_fd[fd] = named + 1;
	return fd;
}

int __wrap_close(int fd)
{
	if (is_recording && fd >= 0 && fd < NR_FDS)
		of_fd[fd] = 0;
	return __real_close(fd);
}

ssize_t __wrap_write(int fd, const void *text, size_t len)
{
	ssize_t n = __real_write(fd, text, len);
	struct file *f = file_of(fd);

	if (f && n > 0) {
		memcpy(f->text + f->len, text, (size_t)n);
		f->len += (size_t)n;
		check_written((int)(f - files), f->len - (size_t)n);
	}
	return n;
}

int __wrap_ftruncate(int fd, off_t len)
{
	struct file *f = file_of(fd);

	if (f) {
		f->len = (size_t)len;
		f->covered = f->covered < f->len ? f->covered : f->len;
		check_all();
	}
	return __real_ftruncate(fd, len);
}

static int sync_file(struct file *f)
{
	if (fail_sync) {
		fail_sync--;
		memset(f->text + f->covered, 0, f->len - f->covered);
		f->covered = f->len;
		check_all();
		errno = EIO;
		return -1;
	}
	f->covered = f->len;
	check_all();
	return 0;
}

/* Of a file, or of the folder. */
int __wrap_fsync(int fd)
{
	struct file *f = file_of(fd);

	if (!is_recording)
		return is_quick ? 0 : __real_fsync(fd);
	if (f)
		return sync_file(f);
	if (fail_folder) {
		fail_folder--;
		errno = EIO;
		return -1;
	}
	before = -1;
	check_all();
	return 0;
}

int __wrap_fdatasync(int fd)
{
	struct file *f = file_of(fd);

	if (!is_recording)
		return is_quick ? 0 : __real_fdatasync(fd);
	return f ? sync_file(f) : 0;
}

int __wrap_rename(const char *from, const char *to)
{
	int err = __real_rename(from, to);

	if (is_recording && !strcmp(to, path) && !err) {
		if (before < 0)
			before = named;
		named = beside;
		check_all();
	}
	return err;
}

/* ---- what was decided, and what was promised ---- */

#define NR_IDS 8

/**
 * struct story - of one migration
 * @decided: its marks, in order; 9 stands for dropped
 * @nr: of them; @promised: how many were said to be on the disk
 */
static struct story {
	enum journal_role role;
	int decided[8];
	int nr, promised;
} stories[NR_IDS];

static char shadow[80], shadow_marks[96];
static struct worker *shadow_worker;

/* Which of the story's steps an entry shows; -1: none of them. The later one, if two look the same. */
static int step_of(const struct story *s, const struct journal_entry *e)
{
	int shows = e ? (int)e->mark : 9;

	for (int n = s->nr; n >= 1; n--)
		if (s->decided[n - 1] == shows)
			return n;
	return e ? -1 : 0;
}

static void check_entries(struct journal *j, const char *what, size_t len)
{
	unsigned int nr = 0;

	for (int i = 0; i < NR_IDS; i++) {
		const uint8_t id[16] = { (uint8_t)(i + 1) };
		const struct story *s = &stories[i];
		const struct journal_entry *e = s->role ? journal_find(j, id, s->role) : NULL;
		int step = step_of(s, e);

		nr += e != NULL;
		if (step < s->promised) {
			print_error("%s, %zu bytes: migration %d is at step %d, promised was %d\n", what, len, i, step,
				    s->promised);
			abort(); /* another thread than cmocka's may be here */
		}
		if (e && (strcmp(e->vm, "web 1%") || strcmp(e->peer, s->role == JOURNAL_SOURCE ? "tcp:h:1" : "")))
			abort();
	}
	if (nr != journal_nr_kept(j))
		abort(); /* something that nobody decided */
}

/* The journal starts on the first @len bytes of @f, in another boot, and goes on. */
static void check_state(const struct file *f, size_t len, const char *what)
{
	static const uint8_t more[16] = { 77 };
	struct journal_config c = { .worker = shadow_worker, .path = shadow, .marks_path = shadow_marks, .boot = "2" };
	struct journal_entry e = { .role = JOURNAL_SOURCE, .vm = "more" };
	int fd = __real_open(shadow, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	struct journal *j;

	nr_states++;
	memcpy(c.machine, machine, 16);
	memcpy(e.id, more, 16);
	if (fd < 0 || __real_write(fd, f->text, len) != (ssize_t)len)
		abort();
	__real_close(fd);
	for (int again = 0; again < 2; again++) {
		unlink(shadow_marks);
		if (journal_open(&c, &j))
			abort();
		if (again && journal_settled(j, more, JOURNAL_SOURCE))
			abort(); /* what was written behind the tear is not found */
		check_entries(j, what, len);
		if (!again && journal_begin(j, &e))
			abort();
		if (!worker_drain(shadow_worker, now_ns() + PATIENCE_S * NS_PER_S))
			abort();
		journal_close(j);
	}
}

static void check(int file, size_t len, const char *what)
{
	is_recording = false;
	is_quick = true;
	check_state(&files[file], len, what);
	is_quick = false;
	is_recording = true;
}

/* No byte: the ends of what each file may have. */
static void check_all(void)
{
	const int both[] = { named, before };

	for (int i = 0; i < 2; i++) {
		if (both[i] < 0)
			continue;
		check(both[i], files[both[i]].covered, i ? "the file before" : "the file");
		if (files[both[i]].len != files[both[i]].covered)
			check(both[i], files[both[i]].len, i ? "the file before" : "the file");
	}
}

static void check_written(int file, size_t from)
{
	if (file == named || file == before)
		for (size_t len = from; len <= files[file].len; len++)
			check(file, len, "a write");
	else
		check_all();
}

/* ---- the tests ---- */

static struct loop *shadow_loop;

static int setup_power(void **state)
{
	if (setup(state))
		return -1;
	snprintf(shadow, sizeof(shadow), "/dev/shm/vmferry-shadow-%d", getpid());
	snprintf(shadow_marks, sizeof(shadow_marks), "%s-marks", shadow);
	shadow_loop = loop_new();
	if (!shadow_loop || worker_open(shadow_loop, &shadow_worker))
		return -1;
	memset(stories, 0, sizeof(stories));
	memset(of_fd, 0, sizeof(of_fd));
	nr_files = 0;
	nr_states = 0;
	named = new_file(); /* empty, as one that is not there */
	before = beside = -1;
	fail_sync = fail_folder = 0;
	is_recording = true;
	return 0;
}

static int teardown_power(void **state)
{
	is_recording = false;
	for (int i = 0; i < nr_files; i++)
		free(files[i].text);
	unlink(shadow);
	unlink(shadow_marks);
	worker_close(shadow_worker);
	loop_free(shadow_loop);
	return teardown(state);
}

/* Migration @i gets @mark; the work that writes it has ended then. */
static void decide(struct journal *j, int i, enum journal_role role, int mark)
{
	const uint8_t id[16] = { (uint8_t)(i + 1) };
	struct story *s = &stories[i];
	int err;

	s->role = role;
	s->decided[s->nr++] = mark;
	if (mark == JOURNAL_BEGUN)
		err = begin(j, id, role, "web 1%", role == JOURNAL_SOURCE ? "tcp:h:1" : "");
	else if (mark == 9)
		err = i & 1 ? journal_settled(j, id, role) : journal_drop(j, id, role);
	else
		err = journal_note(j, id, role, (enum journal_mark)mark);
	assert_int_equal(err, 0);
	assert_true(worker_drain(worker, now_ns() + PATIENCE_S * NS_PER_S));
}

static void promise(struct journal *j)
{
	assert_int_equal(sync_now(j), 0);
	for (int i = 0; i < NR_IDS; i++)
		stories[i].promised = stories[i].nr;
	check_all();
}

/* All marks of four migrations, each with its two sides, some synced and some not. */
static void tell(struct journal *j)
{
	decide(j, 0, JOURNAL_SOURCE, JOURNAL_BEGUN);
	decide(j, 1, JOURNAL_DESTINATION, JOURNAL_BEGUN);
	promise(j);
	decide(j, 0, JOURNAL_SOURCE, JOURNAL_GO);
	decide(j, 1, JOURNAL_DESTINATION, JOURNAL_GO);
	decide(j, 1, JOURNAL_DESTINATION, JOURNAL_DONE);
	promise(j);
	decide(j, 2, JOURNAL_SOURCE, JOURNAL_BEGUN);
	decide(j, 0, JOURNAL_SOURCE, JOURNAL_DONE);
	decide(j, 2, JOURNAL_SOURCE, JOURNAL_NEVER);
	decide(j, 1, JOURNAL_DESTINATION, 9);
	promise(j);
	decide(j, 2, JOURNAL_SOURCE, 9);
	decide(j, 3, JOURNAL_DESTINATION, JOURNAL_BEGUN);
}

static void any_byte_may_be_the_last(void **state)
{
	struct journal *j = open_journal();

	(void)state;
	tell(j);
	close_journal(j);
	print_message("# %u states of the disk\n", nr_states);
}

/* Comments as padding: most of the file is history then. They are on the disk at once. */
static void pad(void)
{
	struct file *f = &files[named];
	int fd = __real_open(path, O_WRONLY | O_APPEND);

	for (int n = 0; n < 1100; n++) {
		memset(f->text + f->len, '#', 63);
		f->text[f->len + 63] = '\n';
		assert_int_equal(__real_write(fd, f->text + f->len, 64), 64);
		f->len += 64;
	}
	f->covered = f->len;
	__real_close(fd);
}

/* While it runs, and when it starts; once with a folder that cannot be synced at first. */
static void it_may_be_the_last_of_a_compaction(void **state)
{
	struct journal *j = open_journal();

	(void)state;
	tell(j);
	promise(j);
	for (int i = 0; i < 2; i++) {
		int was = named;

		pad();
		fail_folder = i;
		decide(j, 4 + i, JOURNAL_SOURCE, JOURNAL_BEGUN);
		assert_int_not_equal(named, was);
		assert_int_equal(fail_folder, 0);
		promise(j);
		decide(j, 4 + i, JOURNAL_SOURCE, JOURNAL_GO);
		promise(j);
	}
	pad();
	for (int i = 0; i < 2; i++) {
		int was = named;

		close_journal(j);
		machine[0] += (uint8_t)i; /* the second time another host makes it begin anew */
		j = open_journal();
		assert_int_not_equal(named, was);
		decide(j, 6 + i, JOURNAL_DESTINATION, JOURNAL_BEGUN);
		promise(j);
	}
	close_journal(j);
	print_message("# %u states of the disk\n", nr_states);
}

static void a_sync_that_fails_is_no_promise(void **state)
{
	struct journal *j = open_journal();

	(void)state;
	decide(j, 0, JOURNAL_SOURCE, JOURNAL_BEGUN);
	promise(j);
	decide(j, 1, JOURNAL_DESTINATION, JOURNAL_BEGUN);
	decide(j, 0, JOURNAL_SOURCE, JOURNAL_GO);
	for (int i = 0; i < 2; i++) {
		fail_sync = 1;
		assert_int_equal(sync_now(j), -EIO);
		assert_string_not_equal(journal_why(j), "");
	}
	promise(j);
	assert_string_equal(journal_why(j), "");
	decide(j, 1, JOURNAL_DESTINATION, JOURNAL_GO);
	promise(j);
	close_journal(j);
	print_message("# %u states of the disk\n", nr_states);
}

/*
 * What the daemon before has written is not on the disk, and never may be: "begun" proves nothing any more. Seen to fail:
 * without a new stamp.
 */
static void a_first_sync_that_fails_ends_what_was_proven(void **state)
{
	struct journal *j = open_journal();
	const uint8_t id[16] = { 1 };

	(void)state;
	decide(j, 0, JOURNAL_DESTINATION, JOURNAL_BEGUN);
	promise(j);
	close_journal(j);
	for (int i = 0; i < 2; i++) {
		fail_sync = !i;
		j = open_journal();
		assert_int_equal(*journal_why(j) != 0, !i);
		assert_false(journal_proves_no_go(j, journal_find(j, id, JOURNAL_DESTINATION)));
		close_journal(j);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(any_byte_may_be_the_last, setup_power, teardown_power),
		cmocka_unit_test_setup_teardown(it_may_be_the_last_of_a_compaction, setup_power, teardown_power),
		cmocka_unit_test_setup_teardown(a_sync_that_fails_is_no_promise, setup_power, teardown_power),
		cmocka_unit_test_setup_teardown(a_first_sync_that_fails_ends_what_was_proven, setup_power, teardown_power),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
