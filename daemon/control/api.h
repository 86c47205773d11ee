/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CONTROL_API_H
#define CONTROL_API_H

#include "migration.h"

int api_listen(struct ferry *f, const char *path);
void api_stop(struct ferry *f);

#endif
