// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The simulated world's clock, its queue of events, its random numbers and the memory of one walk.
 *
 * Theory of operation
 *
 * Everything that happens is an event at a virtual time: a segment that arrives, a turn of a daemon's loop, a work that
 * runs, a VMM that answers, a fault. world_run_until() takes the earliest event, sets the clock to its time and calls it.
 * Each delay is drawn from one stream of random numbers, so that a seed fixes the order of all events, and other seeds
 * try other orders. Nothing reads the real clock.
 *
 * world_tick() is what a daemon reads as CLOCK_MONOTONIC: each call advances it by a little, so that two readings differ.
 * The clock never goes back; an event whose time has passed meanwhile is called at the clock's time.
 *
 * The memory of world_alloc() is given back as a whole by the next world_begin(): an event that comes late finds its
 * object there, and the object says whether it is alive.
 */
#include "world.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define TICK_NS 50
#define ROOM (256UL << 20)

struct event {
	uint64_t at, nr;
	world_fn fn;
	void *arg;
};

static struct event *heap;
static size_t nr_events, room_events;
static uint64_t now, next_nr, nr_done, stream;
static bool is_over;
static char *memory;
static size_t used;

bool world_is_traced;

uint64_t splitmix64(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return z ^ z >> 31;
}

uint64_t world_random(void)
{
	return splitmix64(&stream);
}

uint64_t world_below(uint64_t n)
{
	return world_random() % n;
}

bool world_chance(unsigned int in, unsigned int of)
{
	return world_below(of) < in;
}

uint64_t world_between(uint64_t from, uint64_t to)
{
	return from + world_below(to - from + 1);
}

/** world_delay() - most are near @usual_ns, one in 16 is up to 20 times, one in 256 up to 400 times as long */
uint64_t world_delay(uint64_t usual_ns)
{
	uint64_t r = world_random(), most = usual_ns * 2;

	if (!(r & 15))
		most = usual_ns * 20;
	if (!(r & 255))
		most = usual_ns * 400;
	return 1 + (r >> 8) % most;
}

/** world_begin() - forget all events and all memory; the clock begins at a second */
void world_begin(uint64_t seed)
{
	if (!memory) {
		memory = mmap(NULL, ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (memory == MAP_FAILED)
			abort();
	}
	nr_events = used = 0;
	next_nr = nr_done = 0;
	now = S;
	is_over = false;
	stream = seed;
}

/** world_alloc() - zeroes, until the next world_begin() */
void *world_alloc(size_t len)
{
	void *p = memory + used;

	used += (len + 15) & ~15UL;
	if (used > ROOM) {
		fprintf(stderr, "sim: a walk needs more than %lu MiB\n", ROOM >> 20);
		abort();
	}
	return memset(p, 0, len);
}

uint64_t world_now(void)
{
	return now;
}

/** world_tick() - the time now, for one who measures: it passes meanwhile */
uint64_t world_tick(void)
{
	return now += TICK_NS;
}

static bool is_before(const struct event *a, const struct event *b)
{
	return a->at < b->at || (a->at == b->at && a->nr < b->nr);
}

void world_at(uint64_t at_ns, world_fn fn, void *arg)
{
	struct event e = { at_ns < now ? now : at_ns, next_nr++, fn, arg };
	size_t i = nr_events++;

	if (nr_events > room_events) {
		room_events = room_events ? room_events * 2 : 1024;
		heap = realloc(heap, room_events * sizeof(*heap));
		if (!heap)
			abort();
	}
	for (; i && is_before(&e, &heap[(i - 1) / 2]); i = (i - 1) / 2)
		heap[i] = heap[(i - 1) / 2];
	heap[i] = e;
}

void world_after(uint64_t delay_ns, world_fn fn, void *arg)
{
	world_at(now + delay_ns, fn, arg);
}

static struct event take_first(void)
{
	struct event first = heap[0], last = heap[--nr_events];
	size_t i = 0;

	for (;;) {
		size_t child = 2 * i + 1;

		if (child >= nr_events)
			break;
		if (child + 1 < nr_events && is_before(&heap[child + 1], &heap[child]))
			child++;
		if (is_before(&last, &heap[child]))
			break;
		heap[i] = heap[child];
		i = child;
	}
	if (nr_events)
		heap[i] = last;
	return first;
}

/** world_run_until() - all events up to @at_ns, in order; ends early after world_end() */
void world_run_until(uint64_t at_ns)
{
	while (!is_over && nr_events && heap[0].at <= at_ns) {
		struct event e = take_first();

		if (e.at > now)
			now = e.at;
		nr_done++;
		e.fn(e.arg);
	}
	if (!is_over && now < at_ns)
		now = at_ns;
}

/** world_end() - a verdict is there: no event is called any more */
void world_end(void)
{
	is_over = true;
}

bool world_is_over(void)
{
	return is_over;
}

uint64_t world_nr_events(void)
{
	return nr_done;
}

void world_trace(const char *fmt, ...)
{
	va_list ap;

	if (!world_is_traced)
		return;
	printf("%12.6f  ", (double)(now - S) / 1e6);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}
