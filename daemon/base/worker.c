// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A few threads that do for the loop what may block: files, memory maps, walks of a process's RAM.
 *
 * Theory of operation
 *
 *   loop:    worker_do() -> waiting list -> an idle thread's slot, its semaphore
 *   thread:  run() -> pushed on the stack "finished" -> event
 *   loop:    event -> takes the whole stack -> the thread is idle again -> done()
 *
 * The loop alone decides which thread does what: the waiting list and the list of idle threads are
 * its own, so there is no lock between the loop and the threads. A lock would be worse than it
 * looks: a thread that is preempted while it holds one stops the loop, and with it every guest that
 * stands still, for a time slice or more.
 *
 * Two orders matter. The slot is written before the semaphore is posted, and read after the wait:
 * sem_post() and sem_wait() order them. A finished work is pushed with release and taken with
 * acquire: what run() wrote is visible in done(). Many threads push and one takes all at once, so
 * the stack has no ABA problem. A thread pushes before it raises the event; the loop takes after it
 * has read the event, so no finished work is left behind without an event that is still to come.
 *
 * All threads are made by worker_open(): making one maps its stack, and the lock of the address
 * space may be held for a long time by threads that populate guest RAM.
 */
#include "worker.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "deadline.h"

#define NR_THREADS 16
#define STACK_BYTES (256 << 10)

struct worker_thread {
	struct worker *worker;
	struct worker_thread *next_idle; /* the loop's */
	struct work *slot;		 /* the loop's until @wake is posted, then the thread's */
	sem_t wake;
	pthread_t thread;
};

struct worker {
	struct loop_event finished_event;
	_Atomic(struct work *) finished;
	/* The loop's own: */
	struct worker_thread *idle;
	struct work *first, **end;
	unsigned int nr_out;
	unsigned int nr_threads;
	struct worker_thread threads[NR_THREADS];
};

static void push_finished(struct worker *wk, struct work *w)
{
	struct work *top = atomic_load_explicit(&wk->finished, memory_order_relaxed);

	do
		w->next = top;
	while (!atomic_compare_exchange_weak_explicit(&wk->finished, &top, w, memory_order_release,
						      memory_order_relaxed));
	/* The owner may be gone from here on; the worker itself outlives its threads. */
	loop_event_raise(&wk->finished_event);
}

static void *worker_thread(void *arg)
{
	struct worker_thread *t = arg;

	for (;;) {
		struct work *w;

		while (sem_wait(&t->wake))
			;
		w = t->slot;
		if (!w)
			return NULL;
		w->run(w);
		push_finished(t->worker, w);
	}
}

/* Hands waiting works to idle threads, the oldest first. */
static void hand_out(struct worker *wk)
{
	while (wk->first && wk->idle) {
		struct worker_thread *t = wk->idle;
		struct work *w = wk->first;

		wk->idle = t->next_idle;
		wk->first = w->next;
		if (!wk->first)
			wk->end = &wk->first;
		w->thread = t;
		t->slot = w;
		sem_post(&t->wake);
	}
}

/* The stack has the latest on top; done() is called in the order in which the works finished. */
static struct work *take_finished(struct worker *wk)
{
	struct work *w = atomic_exchange_explicit(&wk->finished, NULL, memory_order_acquire);
	struct work *in_order = NULL;

	while (w) {
		struct work *next = w->next;

		w->next = in_order;
		in_order = w;
		w = next;
	}
	return in_order;
}

static void on_finished(void *owner)
{
	struct worker *wk = owner;
	struct work *w = take_finished(wk), *next;

	/* All threads first: done() may hand out the next work, and may free the one it is given. */
	for (struct work *at = w; at; at = at->next) {
		at->thread->next_idle = wk->idle;
		wk->idle = at->thread;
	}
	hand_out(wk);
	for (; w; w = next) {
		next = w->next;
		wk->nr_out--;
		w->is_out = false;
		if (w->done)
			w->done(w);
	}
}

static int start_thread(struct worker *wk, struct worker_thread *t)
{
	pthread_attr_t attr;
	int err;

	t->worker = wk;
	if (sem_init(&t->wake, 0, 0))
		return -errno;
	err = -pthread_attr_init(&attr);
	if (err)
		goto out_sem;
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	err = -pthread_create(&t->thread, &attr, worker_thread, t);
	pthread_attr_destroy(&attr);
	if (err)
		goto out_sem;
	t->next_idle = wk->idle;
	wk->idle = t;
	wk->nr_threads++;
	return 0;

out_sem:
	sem_destroy(&t->wake);
	return err;
}

/**
 * worker_open() - makes the threads; call it before any guest is near
 *
 * Return: 0, or a negative errno. The threads block all signals.
 */
int worker_open(struct loop *l, struct worker **out)
{
	struct worker *wk = calloc(1, sizeof(*wk));
	sigset_t all, before;
	int err;

	if (!wk)
		return -ENOMEM;
	wk->end = &wk->first;
	err = loop_event_init(&wk->finished_event, l, on_finished, wk);
	if (err) {
		free(wk);
		return err;
	}
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	for (int i = 0; i < NR_THREADS && !err; i++)
		err = start_thread(wk, &wk->threads[i]);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (err) {
		worker_close(wk);
		return err;
	}
	*out = wk;
	return 0;
}

/**
 * worker_do() - have @w->run called by a thread, then @w->done by the loop
 *
 * Context: the loop's thread; never blocks, allocates nothing. Works are begun in the order they
 * came in, and may finish in any order. @w must not be out already.
 */
void worker_do(struct worker *wk, struct work *w)
{
	w->next = NULL;
	w->is_out = true;
	wk->nr_out++;
	*wk->end = w;
	wk->end = &w->next;
	hand_out(wk);
}

/**
 * worker_drain() - for the daemon's end: waits until no work is out, and calls what waits for them
 * @until_ns: CLOCK_MONOTONIC; the wait ends then
 *
 * Return: true when nothing is out any more; false: some work hangs, and its owner must not be freed.
 * Context: the loop's thread, while the loop does not run.
 */
bool worker_drain(struct worker *wk, uint64_t until_ns)
{
	while (wk->nr_out) {
		struct pollfd p = { .fd = wk->finished_event.source.fd, .events = POLLIN };
		uint64_t now = now_ns();

		if (now >= until_ns)
			return false;
		if (poll(&p, 1, (int)((until_ns - now) / NS_PER_MS) + 1) > 0)
			wk->finished_event.source.ready(&wk->finished_event.source, POLLIN);
	}
	return true;
}

/** worker_close() - ends the threads; no work may be out, see worker_drain(); NULL is fine */
void worker_close(struct worker *wk)
{
	if (!wk)
		return;
	for (unsigned int i = 0; i < wk->nr_threads; i++) {
		wk->threads[i].slot = NULL;
		sem_post(&wk->threads[i].wake);
	}
	for (unsigned int i = 0; i < wk->nr_threads; i++) {
		pthread_join(wk->threads[i].thread, NULL);
		sem_destroy(&wk->threads[i].wake);
	}
	loop_event_fini(&wk->finished_event);
	free(wk);
}
