// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Guests that are held, for the operator: which ones, since when, why, and what to type; whether their VMM is connected,
 * away, or has died with the guest, which nobody here can tell apart.
 *
 * The journal has an entry of each guest whose VMM is away. A guest whose VMM is connected may be held without one.
 */
#include "report_held.h"

#include <stdio.h>

#include "held.h"
#include "migration.h"

#define MOST 128 /* all of them at once would keep the loop for milliseconds */

static const char *const roles[] = { "", "source", "destination" };

/* @e: of the migration that has stopped the guest, or with zeroes where nothing is known */
static json_t *held_json(const struct journal_entry *e, bool is_connected, const char *why)
{
	char id[33] = "", advice[512];

	for (int i = 0; e->role && i < 16; i++)
		sprintf(id + i * 2, "%02x", e->id[i]);
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:b, s:s}", "vm", e->vm, "uri", e->peer, "status",
			 migration_status_name(MIGRATION_HELD), "error-desc", why, "id", id, "role", roles[e->role], "since",
			 (json_int_t)e->when_s, "connected", is_connected, "resolve",
			 held_advice(e->vm, advice, sizeof(advice)));
}

static json_t *missing_json(const struct journal_entry *e)
{
	char text[512];

	snprintf(text, sizeof(text), "GO may have been sent to %s, and its VMM is not connected: if it lives it holds the guest "
		 "paused", e->peer);
	return held_json(e, false, text);
}

static json_t *connected_json(const struct held *h)
{
	char text[512];

	return held_json(held_entry(h), true, held_words(h, text, sizeof(text)));
}

/** report_held() - what query-migrate returns of a guest that no live migration has, NULL: it is not held */
json_t *report_held(struct ferry *f, const char *vm)
{
	const struct held *h = held_find(f, vm);
	const struct journal_entry *e;

	if (h)
		return connected_json(h);
	e = vm_find(&f->vms, vm, false) ? NULL : held_missing(f, vm);
	return e ? missing_json(e) : NULL;
}

/* A live migration holds the guest of @e. */
static json_t *live_json(struct ferry *f, const struct journal_entry *e)
{
	const struct migration *m = e->role == JOURNAL_SOURCE ? migration_find(f, e->vm) : NULL;

	if (!m || !migration_has_id(m, e->id) || migration_status(m) != MIGRATION_HELD)
		return NULL;
	return held_json(e, vm_find(&f->vms, e->vm, false), migration_error(m));
}

/** report_all_held() - what query-held returns: the guests that are held, MOST at most; "more": there are others */
json_t *report_all_held(struct ferry *f)
{
	json_t *list = json_array();
	const struct journal_entry *e;

	for (const struct vm *vm = f->vms.first; vm && json_array_size(list) < MOST; vm = vm->next)
		if (vm->held && held_is_asking(vm->held))
			json_array_append_new(list, connected_json(vm->held));
	for (e = journal_next(f->journal, NULL); e && json_array_size(list) < MOST; e = journal_next(f->journal, e)) {
		json_t *live = live_json(f, e);

		if (live)
			json_array_append_new(list, live);
		else if (held_is_missing(f, e))
			json_array_append_new(list, missing_json(e));
	}
	return json_pack("{s:o, s:b}", "held", list, "more", e != NULL);
}
