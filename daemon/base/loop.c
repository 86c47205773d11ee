// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The event loop: epoll, one-shot timers, and events raised by other threads.
 *
 * Theory of operation
 *
 *   wait (epoll) -> turn: each source that is ready, then each that asked to be called again
 *                         after each of these callbacks: the timers that are due
 *
 * Callbacks run one at a time on the thread in loop_run(). A callback handles a bounded
 * part of what its source has (LOOP_TURN_MESSAGES, LOOP_TURN_BYTES) and returns. What it
 * left in the kernel is reported by epoll again; for what it left in a buffer of its own it
 * calls loop_again(). A source is called at most once a turn, so a source that never runs
 * dry delays another by one callback, and a timer by one callback of any source.
 *
 * A source removed during a turn is not called again: its entry in the batch is struck out
 * and it leaves the lists, so its owner may free it at once. The same holds for a timer.
 *
 * Timers are a heap in user space; one timerfd wakes the loop for the earliest. It is set
 * only before the loop waits.
 *
 * The loop's account (loop_times.h) has each callback with its processor time and the time
 * in which it was blocked. Time in which the thread could have run but had no processor is
 * kept apart: other threads took it. For a callback shorter than LONG_NS the clock is
 * enough; the thread's own times are read once a turn and after each longer one. A
 * long callback that never slept is taken to have used its processor time and no more: what
 * a hypervisor stole, where the kernel keeps that out of processor time, is left out too.
 */
#include "loop.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "deadline.h"
#include "thread_times.h"

#define BATCH 64
#define LONG_NS 100000ULL

TAILQ_HEAD(source_list, loop_source);

/**
 * struct loop - owned by the thread in loop_run()
 * @batch: what epoll reported; @at: the entry whose callback runs; @nr: entries
 * @again: sources that asked to be called again; the list @next is for the next turn, the
 *         other one is still to be called in this turn
 * @armed_ns: what @alarm is set to; 0: it is not set
 * @nr_timers: timers that exist; the heap has room for all
 * @began_ns: when the callback that runs began; @fire_ns: what fire_due() takes for now
 * @thread_fd, @thread: the thread's own times, read no later than @began_ns and after the
 *                      last long callback
 */
struct loop {
	int epoll;
	bool stop;
	struct epoll_event batch[BATCH];
	int nr, at;
	struct source_list again[2];
	unsigned int next;
	struct timer_heap timers;
	size_t nr_timers;
	int alarm;
	uint64_t armed_ns;
	uint64_t began_ns, fire_ns;
	int thread_fd;
	struct thread_times thread;
	struct loop_times times;
};

static int add_alarm(struct loop *l)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = l };

	l->alarm = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (l->alarm < 0)
		return -errno;
	return epoll_ctl(l->epoll, EPOLL_CTL_ADD, l->alarm, &ev) ? -errno : 0;
}

/** loop_new() - Return: the loop; NULL: no memory or no fds, and errno says which */
struct loop *loop_new(void)
{
	struct loop *l = calloc(1, sizeof(*l));
	int err;

	if (!l)
		return NULL;
	TAILQ_INIT(&l->again[0]);
	TAILQ_INIT(&l->again[1]);
	l->alarm = l->thread_fd = -1;
	loop_times_begin(&l->times, now_ns());
	l->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll < 0 || add_alarm(l)) {
		err = errno;
		loop_free(l);
		errno = err;
		return NULL;
	}
	return l;
}

void loop_free(struct loop *l)
{
	if (!l)
		return;
	if (l->alarm >= 0)
		close(l->alarm);
	if (l->epoll >= 0)
		close(l->epoll);
	timer_heap_fini(&l->timers);
	free(l);
}

/* ---- sources ---- */

int loop_add(struct loop *l, struct loop_source *s, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = s };

	return epoll_ctl(l->epoll, EPOLL_CTL_ADD, s->fd, &ev) ? -errno : 0;
}

int loop_modify(struct loop *l, struct loop_source *s, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = s };

	return epoll_ctl(l->epoll, EPOLL_CTL_MOD, s->fd, &ev) ? -errno : 0;
}

static void leave_again(struct loop *l, struct loop_source *s)
{
	if (s->again_in)
		TAILQ_REMOVE(&l->again[s->again_in - 1], s, again);
	s->again_in = 0;
}

/** loop_remove() - after it no callback runs for @s; it may be freed */
void loop_remove(struct loop *l, struct loop_source *s)
{
	if (s->fd >= 0)
		epoll_ctl(l->epoll, EPOLL_CTL_DEL, s->fd, NULL);
	for (int i = l->at; i < l->nr; i++)
		if (l->batch[i].data.ptr == s)
			l->batch[i].data.ptr = NULL;
	leave_again(l, s);
}

/**
 * loop_again() - call @s in the next turn, whether its fd is ready or not
 *
 * For a source that has whole messages left in a buffer of its own when its part of the turn is over.
 */
void loop_again(struct loop *l, struct loop_source *s)
{
	if (s->again_in)
		return;
	s->again_in = l->next + 1;
	TAILQ_INSERT_TAIL(&l->again[l->next], s, again);
}

/* ---- timers ---- */

/** loop_timer_init() - see the macro; Return: 0 or a negative errno; then the timer is as after loop_timer_fini() */
int loop_timer_init_named(struct loop_timer *t, struct loop *l, void (*fired)(void *), void *owner,
			  const char *name)
{
	int err = timer_heap_reserve(&l->timers, l->nr_timers + 1);

	*t = (struct loop_timer){ .fired = fired, .owner = owner, .name = name };
	if (err)
		return err;
	t->loop = l;
	l->nr_timers++;
	return 0;
}

/** loop_timer_fini() - after it @t does not fire; may be called again, and on zeroes */
void loop_timer_fini(struct loop_timer *t)
{
	if (!t->loop)
		return;
	timer_heap_remove(&t->loop->timers, &t->node);
	t->loop->nr_timers--;
	t->loop = NULL;
}

/** loop_timer_at() - fire once, at @at_ns or as soon as the loop can; 0 stops the timer */
void loop_timer_at(struct loop_timer *t, uint64_t at_ns)
{
	struct loop *l = t->loop;

	if (!l)
		return;
	/* A timer that sets itself to a time that has passed must not keep fire_due() from its end. */
	if (at_ns && at_ns <= l->fire_ns)
		at_ns = l->fire_ns + 1;
	if (at_ns)
		timer_heap_add(&l->timers, &t->node, at_ns);
	else
		timer_heap_remove(&l->timers, &t->node);
}

void loop_timer_stop(struct loop_timer *t)
{
	loop_timer_at(t, 0);
}

/* ---- the turn ---- */

static void note_long(struct loop *l, const char *name, uint64_t ns)
{
	struct thread_times before = l->thread;
	uint64_t waited, cpu;

	thread_times_read(l->thread_fd, &l->thread);
	waited = l->thread.waited_ns - before.waited_ns;
	cpu = l->thread.cpu_ns - before.cpu_ns;
	ns = ns > waited ? ns - waited : 0;
	if (l->thread.slept == before.slept && cpu < ns)
		ns = cpu;
	loop_times_note(&l->times, name, ns, waited);
}

/* The callback for @name is over. Return: the time now */
static uint64_t note(struct loop *l, const char *name)
{
	uint64_t now = now_ns(), ns = now - l->began_ns;

	if (ns < LONG_NS) {
		loop_times_note(&l->times, name, ns, 0);
	} else {
		note_long(l, name, ns);
		now = now_ns();
	}
	l->began_ns = now;
	return now;
}

/* Fires what is due at @now; a timer that is set anew meanwhile is later than that. */
static void fire_due(struct loop *l, uint64_t now)
{
	struct timer_node *n;

	l->fire_ns = now;
	while ((n = timer_heap_first(&l->timers)) && n->at_ns <= now) {
		struct loop_timer *t = (struct loop_timer *)((char *)n - offsetof(struct loop_timer, node));
		const char *name = t->name;

		timer_heap_remove(&l->timers, n);
		t->fired(t->owner);
		note(l, name);
	}
}

static void call(struct loop *l, struct loop_source *s, uint32_t events)
{
	const char *name = s->name ? s->name : "a source";

	leave_again(l, s);
	s->ready(s, events);
	fire_due(l, note(l, name));
}

static void set_alarm(struct loop *l, uint64_t at_ns)
{
	struct itimerspec its = { .it_value = { (time_t)(at_ns / NS_PER_S), (long)(at_ns % NS_PER_S) } };

	if (at_ns == l->armed_ns)
		return;
	timerfd_settime(l->alarm, TFD_TIMER_ABSTIME, &its, NULL);
	l->armed_ns = at_ns;
}

static int wait_for_turn(struct loop *l)
{
	struct timer_node *first = timer_heap_first(&l->timers);
	int n;

	set_alarm(l, first ? first->at_ns : 0);
	n = epoll_wait(l->epoll, l->batch, BATCH, TAILQ_EMPTY(&l->again[l->next]) ? -1 : 0);
	if (n < 0 && errno != EINTR)
		return -errno;
	l->nr = n < 0 ? 0 : n;
	return 0;
}

static void take_turn(struct loop *l)
{
	unsigned int this = l->next;
	struct loop_source *s;

	l->next = !l->next;
	thread_times_read(l->thread_fd, &l->thread);
	l->began_ns = now_ns();
	fire_due(l, l->began_ns);
	for (l->at = 0; l->at < l->nr; l->at++) {
		void *p = l->batch[l->at].data.ptr;

		if (p && p != l) /* the alarm has done its work */
			call(l, p, l->batch[l->at].events);
	}
	l->nr = l->at = 0;
	while ((s = TAILQ_FIRST(&l->again[this])))
		call(l, s, 0);
}

/** loop_run() - until loop_stop(); Return: 0 or a negative errno */
int loop_run(struct loop *l)
{
	int err = 0;

	l->thread_fd = thread_times_open();
	while (!err && !l->stop) {
		err = wait_for_turn(l);
		if (!err)
			take_turn(l);
	}
	l->stop = false; /* it may be run again */
	if (l->thread_fd >= 0)
		close(l->thread_fd);
	l->thread_fd = -1;
	return err;
}

/** loop_stop() - loop_run() returns after this turn */
void loop_stop(struct loop *l)
{
	l->stop = true;
}

/** loop_times() - the account of @l, for its own thread */
struct loop_times *loop_times(struct loop *l)
{
	return &l->times;
}

/* ---- events ---- */

static void event_ready(struct loop_source *s, uint32_t events)
{
	struct loop_event *e = s->owner;
	eventfd_t n;

	(void)events;
	if (!eventfd_read(s->fd, &n))
		e->fired(e->owner);
}

int loop_event_init_named(struct loop_event *e, struct loop *l, void (*fired)(void *), void *owner,
			  const char *name)
{
	*e = (struct loop_event){ .loop = l, .fired = fired, .owner = owner };
	e->source = (struct loop_source){ .ready = event_ready, .owner = e, .name = name };
	e->source.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (e->source.fd < 0)
		return -errno;
	return loop_add(l, &e->source, EPOLLIN);
}

void loop_event_fini(struct loop_event *e)
{
	if (!e->loop || e->source.fd < 0)
		return;
	loop_remove(e->loop, &e->source);
	close(e->source.fd);
	e->source.fd = -1;
}

/** loop_event_raise() - any thread */
void loop_event_raise(struct loop_event *e)
{
	eventfd_write(e->source.fd, 1);
}
