/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BASE_LOOP_TIMES_H
#define BASE_LOOP_TIMES_H

#include <stdint.h>

#define LOOP_TIMES_BUCKETS 544

/**
 * struct loop_span - how long callbacks of the loop took from one moment on
 * @since_ns: that moment, CLOCK_MONOTONIC
 * @count: callbacks
 * @waited_ns: of all long callbacks: time in which the thread waited for a processor; not in the other figures
 * @worst_ns: the longest; @worst_waited_ns: what it waited besides; @worst_name: what it served
 * @bucket: number of callbacks by duration; see loop_times.c
 */
struct loop_span {
	uint64_t since_ns;
	uint64_t count;
	uint64_t waited_ns;
	uint64_t worst_ns, worst_waited_ns;
	const char *worst_name;
	uint64_t bucket[LOOP_TIMES_BUCKETS];
};

/** struct loop_times - the loop's account; zero-initialised; owned by the loop's thread */
struct loop_times {
	struct loop_span all, recent;
};

void loop_times_begin(struct loop_times *t, uint64_t now_ns);
void loop_times_note(struct loop_times *t, const char *name, uint64_t ns, uint64_t waited_ns);
void loop_times_restart(struct loop_times *t, uint64_t now_ns);
uint64_t loop_span_quantile(const struct loop_span *s, unsigned int per_mille);

#endif
