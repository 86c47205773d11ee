// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The event loop: epoll, one-shot timers, and events raised by other threads.
 *
 * Theory of operation: callbacks run one at a time on the thread in loop_run(). A source
 * removed while a batch is being worked off is not called again for that batch: its
 * entry is struck out, so its owner may free it at once.
 */
#include "loop.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define BATCH 64

struct loop {
	int epoll;
	bool stop;
	struct epoll_event batch[BATCH];
	int nr, at;
};

struct loop *loop_new(void)
{
	struct loop *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (l->epoll < 0) {
		free(l);
		return NULL;
	}
	return l;
}

void loop_free(struct loop *l)
{
	if (!l)
		return;
	close(l->epoll);
	free(l);
}

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

void loop_remove(struct loop *l, struct loop_source *s)
{
	epoll_ctl(l->epoll, EPOLL_CTL_DEL, s->fd, NULL);
	for (int i = l->at; i < l->nr; i++)
		if (l->batch[i].data.ptr == s)
			l->batch[i].data.ptr = NULL;
}

int loop_run(struct loop *l)
{
	while (!l->stop) {
		int n = epoll_wait(l->epoll, l->batch, BATCH, -1);

		if (n < 0 && errno != EINTR)
			return -errno;
		l->nr = n < 0 ? 0 : n;
		for (l->at = 0; l->at < l->nr; l->at++) {
			struct loop_source *s = l->batch[l->at].data.ptr;

			if (s)
				s->ready(s, l->batch[l->at].events);
		}
		l->nr = l->at = 0;
	}
	l->stop = false; /* it may be run again */
	return 0;
}

void loop_stop(struct loop *l)
{
	l->stop = true;
}

static void timer_ready(struct loop_source *s, uint32_t events)
{
	struct loop_timer *t = s->owner;
	uint64_t n;

	(void)events;
	if (read(s->fd, &n, sizeof(n)) == sizeof(n)) /* else it was stopped meanwhile */
		t->fired(t->owner);
}

int loop_timer_init(struct loop_timer *t, struct loop *l, void (*fired)(void *), void *owner)
{
	*t = (struct loop_timer){ .loop = l, .fired = fired, .owner = owner };
	t->source = (struct loop_source){ .ready = timer_ready, .owner = t };
	t->source.fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (t->source.fd < 0)
		return -errno;
	return loop_add(l, &t->source, EPOLLIN);
}

void loop_timer_fini(struct loop_timer *t)
{
	if (!t->loop || t->source.fd < 0)
		return;
	loop_remove(t->loop, &t->source);
	close(t->source.fd);
	t->source.fd = -1;
}

void loop_timer_at(struct loop_timer *t, uint64_t at_ns)
{
	struct itimerspec its = { .it_value = { (time_t)(at_ns / 1000000000),
						(long)(at_ns % 1000000000) } };

	timerfd_settime(t->source.fd, TFD_TIMER_ABSTIME, &its, NULL);
}

void loop_timer_stop(struct loop_timer *t)
{
	struct itimerspec its = { 0 };

	timerfd_settime(t->source.fd, 0, &its, NULL);
}

static void event_ready(struct loop_source *s, uint32_t events)
{
	struct loop_event *e = s->owner;
	eventfd_t n;

	(void)events;
	if (!eventfd_read(s->fd, &n))
		e->fired(e->owner);
}

int loop_event_init(struct loop_event *e, struct loop *l, void (*fired)(void *), void *owner)
{
	*e = (struct loop_event){ .loop = l, .fired = fired, .owner = owner };
	e->source = (struct loop_source){ .ready = event_ready, .owner = e };
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
