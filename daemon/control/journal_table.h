/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CONTROL_JOURNAL_TABLE_H
#define CONTROL_JOURNAL_TABLE_H

#include <sys/queue.h>

#include "journal_file.h"

/**
 * struct journal_job - a line that the journal's file still lacks; a part of its entry
 * @line: what it says; 0: this job is in no list
 */
struct journal_job {
	STAILQ_ENTRY(journal_job) next;
	struct journal_kept *of;
	unsigned int line;
	uint64_t when_s;
};

STAILQ_HEAD(journal_jobs, journal_job);

/**
 * struct journal_kept - an entry, and all that its way to the disk needs: a decision allocates nothing
 * @e: the key, @vm, @peer, @peer_journal and @stamp do not change as long as a job is out
 * @jobs: one for each line
 * @renewed: what JOURNAL_LINE_FORGOT says: the journal's next id
 * @is_marked: at start-up the marks have a line of it
 * @nr_out: jobs that are in a list
 * @is_gone: dropped; freed once no job is out
 * @len: of its latest line
 */
struct journal_kept {
	struct journal_entry e;
	struct journal_job jobs[JOURNAL_LINE_NR];
	uint8_t renewed[16];
	unsigned int nr_out;
	bool is_gone, is_marked;
	size_t len;
	struct journal_kept *same_bucket;
	TAILQ_ENTRY(journal_kept) order;
};

TAILQ_HEAD(journal_order, journal_kept);

/**
 * struct journal_table - entries by id and role, and in the order in which they were added
 * @nr_added: so many ever were
 */
struct journal_table {
	struct journal_kept **buckets;
	size_t nr_buckets;
	uint64_t key, nr_added;
	unsigned int nr;
	size_t live_bytes;
	struct journal_order order;
};

int journal_table_init(struct journal_table *t);
void journal_table_fini(struct journal_table *t);
void journal_kept_set(struct journal_kept *k, const struct journal_entry *e, enum journal_mark mark);
struct journal_kept *journal_kept_new(const uint8_t id[16], enum journal_role role);
void journal_table_add(struct journal_table *t, struct journal_kept *k);
void journal_table_remove(struct journal_table *t, struct journal_kept *k);
struct journal_kept *journal_table_find(const struct journal_table *t, const uint8_t id[16], enum journal_role role);
void journal_table_set_len(struct journal_table *t, struct journal_kept *k, size_t len);

bool journal_mark_is_open(enum journal_mark mark);
int journal_may_note(const struct journal_kept *k, enum journal_role role, enum journal_mark mark);

#endif
