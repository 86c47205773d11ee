// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Works of a simulated daemon, in place of base/worker.c: each runs at a random time after it was handed over, in any order.
 *
 * A work runs as a whole at one instant of the world, so it overlaps with no other code. Its done() is called by the loop,
 * in a later turn. While the disk of its host hangs no work begins.
 */
#include "base/worker.h"

#include <stdlib.h>
#include <string.h>

#include "files.h"
#include "node.h"
#include "world.h"

#define MAX_OUT 512

struct job {
	struct work *work;
	struct node *node;
	unsigned int life;
	bool is_run;
};

/* @jobs: handed over and not finished; @finished: run, and done() is due */
struct worker {
	struct loop_event finished_event;
	struct job *jobs[MAX_OUT];
	unsigned int nr_jobs;
	struct work *finished[MAX_OUT];
	unsigned int nr_finished;
};

void *__wrap_calloc(size_t nr, size_t len);
void __wrap_free(void *p);

static void on_finished(void *owner)
{
	struct worker *wk = owner;
	struct work *works[MAX_OUT];
	unsigned int nr = wk->nr_finished;

	memcpy(works, wk->finished, nr * sizeof(works[0]));
	wk->nr_finished = 0;
	for (unsigned int i = 0; i < nr; i++) {
		works[i]->is_out = false;
		if (works[i]->done)
			works[i]->done(works[i]);
	}
}

int worker_open(struct loop *l, struct worker **out)
{
	struct worker *wk = __wrap_calloc(1, sizeof(*wk));
	int err;

	if (!wk)
		return -12;
	err = loop_event_init(&wk->finished_event, l, on_finished, wk);
	if (err) {
		__wrap_free(wk);
		return err;
	}
	*out = wk;
	return 0;
}

static void carry_out(struct job *j)
{
	struct worker *wk = j->node->f.worker;
	unsigned int i = 0;

	while (wk->jobs[i] != j)
		i++;
	wk->jobs[i] = wk->jobs[--wk->nr_jobs];
	j->is_run = true;
	j->work->run(j->work);
	wk->finished[wk->nr_finished++] = j->work;
	loop_event_raise(&wk->finished_event);
}

static void run_job(void *arg)
{
	carry_out(arg);
}

static void on_job(void *arg)
{
	struct job *j = arg;

	if (j->is_run || !j->node->is_up || j->life != j->node->life)
		return;
	if (j->node->disk_hangs)
		world_after(50 * MS, on_job, j);
	else
		node_run(j->node, run_job, j);
}

void worker_do(struct worker *wk, struct work *w)
{
	struct job *j = world_alloc(sizeof(*j));

	if (wk->nr_jobs + wk->nr_finished >= MAX_OUT)
		abort();
	*j = (struct job){ .work = w, .node = node_now, .life = node_now->life };
	w->is_out = true;
	wk->jobs[wk->nr_jobs++] = j;
	world_after(world_delay(100 * US), on_job, j);
}

bool worker_drain(struct worker *wk, uint64_t until_ns)
{
	(void)until_ns;
	while (wk->nr_jobs || wk->nr_finished) {
		if (wk->nr_jobs && node_now->disk_hangs)
			return false;
		if (wk->nr_jobs)
			carry_out(wk->jobs[world_below(wk->nr_jobs)]);
		if (wk->nr_finished)
			wk->finished_event.source.ready(&wk->finished_event.source, 1);
	}
	return true;
}

void worker_close(struct worker *wk)
{
	if (!wk)
		return;
	loop_event_fini(&wk->finished_event);
	__wrap_free(wk);
}
