// SPDX-License-Identifier: GPL-2.0-or-later
/* Guests that are held, for the verbs list and status: also those whose VMM is away, which are in no list of VMs. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "client.h"

static const char *text_of(const json_t *held, const char *key)
{
	const char *text = json_string_value(json_object_get(held, key));

	return text && *text ? text : "-";
}

static int is_away(const json_t *held)
{
	return !json_is_true(json_object_get(held, "connected"));
}

/* Return: NULL: there is no such page, or no such daemon */
static json_t *ask_page(struct client *c, json_t *args)
{
	json_t *error, *answer = client_ask(c, "query-held", args, &error);

	json_decref(error);
	return answer;
}

/**
 * held_ask() - the answer to query-held, all its pages in one, to be given back
 *
 * "more" stays true if a page cannot be had. Return: NULL: the daemon is of a release without it, or is gone
 */
json_t *held_ask(struct client *c)
{
	json_t *all = ask_page(c, NULL), *page, *next;

	while ((next = json_object_get(all, "next"))) {
		page = ask_page(c, json_incref(next));
		json_object_del(all, "next");
		if (!page)
			break;
		json_array_extend(json_object_get(all, "held"), json_object_get(page, "held"));
		json_object_set(all, "more", json_object_get(page, "more"));
		if (json_object_get(page, "next"))
			json_object_set(all, "next", json_object_get(page, "next"));
		json_decref(page);
	}
	return all;
}

/** held_add_to_list() - the guests of @held whose VMM is away become VMs of the state "away" in @vms */
void held_add_to_list(json_t *vms, const json_t *held)
{
	json_t *h;
	size_t i;

	json_array_foreach (json_object_get(held, "held"), i, h) {
		json_t *vm;

		if (!is_away(h))
			continue;
		vm = json_pack("{s:s, s:s, s:s}", "name", text_of(h, "vm"), "status", "away", "migration", "held");
		for (const char *const *key = (const char *const[]){ "id", "role", "since", NULL }; *key; key++)
			json_object_set(vm, *key, json_object_get(h, *key));
		json_array_append_new(vms, vm);
	}
}

static void print_one(const json_t *h)
{
	time_t when = (time_t)json_integer_value(json_object_get(h, "since"));
	char since[32] = "it is not known when";
	struct tm tm;

	if (when && localtime_r(&when, &tm))
		strftime(since, sizeof(since), "%Y-%m-%d %H:%M:%S", &tm);
	printf("\n%s is held paused%s, since %s, as the %s of migration %s:\n  %s.\n  Say %s.\n", text_of(h, "vm"),
	       is_away(h) ? ", and its VMM is away" : "", since, text_of(h, "role"), text_of(h, "id"), text_of(h, "error-desc"),
	       text_of(h, "resolve"));
}

/** held_print() - behind the list of VMs: of each guest that is held why, since when, and what to type */
void held_print(const json_t *held)
{
	json_t *h;
	size_t i;

	json_array_foreach (json_object_get(held, "held"), i, h)
		print_one(h);
	if (json_is_true(json_object_get(held, "more")))
		puts("\nThere are more: see \"vmferry journal\".");
}

/** held_print_away() - as "vmferry status VM" prints it, each guest whose VMM is away */
void held_print_away(const json_t *held, int as_json)
{
	json_t *h;
	size_t i;

	json_array_foreach (json_object_get(held, "held"), i, h) {
		if (!is_away(h))
			continue;
		json_dumpf(h, stdout, (as_json ? JSON_COMPACT : JSON_INDENT(2)) | JSON_PRESERVE_ORDER);
		putchar('\n');
	}
}
