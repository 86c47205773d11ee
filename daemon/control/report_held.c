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

/* All of them at once would keep the loop for milliseconds. */
#define PAGE 16	      /* of VMs, and of entries; for the advice of each, all entries are looked at */
#define LOOKED_AT 512 /* entries, each of which may be looked for in all VMs */

static const char *const roles[] = { "", "source", "destination" };

/* @e: of the migration that has stopped the guest, or with zeroes where nothing is known */
static json_t *held_json(struct ferry *f, const struct journal_entry *e, bool is_connected, const char *why)
{
	char id[33] = "", advice[512];

	for (int i = 0; e->role && i < 16; i++)
		sprintf(id + i * 2, "%02x", e->id[i]);
	return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:b, s:s}", "vm", e->vm, "uri", e->peer, "status",
			 migration_status_name(MIGRATION_HELD), "error-desc", why, "id", id, "role", roles[e->role], "since",
			 (json_int_t)e->when_s, "connected", is_connected, "resolve",
			 held_advice(f, e->vm, e->id, advice, sizeof(advice)));
}

static json_t *missing_json(struct ferry *f, const struct journal_entry *e)
{
	char text[512];

	snprintf(text, sizeof(text), "GO may have been sent to %s, and its VMM is not connected: if it lives it holds the guest "
		 "paused", e->peer);
	return held_json(f, e, false, text);
}

static json_t *connected_json(struct ferry *f, const struct held *h)
{
	char text[512];

	return held_json(f, held_entry(h), true, held_words(h, text, sizeof(text)));
}

/** report_held() - what query-migrate returns of a guest that no live migration has, NULL: it is not held */
json_t *report_held(struct ferry *f, const char *vm)
{
	const struct held *h = held_find(f, vm);
	const struct journal_entry *e;

	if (h)
		return connected_json(f, h);
	e = vm_find(&f->vms, vm, false) ? NULL : held_missing(f, vm);
	return e ? missing_json(f, e) : NULL;
}

/* A live migration holds the guest of @e. */
static json_t *live_json(struct ferry *f, const struct journal_entry *e)
{
	const struct migration *m = e->role == JOURNAL_SOURCE ? migration_find(f, e->vm) : NULL;

	if (!m || !migration_has_id(m, e->id) || migration_status(m) != MIGRATION_HELD)
		return NULL;
	return held_json(f, e, migration_is_connected(m), migration_error(m));
}

/* Return: what asks for the next page, NULL: these were the last VMs. The list has the newest VM first. */
static json_t *add_connected(struct ferry *f, json_t *list, uint64_t after)
{
	uint64_t last = 0;

	for (const struct vm *vm = f->vms.first; vm; vm = vm->next) {
		if ((after && vm->number >= after) || !vm->held || !held_is_asking(vm->held))
			continue;
		if (json_array_size(list) == PAGE)
			return json_pack("{s:I}", "after-vm", (json_int_t)last);
		json_array_append_new(list, connected_json(f, vm->held));
		last = vm->number;
	}
	return NULL;
}

/* As add_connected(), of the entries. */
static json_t *add_others(struct ferry *f, json_t *list, uint64_t after)
{
	const struct journal_entry from = { .role = JOURNAL_SOURCE, .number = after };
	const struct journal_entry *e = journal_next(f->journal, after ? &from : NULL);
	size_t most = json_array_size(list) + PAGE;
	uint64_t last = 0;

	for (int i = 0; e && i < LOOKED_AT && json_array_size(list) < most; i++, e = journal_next(f->journal, e)) {
		json_t *live = live_json(f, e);

		if (live)
			json_array_append_new(list, live);
		else if (held_is_missing(f, e))
			json_array_append_new(list, missing_json(f, e));
		last = e->number;
	}
	return e ? json_pack("{s:I}", "after-entry", (json_int_t)last) : NULL;
}

/**
 * report_all_held() - what query-held returns: a page of the guests that are held
 * @after_vm: the page begins behind the VM of this number; 0: with the first one
 * @after_entry: it begins behind the journal's entry of this number; 0: with the VMs
 *
 * "more" says that another page follows, and "next" has the arguments that ask for it. A page may be empty. A guest whose
 * VMM comes or goes meanwhile may be in two pages, or in none.
 */
json_t *report_all_held(struct ferry *f, uint64_t after_vm, uint64_t after_entry)
{
	json_t *list = json_array(), *next = after_entry ? NULL : add_connected(f, list, after_vm);

	if (!next)
		next = add_others(f, list, after_entry);
	if (!next)
		return json_pack("{s:o, s:b}", "held", list, "more", 0);
	return json_pack("{s:o, s:b, s:o}", "held", list, "more", 1, "next", next);
}
