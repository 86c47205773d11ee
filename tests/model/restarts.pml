/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Each daemon dies once, between any two actions, and starts again: on its journal, on a journal whose marks are
 * lost, or, at the destination, after a loss of power. What may a daemon conclude from what is left?
 *
 * A loss of power at the source is left out: its VMM is gone, and nothing is resumed there.
 */
#define SRC_CRASHES 1
#define DST_CRASHES 1
#define WIPES 1
#define POWER 1
#define REFUSALS 1
#define BREAKS 1
#define SETTLES
#ifdef WHOLE
#define SRC_CUTS 1
#define DST_CUTS 1
#endif
#include "protocol.pml"
