// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What vmferry shares with the terminal or pipe that it was started from: whether its answer was written, and which
 * arguments a message may repeat.
 */
#include "terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client.h"

/**
 * terminal_open() - no later file takes the place of a standard file that is closed
 *
 * Else the control socket would be standard output, and the answer would be sent to the daemon. The file in its place
 * cannot be written, so that terminal_close() sees that nobody got the answer.
 */
void terminal_open(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDONLY);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

/** terminal_close() - Return: @code, or EXIT_UNWRITTEN instead of EXIT_OK if not all of the answer was written */
int terminal_close(int code)
{
	bool was_lost = ferror(stdout);

	errno = 0; /* of an earlier write it is not known any more */
	if (!fflush(stdout) && !was_lost)
		return code;
	fprintf(stderr, "vmferry: cannot write to standard output%s%s\n", errno ? ": " : "", errno ? strerror(errno) : "");
	return code == EXIT_OK ? EXIT_UNWRITTEN : code;
}

/* Control characters, those of 8 bits too: U+0080 to U+009f are c2 80 to c2 9f. */
static bool has_control(const unsigned char *s)
{
	for (; *s; s++)
		if (*s < ' ' || *s == 0x7f || (*s == 0xc2 && s[1] < 0xa0))
			return true;
	return false;
}

/** terminal_may_show() - is @text UTF-8, as JSON needs it, and without characters that command a terminal? */
bool terminal_may_show(const char *text)
{
	json_t *j = json_string(text); /* NULL: not UTF-8 */
	bool is_good = j && !has_control((const unsigned char *)text);

	json_decref(j);
	return is_good;
}
