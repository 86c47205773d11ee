// SPDX-License-Identifier: GPL-2.0-or-later
/* Promise: what was noted before a crash is known after it; a torn line is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/journal.h"

static char path[64];
static const uint8_t id1[16] = { 1 }, id2[16] = { 2 }, id3[16] = { 3 };
static struct loop *loop;
static int synced = 99;

static struct journal *open_journal(void)
{
	struct journal *j;

	assert_int_equal(journal_open(loop, path, &j), 0);
	return j;
}

static int setup(void **state)
{
	(void)state;
	snprintf(path, sizeof(path), "/tmp/vmferry-journal-%d", getpid());
	unlink(path);
	loop = loop_new();
	return !loop;
}

static int teardown(void **state)
{
	(void)state;
	unlink(path);
	loop_free(loop);
	return 0;
}

static void marks_survive(void **state)
{
	struct journal *j = open_journal();

	(void)state;
	assert_int_equal(journal_begin(j, id1, "web1", true, "tcp:h:1"), 0);
	assert_int_equal(journal_begin(j, id2, "web2", false, NULL), 0);
	assert_int_equal(journal_note(j, id2, JOURNAL_GO), 0);
	assert_int_equal(journal_begin(j, id3, "a name with spaces", true, "unix:/x"), 0);
	assert_int_equal(journal_note(j, id3, JOURNAL_DONE), 0);
	journal_close(j);
	for (int i = 0; i < 2; i++) { /* also after it was written anew */
		j = open_journal();
		assert_int_equal(journal_open_entry(j, "web1", true)->mark, JOURNAL_BEGUN);
		assert_string_equal(journal_open_entry(j, "web1", true)->peer, "tcp:h:1");
		assert_null(journal_open_entry(j, "web1", false));
		assert_int_equal(journal_open_entry(j, "web2", false)->mark, JOURNAL_GO);
		assert_null(journal_open_entry(j, "a name with spaces", true));
		assert_int_equal(journal_find(j, id3)->mark, JOURNAL_DONE);
		assert_string_equal(journal_find(j, id3)->vm, "a name with spaces");
		journal_close(j);
	}
}

static void a_torn_line_does_not_count(void **state)
{
	struct journal *j = open_journal();
	FILE *f;

	(void)state;
	journal_begin(j, id1, "web1", true, "tcp:h:1");
	journal_close(j);
	f = fopen(path, "a");
	fputs("go 01000000000000000000000000000000 source tcp:h:1 web1", f);
	fclose(f);
	j = open_journal();
	assert_int_equal(journal_find(j, id1)->mark, JOURNAL_BEGUN);
	journal_close(j);
	f = fopen(path, "a");
	fputs("\n\xff\xff garbage\n\n", f);
	fclose(f);
	j = open_journal();
	assert_int_equal(journal_find(j, id1)->mark, JOURNAL_BEGUN);
	journal_close(j);
}

static void on_synced(void *arg, int err)
{
	(void)arg;
	synced = err;
	loop_stop(loop);
}

static void a_sync_is_answered_on_the_loop(void **state)
{
	struct journal *j = open_journal();

	(void)state;
	journal_begin(j, id1, "web1", true, "tcp:h:1");
	journal_sync(j, on_synced, NULL);
	assert_int_equal(synced, 99);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(synced, 0);
	journal_close(j);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(marks_survive, setup, teardown),
		cmocka_unit_test_setup_teardown(a_torn_line_does_not_count, setup, teardown),
		cmocka_unit_test_setup_teardown(a_sync_is_answered_on_the_loop, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
