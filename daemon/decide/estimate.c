// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How long will a thing of this size take? From the last samples of it.
 *
 * A line through the samples where their sizes differ enough to tell a slope, else their
 * median; what is larger than all seen is taken to cost in proportion. The line is made of
 * medians only (Siegel's repeated medians): on a busy host a few samples are far off, and
 * must not tilt it. The bounds are the line and a quantile of what samples were above it:
 * with few samples the largest, and a share of the whole on top that shrinks as they get
 * more.
 */
#include "estimate.h"

/* percent of samples that are to lie below the bounds */
#define UPPER 97
#define LIKELY 80

#define RECENT 21 /* samples that the middle is made of: hosts change */

void estimate_init(struct estimate *e, uint64_t guess_ns)
{
	*e = (struct estimate){ .guess_ns = guess_ns };
}

/* Where sample @i is, the oldest first. */
static uint32_t place(const struct estimate *e, uint32_t i)
{
	return (e->at + ESTIMATE_SAMPLES - e->nr + i) % ESTIMATE_SAMPLES;
}

static uint64_t scaled(uint64_t size, uint64_t slope)
{
	return (uint64_t)((unsigned __int128)size * slope >> 32);
}

static int64_t median(int64_t *v, uint32_t n)
{
	for (uint32_t i = 1; i < n; i++) {
		int64_t x = v[i];
		uint32_t k = i;

		for (; k && v[k - 1] > x; k--)
			v[k] = v[k - 1];
		v[k] = x;
	}
	return v[(n - 1) / 2] / 2 + v[n / 2] / 2;
}

static uint64_t at_least_zero(int64_t v)
{
	return v < 0 ? 0 : (uint64_t)v;
}

/* Between two samples, as cost a byte times 2^32; within reach of 64 bits for all that is real. */
static int64_t slope_between(const struct estimate *e, uint32_t i, uint32_t k)
{
	return (int64_t)((double)((int64_t)e->ns[place(e, k)] - (int64_t)e->ns[place(e, i)]) /
			 (double)((int64_t)e->size[place(e, k)] - (int64_t)e->size[place(e, i)]) * 4294967296.0);
}

/* The median over all samples of the median slope to all others; a slope below zero is none. */
static uint64_t slope_of(const struct estimate *e)
{
	int64_t of[ESTIMATE_SAMPLES], to[ESTIMATE_SAMPLES];
	uint32_t nr = 0;

	for (uint32_t i = 0; i < e->nr; i++) {
		uint32_t n = 0;

		for (uint32_t k = 0; k < e->nr; k++)
			if (e->size[place(e, k)] != e->size[place(e, i)])
				to[n++] = slope_between(e, i, k);
		if (n)
			of[nr++] = median(to, n);
	}
	return nr ? at_least_zero(median(of, nr)) : 0;
}

static void span(struct estimate *e)
{
	e->least = UINT64_MAX;
	e->most = 0;
	for (uint32_t i = 0; i < e->nr; i++) {
		uint64_t size = e->size[place(e, i)];

		e->least = size < e->least ? size : e->least;
		e->most = size > e->most ? size : e->most;
	}
}

/* Of @n sorted ones; with few the largest. */
static uint64_t quantile(const int64_t *sorted, uint32_t n, unsigned int percent)
{
	uint32_t rank = ((n + 1) * percent + 99) / 100;

	return at_least_zero(sorted[(rank > n ? n : rank) - 1]);
}

static void fit(struct estimate *e)
{
	int64_t rest[ESTIMATE_SAMPLES], recent[RECENT];

	span(e);
	e->slope = e->nr >= 3 && e->most >= 2 * e->least && e->most > e->least + 4096 ? slope_of(e) : 0;
	for (uint32_t i = 0; i < e->nr; i++)
		rest[i] = (int64_t)e->ns[place(e, i)] - (int64_t)scaled(e->size[place(e, i)], e->slope);
	for (uint32_t i = 0; i < RECENT && i < e->nr; i++)
		recent[i] = rest[e->nr - 1 - i];
	e->base = median(recent, e->nr < RECENT ? e->nr : RECENT);
	median(rest, e->nr); /* sorted now */
	for (uint32_t i = 0; i < e->nr; i++)
		rest[i] -= e->base;
	e->likely_over = quantile(rest, e->nr, LIKELY);
	e->upper_over = quantile(rest, e->nr, UPPER);
}

void estimate_learn(struct estimate *e, uint64_t size, uint64_t ns)
{
	e->size[e->at] = size;
	e->ns[e->at] = ns;
	e->at = (e->at + 1) % ESTIMATE_SAMPLES;
	if (e->nr < ESTIMATE_SAMPLES)
		e->nr++;
	fit(e);
}

static uint64_t in_proportion(uint64_t ns, uint64_t size, uint64_t most)
{
	return (uint64_t)((unsigned __int128)ns * size / most);
}

/**
 * estimate_worst() - the longest but one of the samples, whatever its size; of one or two the longest
 *
 * Twice the guess before the first. What is kept in reserve by this can keep anything from being
 * tried, and then nothing more is learned: once is chance, twice is to be reckoned with.
 */
uint64_t estimate_worst(const struct estimate *e)
{
	uint64_t worst = 0, second = 0;

	for (uint32_t i = 0; i < e->nr; i++) {
		uint64_t ns = e->ns[i];

		if (ns > worst) {
			second = worst;
			worst = ns;
		} else if (ns > second) {
			second = ns;
		}
	}
	return !e->nr ? 2 * e->guess_ns : e->nr < 3 ? worst : second;
}

/** estimate_expect() - for a thing of @size */
void estimate_expect(const struct estimate *e, uint64_t size, struct expected *to)
{
	uint64_t inside = !e->slope && size > e->most ? e->most : size;

	if (!e->nr) {
		*to = (struct expected){ e->guess_ns, e->guess_ns * 3 / 2, 2 * e->guess_ns };
		return;
	}
	to->mean_ns = at_least_zero(e->base + (int64_t)scaled(inside, e->slope));
	to->likely_ns = to->mean_ns + e->likely_over;
	to->upper_ns = to->mean_ns + e->upper_over;
	to->upper_ns += to->upper_ns / (2 * e->nr);
	if (inside < size && e->most) {
		to->mean_ns = in_proportion(to->mean_ns, size, e->most);
		to->likely_ns = in_proportion(to->likely_ns, size, e->most);
		to->upper_ns = in_proportion(to->upper_ns, size, e->most);
	}
}
