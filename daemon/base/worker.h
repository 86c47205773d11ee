/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BASE_WORKER_H
#define BASE_WORKER_H

#include <stdbool.h>
#include <stdint.h>

#include "loop.h"

/**
 * struct work - something that may block; embed it in its owner
 * @run: called on a thread of the worker; it must not touch what the loop may touch meanwhile
 * @done: called on the loop after @run; may free the work, or hand it to the worker again
 * @owner: for the two functions
 * @is_out: from worker_do() until just before @done; the loop's thread alone reads and writes it
 *
 * The owner must not go while its work is out: it waits for @done.
 */
struct work {
	void (*run)(struct work *w);
	void (*done)(struct work *w);
	void *owner;
	bool is_out;

	/* the worker's own */
	struct work *next;
	struct worker_thread *thread;
};

struct worker;

int worker_open(struct loop *l, struct worker **out);
void worker_do(struct worker *wk, struct work *w);
bool worker_drain(struct worker *wk, uint64_t until_ns);
void worker_close(struct worker *wk);

#endif
