// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: what was learned is there after a restart, for the same hosts, shape and kinds of
 * device, and nowhere else; a file that is broken costs nothing but the learning.
 * Seen to fail: with the ring written from its first place instead of its oldest sample.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "control/learned.h"

#define US 1000ULL
#define PAIR "host2, 2 vCPUs, 256 MiB, kmod"

static char dir[] = "/tmp/learned-test-XXXXXX";

static void fill(struct predictor *p)
{
	predictor_init(p);
	predictor_add_device(p, "nic0", "nic", 4096);
	for (uint64_t n = 1; n <= ESTIMATE_SAMPLES + 10; n++) /* round the ring */
		for (int i = 0; i < PART_NR; i++)
			predictor_learn_part(p, (enum predictor_part)i, i == PART_PAGES ? n << 12 : 0, n * US);
	estimate_learn(&p->device[0].load, 4096, 700 * US);
	estimate_learn(&p->resume, 0, 90 * US);
	predictor_learn_total(p, 100 * US, 110 * US);
}

static void write_and_wait(const struct predictor *p)
{
	struct scribe *s;

	assert_int_equal(scribe_open(&s), 0);
	learned_write(s, dir, PAIR, p);
	scribe_close(s);
}

static void it_is_there_again(void **state)
{
	struct predictor before, after;
	struct prediction x, y;

	(void)state;
	fill(&before);
	write_and_wait(&before);
	predictor_init(&after);
	predictor_add_device(&after, "nic7", "nic", 4096); /* another one of the kind */
	learned_read(dir, PAIR, &after);
	predictor_predict(&before, 1 << 20, 4096, &x);
	predictor_predict(&after, 1 << 20, 4096, &y);
	assert_memory_equal(&x.part, &y.part, sizeof(x.part));
	assert_true(x.whole.mean_ns == y.whole.mean_ns && x.device_ns == y.device_ns);
	assert_true(predictor_resume_ns(&after) == 90 * US);
	/* The next sample pushes the oldest out, in both. */
	predictor_learn_part(&before, PART_STOP, 0, 5 * US);
	predictor_learn_part(&after, PART_STOP, 0, 5 * US);
	predictor_predict(&before, 0, 0, &x);
	predictor_predict(&after, 0, 0, &y);
	assert_memory_equal(&x.part[PART_STOP], &y.part[PART_STOP], sizeof(x.part[0]));
}

static void others_learn_nothing_from_it(void **state)
{
	struct predictor p;

	(void)state;
	predictor_init(&p);
	predictor_add_device(&p, "disk0", "disk", 4096);
	learned_read(dir, "host3, 2 vCPUs, 256 MiB, kmod", &p);
	assert_int_equal(p.part[PART_STOP].nr, 0);
	assert_int_equal(p.device[0].load.nr, 0);
}

static void a_broken_file_is_as_good_as_none(void **state)
{
	static const char *const texts[] = { "", "{", "[1]", "{\"stop\": 7}", "{\"stop\": [[1], [-1, -1], [\"a\", {}], 5]}",
					     "{\"stop\": [[0, 99999999999999999]]}" };
	char path[300];

	(void)state;
	snprintf(path, sizeof(path), "%s/pair-host4.json", dir);
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct predictor p;
		FILE *f = fopen(path, "w");

		assert_non_null(f);
		fputs(texts[i], f);
		fclose(f);
		predictor_init(&p);
		learned_read(dir, "host4", &p);
		for (uint32_t k = 0; k < p.part[PART_STOP].nr; k++)
			assert_true(p.part[PART_STOP].ns[k] == 0);
	}
}

static int begin(void **state)
{
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static int end(void **state)
{
	char command[64];

	(void)state;
	snprintf(command, sizeof(command), "rm -r %s", dir);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_is_there_again),
		cmocka_unit_test(others_learn_nothing_from_it),
		cmocka_unit_test(a_broken_file_is_as_good_as_none),
	};

	return cmocka_run_group_tests(tests, begin, end);
}
