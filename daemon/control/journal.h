/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CONTROL_JOURNAL_H
#define CONTROL_JOURNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"
#include "base/worker.h"

#define JOURNAL_KEPT_MOST 4096 /* entries; a destination accepts no further migration then */

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
 * @mark: the latest; journal_begin() ignores it
 * @vm: name of the VM; "-" where journal_note() made the entry
 * @peer: address of the other side, source only
 * @peer_journal: the id of the peer's journal, see journal_id(); source only; zeros: not known
 * @stamp: of the marks file that was open when the migration began, see journal_proves_no_go(); zeros: none.
 *         journal_begin() ignores it
 * @number: the later it was added, the greater, as long as the journal is open; journal_begin() ignores it
 * @when_s: time of @mark, seconds since 1970; 0: not known. journal_begin() ignores it
 *
 * To be read only. It is valid until the next call to the journal. The entry whose @id is passed to journal_note(),
 * journal_settled() or journal_drop() stays valid until that call has read the id.
 */
struct journal_entry {
	uint8_t id[16];
	enum journal_role role;
	enum journal_mark mark;
	char vm[64];
	char peer[256];
	uint8_t peer_journal[16];
	uint8_t stamp[16];
	uint64_t when_s, number;
};

/**
 * struct journal_config - where a journal is, and on which host
 * @worker: writes to @path; must be drained before journal_close()
 * @path: on a disk
 * @marks_path: on a tmpfs
 * @boot: id of the host's boot: a tmpfs does not outlive it
 * @machine: id of the host: a copy of a disk image is another host, and its journal gets another id
 *
 * The strings are the caller's; journal_open() copies them.
 */
struct journal_config {
	struct loop *loop;
	struct worker *worker;
	const char *path, *marks_path;
	uint8_t boot[16], machine[16];
};

struct journal;

int journal_open(const struct journal_config *c, struct journal **out);
void journal_close(struct journal *j);
const char *journal_why(const struct journal *j);
void journal_id(const struct journal *j, uint8_t id[16]);

int journal_begin(struct journal *j, const struct journal_entry *e);
int journal_note(struct journal *j, const uint8_t id[16], enum journal_role role, enum journal_mark mark);
int journal_settled(struct journal *j, const uint8_t id[16], enum journal_role role);
int journal_drop(struct journal *j, const uint8_t id[16], enum journal_role role);
void journal_sync(struct journal *j, void (*synced)(void *arg, int err), void *arg);
void journal_forget(struct journal *j, const void *arg);

const struct journal_entry *journal_find(struct journal *j, const uint8_t id[16], enum journal_role role);
const struct journal_entry *journal_open_entry(struct journal *j, const char *vm, enum journal_role role);
const struct journal_entry *journal_next(struct journal *j, const struct journal_entry *after);
bool journal_proves_no_go(const struct journal *j, const struct journal_entry *e);
unsigned int journal_nr_kept(const struct journal *j);
uint64_t journal_newest_number(const struct journal *j);

#endif
