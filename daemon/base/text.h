/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>

bool text_is_name(const char *text, size_t room);
void text_make_printable(char *text, size_t len);

#endif
