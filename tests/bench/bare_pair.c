// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The limit of this machine: two TCP channels over loopback, writev from one memfd and
 * readv into another, nothing else. Prints bytes and nanoseconds. Also: one read of
 * RAM with isa-l, and collecting from a sparse area of a terabyte.
 *   bare_pair pair MIB | zeros MIB | collect
 */
#include <arpa/inet.h>
#include <isa-l/mem_routines.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "area.h"
#include "base/deadline.h"
#include "pages/dirty.h"

#define CHANNELS 2
#define STRIPE 65536UL
#define BATCH 16

struct side {
	int sock;
	char *ram;
	size_t len;
	unsigned int channel;
	int is_sender;
};

static char *make_ram(size_t len, int fill)
{
	int fd = memfd_create("bench", 0);
	char *p;

	if (fd < 0 || ftruncate(fd, (off_t)len))
		exit(1);
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		exit(1);
	madvise(p, len, MADV_HUGEPAGE);
	memset(p, fill, len);
	return p;
}

static void *run_side(void *arg)
{
	struct side *s = arg;
	size_t stripe = s->channel;

	while (stripe * STRIPE < s->len) {
		struct iovec iov[BATCH], *v = iov;
		int nr = 0;

		for (; nr < BATCH && stripe * STRIPE < s->len; nr++, stripe += CHANNELS)
			iov[nr] = (struct iovec){ s->ram + stripe * STRIPE, STRIPE };
		while (nr) {
			ssize_t n = s->is_sender ? writev(s->sock, v, nr) : readv(s->sock, v, nr);

			if (n <= 0)
				exit(1);
			while (nr && (size_t)n >= v->iov_len) {
				n -= (ssize_t)v->iov_len;
				v++;
				nr--;
			}
			if (nr) {
				v->iov_base = (char *)v->iov_base + n;
				v->iov_len -= (size_t)n;
			}
		}
	}
	return NULL;
}

static void connect_pair(int *a, int *b)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(sa);
	int l = socket(AF_INET, SOCK_STREAM, 0);

	if (bind(l, (struct sockaddr *)&sa, len) || listen(l, 1) || getsockname(l, (struct sockaddr *)&sa, &len))
		exit(1);
	*a = socket(AF_INET, SOCK_STREAM, 0);
	if (connect(*a, (struct sockaddr *)&sa, len) || (*b = accept(l, NULL, NULL)) < 0)
		exit(1);
	close(l);
}

static void pair(size_t len)
{
	char *from = make_ram(len, 1), *to = make_ram(len, 2);
	struct side sides[2 * CHANNELS];
	pthread_t threads[2 * CHANNELS];
	uint64_t start;

	for (unsigned int i = 0; i < CHANNELS; i++) {
		sides[2 * i] = (struct side){ -1, from, len, i, 1 };
		sides[2 * i + 1] = (struct side){ -1, to, len, i, 0 };
		connect_pair(&sides[2 * i].sock, &sides[2 * i + 1].sock);
	}
	start = now_ns();
	for (int i = 0; i < 2 * CHANNELS; i++)
		pthread_create(&threads[i], NULL, run_side, &sides[i]);
	for (int i = 0; i < 2 * CHANNELS; i++)
		pthread_join(threads[i], NULL);
	printf("%zu %llu\n", len, (unsigned long long)(now_ns() - start));
}

static void zeros(size_t len)
{
	char *ram = make_ram(len, 0);
	uint64_t start = now_ns();

	for (size_t i = 0; i < len; i += 4096)
		if (isal_zero_detect(ram + i, 4096))
			exit(1);
	printf("%zu %llu\n", len, (unsigned long long)(now_ns() - start));
}

static void collect(void)
{
	uint64_t size = 1ULL << 40, best = UINT64_MAX;
	struct vmferry_region region = { .size = size };
	struct page_set set;
	struct area a;
	struct dirty *d;

	if (area_init(&a, &region, 1, 1) || dirty_open(a.fd, a.size, &size, 1, &d) ||
	    page_set_init(&set, &size, 1))
		exit(1);
	for (int turn = 0; turn < 9; turn++) { /* the first ones fault the bitmaps in */
		uint64_t start, ns, taken;

		for (uint64_t i = 0; i < 1000; i++) {
			uint64_t page = i * 268435 + 17;

			area_publish(&a, 0, page / 64, 1ULL << page % 64);
		}
		start = now_ns();
		if (dirty_collect(d, &set, &taken) || taken != 1000)
			exit(1);
		ns = now_ns() - start;
		page_set_clear(&set);
		if (ns < best)
			best = ns;
	}
	printf("1000 %llu\n", (unsigned long long)best);
}

int main(int argc, char **argv)
{
	size_t len = argc > 2 ? (size_t)atol(argv[2]) << 20 : 1UL << 30;

	if (argc > 1 && !strcmp(argv[1], "pair"))
		pair(len);
	else if (argc > 1 && !strcmp(argv[1], "zeros"))
		zeros(len);
	else if (argc > 1 && !strcmp(argv[1], "collect"))
		collect();
	else
		return 2;
	return 0;
}
