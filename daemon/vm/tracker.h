/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef VM_TRACKER_H
#define VM_TRACKER_H

#include <stdbool.h>

#include "base/loop.h"
#include "base/worker.h"

/** enum tracker_mode - who is to harvest: the kernel module where it can be had, or must it */
enum tracker_mode { TRACKER_AUTO, TRACKER_KMOD, TRACKER_VMM };

struct tracker;

/** tracker_fn - @err: 0, a negative errno; on the loop */
typedef void (*tracker_fn)(void *arg, int err);

int tracker_open(struct loop *loop, struct worker *wk, int vm_fd, int pid, struct tracker **out);
void tracker_close(struct tracker *t);
void tracker_start(struct tracker *t, tracker_fn done, void *arg);
void tracker_harvest(struct tracker *t, bool final, tracker_fn done, void *arg);
int tracker_fd(const struct tracker *t);
const char *tracker_why(const struct tracker *t);

#endif
