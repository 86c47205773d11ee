/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CONTROL_REPORT_HELD_H
#define CONTROL_REPORT_HELD_H

#include <jansson.h>

#include "ferry.h"

json_t *report_held(struct ferry *f, const char *vm);
json_t *report_all_held(struct ferry *f, uint64_t after_vm, uint64_t after_entry);

#endif
