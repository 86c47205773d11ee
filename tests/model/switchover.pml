/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Does a live switchover end with one guest that runs, whatever breaks while both daemons live?
 *
 * The control connection breaks and a tail of it is lost; a channel breaks; either VMM dies with its guest; a journal
 * refuses "begun" or "go"; time is up at any moment. With WHOLE the operator cancels, and the daemons die and start
 * again, too.
 */
#define TRIES 2
#define REFUSALS 1
#define BREAKS 1
#define RESETS 1
#define VMM_DIES
#ifdef WHOLE
#define CANCELS 1
#define SRC_CRASHES 1
#define DST_CRASHES 1
#endif
#include "protocol.pml"
