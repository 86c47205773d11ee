/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BASE_LOOP_H
#define BASE_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "loop_times.h"
#include "timer_heap.h"

/* What a callback may handle of one source before it lets the others have their turn. */
#define LOOP_TURN_MESSAGES 16
#define LOOP_TURN_BYTES 65536

/**
 * struct loop_source - one fd the loop watches; embed it in its owner
 * @fd: -1 for a source that is called only by loop_again()
 * @ready: called on the loop's thread; may remove and free its own source; @events: 0 when
 *         it is called because of loop_again() alone
 * @name: what the loop's account calls it; a string that stays
 * @again: in the list of sources that are called again; the loop's
 * @again_in: which list it is in, plus one; 0: in none; the loop's
 */
struct loop_source {
	int fd;
	void (*ready)(struct loop_source *s, uint32_t events);
	void *owner;
	const char *name;
	TAILQ_ENTRY(loop_source) again;
	unsigned int again_in;
};

struct loop;

struct loop *loop_new(void);
void loop_free(struct loop *l);
int loop_add(struct loop *l, struct loop_source *s, uint32_t events);
void loop_remove(struct loop *l, struct loop_source *s);
int loop_modify(struct loop *l, struct loop_source *s, uint32_t events);
void loop_again(struct loop *l, struct loop_source *s);
int loop_run(struct loop *l);
void loop_stop(struct loop *l);
struct loop_times *loop_times(struct loop *l);

/**
 * struct loop_timer - one-shot timer on CLOCK_MONOTONIC; embed it in its owner
 * @loop: NULL before loop_timer_init() and after loop_timer_fini(): then nothing sets it
 * @name: what the loop's account calls it
 */
struct loop_timer {
	struct timer_node node;
	struct loop *loop;
	void (*fired)(void *owner);
	void *owner;
	const char *name;
};

int loop_timer_init_named(struct loop_timer *t, struct loop *l, void (*fired)(void *), void *owner,
			  const char *name);
void loop_timer_fini(struct loop_timer *t);
void loop_timer_at(struct loop_timer *t, uint64_t at_ns);
void loop_timer_stop(struct loop_timer *t);

/* The account names a timer or an event for its callback. */
#define loop_timer_init(t, l, callback, context) \
	loop_timer_init_named(t, l, callback, context, __FILE_NAME__ ":" #callback)

/** struct loop_event - lets another thread wake the loop; embed it in its owner */
struct loop_event {
	struct loop_source source;
	struct loop *loop;
	void (*fired)(void *owner);
	void *owner;
};

int loop_event_init_named(struct loop_event *e, struct loop *l, void (*fired)(void *), void *owner,
			  const char *name);
void loop_event_fini(struct loop_event *e);
void loop_event_raise(struct loop_event *e);

#define loop_event_init(e, l, callback, context) \
	loop_event_init_named(e, l, callback, context, __FILE_NAME__ ":" #callback)

#endif
