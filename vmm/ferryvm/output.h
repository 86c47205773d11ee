/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef FERRYVM_OUTPUT_H
#define FERRYVM_OUTPUT_H

int output_open(void);
void output_console(char c);
void output_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void output_flush(void);

#endif
