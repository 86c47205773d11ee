/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdbool.h>

#include "vm/tracker.h"

/** struct options - of vmferryd; from the configuration file, then the command line */
struct options {
	char *listen;	/* where peers connect */
	char *run_dir;	/* default place of the sockets */
	char *vmm_socket;
	char *control_socket;
	char *state_dir; /* journal */
	char *nice;
	char *tracker;
	int nice_level;	 /* @nice as a number */
	enum tracker_mode tracker_mode;
};

int options_parse(struct options *o, int argc, char **argv);
void options_free(struct options *o);

#endif
