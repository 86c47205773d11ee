// SPDX-License-Identifier: GPL-2.0-or-later
/* Where messages go: one line each on standard error, whole, from any thread. */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static void report(int priority, const char *fmt, va_list ap)
{
	char line[1024];
	int n = isatty(STDERR_FILENO) ? 0 : snprintf(line, sizeof(line), "<%d>", priority);
	int m = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
	size_t len;

	if (m < 0)
		return;
	len = (size_t)n + ((size_t)m < sizeof(line) - (size_t)n - 1 ? (size_t)m :
							sizeof(line) - (size_t)n - 2);
	line[len++] = '\n';
	if (write(STDERR_FILENO, line, len) < 0)
		return; /* nowhere left to say it */
}

/** error_report() - object, fact, the guest's state, next step; once, where most is known */
void error_report(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	report(3, fmt, ap);
	va_end(ap);
}

/** notice_report() - something an operator may want to know later */
void notice_report(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	report(5, fmt, ap);
	va_end(ap);
}
