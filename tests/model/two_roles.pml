/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Both sides are one daemon with one journal: the two entries of a migration have one id, and the daemon dies as
 * both. Another VM of the guest's name runs there, and registers at any moment.
 */
#define ONE_DAEMON
#define NAMESAKES 1
#define BREAKS 1
#ifdef WHOLE
#define SRC_CRASHES 2
#define SETTLES
#else
#define SRC_CRASHES 1
#endif
#include "protocol.pml"
