// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The loop's account of itself: how long its callbacks took, as a log-linear histogram.
 *
 * Durations are counted in units of 1024 ns: up to 15 units one by one, above that with 16
 * buckets for each power of two, so that a figure is at most a sixteenth too large.
 */
#include "loop_times.h"

#include <string.h>

#define UNIT_BITS 10
#define SUB_BITS 4
#define SUB (1U << SUB_BITS)
#define MOST_UNITS ((1ULL << 37) - 1) /* over a day */

static unsigned int bucket_of(uint64_t ns)
{
	uint64_t units = ns >> UNIT_BITS;
	unsigned int power;

	if (units < SUB)
		return (unsigned int)units;
	if (units > MOST_UNITS)
		units = MOST_UNITS;
	power = 63 - (unsigned int)__builtin_clzll(units);
	return (power - SUB_BITS + 1) * SUB + ((units >> (power - SUB_BITS)) & (SUB - 1));
}
_Static_assert((36 - SUB_BITS + 1) * SUB + SUB - 1 < LOOP_TIMES_BUCKETS, "the largest duration has a bucket");

/* The longest duration that falls into @bucket. */
static uint64_t end_of(unsigned int bucket)
{
	unsigned int power = bucket / SUB;
	uint64_t units = bucket % SUB;

	if (power)
		units = ((SUB | units) + 1) << (power - 1);
	else
		units++;
	return (units << UNIT_BITS) - 1;
}

static void begin(struct loop_span *s, uint64_t now_ns)
{
	memset(s, 0, sizeof(*s));
	s->since_ns = now_ns;
}

static void note(struct loop_span *s, const char *name, uint64_t ns, uint64_t waited_ns)
{
	s->count++;
	s->waited_ns += waited_ns;
	s->bucket[bucket_of(ns)]++;
	if (ns < s->worst_ns)
		return;
	s->worst_ns = ns;
	s->worst_waited_ns = waited_ns;
	s->worst_name = name;
}

/** loop_times_begin() - forget all */
void loop_times_begin(struct loop_times *t, uint64_t now_ns)
{
	begin(&t->all, now_ns);
	begin(&t->recent, now_ns);
}

/** loop_times_note() - a callback for @name, a string that stays, took @ns, and waited @waited_ns besides */
void loop_times_note(struct loop_times *t, const char *name, uint64_t ns, uint64_t waited_ns)
{
	note(&t->all, name, ns, waited_ns);
	note(&t->recent, name, ns, waited_ns);
}

/** loop_times_restart() - the recent figures begin anew */
void loop_times_restart(struct loop_times *t, uint64_t now_ns)
{
	begin(&t->recent, now_ns);
}

/** loop_span_quantile() - the duration that @per_mille of the callbacks did not exceed; 0: there were none */
uint64_t loop_span_quantile(const struct loop_span *s, unsigned int per_mille)
{
	uint64_t rank = (s->count * per_mille + 999) / 1000, seen = 0;

	for (unsigned int i = 0; i < LOOP_TIMES_BUCKETS && rank; i++) {
		seen += s->bucket[i];
		if (seen >= rank)
			return end_of(i) < s->worst_ns ? end_of(i) : s->worst_ns;
	}
	return 0;
}
