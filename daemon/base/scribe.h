/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BASE_SCRIBE_H
#define BASE_SCRIBE_H

#include <stdbool.h>

struct scribe;

int scribe_open(struct scribe **out);
void scribe_close(struct scribe *s);
void scribe_append(struct scribe *s, const char *path, char *text);
void scribe_replace(struct scribe *s, const char *path, char *text);

#endif
