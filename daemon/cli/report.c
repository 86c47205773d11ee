// SPDX-License-Identifier: GPL-2.0-or-later
/* "vmferry report --html": the account of a migration as one page that needs nothing else. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"

#define PLACE "@ACCOUNT@"

/* The page, with a place for the account. */
__asm__(".section .rodata\n"
	"report_page:\n"
	".incbin \"daemon/cli/report.html\"\n"
	".byte 0\n"
	".previous\n");
extern const char report_page[];

/* No text of ours can end the script it lies in: it has no tags. */
static void put_account(const char *text, FILE *f)
{
	for (; *text; text++)
		if (*text == '<')
			fputs("\\u003c", f);
		else
			fputc(*text, f);
}

/** write_report() - @account as query-migrate returned it; Return: 0 or a negative errno */
int write_report(json_t *account, const char *path)
{
	char *text = json_dumps(account, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_ENSURE_ASCII);
	const char *place = strstr(report_page, PLACE);
	FILE *f = text ? fopen(path, "we") : NULL;
	int err = 0;

	if (!f) {
		err = text ? -errno : -ENOMEM;
		free(text);
		return err;
	}
	fwrite(report_page, (size_t)(place - report_page), 1, f);
	put_account(text, f);
	fputs(place + strlen(PLACE), f);
	if (ferror(f))
		err = -EIO;
	free(text);
	if (fclose(f) && !err)
		err = -errno;
	return err;
}
