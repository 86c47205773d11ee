// SPDX-License-Identifier: GPL-2.0-or-later
/* Times in buckets of powers of two, drawn with bars. */
#include "histogram.h"

#include <stdio.h>

#define BAR 40

void histogram_add(struct histogram *h, unsigned long long us)
{
	int i = 0;

	while (i < HISTOGRAM_BUCKETS - 1 && us >> (i + 1))
		i++;
	h->count[i]++;
	h->nr++;
	if (us > h->max_us)
		h->max_us = us;
}

static void print_time(unsigned long long us)
{
	if (us < 1000)
		printf("%4llu us", us);
	else if (us < 1000000)
		printf("%4.3g ms", (double)us / 1e3);
	else
		printf("%4.3g s ", (double)us / 1e6);
}

void histogram_print(const struct histogram *h)
{
	unsigned long long most = 1;
	int first = HISTOGRAM_BUCKETS, last = -1;

	for (int i = 0; i < HISTOGRAM_BUCKETS; i++) {
		if (!h->count[i])
			continue;
		first = i < first ? i : first;
		last = i;
		most = h->count[i] > most ? h->count[i] : most;
	}
	for (int i = first; i <= last; i++) {
		print_time(i ? 1ULL << i : 0);
		printf(" - ");
		print_time(1ULL << (i + 1));
		printf("  %6llu  ", h->count[i]);
		for (unsigned long long n = 0; n < (h->count[i] * BAR + most - 1) / most; n++)
			putchar('#');
		putchar('\n');
	}
	if (h->nr) {
		printf("%llu in all, the longest ", h->nr);
		print_time(h->max_us);
		putchar('\n');
	}
}
