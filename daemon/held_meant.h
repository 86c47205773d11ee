/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef HELD_MEANT_H
#define HELD_MEANT_H
/* Which held guest the operator means: see held_meant.c. */
#include "control/journal.h"
#include "ferry.h"
#include "held.h"

struct migration;

/**
 * struct held_guest - one guest that is held; one of @live, @here and @away is set
 * @live: by a live migration
 * @here: by no migration of this daemon; its VMM is connected
 * @away: by no migration of this daemon; its VMM is not connected
 */
struct held_guest {
	struct migration *live;
	struct held *here;
	const struct journal_entry *away;
};

#define HELD_MEANT_MOST 4

/** struct held_meant - the guests that a word fits: @nr of them, of which @guests has the first ones */
struct held_meant {
	unsigned int nr;
	struct held_guest guests[HELD_MEANT_MOST];
};

void held_meant_find(struct ferry *f, const char *vm_or_id, struct held_meant *meant);
void held_meant_refuse(const struct held_meant *meant, const char *vm_or_id, char *why, size_t len);
const char *held_id_text(const uint8_t id[16], char text[33]);
const char *held_handle(struct ferry *f, const char *vm, const uint8_t id[16], char text[64]);

#endif
