/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdbool.h>

/** struct options - of vmferryd; from the configuration file, then the command line */
struct options {
	char *listen;	/* where peers connect */
	char *run_dir;	/* default place of the sockets */
	char *vmm_socket;
	char *control_socket;
	char *state_dir; /* journal */
	char *nice;
	int nice_level;	 /* @nice as a number */
};

int options_parse(struct options *o, int argc, char **argv);
void options_free(struct options *o);

#endif
