// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How long will a thing of this size take? From the last samples of it.
 *
 * A line through the samples where their sizes differ enough to tell a slope, else their
 * median; what is larger than all seen is taken to cost in proportion. The upper bound is
 * the line and the UPPER quantile of what samples were above it: with few samples the
 * largest, and a share of the whole on top that shrinks as they get more.
 */
#include "estimate.h"

#include <stdbool.h>
#include <string.h>

#define UPPER 97 /* percent of samples that are to lie below the upper bound */

/* cost(size) = base + size * slope / 2^32 */
struct line {
	int64_t base;
	uint64_t slope;
};

void estimate_init(struct estimate *e, uint64_t guess_ns)
{
	*e = (struct estimate){ .guess_ns = guess_ns };
}

void estimate_learn(struct estimate *e, uint64_t size, uint64_t ns)
{
	e->size[e->at] = size;
	e->ns[e->at] = ns;
	e->at = (e->at + 1) % ESTIMATE_SAMPLES;
	if (e->nr < ESTIMATE_SAMPLES)
		e->nr++;
}

static uint64_t scaled(uint64_t size, uint64_t slope)
{
	return (uint64_t)((unsigned __int128)size * slope >> 32);
}

static void sort(int64_t *v, uint32_t n)
{
	for (uint32_t i = 1; i < n; i++) {
		int64_t x = v[i];
		uint32_t k = i;

		for (; k && v[k - 1] > x; k--)
			v[k] = v[k - 1];
		v[k] = x;
	}
}

static void span(const struct estimate *e, uint64_t *least, uint64_t *most)
{
	*least = UINT64_MAX;
	*most = 0;
	for (uint32_t i = 0; i < e->nr; i++) {
		*least = e->size[i] < *least ? e->size[i] : *least;
		*most = e->size[i] > *most ? e->size[i] : *most;
	}
}

/* Least squares; a slope below zero is none. */
static uint64_t slope_of(const struct estimate *e)
{
	double mean_size = 0, mean_ns = 0, both = 0, squares = 0;

	for (uint32_t i = 0; i < e->nr; i++) {
		mean_size += (double)e->size[i] / e->nr;
		mean_ns += (double)e->ns[i] / e->nr;
	}
	for (uint32_t i = 0; i < e->nr; i++) {
		double d = (double)e->size[i] - mean_size;

		both += d * ((double)e->ns[i] - mean_ns);
		squares += d * d;
	}
	return both > 0 && squares > 0 ? (uint64_t)(both / squares * 4294967296.0) : 0;
}

static struct line fit(const struct estimate *e, uint64_t least, uint64_t most)
{
	struct line l = { 0, e->nr >= 3 && most >= 2 * least && most > least + 4096 ? slope_of(e) : 0 };
	int64_t rest[ESTIMATE_SAMPLES];

	for (uint32_t i = 0; i < e->nr; i++)
		rest[i] = (int64_t)(e->ns[i] - scaled(e->size[i], l.slope));
	sort(rest, e->nr);
	l.base = rest[e->nr / 2];
	return l;
}

static uint64_t at_least_zero(int64_t v)
{
	return v < 0 ? 0 : (uint64_t)v;
}

/** estimate_expect() - for a thing of @size */
void estimate_expect(const struct estimate *e, uint64_t size, struct expected *to)
{
	int64_t above[ESTIMATE_SAMPLES];
	uint64_t least, most, inside;
	uint32_t rank;
	struct line l;

	if (!e->nr) {
		*to = (struct expected){ e->guess_ns, 2 * e->guess_ns };
		return;
	}
	span(e, &least, &most);
	l = fit(e, least, most);
	for (uint32_t i = 0; i < e->nr; i++)
		above[i] = (int64_t)e->ns[i] - (int64_t)scaled(e->size[i], l.slope) - l.base;
	sort(above, e->nr);
	rank = ((e->nr + 1) * UPPER + 99) / 100;
	if (rank > e->nr)
		rank = e->nr;
	inside = !l.slope && size > most ? most : size;
	to->mean_ns = at_least_zero(l.base + (int64_t)scaled(inside, l.slope));
	to->upper_ns = to->mean_ns + at_least_zero(above[rank - 1]);
	to->upper_ns += to->upper_ns / (2 * e->nr);
	if (inside < size && most) {
		to->mean_ns = (uint64_t)((unsigned __int128)to->mean_ns * size / most);
		to->upper_ns = (uint64_t)((unsigned __int128)to->upper_ns * size / most);
	}
}
