/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CLI_HISTOGRAM_H
#define CLI_HISTOGRAM_H

#define HISTOGRAM_BUCKETS 26

/** struct histogram - bucket i counts what is below 2^(i+1) microseconds, and not in those before */
struct histogram {
	unsigned long long count[HISTOGRAM_BUCKETS], nr, max_us;
};

void histogram_add(struct histogram *h, unsigned long long us);
void histogram_print(const struct histogram *h);

#endif
