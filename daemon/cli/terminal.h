/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CLI_TERMINAL_H
#define CLI_TERMINAL_H

#include <stdbool.h>

void terminal_open(void);
int terminal_close(int code);
bool terminal_may_show(const char *text);

#endif
