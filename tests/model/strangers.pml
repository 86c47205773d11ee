/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Somebody who knows the migration's id asks what became of it, and tells outcomes that are not true, at any
 * moment, beside the source that asks and tells. The operator of the destination forgets what is closed.
 */
#define FORGETS 1
#define BREAKS 1
#define DST_CRASHES 1
#define SETTLES
#ifdef WHOLE
#define QUESTIONS 2
#define SRC_CRASHES 1
#define WIPES 1
#else
#define QUESTIONS 1
#endif
#include "protocol.pml"
