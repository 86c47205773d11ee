// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: an address that answers nothing holds up neither the next address nor the caller, and a
 * failure names every address with what it said.
 *
 * Limits are an hour where nothing may wait for them: a wait that should not be there ends with the
 * alarm. Seen to fail: with the addresses tried one after the other the first test hangs; with a try closed
 * when the next one begins the second one fails; with the stagger kept after a refusal the third one hangs;
 * with the deadline set anew at each byte a dripping peer is welcomed; with channels dialled one by one the
 * stand-in waits for hellos for ever.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/un.h>

#include "base/deadline.h"
#include "peer/dial.h"
#include "stand_in.h"

#define HOUR_NS (3600 * NS_PER_S)
#define PATIENCE_S 120

static struct dial_limits limits;
static struct wire_hello hello = { .magic = WIRE_MAGIC, .version = WIRE_OLDEST, .newest = WIRE_VERSION,
				   .role = WIRE_CONTROL, .id = { 7 } };
static struct dial_found found;
static struct address list[3];
static char why[448];

static int setup(void **state)
{
	(void)state;
	limits = (struct dial_limits){ 50 * NS_PER_MS, HOUR_NS, eventfd(0, EFD_CLOEXEC) };
	found = (struct dial_found){ .sock = -1 };
	why[0] = '\0';
	alarm(PATIENCE_S);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	close(limits.cancel_fd);
	if (found.sock >= 0)
		close(found.sock);
	return 0;
}

static void close_all(int *fds, unsigned int nr)
{
	for (unsigned int i = 0; i < nr; i++)
		close(fds[i]);
}

static int first(unsigned int nr)
{
	return dial_first("tcp:name:1", list, nr, &hello, &limits, &found, why, sizeof(why));
}

static void a_silent_address_does_not_hold_up_the_next(void **state)
{
	struct stand_in good = { .nr = 1, .host = 9 };
	int silent[4];

	(void)state;
	stand_in_silent(2, &list[0], silent);
	stand_in_start(&good, 3);
	list[1] = good.at;
	assert_int_equal(first(2), 0);
	assert_string_equal(found.at.uri, good.at.uri);
	assert_int_equal(found.welcome.host[0], 9);
	assert_int_equal(fcntl(found.sock, F_GETFL) & O_NONBLOCK, 0);
	stand_in_join(&good);
	assert_memory_equal(&good.hellos[0], &hello, sizeof(hello));
	close_all(silent, 4);
}

static void a_slow_address_is_not_given_up_for_the_next(void **state)
{
	struct stand_in slow = { .nr = 1 }, refuses = { .nr = 1, .status = -EBUSY };
	sem_t refused;

	(void)state;
	sem_init(&refused, 0, 0);
	slow.gate = refuses.answered = &refused; /* it answers once the second address was tried */
	stand_in_start(&slow, 2);
	stand_in_start(&refuses, 3);
	list[0] = slow.at;
	list[1] = refuses.at;
	assert_int_equal(first(2), 0);
	assert_string_equal(found.at.uri, slow.at.uri);
	stand_in_join(&slow);
	stand_in_join(&refuses);
	sem_destroy(&refused);
}

static void after_a_refusal_the_next_address_is_tried_at_once(void **state)
{
	struct stand_in good = { .nr = 1 };

	(void)state;
	limits.stagger_ns = HOUR_NS;
	stand_in_refusing(2, &list[0]);
	stand_in_start(&good, 3);
	list[1] = good.at;
	assert_int_equal(first(2), 0);
	assert_string_equal(found.at.uri, good.at.uri);
	stand_in_join(&good);
}

static void a_failure_names_every_address_and_what_it_said(void **state)
{
	char want[512];
	int silent[4];
	double s;

	(void)state;
	stand_in_silent(2, &list[0], silent);
	stand_in_refusing(3, &list[1]);
	/* On a busy machine the third address may answer too late as well. The test is then repeated with twice the time. */
	for (s = 0.5; s < PATIENCE_S / 4; s *= 2) {
		struct stand_in full = { .nr = 1, .status = -ENOMEM };

		limits.step_ns = (uint64_t)(s * NS_PER_S);
		stand_in_start(&full, 4);
		list[2] = full.at;
		assert_int_equal(first(3), -ETIMEDOUT);
		stand_in_join(&full);
		if (!strstr(why, "no welcome"))
			break;
	}
	snprintf(want, sizeof(want), "%s: no answer within %g s; %s: Connection refused; %s: refused: no room",
		 list[0].uri, s, list[1].uri, list[2].uri);
	assert_string_equal(why, want);
	close_all(silent, 4);
}

static void a_text_that_does_not_fit_says_how_many_are_missing(void **state)
{
	char small[80];

	(void)state;
	for (int i = 0; i < 3; i++)
		stand_in_refusing(2, &list[i]);
	assert_int_equal(dial_first("tcp:name:1", list, 3, &hello, &limits, &found, small, sizeof(small)),
			 -ECONNREFUSED);
	assert_non_null(strstr(small, ": Connection refused; and 2 more"));
	/* An address that was asked for by number is not named twice. */
	assert_int_equal(dial_first(list[0].uri, list, 1, &hello, &limits, &found, small, sizeof(small)),
			 -ECONNREFUSED);
	assert_string_equal(small, "Connection refused");
}

static void *cancel_soon(void *arg)
{
	(void)arg;
	usleep(50000);
	eventfd_write(limits.cancel_fd, 1);
	return NULL;
}

static void cancelling_ends_it_at_once(void **state)
{
	struct wire_msg m = { WIRE_PLAN, 0 };
	pthread_t thread;
	int silent[4], pair[2], socks[2];
	uint32_t type, len;

	(void)state;
	stand_in_silent(2, &list[0], silent);
	pthread_create(&thread, NULL, cancel_soon, NULL);
	assert_int_equal(first(1), -ECANCELED);
	pthread_join(thread, NULL);
	/* From now on nothing is begun any more: here connecting would be refused. */
	stand_in_refusing(3, &list[0]);
	assert_int_equal(first(1), -ECANCELED);
	found.at = list[0];
	assert_int_equal(dial_channels(&found, &hello, 2, &limits, socks, why, sizeof(why)), -ECANCELED);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_int_equal(dial_ask(pair[0], WIRE_PLAN, &m, sizeof(m), &limits, &type, &m, sizeof(m), &len),
			 -ECANCELED);
	close_all(pair, 2);
	close_all(silent, 4);
}

static void all_channels_connect_at_once(void **state)
{
	struct stand_in peer = { .nr = 8 };
	unsigned int seen = 0;
	int socks[8];

	(void)state;
	stand_in_start(&peer, 2); /* it answers no hello before it has heard all */
	found.at = peer.at;
	hello.nr_channels = 8;
	assert_int_equal(dial_channels(&found, &hello, 8, &limits, socks, why, sizeof(why)), 0);
	stand_in_join(&peer);
	for (int i = 0; i < 8; i++) {
		assert_int_equal(peer.hellos[i].role, WIRE_CHANNEL);
		assert_int_equal(peer.hellos[i].nr_channels, 8);
		seen |= 1U << peer.hellos[i].channel;
		assert_int_equal(fcntl(socks[i], F_GETFL) & O_NONBLOCK, 0);
	}
	assert_int_equal(seen, 0xff);
	close_all(socks, 8);
}

static void another_host_at_the_same_address_is_told(void **state)
{
	/* It refuses the channel, too; that it knows no such migration is not the cause. */
	struct stand_in peer = { .nr = 2, .host = 0x11, .other_host = 0x22, .status = -EINVAL };
	int socks[2];

	(void)state;
	stand_in_start(&peer, 2);
	found.at = peer.at;
	memset(found.welcome.host, 0x11, 16);
	assert_int_equal(dial_channels(&found, &hello, 2, &limits, socks, why, sizeof(why)), -EXDEV);
	assert_non_null(strstr(why, "two hosts answer at this address"));
	assert_non_null(strstr(why, "11111111-1111-1111-1111-111111111111"));
	assert_non_null(strstr(why, "22222222-2222-2222-2222-222222222222"));
	stand_in_join(&peer);
}

static void *drip(void *arg)
{
	int sock = accept(*(int *)arg, NULL, NULL);
	struct wire_welcome w = { .magic = WIRE_MAGIC };

	for (size_t i = 0; i < sizeof(w); i++) {
		if (send(sock, (char *)&w + i, 1, MSG_NOSIGNAL) < 0)
			break;
		usleep(10000);
	}
	close(sock);
	return NULL;
}

static void a_peer_that_drips_gains_nothing(void **state)
{
	int listener = stand_in_listen(2, 1, &list[0]);
	pthread_t thread;

	(void)state;
	limits.step_ns = 300 * NS_PER_MS;
	pthread_create(&thread, NULL, drip, &listener);
	assert_int_equal(first(1), -ETIMEDOUT);
	assert_non_null(strstr(why, "connected, but no welcome within 0.3 s"));
	pthread_join(thread, NULL);
	close(listener);
}

static void *say_ssh(void *arg)
{
	static const char banner[] = "SSH-2.0-OpenSSH_9.2\r\n";
	int sock = accept(*(int *)arg, NULL, NULL);
	char byte;

	if (send(sock, banner, sizeof(banner) - 1, MSG_NOSIGNAL) < 0)
		perror("# send");
	while (recv(sock, &byte, 1, 0) > 0)
		;
	close(sock);
	return NULL;
}

static void who_is_no_vmferryd_is_told_by_its_first_bytes(void **state)
{
	int listener = stand_in_listen(2, 1, &list[0]);
	pthread_t thread;

	(void)state;
	pthread_create(&thread, NULL, say_ssh, &listener);
	assert_int_equal(first(1), -EBADMSG);
	assert_non_null(strstr(why, "is no vmferryd"));
	pthread_join(thread, NULL);
	close(listener);
}

static void *hang_up(void *arg)
{
	close(accept(*(int *)arg, NULL, NULL));
	return NULL;
}

static void a_peer_that_hangs_up_is_told(void **state)
{
	int listener = stand_in_listen(2, 1, &list[0]);
	pthread_t thread;

	(void)state;
	pthread_create(&thread, NULL, hang_up, &listener);
	assert_int_equal(first(1), -ECONNRESET);
	assert_non_null(strstr(why, "no welcome: "));
	pthread_join(thread, NULL);
	close(listener);
}

static void *make_room(void *arg)
{
	struct stand_in *s = arg;

	usleep(50000);
	close(accept(s->listener, NULL, NULL)); /* the one that fills the queue */
	return stand_in_thread(s);
}

static void a_full_queue_of_a_unix_socket_is_waited_out(void **state)
{
	struct stand_in s = { .nr = 1, .listener = socket(AF_UNIX, SOCK_STREAM, 0) };
	int filler = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	char uri[64], path[48];
	pthread_t thread;

	(void)state;
	snprintf(path, sizeof(path), "/tmp/vmferry-dial-%d", getpid());
	snprintf(uri, sizeof(uri), "unix:%s", path);
	assert_int_equal(address_resolve(uri, list, why, sizeof(why)), 1);
	assert_int_equal(bind(s.listener, (struct sockaddr *)&list[0].sa, list[0].len), 0);
	assert_int_equal(listen(s.listener, 0), 0);
	assert_int_equal(connect(filler, (struct sockaddr *)&list[0].sa, list[0].len), 0);
	limits.step_ns = 50 * NS_PER_MS;
	assert_int_equal(first(1), -ETIMEDOUT);
	assert_non_null(strstr(why, "its queue of connections was full for 0.05 s"));
	limits.step_ns = HOUR_NS;
	pthread_create(&thread, NULL, make_room, &s);
	assert_int_equal(first(1), 0);
	pthread_join(thread, NULL);
	close(s.socks[0]);
	close(s.listener);
	close(filler);
	unlink(path);
}

static void a_request_has_one_deadline_and_bounded_room(void **state)
{
	uint8_t answer[8], body[4] = { 1, 2, 3, 4 };
	struct wire_msg m = { WIRE_PLAN_OK, sizeof(answer) };
	uint32_t type, len;
	int pair[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_int_equal(send(pair[1], &m, sizeof(m), 0), sizeof(m));
	assert_int_equal(send(pair[1], "12345678", 8, 0), 8);
	assert_int_equal(dial_ask(pair[0], WIRE_PLAN, body, 4, &limits, &type, answer, 8, &len), 0);
	assert_int_equal(type, WIRE_PLAN_OK);
	assert_int_equal(len, 8);
	assert_memory_equal(answer, "12345678", 8);
	assert_int_equal(recv(pair[1], &m, sizeof(m), 0), sizeof(m));
	assert_true(m.type == WIRE_PLAN && m.len == 4);

	m = (struct wire_msg){ WIRE_PLAN_OK, sizeof(answer) + 1 };
	assert_int_equal(send(pair[1], &m, sizeof(m), 0), sizeof(m));
	assert_int_equal(dial_ask(pair[0], WIRE_PLAN, body, 4, &limits, &type, answer, 8, &len), -EBADMSG);

	limits.step_ns = 20 * NS_PER_MS;
	assert_int_equal(dial_ask(pair[0], WIRE_PLAN, body, 4, &limits, &type, answer, 8, &len), -ETIMEDOUT);
	close(pair[1]);
	limits.step_ns = HOUR_NS;
	assert_true(dial_ask(pair[0], WIRE_PLAN, body, 4, &limits, &type, answer, 8, &len) < 0);
	close(pair[0]);
}

/* What a peer of versions @oldest to @newest is told of a connection of @role. Return: the version that both speak */
static int dialled(enum wire_role role, uint32_t oldest, uint32_t newest, int status)
{
	struct stand_in peer = { .nr = 1, .oldest = oldest, .newest = newest, .status = status };
	int err;

	hello = wire_hello_for(role);
	stand_in_start(&peer, 2);
	list[0] = peer.at;
	err = first(1);
	stand_in_join(&peer);
	if (err)
		return err;
	close(found.sock);
	found.sock = -1;
	return (int)found.version;
}

static void versions_that_do_not_fit_are_told_in_words(void **state)
{
	(void)state;
	assert_int_equal(dialled(WIRE_CONTROL, 2, 3, 0), 3);
	assert_int_equal(found.welcome.journal[0], 0x77);
	assert_int_equal(dialled(WIRE_CONTROL, 3, 9, 0), 3);
	assert_int_equal(dialled(WIRE_RESOLVE, 2, 0, WIRE_RESOLVED_NEVER), 2);
	assert_int_equal(found.welcome.status, WIRE_RESOLVED_NEVER);

	assert_int_equal(dialled(WIRE_CONTROL, 2, 0, 0), -EPROTONOSUPPORT);
	assert_non_null(strstr(why, "the vmferryd there speaks version 2 of the wire, this one needs version 3; update that one"));
	assert_int_equal(dialled(WIRE_SETTLE, 2, 0, -EINVAL), -EPROTONOSUPPORT); /* whatever it says of the role */
	assert_int_equal(dialled(WIRE_RESOLVE, 1, 0, -EPROTONOSUPPORT), -EPROTONOSUPPORT);
	assert_non_null(strstr(why, "speaks version 1 of the wire, this one needs versions 2 to 3; update that one"));
	assert_int_equal(dialled(WIRE_CONTROL, 4, 5, -EPROTONOSUPPORT), -EPROTONOSUPPORT);
	assert_non_null(strstr(why, "speaks versions 4 to 5 of the wire, this one needs version 3; update this one"));
	assert_int_equal(dialled(WIRE_CONTROL, 4, 2, 0), -EPROTONOSUPPORT); /* no range at all */
}

/* All that is in the first 64 bytes of a hello, and where the newest version is. */
static void a_version_2_daemon_takes_our_hello(void **state)
{
	struct wire_hello h = wire_hello_for(WIRE_RESOLVE);
	uint32_t at_8, at_64;

	(void)state;
	memcpy(&at_8, (char *)&h + 8, 4);
	memcpy(&at_64, (char *)&h + 64, 4);
	assert_int_equal(at_8, 2);
	assert_int_equal(at_64, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_silent_address_does_not_hold_up_the_next, setup, teardown),
		cmocka_unit_test_setup_teardown(a_slow_address_is_not_given_up_for_the_next, setup, teardown),
		cmocka_unit_test_setup_teardown(after_a_refusal_the_next_address_is_tried_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(a_failure_names_every_address_and_what_it_said, setup, teardown),
		cmocka_unit_test_setup_teardown(a_text_that_does_not_fit_says_how_many_are_missing, setup, teardown),
		cmocka_unit_test_setup_teardown(cancelling_ends_it_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(all_channels_connect_at_once, setup, teardown),
		cmocka_unit_test_setup_teardown(another_host_at_the_same_address_is_told, setup, teardown),
		cmocka_unit_test_setup_teardown(a_peer_that_drips_gains_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(who_is_no_vmferryd_is_told_by_its_first_bytes, setup, teardown),
		cmocka_unit_test_setup_teardown(a_peer_that_hangs_up_is_told, setup, teardown),
		cmocka_unit_test_setup_teardown(a_full_queue_of_a_unix_socket_is_waited_out, setup, teardown),
		cmocka_unit_test_setup_teardown(a_request_has_one_deadline_and_bounded_room, setup, teardown),
		cmocka_unit_test_setup_teardown(versions_that_do_not_fit_are_told_in_words, setup, teardown),
		cmocka_unit_test_setup_teardown(a_version_2_daemon_takes_our_hello, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
