/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

/* Messages to standard error with a systemd priority prefix when it is not a terminal. */
void error_report(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void notice_report(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

int log_open(void);
void log_close(void);

#endif
