/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CONTROL_REPORT_H
#define CONTROL_REPORT_H

#include <jansson.h>

#include "base/loop_times.h"
#include "control/journal.h"
#include "migration.h"

json_t *report_migration(struct migration *m);
json_t *report_journal(json_t *account, const struct journal *j);
json_t *report_params(const struct migration_params *p);
json_t *report_loop(const struct loop_times *t, uint64_t now_ns);

#endif
