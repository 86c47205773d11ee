// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: the loop waits for no look-up and no peer, whatever hangs; hung look-ups are bounded; nothing is
 * reported of an attempt that was abandoned, and nothing of it stays.
 *
 * getaddrinfo() is the test's own: a name that begins with "hung" hangs until the test lets it go. So is
 * fault_point(): the place between an attempt's success and its end waits for the test, too. Seen to
 * fail: with the thread joined by connector_fini() the first two tests hang until the alarm; without the
 * count the 65th attempt is begun; without cancel_fd an abandoned connection stays open; with the sockets
 * left to the last reference an outcome that nobody takes stays open until the loop turns; without either
 * close_sockets() one of the last two tests waits for ever. Without the wait for
 * threads in teardown(), and with an abandoned attempt that ends 60 ms late, the last but one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <dlfcn.h>
#include <netdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/deadline.h"
#include "base/fault.h"
#include "connect.h"
#include "stand_in.h"

#define PATIENCE_S 120

#define STEP_S 5 /* after which the thread gives up by itself */

static sem_t begun, may_end;
static atomic_bool is_held;
static atomic_uint nr_waiting; /* threads in wait_for_the_test() */
static struct loop *loop;
static struct worker *worker;
static struct connector connector;
static unsigned int nr_done, nr_threads_before;

/* An attempt's thread stands here until the test lets one thread go. */
static void wait_for_the_test(void)
{
	atomic_fetch_add(&nr_waiting, 1);
	sem_post(&begun);
	while (sem_wait(&may_end))
		;
	atomic_fetch_sub(&nr_waiting, 1);
}

/* Takes the place of the C library's. */
int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **found)
{
	typeof(&getaddrinfo) real = (typeof(&getaddrinfo))dlsym(RTLD_NEXT, "getaddrinfo");

	if (strncmp(host, "hung", 4))
		return real(host, port, hints, found);
	wait_for_the_test();
	return EAI_AGAIN;
}

/* Takes the place of base/fault.c. */
void fault_point(const char *name)
{
	if (!strcmp(name, "connected") && atomic_load(&is_held))
		wait_for_the_test();
}

static void on_done(void *owner)
{
	assert_ptr_equal(owner, &connector);
	nr_done++;
	loop_stop(loop);
}

static void prepare(const char *uri)
{
	connector_init(&connector, uri);
	connector.hello = wire_hello_for(WIRE_RESOLVE);
	connector.done = on_done;
	connector.owner = &connector;
	nr_done = 0;
}

static unsigned int nr_threads(void)
{
	DIR *d = opendir("/proc/self/task");
	unsigned int nr = 0;

	for (const struct dirent *e = readdir(d); e; e = readdir(d))
		nr += e->d_name[0] != '.';
	closedir(d);
	return nr;
}

static void *end_at_once(void *arg)
{
	return arg;
}

/* A program built with TSan starts a thread of TSan's own with its first thread; that one never ends. */
static void count_threads(void)
{
	pthread_t first;

	assert_int_equal(pthread_create(&first, NULL, end_at_once, NULL), 0);
	pthread_join(first, NULL);
	nr_threads_before = nr_threads();
}

static int setup(void **state)
{
	(void)state;
	alarm(PATIENCE_S);
	if (!nr_threads_before)
		count_threads();
	sem_init(&begun, 0, 0);
	sem_init(&may_end, 0, 0);
	loop = loop_new();
	return worker_open(loop, &worker);
}

static int teardown(void **state)
{
	(void)state;
	/* Else the next test's sem_init() takes away what a thread was let go with, and that thread takes the next test's. */
	while (atomic_load(&nr_waiting))
		usleep(1000);
	assert_true(worker_drain(worker, now_ns() + PATIENCE_S * NS_PER_S));
	worker_close(worker);
	loop_free(loop);
	/* An abandoned thread that is about to end would come to fault_point() in the next test. */
	while (nr_threads() > nr_threads_before)
		usleep(1000);
	return 0;
}

static void begin_hung(void)
{
	prepare("tcp:hung:4747");
	assert_int_equal(connector_start(&connector, loop, worker), 0);
	while (sem_wait(&begun))
		;
}

static void let_look_ups_end(unsigned int nr)
{
	while (nr--)
		sem_post(&may_end);
}

static void on_later(void *owner)
{
	(void)owner;
	loop_stop(loop);
}

/* Callbacks that are due are called; how many turns that takes is the loop's affair. */
static void turn_the_loop(void)
{
	struct loop_timer later;

	loop_timer_init(&later, loop, on_later, NULL);
	loop_timer_at(&later, now_ns() + 20 * NS_PER_MS);
	loop_run(loop);
	loop_timer_fini(&later);
}

static void an_abandoned_look_up_holds_up_nobody(void **state)
{
	(void)state;
	begin_hung();
	connector_fini(&connector);
	let_look_ups_end(1);
	turn_the_loop();
	assert_int_equal(nr_done, 0);
}

static void hung_look_ups_are_bounded(void **state)
{
	struct stand_in peer = { .nr = 1, .status = WIRE_RESOLVED_NEVER };
	unsigned int nr = 0;

	(void)state;
	for (;; nr++) {
		prepare("tcp:hung:4747");
		if (connector_start(&connector, loop, worker))
			break;
		while (sem_wait(&begun))
			;
		connector_fini(&connector);
		turn_the_loop();
		assert_true(nr < CONNECT_MAX_ABANDONED);
	}
	assert_int_equal(nr, CONNECT_MAX_ABANDONED);
	assert_non_null(strstr(connector.text, "64 earlier attempts to connect still wait for a name server"));
	connector_fini(&connector);
	/* A number needs no look-up. */
	stand_in_start(&peer, 2);
	prepare(peer.at.uri);
	assert_int_equal(connector_start(&connector, loop, worker), 0);
	loop_run(loop);
	assert_int_equal(nr_done, 1);
	assert_int_equal(connector.error, 0);
	assert_int_equal(connector.welcome.status, WIRE_RESOLVED_NEVER);
	assert_string_equal(connector.peer, peer.at.uri);
	connector_fini(&connector);
	stand_in_join(&peer);
	/* They are forgotten as they end. */
	let_look_ups_end(nr + 1);
	do
		prepare("tcp:hung:4747");
	while (connector_start(&connector, loop, worker));
	loop_run(loop);
	connector_fini(&connector);
	while (!sem_trywait(&begun))
		;
}

static void a_failed_look_up_is_told(void **state)
{
	(void)state;
	begin_hung();
	let_look_ups_end(1);
	loop_run(loop);
	assert_int_equal(nr_done, 1);
	assert_true(connector.error < 0);
	assert_non_null(strstr(connector.text, "hung: "));
	assert_string_equal(connector.peer, "tcp:hung:4747");
	connector_fini(&connector);
}

static void an_abandoned_connection_is_closed(void **state)
{
	struct address at;
	int listener = stand_in_listen(2, 1, &at), sock;
	struct wire_hello hello;
	uint64_t since;
	char byte;

	(void)state;
	prepare(at.uri);
	assert_int_equal(connector_start(&connector, loop, worker), 0);
	sock = accept(listener, NULL, NULL);
	assert_int_equal(recv(sock, &hello, sizeof(hello), MSG_WAITALL), sizeof(hello));
	since = now_ns();
	connector_fini(&connector);
	assert_int_equal(recv(sock, &byte, 1, 0), 0);
	assert_true(now_ns() - since < (STEP_S - 1) * NS_PER_S); /* it does not wait for a welcome */
	turn_the_loop();
	assert_int_equal(nr_done, 0);
	close(sock);
	close(listener);
}

static void what_connects_after_all_is_closed(void **state)
{
	struct stand_in peer = { .nr = 1, .status = WIRE_RESOLVED_NEVER };
	char byte;

	(void)state;
	atomic_store(&is_held, true);
	stand_in_start(&peer, 2);
	prepare(peer.at.uri);
	assert_int_equal(connector_start(&connector, loop, worker), 0);
	while (sem_wait(&begun))
		;
	connector_fini(&connector);
	atomic_store(&is_held, false);
	let_look_ups_end(1);
	pthread_join(peer.thread, NULL);
	assert_true(recv(peer.socks[0], &byte, 1, 0) <= 0);
	turn_the_loop();
	assert_int_equal(nr_done, 0);
	close(peer.socks[0]);
	close(peer.listener);
}

static void an_outcome_that_nobody_takes_is_closed(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < 40; i++) {
		struct stand_in peer = { .nr = 1, .status = WIRE_RESOLVED_NEVER };
		char byte;

		stand_in_start(&peer, 2);
		prepare(peer.at.uri);
		assert_int_equal(connector_start(&connector, loop, worker), 0);
		pthread_join(peer.thread, NULL);
		usleep(i * 50); /* the attempt is about to end, or has ended */
		connector_fini(&connector);
		assert_true(recv(peer.socks[0], &byte, 1, 0) <= 0);
		close(peer.socks[0]);
		close(peer.listener);
		turn_the_loop(); /* the worker's thread is idle again */
		assert_int_equal(nr_done, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(an_abandoned_look_up_holds_up_nobody, setup, teardown),
		cmocka_unit_test_setup_teardown(hung_look_ups_are_bounded, setup, teardown),
		cmocka_unit_test_setup_teardown(a_failed_look_up_is_told, setup, teardown),
		cmocka_unit_test_setup_teardown(an_abandoned_connection_is_closed, setup, teardown),
		cmocka_unit_test_setup_teardown(what_connects_after_all_is_closed, setup, teardown),
		cmocka_unit_test_setup_teardown(an_outcome_that_nobody_takes_is_closed, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
