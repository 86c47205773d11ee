/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BASE_LOCK_FILE_H
#define BASE_LOCK_FILE_H

#include <sys/types.h>

struct lock_file;

int lock_file_take(const char *path, struct lock_file **out, pid_t *holder);
int lock_folder_take(const char *folder, struct lock_file **out, pid_t *holder);
void lock_file_release(struct lock_file *l);

#endif
