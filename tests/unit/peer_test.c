// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: a peer that sends without end gets its part of each turn of the loop and no more; all
 * that it sends arrives in order, also what is in no socket's buffer any more; a peer that does not
 * read costs a bounded queue. Seen to fail with deliver() and peer_ready() that go on until EAGAIN,
 * without loop_again(), and with out_at that is not looked at in flush().
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "peer/peer.h"

#define PATIENCE_S 60
#define NR_FLOOD 5000

static struct loop *loop;
static struct peer *peer;
static int other;
static unsigned int nr_got, nr_since_beat, most_between_beats, wanted;
static int lost_with;

static void on_message(void *owner, uint32_t type, const void *body, uint32_t len)
{
	uint32_t n;

	(void)owner;
	assert_int_equal(type, 7);
	assert_in_range(len, sizeof(n), WIRE_MAX_BODY);
	memcpy(&n, body, sizeof(n));
	assert_int_equal(n, nr_got++);
	if (++nr_since_beat > most_between_beats)
		most_between_beats = nr_since_beat;
	if (nr_got == wanted)
		loop_stop(loop);
}

static void on_lost(void *owner, int err)
{
	(void)owner;
	lost_with = err;
	peer_close(peer);
	peer = NULL;
	loop_stop(loop);
}

static const struct peer_ops ops = { on_message, on_lost };

/* Another source that always has something: it beats once a turn. */
static void beat(struct loop_source *s, uint32_t events)
{
	(void)s;
	(void)events;
	nr_since_beat = 0;
}

static struct loop_source heart = { .ready = beat, .name = "heart" };

static int setup(void **state)
{
	int pair[2];

	(void)state;
	alarm(PATIENCE_S);
	nr_got = nr_since_beat = most_between_beats = wanted = 0;
	lost_with = 0;
	loop = loop_new();
	heart.fd = eventfd(1, EFD_NONBLOCK);
	if (!loop || socketpair(AF_UNIX, SOCK_STREAM, 0, pair) || loop_add(loop, &heart, EPOLLIN))
		return -1;
	other = pair[1];
	return peer_open(loop, pair[0], &ops, NULL, &peer);
}

static int teardown(void **state)
{
	(void)state;
	peer_close(peer);
	peer = NULL;
	close(other);
	loop_remove(loop, &heart);
	close(heart.fd);
	loop_free(loop);
	alarm(0);
	return 0;
}

static void put(uint32_t number, uint32_t len)
{
	struct wire_msg m = { 7, len };
	char *body = calloc(1, len);

	memcpy(body, &number, sizeof(number));
	assert_int_equal(send(other, &m, sizeof(m), MSG_NOSIGNAL), sizeof(m));
	assert_int_equal(send(other, body, len, MSG_NOSIGNAL), len);
	free(body);
}

/* All of it is in one buffer before the loop runs; the socket says nothing new afterwards. */
static void a_flood_of_messages_takes_turns(void **state)
{
	struct {
		struct wire_msg m;
		uint32_t number;
	} __attribute__((packed)) *flood = calloc(NR_FLOOD, sizeof(*flood));

	(void)state;
	for (uint32_t i = 0; i < NR_FLOOD; i++) {
		flood[i].m = (struct wire_msg){ 7, sizeof(uint32_t) };
		flood[i].number = i;
	}
	assert_int_equal(send(other, flood, NR_FLOOD * sizeof(*flood), 0), NR_FLOOD * sizeof(*flood));
	free(flood);
	wanted = NR_FLOOD;
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(nr_got, NR_FLOOD);
	assert_in_range(most_between_beats, 1, 2 * LOOP_TURN_MESSAGES);
}

static void messages_of_every_length_arrive(void **state)
{
	unsigned int seed = 3;

	(void)state;
	for (uint32_t i = 0; i < 300; i++) {
		put(i, sizeof(i) + (uint32_t)rand_r(&seed) % (i % 50 ? 300 : 100000));
		wanted = i + 1;
		assert_int_equal(loop_run(loop), 0);
	}
	assert_int_equal(nr_got, 300);
	assert_int_equal(lost_with, 0);
}

static void what_was_sent_before_the_end_arrives(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 100; i++)
		put(i, 8);
	shutdown(other, SHUT_WR);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(nr_got, 100);
	assert_int_equal(lost_with, -ECONNRESET);
}

static void an_impossible_length_ends_it(void **state)
{
	struct wire_msg m = { 7, WIRE_MAX_BODY + 1 };

	(void)state;
	put(0, 8);
	assert_int_equal(send(other, &m, sizeof(m), 0), sizeof(m));
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(nr_got, 1);
	assert_int_equal(lost_with, -EBADMSG);
}

static size_t nr_read;
static uint32_t next_read;

/* Reads a little each turn and looks at every message. */
static void read_some(struct loop_source *s, uint32_t events)
{
	static uint8_t buf[1 << 20];
	static size_t len;
	ssize_t n = recv(s->fd, buf + len, 5000, MSG_DONTWAIT);
	size_t at = 0;

	(void)events;
	if (n > 0)
		len += (size_t)n;
	while (len - at >= sizeof(struct wire_msg)) {
		struct wire_msg m;
		uint32_t number;

		memcpy(&m, buf + at, sizeof(m));
		if (len - at - sizeof(m) < m.len)
			break;
		memcpy(&number, buf + at + sizeof(m), sizeof(number));
		assert_int_equal(m.type, 9);
		assert_int_equal(number, next_read++);
		at += sizeof(m) + m.len;
	}
	memmove(buf, buf + at, len - at);
	len -= at;
	if (next_read == nr_read)
		loop_stop(loop);
}

static void a_peer_that_does_not_read_costs_a_bounded_queue_and_loses_nothing(void **state)
{
	struct loop_source reader = { .fd = other, .ready = read_some, .name = "reader" };
	static uint8_t body[3000];
	uint32_t n = 0;
	int err;

	(void)state;
	do {
		memcpy(body, &n, sizeof(n));
		err = peer_send(peer, 9, body, sizeof(body) - n % 100);
	} while (!err && ++n < 10000);
	assert_int_equal(err, -EAGAIN);
	nr_read = n;
	assert_int_equal(loop_add(loop, &reader, EPOLLIN), 0);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(next_read, nr_read);
	/* There is room again. */
	nr_read++;
	memcpy(body, &n, sizeof(n));
	assert_int_equal(peer_send(peer, 9, body, 100), 0);
	assert_int_equal(loop_run(loop), 0);
	assert_int_equal(lost_with, 0);
	loop_remove(loop, &reader);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_flood_of_messages_takes_turns, setup, teardown),
		cmocka_unit_test_setup_teardown(messages_of_every_length_arrive, setup, teardown),
		cmocka_unit_test_setup_teardown(what_was_sent_before_the_end_arrives, setup, teardown),
		cmocka_unit_test_setup_teardown(an_impossible_length_ends_it, setup, teardown),
		cmocka_unit_test_setup_teardown(a_peer_that_does_not_read_costs_a_bounded_queue_and_loses_nothing,
						setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
