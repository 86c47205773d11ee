/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef UNIT_STAND_IN_H
#define UNIT_STAND_IN_H
/*
 * Stand-ins for peers, on 127.0.0.x: one that greets as it is told, and addresses that answer nothing.
 * Include it after cmocka.h.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "peer/address.h"
#include "peer/wire.h"

#define STAND_IN_MAX 16

/**
 * struct stand_in - greets @nr connections: hears all hellos first, then answers all
 * @gate: NULL, or waited for before it answers
 * @answered: NULL, or posted when it has
 * @status, @host: of its welcomes
 * @oldest, @newest: versions that it speaks; 0: ours
 * @other_host: 0, or the host of the last welcome, which then is the only one with @status
 * @hellos, @socks: what it heard, and where; for the test to read after stand_in_join()
 */
struct stand_in {
	struct address at;
	unsigned int nr;
	sem_t *gate, *answered;
	int status;
	uint8_t host, other_host;
	uint32_t oldest, newest;

	struct wire_hello hellos[STAND_IN_MAX];
	int socks[STAND_IN_MAX];
	int listener;
	pthread_t thread;
};

/* A listener at 127.0.0.@host with a free port. */
static inline int stand_in_listen(unsigned int host, int backlog, struct address *at)
{
	struct sockaddr_in *sa = (struct sockaddr_in *)&at->sa;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	*at = (struct address){ .len = sizeof(*sa) };
	sa->sin_family = AF_INET;
	sa->sin_addr.s_addr = htonl(0x7f000000 + host);
	assert_int_equal(bind(fd, (struct sockaddr *)sa, at->len), 0);
	assert_int_equal(listen(fd, backlog), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)sa, &at->len), 0);
	snprintf(at->uri, sizeof(at->uri), "tcp:127.0.0.%u:%u", host, ntohs(sa->sin_port));
	return fd;
}

/* An address where nobody listens: connecting is refused. */
static inline void stand_in_refusing(unsigned int host, struct address *at)
{
	close(stand_in_listen(host, 1, at));
}

/* An address that drops silently: its queue is full and nobody accepts. Close all of @fds at the end. */
static inline void stand_in_silent(unsigned int host, struct address *at, int fds[4])
{
	fds[0] = stand_in_listen(host, 0, at);
	for (int i = 1; i < 4; i++) {
		fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		if (connect(fds[i], (struct sockaddr *)&at->sa, at->len))
			assert_int_equal(errno, EINPROGRESS);
	}
}

static inline void *stand_in_thread(void *arg)
{
	struct stand_in *s = arg;

	for (unsigned int i = 0; i < s->nr; i++) {
		s->socks[i] = accept(s->listener, NULL, NULL);
		if (recv(s->socks[i], &s->hellos[i], sizeof(s->hellos[i]), MSG_WAITALL) < 0)
			perror("# stand-in");
	}
	if (s->gate)
		sem_wait(s->gate);
	for (unsigned int i = 0; i < s->nr; i++) {
		struct wire_welcome w = { .magic = WIRE_MAGIC, .version = s->oldest ? s->oldest : WIRE_OLDEST,
					  .newest = s->oldest ? s->newest : WIRE_VERSION };
		bool is_other = s->other_host && i == s->nr - 1;

		w.status = is_other || !s->other_host ? s->status : 0;
		memset(w.host, is_other ? s->other_host : s->host, sizeof(w.host));
		memset(w.journal, 0x77, sizeof(w.journal));
		snprintf(w.text, sizeof(w.text), "%s", w.status < 0 ? "no room" : "");
		if (send(s->socks[i], &w, sizeof(w), MSG_NOSIGNAL) < 0)
			perror("# stand-in");
	}
	if (s->answered)
		sem_post(s->answered);
	return NULL;
}

static inline void stand_in_start(struct stand_in *s, unsigned int host)
{
	s->listener = stand_in_listen(host, STAND_IN_MAX, &s->at);
	assert_int_equal(pthread_create(&s->thread, NULL, stand_in_thread, s), 0);
}

static inline void stand_in_join(struct stand_in *s)
{
	pthread_join(s->thread, NULL);
	close(s->listener);
	for (unsigned int i = 0; i < s->nr; i++)
		close(s->socks[i]);
}

#endif
