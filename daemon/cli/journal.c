// SPDX-License-Identifier: GPL-2.0-or-later
/* The verbs journal and forget: what the daemon keeps of migrations, and what nobody will acknowledge any more. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "client.h"

static const char *text_of(const json_t *entry, const char *key)
{
	const char *text = json_string_value(json_object_get(entry, key));

	return text && *text ? text : "-";
}

static void print_entry(const json_t *e, int as_json)
{
	time_t when = (time_t)json_integer_value(json_object_get(e, "time"));
	char since[32] = "-";
	struct tm tm;

	if (as_json) {
		json_dumpf(e, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER);
		putchar('\n');
		return;
	}
	if (when && localtime_r(&when, &tm))
		strftime(since, sizeof(since), "%Y-%m-%d %H:%M:%S", &tm);
	printf("%-32s %-11s %-5s %-19s %-16s %s\n", text_of(e, "id"), text_of(e, "role"), text_of(e, "mark"), since,
	       text_of(e, "vm"), text_of(e, "peer"));
}

/** print_journal() - all entries, page by page; Return: EXIT_OK, or -1 with *@error as client_ask() */
int print_journal(struct client *c, int as_json, json_t **error)
{
	json_t *args = json_object();
	int more = 1;

	if (!as_json)
		printf("%-32s %-11s %-5s %-19s %-16s %s\n", "ID", "ROLE", "MARK", "SINCE", "VM", "PEER");
	while (more) {
		json_t *answer = client_ask(c, "query-journal", args, error), *list, *e;
		const char *why;
		size_t i;

		if (!answer)
			return -1;
		list = json_object_get(answer, "entries");
		json_array_foreach (list, i, e)
			print_entry(e, as_json);
		e = json_array_get(list, json_array_size(list) - 1);
		more = e && json_is_true(json_object_get(answer, "more"));
		args = !more ? NULL : json_pack("{s:s, s:s, s:O*}", "after", text_of(e, "id"), "after-role", text_of(e, "role"),
						"after-number", json_object_get(e, "number"));
		why = json_string_value(json_object_get(answer, "error"));
		if (!more && why && *why)
			fprintf(stderr, "vmferry: the journal: %s\n", why);
		json_decref(answer);
	}
	return EXIT_OK;
}
