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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_second_learns_who_holds_it, setup, teardown),
		cmocka_unit_test_setup_teardown(a_holder_that_is_killed_holds_it_no_longer, setup, teardown),
		cmocka_unit_test_setup_teardown(a_full_disk_takes_no_pid, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
