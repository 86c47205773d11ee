/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BASE_THREAD_TIMES_H
#define BASE_THREAD_TIMES_H

#include <stdint.h>

/**
 * struct thread_times - what one thread has used and waited for since it began
 * @cpu_ns: processor time
 * @waited_ns: time in which it could have run but had no processor; 0 where the kernel does not say
 * @slept: how often it gave its processor up because it had to wait for something
 */
struct thread_times {
	uint64_t cpu_ns;
	uint64_t waited_ns;
	uint64_t slept;
};

int thread_times_open(void);
void thread_times_read(int fd, struct thread_times *to);

#endif
