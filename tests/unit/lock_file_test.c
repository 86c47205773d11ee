// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: one holder at a time, whose pid the others learn, and nobody once it is gone, however it went.
 * Seen to fail: without flock(); with ftruncate() left out.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/lock_file.h"

static char path[32];

static int setup(void **state)
{
	int fd;

	(void)state;
	strcpy(path, "/tmp/vmferry-lock-XXXXXX");
	fd = mkstemp(path);
	return fd < 0 || write(fd, "99999999999999999\n", 18) != 18 || close(fd);
}

static int teardown(void **state)
{
	(void)state;
	return unlink(path);
}

static void the_second_learns_who_holds_it(void **state)
{
	struct lock_file *first, *second;
	pid_t holder = 99;

	(void)state;
	assert_int_equal(lock_file_take(path, &first, &holder), 0);
	assert_int_equal(holder, 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(lock_file_take(path, &second, &holder), -EWOULDBLOCK);
		assert_int_equal(holder, getpid());
	}
	lock_file_release(first);
	assert_int_equal(lock_file_take(path, &second, &holder), 0);
	lock_file_release(second);
	lock_file_release(NULL);
}

static void a_holder_that_is_killed_holds_it_no_longer(void **state)
{
	int ready[2];
	struct lock_file *l;
	pid_t child, holder;
	char c;

	(void)state;
	assert_int_equal(pipe(ready), 0);
	child = fork();
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (lock_file_take(path, &l, &holder) || write(ready[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	assert_int_equal(read(ready[0], &c, 1), 1);
	assert_int_equal(lock_file_take(path, &l, &holder), -EWOULDBLOCK);
	assert_int_equal(holder, child);
	kill(child, SIGKILL);
	assert_int_equal(waitpid(child, NULL, 0), child);
	assert_int_equal(lock_file_take(path, &l, &holder), 0);
	lock_file_release(l);
	close(ready[0]);
	close(ready[1]);
}

/* A disk without room takes no pid; the lock holds all the same, and nobody is named who does not hold it. */
static void a_full_disk_takes_no_pid(void **state)
{
	struct rlimit before, none;
	struct lock_file *first, *second;
	pid_t holder;

	(void)state;
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &before);
	none = before;
	none.rlim_cur = 0;
	setrlimit(RLIMIT_FSIZE, &none);
	assert_int_equal(lock_file_take(path, &first, &holder), 0);
	setrlimit(RLIMIT_FSIZE, &before);
	assert_int_equal(lock_file_take(path, &second, &holder), -EWOULDBLOCK);
	assert_int_equal(holder, 0);
	lock_file_release(first);
}

/* ---- folders ---- */

static char folder[32], in_folder[40];
static int fail_lock; /* an errno: the file "lock" cannot be made */

int __real_open(const char *file, int flags, ...);
int __wrap_open(const char *file, int flags, ...);

int __wrap_open(const char *file, int flags, ...)
{
	size_t len = strlen(file);

	if (fail_lock && flags & O_CREAT && len > 5 && !strcmp(file + len - 5, "/lock")) {
		errno = fail_lock;
		return -1;
	}
	return __real_open(file, flags, 0600);
}

static int setup_folder(void **state)
{
	(void)state;
	strcpy(folder, "/tmp/vmferry-lock-XXXXXX");
	fail_lock = 0;
	if (!mkdtemp(folder))
		return -1;
	snprintf(in_folder, sizeof(in_folder), "%s/lock", folder);
	return 0;
}

static int teardown_folder(void **state)
{
	(void)state;
	unlink(in_folder);
	return rmdir(folder);
}

/* Whichever of the two locks each of them can take. Seen to fail: with success where the file cannot be made. */
static void a_folder_without_room_has_one_holder(void **state)
{
	const int errs[] = { 0, ENOSPC, EDQUOT, EROFS };
	struct lock_file *first, *second;
	pid_t holder;

	(void)state;
	for (int i = 0; i < 4; i++)
		for (int k = 0; k < 4; k++) {
			fail_lock = errs[i];
			assert_int_equal(lock_folder_take(folder, &first, &holder), 0);
			fail_lock = errs[k];
			assert_int_equal(lock_folder_take(folder, &second, &holder), -EWOULDBLOCK);
			assert_int_equal(holder, i ? 0 : getpid());
			lock_file_release(first);
			fail_lock = 0;
			unlink(in_folder);
		}
}

/* It takes the file alone. Seen to fail: with a lock on the folder alone. */
static void an_older_daemon_is_a_holder_too(void **state)
{
	struct lock_file *old, *new;
	pid_t holder;

	(void)state;
	assert_int_equal(lock_file_take(in_folder, &old, &holder), 0);
	assert_int_equal(lock_folder_take(folder, &new, &holder), -EWOULDBLOCK);
	assert_int_equal(holder, getpid());
	lock_file_release(old);
	assert_int_equal(lock_folder_take(folder, &new, &holder), 0);
	assert_int_equal(lock_file_take(in_folder, &old, &holder), -EWOULDBLOCK);
	lock_file_release(new);
}

/* Any other error stays one. */
static void a_folder_that_is_not_there_is_not_held(void **state)
{
	struct lock_file *l;
	pid_t holder;

	(void)state;
	fail_lock = EACCES;
	assert_int_equal(lock_folder_take(folder, &l, &holder), -EACCES);
	fail_lock = 0;
	assert_int_equal(lock_folder_take("/tmp/vmferry-not-there", &l, &holder), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_second_learns_who_holds_it, setup, teardown),
		cmocka_unit_test_setup_teardown(a_holder_that_is_killed_holds_it_no_longer, setup, teardown),
		cmocka_unit_test_setup_teardown(a_full_disk_takes_no_pid, setup, teardown),
		cmocka_unit_test_setup_teardown(a_folder_without_room_has_one_holder, setup_folder, teardown_folder),
		cmocka_unit_test_setup_teardown(an_older_daemon_is_a_holder_too, setup_folder, teardown_folder),
		cmocka_unit_test_setup_teardown(a_folder_that_is_not_there_is_not_held, setup_folder, teardown_folder),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
