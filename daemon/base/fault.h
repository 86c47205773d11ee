/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BASE_FAULT_H
#define BASE_FAULT_H

void fault_point(const char *name);

#endif
