/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SIM_STRANGER_H
#define SIM_STRANGER_H

#include <stdint.h>

struct fault;
struct node;

void strangers_begin(void);
void stranger_knows(const uint8_t id[16]);
void stranger_comes(const struct fault *f, struct node *n);

#endif
