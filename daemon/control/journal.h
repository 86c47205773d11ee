/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CONTROL_JOURNAL_H
#define CONTROL_JOURNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"

/** enum journal_mark - what is known of a switchover, in order of time */
enum journal_mark {
	JOURNAL_BEGUN = 1, /* it may happen */
	JOURNAL_GO,	   /* the commit point is passed (sent, or heard) */
	JOURNAL_DONE,	   /* the guest runs at the destination */
	JOURNAL_NEVER,	   /* it came to nothing: the guest stays at the source */
};

/**
 * struct journal_entry - one migration as the journal knows it
 * @is_source: which side we are
 * @peer: where the other side is, source only
 */
struct journal_entry {
	uint8_t id[16];
	char vm[64];
	char peer[256];
	bool is_source;
	enum journal_mark mark;
	struct journal_entry *next;
};

struct journal;

int journal_open(struct loop *l, const char *path, const char *marks_path, struct journal **out);
void journal_close(struct journal *j);
int journal_begin(struct journal *j, const uint8_t id[16], const char *vm, bool is_source,
		  const char *peer);
int journal_note(struct journal *j, const uint8_t id[16], enum journal_mark mark);
void journal_sync(struct journal *j, void (*synced)(void *arg, int err), void *arg);
void journal_forget(struct journal *j, const void *arg);
struct journal_entry *journal_find(struct journal *j, const uint8_t id[16]);
struct journal_entry *journal_open_entry(struct journal *j, const char *vm, bool is_source);

#endif
