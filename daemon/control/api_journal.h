/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CONTROL_API_JOURNAL_H
#define CONTROL_API_JOURNAL_H

#include <jansson.h>

#include "migration.h"

json_t *api_query_journal(struct ferry *f, json_t *args, char *why, size_t len);
json_t *api_journal_forget(struct ferry *f, json_t *args, char *why, size_t len);

#endif
