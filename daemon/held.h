/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef HELD_H
#define HELD_H
/*
 * What is known of a guest that stands here, and who is asked about it. See held.c for a guest that no live migration
 * has; a live migration in SRC_HELD has an asker of its own.
 */
#include <stdbool.h>
#include <string.h>
#include <stddef.h>
#include <stdint.h>

#include "connect.h"
#include "control/journal.h"
#include "ferry.h"
#include "peer/wire.h"

/** enum held_why - why nobody here can tell where the guest has to run */
enum held_why {
	HELD_GO_SENT,	 /* the journal says "go": the peer knows */
	HELD_UNPROVEN,	 /* the journal says "begun", and the marks behind it are lost: the peer may know */
	HELD_UNKNOWN_ID, /* its VMM names a migration that is not in the journal */
	HELD_NO_JOURNAL, /* nothing here says why it is paused */
};

/**
 * struct asker - asks a peer what became of a migration, again and again until it answers
 * @answer: called on the loop with WIRE_RESOLVED_RUNNING or _NEVER, after the asker has stopped
 * @says_unknown: the peer said last that it has no proof of either
 * @vm: for the log
 *
 * Two askers of one migration, one after the other, ask it at most once a second together: see struct ferry_asked.
 *
 * Nothing is allocated after asker_init() but what a connection needs; an attempt that fails for lack of memory is
 * repeated. All of it is the loop's.
 */
struct asker {
	struct ferry *f;
	struct connector connector;
	struct loop_timer again;
	void (*answer)(void *arg, enum wire_resolved a);
	void *arg;
	char vm[64];
	unsigned int asked;
	bool is_on, says_unknown;
};

int asker_init(struct asker *a, struct ferry *f, void (*answer)(void *arg, enum wire_resolved a), void *arg);
void asker_start(struct asker *a, const struct journal_entry *e);
void asker_stop(struct asker *a);
void asker_fini(struct asker *a);

struct held;

/* Is the VM of @e another one than @vm? A VM keeps its name when it moves; "-" is an entry without a name. */
static inline bool held_is_anothers(const struct journal_entry *e, const char *vm)
{
	return strcmp(e->vm, vm) && strcmp(e->vm, "-");
}

struct held *held_new(struct ferry *f, struct vm *vm);
void held_free(struct held *h);
void held_begin(struct held *h, const struct journal_entry *e, enum held_why why);
void held_resume(struct held *h, const uint8_t id[16], enum journal_role role);
void held_run(struct held *h, const uint8_t id[16]);
void held_release(struct held *h, const uint8_t id[16], enum journal_role role);

bool held_is_meant(const char *vm_or_id, const char *vm, const uint8_t id[16]);
int held_keep_word(struct ferry *f, const uint8_t id[16], bool run_here);
bool held_finds_its_word(const struct vm *vm);
int held_resolve(struct ferry *f, const char *vm_or_id, bool run_here, char *words, size_t len);
const struct held *held_find(struct ferry *f, const char *vm);
const struct journal_entry *held_entry(const struct held *h);
bool held_is_asking(const struct held *h);
const char *held_advice(struct ferry *f, const char *vm, const uint8_t id[16], char *text, size_t len);
const char *held_words(const struct held *h, char *text, size_t len);
bool held_is_missing(struct ferry *f, const struct journal_entry *e);
const struct journal_entry *held_missing(struct ferry *f, const char *vm_or_id);

#endif
