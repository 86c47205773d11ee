/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CONTROL_JOURNAL_H
#define CONTROL_JOURNAL_H

#include <stdint.h>

#include "base/loop.h"

/** enum journal_role - which side of a migration this daemon is on; of a migration to itself it is on both */
enum journal_role {
	JOURNAL_SOURCE = 1,
	JOURNAL_DESTINATION,
};

/** enum journal_mark - what is known of a switchover, in order of time */
enum journal_mark {
	JOURNAL_BEGUN = 1, /* it may happen */
	JOURNAL_GO,	   /* the commit point is passed (sent, or heard) */
	JOURNAL_DONE,	   /* the guest runs at the destination */
	JOURNAL_NEVER,	   /* it came to nothing: the guest stays at the source */
};

/**
 * struct journal_entry - one side of one migration as the journal knows it; @id and @role are its key
 * @peer: where the other side is, source only
 *
 * To be read only; valid until the next call to the journal.
 */
struct journal_entry {
	uint8_t id[16];
	enum journal_role role;
	enum journal_mark mark;
	char vm[64];
	char peer[256];
};

struct journal;

int journal_open(struct loop *l, const char *path, const char *marks_path, struct journal **out);
void journal_close(struct journal *j);
int journal_begin(struct journal *j, const struct journal_entry *e);
int journal_note(struct journal *j, const uint8_t id[16], enum journal_role role, enum journal_mark mark);
void journal_sync(struct journal *j, void (*synced)(void *arg, int err), void *arg);
void journal_forget(struct journal *j, const void *arg);
const struct journal_entry *journal_find(struct journal *j, const uint8_t id[16], enum journal_role role);
const struct journal_entry *journal_open_entry(struct journal *j, const char *vm, enum journal_role role);

#endif
