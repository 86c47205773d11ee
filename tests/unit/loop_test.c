// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: a source that never runs dry delays neither another source nor a timer by more than one
 * of its callbacks; whatever a callback removes is not called any more; a timer that was stopped
 * does not fire. Seen to fail with fire_due() called once a turn, with loop_again() that calls at
 * once, with loop_remove() that leaves the lists alone, and without the clamp in loop_timer_at().
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/deadline.h"
#include "base/loop.h"

#define NR_SOURCES 40
#define PATIENCE_S 60 /* a loop that goes round for ever ends here */

static struct loop *loop;
static char calls[4096]; /* who was called, a letter each */
static size_t nr_calls;

struct one {
	struct loop_source source;
	struct loop_timer timer;
	char letter;
	int left; /* how often it asks to be called again */
	void (*also)(struct one *o);
	struct one *other;
};

static void called(char letter)
{
	if (nr_calls + 1 < sizeof(calls))
		calls[nr_calls++] = letter;
}

static void ready(struct loop_source *s, uint32_t events)
{
	struct one *o = s->owner;
	eventfd_t n;

	if (events & EPOLLIN)
		eventfd_read(s->fd, &n);
	called(o->letter);
	if (o->left-- > 0)
		loop_again(loop, s);
	if (o->also)
		o->also(o);
}

static void fired(void *owner)
{
	struct one *o = owner;

	called((char)(o->letter - 'a' + 'A'));
	if (o->also)
		o->also(o);
}

static struct one *make(char letter)
{
	struct one *o = calloc(1, sizeof(*o));

	assert_non_null(o);
	o->letter = letter;
	o->source = (struct loop_source){ .fd = eventfd(0, EFD_NONBLOCK), .ready = ready, .owner = o,
					  .name = "one" };
	assert_int_equal(loop_add(loop, &o->source, EPOLLIN), 0);
	assert_int_equal(loop_timer_init(&o->timer, loop, fired, o), 0);
	return o;
}

static void drop(struct one *o)
{
	loop_remove(loop, &o->source);
	loop_timer_fini(&o->timer);
	close(o->source.fd);
	memset(o, 0xee, sizeof(*o));
	free(o);
}

static void end(struct one *o)
{
	(void)o;
	loop_stop(loop);
}

static int setup(void **state)
{
	(void)state;
	alarm(PATIENCE_S);
	nr_calls = 0;
	memset(calls, 0, sizeof(calls));
	loop = loop_new();
	return !loop;
}

static int teardown(void **state)
{
	(void)state;
	loop_free(loop);
	alarm(0);
	return 0;
}

static void end_when_done(struct one *o)
{
	if (o->left < 0 && o->other->left < 0)
		loop_stop(loop);
}

static void a_source_that_never_runs_dry_gets_one_call_a_turn(void **state)
{
	struct one *a = make('a'), *b = make('b');

	(void)state;
	a->left = 5;
	b->left = 5;
	b->other = a;
	b->also = end_when_done;
	eventfd_write(a->source.fd, 1);
	eventfd_write(b->source.fd, 1);
	assert_int_equal(loop_run(loop), 0);
	assert_string_equal(calls, "abababababab");
	drop(a);
	drop(b);
}

static void spend(struct one *o)
{
	uint64_t until = now_ns() + NS_PER_MS;

	(void)o;
	while (now_ns() < until)
		;
}

/* Forty callbacks of a millisecond each are ready at once; a timer becomes due amid them. */
static void a_timer_is_not_behind_the_whole_batch(void **state)
{
	struct one *o[NR_SOURCES], *t = make('t'), *z = make('z');
	size_t at, nr_x = 0;

	(void)state;
	for (int i = 0; i < NR_SOURCES; i++) {
		o[i] = make('x');
		o[i]->also = spend;
		eventfd_write(o[i]->source.fd, 1);
	}
	loop_timer_at(&t->timer, now_ns() + 3 * NS_PER_MS);
	loop_timer_at(&z->timer, now_ns() + 200 * NS_PER_MS);
	z->also = end;
	assert_int_equal(loop_run(loop), 0);
	at = (size_t)(strchr(calls, 'T') - calls);
	/* On time it is among the first four; it must not wait for all forty. */
	assert_in_range(at, 0, 6);
	for (size_t i = 0; i < nr_calls; i++)
		nr_x += calls[i] == 'x';
	assert_int_equal(nr_x, NR_SOURCES);
	for (int i = 0; i < NR_SOURCES; i++)
		drop(o[i]);
	drop(t);
	drop(z);
}

static struct one *last;

/* Also the other's timer, which would be due before the last one. */
static void drop_other(struct one *o)
{
	if (!o->other)
		return;
	loop_timer_at(&o->other->timer, now_ns() + 10 * NS_PER_MS);
	loop_timer_at(&last->timer, now_ns() + 30 * NS_PER_MS);
	drop(o->other);
	o->other = NULL;
}

enum where { IN_BATCH, IN_THIS_TURN, IN_NEXT_TURN };

static void what_a_callback_removes_is_not_called_any_more(void **state)
{
	(void)state;
	for (enum where where = IN_BATCH; where <= IN_NEXT_TURN; where++) {
		struct one *a = make('a'), *b = make('b');

		nr_calls = 0;
		memset(calls, 0, sizeof(calls));
		last = make('z');
		last->also = end;
		a->other = b;
		a->also = drop_other;
		b->left = where == IN_NEXT_TURN;
		/* Who is ready first is called first, and the batch before the list. */
		if (where == IN_NEXT_TURN)
			eventfd_write(b->source.fd, 1);
		if (where == IN_NEXT_TURN)
			loop_again(loop, &a->source);
		else
			eventfd_write(a->source.fd, 1);
		if (where == IN_BATCH)
			eventfd_write(b->source.fd, 1);
		if (where == IN_THIS_TURN)
			loop_again(loop, &b->source);
		assert_int_equal(loop_run(loop), 0);
		assert_string_equal(calls, where == IN_NEXT_TURN ? "baZ" : "aZ");
		drop(a);
		drop(last);
	}
}

static void drop_self(struct one *o)
{
	drop(o);
}

static void a_source_may_free_itself(void **state)
{
	struct one *a = make('a'), *b = make('b'), *z = make('z');

	(void)state;
	a->left = 1;
	a->also = drop_self;
	b->also = drop_self;
	eventfd_write(a->source.fd, 1);
	loop_timer_at(&b->timer, now_ns() + 1);
	z->also = end;
	loop_timer_at(&z->timer, now_ns() + 20 * NS_PER_MS);
	assert_int_equal(loop_run(loop), 0);
	/* Each once; on a busy machine all timers may be due before the source is looked at. */
	assert_int_equal(nr_calls, 3);
	assert_non_null(strchr(calls, 'a'));
	assert_non_null(strchr(calls, 'B'));
	assert_non_null(strchr(calls, 'Z'));
	drop(z);
}

static void set_back(struct one *o)
{
	if (o->left-- > 0)
		loop_timer_at(&o->timer, 1); /* long past */
	else
		loop_stop(loop);
}

/* A timer that sets itself to the past fires again and again, and so do the others. */
static void a_timer_that_is_late_for_ever_starves_nobody(void **state)
{
	struct one *a = make('a'), *b = make('b');
	const char *at;

	(void)state;
	a->also = set_back;
	a->left = 1000;
	loop_timer_at(&a->timer, 1);
	loop_timer_at(&b->timer, 2);
	eventfd_write(b->source.fd, 1);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(nr_calls, 1003);
	at = strchr(calls, 'B');
	assert_non_null(at);
	assert_in_range(at - calls, 0, 3);
	at = strchr(calls, 'b');
	assert_non_null(at);
	assert_in_range(at - calls, 0, 6);
	drop(a);
	drop(b);
}

static void stop_other(struct one *o)
{
	loop_timer_stop(&o->other->timer);
}

static void a_stopped_timer_does_not_fire_and_order_is_kept(void **state)
{
	struct one *a = make('a'), *b = make('b'), *c = make('c'), *z = make('z');
	uint64_t now = now_ns();

	(void)state;
	a->other = b;
	a->also = stop_other;
	loop_timer_at(&b->timer, now + 2);
	loop_timer_at(&a->timer, now + 1);
	loop_timer_at(&c->timer, now + 30 * NS_PER_MS);
	loop_timer_at(&z->timer, now + 60 * NS_PER_MS);
	z->also = end;
	assert_int_equal(loop_run(loop), 0);
	assert_string_equal(calls, "ACZ");
	assert_true(now_ns() >= now + 60 * NS_PER_MS);
	loop_timer_fini(&z->timer);
	loop_timer_fini(&z->timer);
	loop_timer_at(&z->timer, 1); /* nothing to set any more */
	drop(a);
	drop(b);
	drop(c);
	drop(z);
}

static struct loop_event event;

static void *raise_soon(void *arg)
{
	nanosleep(&(struct timespec){ 0, 20000000 }, NULL);
	loop_event_raise(&event);
	return arg;
}

static void on_event(void *owner)
{
	(void)owner;
	called('e');
	loop_stop(loop);
}

static void another_thread_wakes_the_loop(void **state)
{
	pthread_t thread;

	(void)state;
	assert_int_equal(loop_event_init(&event, loop, on_event, NULL), 0);
	assert_int_equal(pthread_create(&thread, NULL, raise_soon, NULL), 0);
	assert_int_equal(loop_run(loop), 0);
	pthread_join(thread, NULL);
	assert_string_equal(calls, "e");
	loop_event_fini(&event);
}

static void nap(struct one *o)
{
	(void)o;
	nanosleep(&(struct timespec){ 0, 30000000 }, NULL);
}

static void the_account_names_the_worst_callback(void **state)
{
	struct one *a = make('a'), *z = make('z');
	struct loop_span *s = &loop_times(loop)->all;

	(void)state;
	a->also = nap;
	z->also = end;
	/* On a busy processor EEVDF may count a sleep as a wait (delayed dequeue): then it is no time of the callback. */
	for (int tries = 0; tries < 100; tries++) {
		loop_times_begin(loop_times(loop), now_ns());
		eventfd_write(a->source.fd, 1);
		loop_timer_at(&z->timer, now_ns() + 60 * NS_PER_MS);
		assert_int_equal(loop_run(loop), 0);
		assert_int_equal(s->count, 2);
		if (s->worst_ns >= 30 * NS_PER_MS - s->worst_waited_ns)
			break;
	}
	assert_true(s->worst_ns >= 30 * NS_PER_MS - s->worst_waited_ns);
	assert_string_equal(s->worst_name, "one");
	loop_times_restart(loop_times(loop), now_ns());
	z->also = nap;
	a->also = end;
	loop_timer_at(&z->timer, 1);
	loop_timer_at(&a->timer, now_ns() + 10 * NS_PER_MS);
	assert_int_equal(loop_run(loop), 0);
	assert_string_equal(loop_times(loop)->recent.worst_name, "loop_test.c:fired");
	assert_string_equal(s->worst_name, s->worst_ns == loop_times(loop)->recent.worst_ns ?
			    "loop_test.c:fired" : s->worst_name);
	drop(a);
	drop(z);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_source_that_never_runs_dry_gets_one_call_a_turn, setup, teardown),
		cmocka_unit_test_setup_teardown(a_timer_is_not_behind_the_whole_batch, setup, teardown),
		cmocka_unit_test_setup_teardown(what_a_callback_removes_is_not_called_any_more, setup, teardown),
		cmocka_unit_test_setup_teardown(a_source_may_free_itself, setup, teardown),
		cmocka_unit_test_setup_teardown(a_timer_that_is_late_for_ever_starves_nobody, setup, teardown),
		cmocka_unit_test_setup_teardown(a_stopped_timer_does_not_fire_and_order_is_kept, setup, teardown),
		cmocka_unit_test_setup_teardown(another_thread_wakes_the_loop, setup, teardown),
		cmocka_unit_test_setup_teardown(the_account_names_the_worst_callback, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
