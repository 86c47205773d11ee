// SPDX-License-Identifier: GPL-2.0-or-later
/* vmferryd's options: one table for the command line, the configuration file and --help. */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "peer/address.h"

#define CONFIG_FILE "/etc/vmferry/vmferryd.conf"
#define FOLDER_MOST 255 /* bytes; names of files are appended to it */
#define CONFIG_MOST 65536 /* bytes; a file of more is not a configuration file */

static const struct setting {
	const char *name;
	size_t offset;
	const char *otherwise;
	const char *help;
} settings[] = {
	{ "listen", offsetof(struct options, listen), "tcp::4747",
	  "where other daemons connect: tcp:HOST:PORT or unix:PATH" },
	{ "run-dir", offsetof(struct options, run_dir), "/run/vmferry", "directory of the sockets" },
	{ "vmm-socket", offsetof(struct options, vmm_socket), NULL,
	  "where VMMs register (default RUN-DIR/vmm.sock)" },
	{ "control-socket", offsetof(struct options, control_socket), NULL,
	  "where vmferry and QMP clients connect (default RUN-DIR/control.sock)" },
	{ "state-dir", offsetof(struct options, state_dir), "/var/lib/vmferry",
	  "directory of the journal, the history of blackouts, learned figures" },
	{ "nice", offsetof(struct options, nice), "-5",
	  "priority of this daemon's threads, -20 to 19; guests run at 0" },
	{ "tracker", offsetof(struct options, tracker), "auto",
	  "who harvests dirty pages: kmod (/dev/vmferry), vmm, or auto: kmod where it can" },
};

#define NR (sizeof(settings) / sizeof(settings[0]))

/* Return: 1, which options_parse() returns after an answer; -EIO if nobody got it */
static int said(void)
{
	if (!fflush(stdout) && !ferror(stdout))
		return 1;
	error_report("vmferryd: cannot write to standard output: %s", strerror(errno));
	return -EIO;
}

static int usage(void)
{
	printf("vmferryd - moves running KVM guests between hosts\n\n"
	       "usage: vmferryd [options]\n\n"
	       "Runs in the foreground and logs to standard error. Ends on SIGTERM or SIGINT: a guest\n"
	       "on its way stays where it runs.\n\n"
	       "  --config FILE            lines of NAME = VALUE, with the names below\n"
	       "                           (default %s, if it is there)\n", CONFIG_FILE);
	for (size_t i = 0; i < NR; i++)
		printf("  --%-14s VALUE   %s%s%s%s\n", settings[i].name, settings[i].help,
		       settings[i].otherwise ? "\n                           (default " : "",
		       settings[i].otherwise ? settings[i].otherwise : "",
		       settings[i].otherwise ? ")" : "");
	printf("  --version                the release\n"
	       "  --help                   this text\n\n"
	       "exit codes: 0 ended by a signal; 1 cannot start or go on; 2 wrong usage\n\n"
	       "See also: vmferry(1), vmferryd(8)\n");
	return said();
}

/* Return: 0; -EINVAL: no such option; -ENODATA: an empty value, which no option takes; -ENOMEM */
static int set(struct options *o, const char *name, const char *value)
{
	for (size_t i = 0; i < NR; i++) {
		char **slot = (char **)(void *)((char *)o + settings[i].offset);

		if (strcmp(settings[i].name, name))
			continue;
		if (!*value)
			return -ENODATA;
		free(*slot);
		*slot = strdup(value);
		return *slot ? 0 : -ENOMEM;
	}
	return -EINVAL;
}

static char *trim(char *s)
{
	char *end;

	s += strspn(s, " \t");
	end = s + strlen(s);
	while (end > s && strchr(" \t\r\n", end[-1]))
		*--end = '\0';
	return s;
}

/* Reads @path into @text of CONFIG_MOST + 1 bytes. Return: 0; 1: there is none; -EINVAL after saying why not */
static int load_config(const char *path, char *text)
{
	FILE *f = fopen(path, "re");
	const char *why = NULL;
	size_t len = 0;

	if (!f && errno == ENOENT)
		return 1;
	if (f)
		len = fread(text, 1, CONFIG_MOST + 1, f);
	if (!f || ferror(f))
		why = strerror(errno);
	else if (len > CONFIG_MOST)
		why = "has more than 64 KiB, so it is not a configuration file";
	else if (memchr(text, '\0', len))
		why = "has bytes of value 0, so it is not a configuration file";
	else
		text[len] = '\0';
	if (f)
		fclose(f);
	if (why)
		error_report("configuration file %s: %s", path, why);
	return why ? -EINVAL : 0;
}

static int read_line(struct options *o, const char *path, int n, char *line)
{
	char *name = trim(line), *eq = strchr(name, '=');
	int err = -EINVAL;

	if (!*name || *name == '#')
		return 0;
	if (eq) {
		*eq = '\0';
		name = trim(name);
		err = set(o, name, trim(eq + 1));
	}
	if (err == -ENODATA)
		error_report("configuration file %s, line %d: \"%s\" has no value", path, n, name);
	else if (err)
		error_report("configuration file %s, line %d: expected NAME = VALUE with a name that "
			     "vmferryd --help shows", path, n);
	return err;
}

static int read_config(struct options *o, const char *path, bool must)
{
	static char text[CONFIG_MOST + 1];
	char *rest = text, *line;
	int err = load_config(path, text);

	if (err > 0 && must)
		error_report("configuration file %s: %s", path, strerror(ENOENT));
	if (err)
		return err > 0 && !must ? 0 : -EINVAL;
	for (int n = 1; !err && (line = strsep(&rest, "\n")); n++)
		err = read_line(o, path, n, line);
	return err;
}

static int fill_tracker(struct options *o)
{
	static const char *const names[] = { "auto", "kmod", "vmm" };

	for (int i = 0; i < 3; i++)
		if (!strcmp(o->tracker, names[i])) {
			o->tracker_mode = (enum tracker_mode)i;
			return 0;
		}
	error_report("tracker: \"%s\" is none of auto, kmod, vmm", o->tracker);
	return -EINVAL;
}

static int fill_nice(struct options *o)
{
	char *end;
	long n = strtol(o->nice, &end, 10);

	o->nice_level = (int)n;
	if (end != o->nice && !*end && n >= -20 && n <= 19)
		return 0;
	error_report("nice: \"%s\" is not a number from -20 to 19", o->nice);
	return -EINVAL;
}

static int check_folder(const char *option, const char *path)
{
	if (strlen(path) <= FOLDER_MOST)
		return 0;
	error_report("%s: \"%.100s...\" has %zu bytes; %d are the most", option, path, strlen(path), FOLDER_MOST);
	return -EINVAL;
}

static int check_address(const char *option, const char *uri)
{
	char why[160];
	int err = address_check(uri, why, sizeof(why));

	if (err)
		error_report("%s: \"%.200s\": %s", option, uri, why);
	return err;
}

/* Without a value of its own, @option's socket is in the run directory, and a path that is too long is that one's. */
static int fill_socket(struct options *o, char **path, const char *option, const char *name)
{
	char *uri = NULL;
	int err;

	if (!*path) {
		option = "run-dir";
		if (asprintf(path, "%s/%s", o->run_dir, name) < 0)
			*path = NULL;
	}
	if (!*path || asprintf(&uri, "unix:%s", *path) < 0)
		return -ENOMEM;
	err = check_address(option, uri);
	free(uri);
	return err;
}

static int fill_defaults(struct options *o)
{
	int err = check_folder("run-dir", o->run_dir);

	if (!err)
		err = check_folder("state-dir", o->state_dir);
	if (!err)
		err = fill_socket(o, &o->vmm_socket, "vmm-socket", "vmm.sock");
	if (!err)
		err = fill_socket(o, &o->control_socket, "control-socket", "control.sock");
	if (!err)
		err = check_address("listen", o->listen);
	if (!err)
		err = fill_nice(o);
	return err ? err : fill_tracker(o);
}

static int set_argument(struct options *o, const char *name, const char *value)
{
	int err = set(o, name, value);

	if (err == -ENODATA)
		error_report("--%s: the value is empty; see vmferryd --help", name);
	return err;
}

/**
 * options_parse() - read the configuration file, then the command line
 *
 * Return: 0; 1 if help or the release was printed; a negative errno after saying what is wrong.
 */
int options_parse(struct options *o, int argc, char **argv)
{
	struct option longs[NR + 4] = { { "config", 1, NULL, 'c' }, { "help", 0, NULL, 'h' }, { "version", 0, NULL, 'v' } };
	const char *config = NULL;
	int c, index, err = 0;

	for (size_t i = 0; i < NR; i++)
		longs[i + 3] = (struct option){ settings[i].name, 1, NULL, 's' };
	for (size_t i = 0; i < NR && !err; i++)
		if (settings[i].otherwise)
			err = set(o, settings[i].name, settings[i].otherwise);
	while (!err && (c = getopt_long(argc, argv, "h", longs, &index)) != -1) {
		if (c == 'h')
			return usage();
		if (c == 'v') {
			printf("vmferryd %s\n", VMFERRY_RELEASE);
			return said();
		}
		if (c == '?') {
			fputs("see vmferryd --help\n", stderr); /* after getopt_long()'s own line */
			err = -EINVAL;
		}
		if (c == 'c')
			config = optarg;
	}
	if (!err && optind != argc) {
		error_report("vmferryd takes no argument \"%s\"; see vmferryd --help", argv[optind]);
		err = -EINVAL;
	}
	if (!err)
		err = read_config(o, config ? config : CONFIG_FILE, config != NULL);
	optind = 1; /* the command line wins over the file */
	while (!err && (c = getopt_long(argc, argv, "h", longs, &index)) != -1)
		if (c == 's')
			err = set_argument(o, longs[index].name, optarg);
	return err ? err : fill_defaults(o);
}

void options_free(struct options *o)
{
	for (size_t i = 0; i < NR; i++)
		free(*(char **)(void *)((char *)o + settings[i].offset));
}
