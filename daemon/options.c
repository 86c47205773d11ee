// SPDX-License-Identifier: GPL-2.0-or-later
/* vmferryd's options: one table for the command line, the configuration file and --help. */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

#define CONFIG_FILE "/etc/vmferry/vmferryd.conf"

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
	  "directory of the journal" },
	{ "nice", offsetof(struct options, nice), "-5",
	  "priority of this daemon's threads, -20 to 19; guests run at 0" },
	{ "tracker", offsetof(struct options, tracker), "auto",
	  "who harvests dirty pages: kmod (/dev/vmferry), vmm, or auto: kmod where it can" },
};

#define NR (sizeof(settings) / sizeof(settings[0]))

static void usage(void)
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
	printf("  --help                   this text\n\n"
	       "See also: vmferry(1), vmferryd(8)\n");
}

static int set(struct options *o, const char *name, const char *value)
{
	for (size_t i = 0; i < NR; i++) {
		char **slot = (char **)(void *)((char *)o + settings[i].offset);

		if (strcmp(settings[i].name, name))
			continue;
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

static int read_config(struct options *o, const char *path, bool must)
{
	FILE *f = fopen(path, "re");
	char line[512];
	int n = 0, err = f ? 0 : -errno;

	if (!f) {
		if (must || err != -ENOENT)
			error_report("configuration file %s: %s", path, strerror(-err));
		return must ? err : 0;
	}
	while (!err && fgets(line, sizeof(line), f)) {
		char *name = trim(line), *eq = strchr(name, '=');

		n++;
		if (!*name || *name == '#')
			continue;
		if (eq)
			*eq = '\0';
		if (!eq || set(o, trim(name), trim(eq + 1))) {
			error_report("configuration file %s, line %d: expected NAME = VALUE with a name that "
				     "vmferryd --help shows", path, n);
			err = -EINVAL;
		}
	}
	fclose(f);
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

static int fill_defaults(struct options *o)
{
	char path[256], *end;

	if (!o->vmm_socket) {
		snprintf(path, sizeof(path), "%s/vmm.sock", o->run_dir);
		o->vmm_socket = strdup(path);
	}
	if (!o->control_socket) {
		snprintf(path, sizeof(path), "%s/control.sock", o->run_dir);
		o->control_socket = strdup(path);
	}
	if (!o->vmm_socket || !o->control_socket)
		return -ENOMEM;
	o->nice_level = (int)strtol(o->nice, &end, 10);
	if (end == o->nice || *end || o->nice_level < -20 || o->nice_level > 19) {
		error_report("nice: \"%s\" is not a number from -20 to 19", o->nice);
		return -EINVAL;
	}
	return fill_tracker(o);
}

/** options_parse() - Return: 0; 1 if help was printed; -EINVAL after saying what is wrong */
int options_parse(struct options *o, int argc, char **argv)
{
	struct option longs[NR + 3] = { { "config", 1, NULL, 'c' }, { "help", 0, NULL, 'h' } };
	const char *config = NULL;
	int c, index, err = 0;

	for (size_t i = 0; i < NR; i++)
		longs[i + 2] = (struct option){ settings[i].name, 1, NULL, 's' };
	for (size_t i = 0; i < NR && !err; i++)
		if (settings[i].otherwise)
			err = set(o, settings[i].name, settings[i].otherwise);
	while (!err && (c = getopt_long(argc, argv, "h", longs, &index)) != -1) {
		if (c == 'h') {
			usage();
			return 1;
		}
		if (c == '?')
			err = -EINVAL;
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
			err = set(o, longs[index].name, optarg);
	return err ? err : fill_defaults(o);
}

void options_free(struct options *o)
{
	for (size_t i = 0; i < NR; i++)
		free(*(char **)(void *)((char *)o + settings[i].offset));
}
