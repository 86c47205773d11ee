// SPDX-License-Identifier: GPL-2.0-or-later
/* "vmferry blackouts": how long guests stood still, all together and one by one. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "client.h"
#include "histogram.h"

static double ms(json_t *j, const char *key)
{
	return (double)json_integer_value(json_object_get(j, key)) / 1e3;
}

static const char *str(json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));

	return s ? s : "";
}

static void print_one(json_t *r)
{
	time_t at = (time_t)json_integer_value(json_object_get(r, "time"));
	const char *name;
	char when[32];
	struct tm tm;
	json_t *p;

	strftime(when, sizeof(when), "%F %T", localtime_r(&at, &tm));
	printf("%s  %-16s %-10s %8.2f ms  expected %.2f, at most %.2f; limit %lld  (%s%s)\n", when, str(r, "vm"),
	       str(r, "end"), ms(r, "blackout-us"), ms(r, "expected-us"), ms(r, "upper-us"),
	       (long long)json_integer_value(json_object_get(r, "limit-ms")), str(r, "timed-by"),
	       json_is_true(json_object_get(r, "cold")) ? ", partly guessed" : "");
	printf("                    ");
	json_object_foreach (json_object_get(r, "parts"), name, p)
		printf(" %s %.2f", name, ms(p, "actual-us"));
	printf("\n");
}

/** print_blackouts() - what query-blackouts returned */
void print_blackouts(json_t *answer)
{
	struct histogram moved = { .nr = 0 }, off = { .nr = 0 };
	json_t *list = json_object_get(answer, "blackouts"), *r;
	size_t i;

	json_array_foreach (list, i, r)
		histogram_add(strcmp(str(r, "end"), "moved") ? &off : &moved,
			      (unsigned long long)json_integer_value(json_object_get(r, "blackout-us")));
	printf("guests that moved:\n");
	histogram_print(&moved);
	if (off.nr) {
		printf("guests whose switchover was called off:\n");
		histogram_print(&off);
	}
	json_array_foreach (list, i, r)
		if (i + 10 >= json_array_size(list))
			print_one(r);
	if (str(answer, "probe")[0])
		printf("no probe here: %s\n", str(answer, "probe"));
}
