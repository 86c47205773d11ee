/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BASE_LOOP_H
#define BASE_LOOP_H

#include <stdbool.h>
#include <stdint.h>

/**
 * struct loop_source - one fd the loop watches; embed it in its owner
 * @ready: called on the loop's thread; may remove and free its own source
 */
struct loop_source {
	int fd;
	void (*ready)(struct loop_source *s, uint32_t events);
	void *owner;
};

struct loop;

struct loop *loop_new(void);
void loop_free(struct loop *l);
int loop_add(struct loop *l, struct loop_source *s, uint32_t events);
void loop_remove(struct loop *l, struct loop_source *s);
int loop_modify(struct loop *l, struct loop_source *s, uint32_t events);
int loop_run(struct loop *l);
void loop_stop(struct loop *l);

/** struct loop_timer - one-shot timer on CLOCK_MONOTONIC; embed it in its owner */
struct loop_timer {
	struct loop_source source;
	struct loop *loop;
	void (*fired)(void *owner);
	void *owner;
};

int loop_timer_init(struct loop_timer *t, struct loop *l, void (*fired)(void *), void *owner);
void loop_timer_fini(struct loop_timer *t);
void loop_timer_at(struct loop_timer *t, uint64_t at_ns);
void loop_timer_stop(struct loop_timer *t);

/** struct loop_event - lets another thread wake the loop; embed it in its owner */
struct loop_event {
	struct loop_source source;
	struct loop *loop;
	void (*fired)(void *owner);
	void *owner;
};

int loop_event_init(struct loop_event *e, struct loop *l, void (*fired)(void *), void *owner);
void loop_event_fini(struct loop_event *e);
void loop_event_raise(struct loop_event *e);

#endif
