// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The journal for operators: what it keeps, and what nobody will ever acknowledge.
 *
 * One answer has PAGE entries at most: all of them at once would keep the loop for milliseconds. Who wants more asks
 * for what comes after the last one.
 */
#include "api_journal.h"

#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "outcome.h"

#define PAGE 128

static const char *const marks[] = { "", "begun", "go", "done", "never" };
static const char *const roles[] = { "", "source", "destination" };

static void hex(const uint8_t id[16], char text[33])
{
	for (int i = 0; i < 16; i++)
		sprintf(text + i * 2, "%02x", id[i]);
}

static bool take_id(json_t *v, const char *key, uint8_t id[16], char *why, size_t len)
{
	const char *text = json_string_value(v);
	bool is_good = text && strlen(text) == 32 && strspn(text, "0123456789abcdefABCDEF") == 32;

	for (int i = 0; is_good && i < 16; i++)
		is_good = sscanf(text + i * 2, "%2hhx", &id[i]) == 1;
	if (!is_good)
		snprintf(why, len, "argument '%s' must be the id of a migration: 32 hexadecimal digits", key);
	return is_good;
}

/* Numbers of this journal are from 1 to that of the entry that was added last. One of an earlier run may be beyond. */
static bool take_number(const struct journal *j, json_t *v, uint64_t *number, char *why, size_t len)
{
	uint64_t newest = journal_newest_number(j);

	if (!json_is_integer(v) || json_integer_value(v) < 1 || (uint64_t)json_integer_value(v) > newest) {
		snprintf(why, len, "argument 'after-number' must be the number of an entry: an integer from 1 to %llu",
			 (unsigned long long)newest);
		return false;
	}
	*number = (uint64_t)json_integer_value(v);
	return true;
}

/*
 * Where to begin, in @after: behind the entry that @args name by "after", "after-role" and "after-number", or with the
 * oldest. Its number alone says where it was, should it be gone.
 */
static bool take_after(struct journal *j, json_t *args, struct journal_entry *after, bool *is_given, char *why, size_t len)
{
	json_t *id = json_object_get(args, "after"), *number = json_object_get(args, "after-number");
	const char *role = json_string_value(json_object_get(args, "after-role"));
	const struct journal_entry *e;

	*is_given = id;
	if (!id)
		return true;
	if (!take_id(id, "after", after->id, why, len))
		return false;
	after->role = JOURNAL_SOURCE;
	while (after->role <= JOURNAL_DESTINATION && (!role || strcmp(role, roles[after->role])))
		after->role++;
	if (after->role > JOURNAL_DESTINATION) {
		snprintf(why, len, "argument 'after-role' must be 'source' or 'destination'");
		return false;
	}
	if (number)
		return take_number(j, number, &after->number, why, len);
	e = journal_find(j, after->id, after->role);
	after->number = e ? e->number : 0;
	if (after->number)
		return true;
	snprintf(why, len, "the entry that 'after' names is gone, and 'after-number' does not say where it was: begin anew");
	return false;
}

static json_t *entry_json(const struct journal_entry *e)
{
	char id[33], vm[sizeof(e->vm)], peer[sizeof(e->peer)];

	hex(e->id, id);
	memcpy(vm, e->vm, sizeof(vm));
	memcpy(peer, e->peer, sizeof(peer));
	/* The format before took any byte. JSON does not, and an entry that is left out is one that nobody can forget. */
	text_make_printable(vm, strlen(vm));
	text_make_printable(peer, strlen(peer));
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I}", "id", id, "role", roles[e->role], "mark", marks[e->mark], "vm",
			 vm, "peer", peer, "time", (json_int_t)e->when_s, "number",
			 (json_int_t)e->number);
}

/**
 * api_query_journal() - the entries, oldest first, behind the one that "after", "after-role" and "after-number" name
 *
 * "more" says that there are more. Pages that are asked for one after another have each entry that was there all the time
 * once, whatever is dropped or added meanwhile. A "number" holds as long as this daemon runs.
 */
json_t *api_query_journal(struct ferry *f, json_t *args, char *why, size_t len)
{
	struct journal_entry after = { .role = JOURNAL_SOURCE };
	json_t *list = json_array();
	const struct journal_entry *e;
	char error[160];
	bool is_given;

	if (!take_after(f->journal, args, &after, &is_given, why, len)) {
		json_decref(list);
		return NULL;
	}
	e = journal_next(f->journal, is_given ? &after : NULL);
	for (int i = 0; e && i < PAGE; i++, e = journal_next(f->journal, e))
		json_array_append_new(list, entry_json(e));
	snprintf(error, sizeof(error), "%s", journal_why(f->journal));
	text_make_printable(error, strlen(error)); /* it has a path */
	return json_pack("{s:o, s:b, s:i, s:i, s:s}", "entries", list, "more", e != NULL, "kept",
			 (int)journal_nr_kept(f->journal), "most", JOURNAL_KEPT_MOST, "error", error);
}

/**
 * api_journal_forget() - drop the entries of migration "id": the other side will never acknowledge its outcome
 *
 * "vmm-ended" says that its VMM, which is away, does not come back either.
 */
json_t *api_journal_forget(struct ferry *f, json_t *args, char *why, size_t len)
{
	json_t *ended = json_object_get(args, "vmm-ended");
	uint8_t id[16];

	if (!take_id(json_object_get(args, "id"), "id", id, why, len))
		return NULL;
	if (ended && !json_is_boolean(ended)) {
		snprintf(why, len, "argument 'vmm-ended' must be true or false");
		return NULL;
	}
	return outcome_forget(f, id, json_is_true(ended), why, len) ? NULL : json_object();
}
