// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Which held guest the operator means with a name or an id.
 *
 * Several held guests may have one name: that of a VMM which is away, and a newcomer. A word that fits more than one is
 * refused, also one that is the name of one guest and the id of another's migration: a wrong guess runs a guest twice.
 */
#include "held_meant.h"

#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "migration.h"

static const uint8_t no_id[16];

static void add(struct held_meant *meant, struct held_guest g)
{
	if (meant->nr < HELD_MEANT_MOST)
		meant->guests[meant->nr] = g;
	meant->nr++;
}

/** held_meant_find() - all held guests that @vm_or_id fits */
void held_meant_find(struct ferry *f, const char *vm_or_id, struct held_meant *meant)
{
	meant->nr = 0;
	for (struct migration *m = migration_next_held(f, NULL); m; m = migration_next_held(f, m))
		if (held_is_meant(vm_or_id, migration_vm(m), migration_id(m)))
			add(meant, (struct held_guest){ .live = m });
	for (struct vm *vm = f->vms.first; vm; vm = vm->next)
		if (vm->held && held_is_asking(vm->held) && held_is_meant(vm_or_id, vm->name, held_entry(vm->held)->id))
			add(meant, (struct held_guest){ .here = vm->held });
	for (const struct journal_entry *e = journal_next(f->journal, NULL); e; e = journal_next(f->journal, e))
		if (held_is_meant(vm_or_id, e->vm, e->id) && held_is_missing(f, e))
			add(meant, (struct held_guest){ .away = e });
}

/** held_id_text() - @id in hexadecimal; Return: @text */
const char *held_id_text(const uint8_t id[16], char text[33])
{
	for (int i = 0; i < 16; i++)
		snprintf(text + i * 2, 3, "%02x", id[i]);
	return text;
}

/** held_handle() - what the operator calls a held guest: the name of @vm, or @id if that name fits others; Return: @text */
const char *held_handle(struct ferry *f, const char *vm, const uint8_t id[16], char text[64])
{
	struct held_meant meant;

	held_meant_find(f, vm, &meant);
	if (memcmp(id, no_id, sizeof(no_id)) && (meant.nr > 1 || !text_is_name(vm, 64)))
		held_id_text(id, text);
	else
		snprintf(text, 64, "%s", vm);
	return text;
}

static void describe(const struct held_guest *g, char *text, size_t len)
{
	const struct journal_entry *e = g->here ? held_entry(g->here) : g->away;
	const uint8_t *id = g->live ? migration_id(g->live) : e->id;
	bool is_connected = g->live ? migration_is_connected(g->live) : g->here != NULL;
	char hex[33];

	snprintf(text, len, "%s (%.63s, %s%s)", memcmp(id, no_id, sizeof(no_id)) ? held_id_text(id, hex) : "one without an id",
		 g->live ? migration_vm(g->live) : e->vm, g->live ? "held by a live migration, " : "",
		 is_connected ? "its VMM is connected" : "its VMM is away");
}

/** held_meant_refuse() - in @why, that @vm_or_id fits more than one of @meant, and the id of each */
void held_meant_refuse(const struct held_meant *meant, const char *vm_or_id, char *why, size_t len)
{
	char one[160];
	size_t n = 0;

	snprintf(why, len, "%.63s fits %u guests that are held; say the id of one: ", vm_or_id, meant->nr);
	for (unsigned int i = 0; i < meant->nr && i < HELD_MEANT_MOST; i++) {
		describe(&meant->guests[i], one, sizeof(one));
		n = strlen(why);
		snprintf(why + n, len - n, "%s%s", i ? ", " : "", one);
	}
}
