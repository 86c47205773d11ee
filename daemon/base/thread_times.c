// SPDX-License-Identifier: GPL-2.0-or-later
/* Processor time and waits of the calling thread, as the kernel counts them. */
#include "thread_times.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

/** thread_times_open() - of the calling thread; Return: an fd for thread_times_read(), -1: waits cannot be told */
int thread_times_open(void)
{
	return open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
}

static uint64_t read_waited(int fd)
{
	char text[96], *at;
	ssize_t n = fd < 0 ? -1 : pread(fd, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return 0;
	text[n] = '\0';
	/* run time, run delay, time slices */
	strtoull(text, &at, 10);
	return strtoull(at, NULL, 10);
}

static uint64_t to_ns(struct timeval t)
{
	return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_usec * 1000;
}

/** thread_times_read() - two system calls, some 2 us; on the thread that opened @fd */
void thread_times_read(int fd, struct thread_times *to)
{
	struct rusage u = { 0 };

	getrusage(RUSAGE_THREAD, &u);
	to->cpu_ns = to_ns(u.ru_utime) + to_ns(u.ru_stime);
	to->slept = (uint64_t)u.ru_nvcsw;
	to->waited_ns = read_waited(fd);
}
