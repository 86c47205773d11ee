/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CONTROL_JOURNAL_DISK_H
#define CONTROL_JOURNAL_DISK_H

#include "journal_table.h"

/**
 * struct journal_disk - the journal's file, and what it lacks; one thread at a time
 * @fd: -1: it is not open, or must be written anew first
 * @size: of the file, about
 * @end: bytes of whole lines when it was read
 * @compact_at: no smaller file is compacted
 * @must_rewrite: what is there cannot be continued: no file, an old format, damage, or another host's
 * @is_first: what is there is of the format before
 * @must_end_line: the file may not end with a line's end: a sync failed, and what was written may be lost; or a torn line
 *                 could not be taken back
 * @must_sync_folder: the file was renamed, and the folder may not know it after a loss of power
 * @unwritten: what the file lacks, oldest first
 * @unsynced: what a sync still has to cover, oldest first
 * @synced: what is on the disk; for the caller to take
 */
struct journal_disk {
	char *path, *new_path, *first_path;
	uint8_t machine[16];
	int fd;
	off_t size, end, compact_at;
	bool must_rewrite, is_first, must_end_line, must_sync_folder;
	struct journal_jobs unwritten, unsynced, synced;
};

int journal_disk_init(struct journal_disk *d, const char *path, const uint8_t machine[16]);
void journal_disk_fini(struct journal_disk *d);
int journal_disk_load(struct journal_disk *d, struct journal_table *t, uint8_t id[16]);
int journal_disk_open(struct journal_disk *d, const uint8_t id[16], const struct journal_table *t);
int journal_disk_write(struct journal_disk *d, const uint8_t id[16]);
int journal_disk_sync(struct journal_disk *d);
bool journal_disk_is_wasteful(const struct journal_disk *d, size_t live_bytes);
void journal_disk_compact(struct journal_disk *d, const uint8_t id[16]);

#endif
