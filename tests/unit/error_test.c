// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: no report waits for whoever reads standard error; what is lost is counted and said,
 * the rest comes whole and in order; the end of the log waits for a reader for a second at most.
 * Seen to fail (by the alarm) with a write(2) in report() instead of the queue, with the quota
 * of notices removed, and with say_lost() removed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"

#define NR_THREADS 4
#define NR_EACH 40
#define PATIENCE_S 60 /* a call that waits for ever ends here */

static int saved = -1, reader = -1;

/* Standard error becomes a pipe of one page; nobody reads it yet. */
static int setup(void **state)
{
	int end[2];

	(void)state;
	alarm(PATIENCE_S);
	saved = dup(STDERR_FILENO);
	if (pipe2(end, O_CLOEXEC) || fcntl(end[1], F_SETPIPE_SZ, 4096) < 0)
		return -1;
	dup2(end[1], STDERR_FILENO);
	close(end[1]);
	reader = end[0];
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(reader);
	alarm(0);
	return 0;
}

static void *read_all(void *to)
{
	FILE *f = fdopen(dup(reader), "r");
	size_t room = 0, len = 0;
	char *text = NULL, line[2048];

	while (fgets(line, sizeof(line), f)) {
		size_t n = strlen(line);

		if (!strcmp(line, "end\n"))
			break;
		if (len + n + 1 > room)
			text = realloc(text, room = (len + n + 1) * 2);
		memcpy(text + len, line, n + 1);
		len += n;
	}
	fclose(f);
	*(char **)to = text;
	return NULL;
}

/* Closes the log while another thread reads, and returns all that was written. */
static char *close_and_read(void)
{
	pthread_t thread;
	char *text = NULL;

	assert_int_equal(pthread_create(&thread, NULL, read_all, &text), 0);
	log_close();
	assert_int_equal(write(STDERR_FILENO, "end\n", 4), 4);
	pthread_join(thread, NULL);
	assert_non_null(text);
	return text;
}

static unsigned int count(const char *text, const char *word)
{
	unsigned int n = 0;

	for (const char *p = text; (p = strstr(p, word)); p += strlen(word))
		n++;
	return n;
}

static void nobody_waits_for_a_pipe_that_nobody_reads(void **state)
{
	unsigned int lost = 0, kept;
	int last = -1;
	const char *p;
	char *text;

	(void)state;
	assert_int_equal(log_open(), 0);
	for (int i = 0; i < 2000; i++)
		notice_report("notice %d of a flood that nobody reads", i);
	for (int i = 0; i < 20; i++)
		error_report("error %d after the flood", i);
	text = close_and_read();
	kept = count(text, "of a flood");
	assert_in_range(kept, 100, 1999);
	/* Errors have their own share of the queue. */
	assert_int_equal(count(text, "after the flood"), 20);
	p = strstr(text, " messages were lost");
	assert_non_null(p);
	while (p[-1] >= '0' && p[-1] <= '9')
		p--;
	assert_int_equal(sscanf(p, "%u", &lost), 1);
	assert_int_equal(kept + lost, 2000);
	/* In order; the writer may have made room amid the flood, so there may be gaps. */
	p = text;
	for (unsigned int i = 0; i < kept; i++) {
		int n;

		assert_int_equal(sscanf(p, "<5>notice %d of", &n), 1);
		assert_true(n > last);
		last = n;
		p = strchr(p, '\n') + 1;
	}
	free(text);
}

static void *talk(void *arg)
{
	for (int i = 0; i < NR_EACH; i++)
		error_report("thread %d says %d.", (int)(intptr_t)arg, i);
	return NULL;
}

static void lines_of_many_threads_are_whole_and_in_order(void **state)
{
	int next[NR_THREADS] = { 0 };
	pthread_t thread[NR_THREADS];
	char *text, *rest, *line;

	(void)state;
	assert_int_equal(log_open(), 0);
	for (intptr_t i = 0; i < NR_THREADS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, talk, (void *)i), 0);
	for (int i = 0; i < NR_THREADS; i++)
		pthread_join(thread[i], NULL);
	text = close_and_read();
	for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		int who, what;

		assert_int_equal(sscanf(line, "<3>thread %d says %d.", &who, &what), 2);
		assert_in_range(who, 0, NR_THREADS - 1);
		assert_int_equal(what, next[who]++);
	}
	for (int i = 0; i < NR_THREADS; i++)
		assert_int_equal(next[i], NR_EACH);
	free(text);
}

static void a_long_message_is_cut_and_ends_its_line(void **state)
{
	char word[3000], *text;

	(void)state;
	memset(word, 'x', sizeof(word));
	word[sizeof(word) - 1] = '\0';
	assert_int_equal(log_open(), 0);
	error_report("%s", word);
	error_report("next");
	text = close_and_read();
	assert_in_range(strchr(text, '\n') - text, 900, 1023);
	assert_string_equal(strchr(text, '\n') + 1, "<3>next\n");
	free(text);
}

static void the_end_does_not_wait_for_a_reader_for_ever(void **state)
{
	int status;
	pid_t pid;

	(void)state;
	pid = fork(); /* the writer stays behind, and ends with its process */
	assert_int_not_equal(pid, -1);
	if (!pid) {
		alarm(PATIENCE_S);
		if (log_open())
			_exit(1);
		for (int i = 0; i < 2000; i++)
			error_report("error %d that nobody reads", i);
		log_close();
		error_report("after the end");
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* Seen to fail without text_make_printable() in finish_line(). */
static void a_text_from_outside_begins_no_line_of_its_own(void **state)
{
	char got[256];
	ssize_t n;

	(void)state;
	assert_int_equal(log_open(), 0);
	error_report("vm web1: %s", "off\n<2>vm web2: gone\r\xff");
	log_close();
	n = read(reader, got, sizeof(got) - 1);
	assert_true(n > 0);
	got[n] = '\0';
	assert_string_equal(got, "<3>vm web1: off?<2>vm web2: gone??\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(nobody_waits_for_a_pipe_that_nobody_reads, setup, teardown),
		cmocka_unit_test_setup_teardown(lines_of_many_threads_are_whole_and_in_order, setup, teardown),
		cmocka_unit_test_setup_teardown(a_long_message_is_cut_and_ends_its_line, setup, teardown),
		cmocka_unit_test_setup_teardown(a_text_from_outside_begins_no_line_of_its_own, setup, teardown),
		cmocka_unit_test_setup_teardown(the_end_does_not_wait_for_a_reader_for_ever, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
