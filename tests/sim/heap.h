/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SIM_HEAP_H
#define SIM_HEAP_H

#include <stddef.h>

struct heap;

struct heap *heap_new(void);
void heap_forget(struct heap *h);
size_t heap_in_use(const struct heap *h);

#endif
