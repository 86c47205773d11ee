/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A VMM loses its socket, before or after it carried out any request, and registers again; or it refuses one. Who
 * tells it what to do: the migration that lives, or recovery? No daemon dies here.
 */
#define SRC_CUTS 2
#define DST_CUTS 2
#define BREAKS 1
#ifdef WHOLE
#define TRIES 2
#define CANCELS 1
#define REFUSALS 1
#endif
#include "protocol.pml"
