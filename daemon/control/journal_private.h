/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CONTROL_JOURNAL_PRIVATE_H
#define CONTROL_JOURNAL_PRIVATE_H
/* What journal.c and journal_start.c share. */
#include "journal_disk.h"
#include "journal_marks.h"

#define JOURNAL_MARKS "vmferry-marks"

/** struct question - who waits for a sync; the loop's alone */
struct question {
	void (*synced)(void *arg, int err);
	void *arg;
	STAILQ_ENTRY(question) next;
};

STAILQ_HEAD(questions, question);

/**
 * struct run - what the loop tells the work when it begins, and what the work answers
 * @must_sync: somebody waits for a sync; or the disk has failed before, and only a sync shows whether it still does
 * @is_compaction: the file is to be written anew
 * @has_next_marks: all marks up to @marks_at are on the disk, and a new file is ready
 */
struct run {
	uint8_t id[16];
	off_t marks_at;
	bool must_sync, is_compaction, has_next_marks;
	int err;
};

/**
 * struct journal
 * @disk: the work's while it is out
 * @marks: the loop's
 * @next_marks: the work's; the loop puts it in the place of @marks if nothing was noted meanwhile
 * @old_marks: for the work to close: munmap() on the loop would wait for threads that fault guest RAM in
 * @gone: dropped entries whose lines are not on the disk yet
 * @handed, @asked: what came since the work began
 * @out: questions of the work that is out
 * @answered: questions that are being answered
 * @marks_path: where they are, whether there are any or not
 * @marks_end: where those of the daemon before end; 0: their stamp is not carried on, and they must not go on
 * @marks_err: why there are none, as long as @marks.fd is -1
 * @is_id_on_disk: see journal_id()
 * @is_wasteful: the file is to be compacted
 * @why, @marks_why: why it cannot be written on the disk; why the marks cannot; "": it can
 */
struct journal {
	struct worker *worker;
	struct work work;
	struct run run;
	struct journal_disk disk;
	struct journal_marks marks, next_marks, old_marks;
	uint8_t id[16], stamp[16], boot[16];
	struct journal_table table;
	struct journal_order gone;
	struct journal_jobs handed;
	struct questions asked, out, answered;
	char *marks_path;
	off_t marks_end;
	int marks_err;
	bool is_id_on_disk, is_wasteful;
	char why[160], marks_why[160];
};

int journal_new_id(uint8_t id[16]);
void journal_queue(struct journal_jobs *jobs, struct journal_kept *k, unsigned int line, uint64_t when_s);
void journal_retire(struct journal *j, struct journal_kept *k);
int journal_write_mark(struct journal *j, struct journal_kept *k, unsigned int line, uint64_t when_s);
void journal_carry_out(struct work *w);
void journal_done(struct work *w);
void journal_take_synced(struct journal *j);
void journal_say(struct journal *j, int err);
void journal_say_marks(struct journal *j, int err);
int journal_begin_marks(struct journal *j);

#endif
