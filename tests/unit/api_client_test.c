// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: clients that send commands without end take turns and leave most of the loop's time to
 * others; one that does not read is not heard, and dropped when its events pile up; answers come
 * whole and in order, also to one that has ended its side. Seen to fail with run_next() that goes on
 * with the same client, with REST 0, with is_slow false in settle(), with MAX_EVENTS not
 * looked at, and with a client that is dropped as soon as it has ended its side.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/deadline.h"
#include "control/api_client.h"

#define PATIENCE_S 60
#define NR_LINES 50

static struct loop *loop;
static struct limited *limited;
static struct api_clients *clients;
static struct loop_timer again;
static struct sockaddr_un address;
static socklen_t address_len;

static char order[4096];
static size_t nr_lines, stop_after, answer_len;
static uint64_t spent_ns, last_ns, spend_ns;
static bool (*is_done)(void);

static void came(void *owner, struct api_client *c)
{
	(void)owner;
	api_client_say(c, "hello");
	api_client_listens(c);
}

static void line(void *owner, struct api_client *c, const char *text, size_t len)
{
	static char answer[8192];
	uint64_t began = now_ns();

	(void)owner;
	assert_in_range(len, 2, 100);
	order[nr_lines++ % (sizeof(order) - 1)] = text[0];
	while (now_ns() - began < spend_ns)
		;
	last_ns = now_ns() - began;
	spent_ns += last_ns;
	memset(answer, text[0], answer_len);
	memcpy(answer + answer_len, text, len);
	answer[answer_len + len] = '\0';
	api_client_say(c, answer);
	if (nr_lines == stop_after)
		loop_stop(loop);
}

static const struct api_client_ops ops = { came, line };

static void on_again(void *owner)
{
	(void)owner;
	if (is_done && is_done())
		loop_stop(loop);
	else
		loop_timer_at(&again, now_ns() + NS_PER_MS);
}

static int setup(void **state)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);

	(void)state;
	alarm(PATIENCE_S);
	memset(order, 0, sizeof(order));
	nr_lines = stop_after = answer_len = 0;
	spent_ns = spend_ns = 0;
	is_done = NULL;
	loop = loop_new();
	address = (struct sockaddr_un){ .sun_family = AF_UNIX };
	address_len = sizeof(sa_family_t); /* a name of the kernel's choice */
	if (!loop || fd < 0 || bind(fd, (struct sockaddr *)&address, address_len) || listen(fd, 20))
		return -1;
	address_len = sizeof(address);
	getsockname(fd, (struct sockaddr *)&address, &address_len);
	if (loop_timer_init(&again, loop, on_again, NULL))
		return -1;
	return limited_open(loop, &limited) || api_clients_open(loop, limited, fd, &ops, NULL, &clients);
}

static int teardown(void **state)
{
	(void)state;
	api_clients_close(clients);
	limited_close(limited);
	loop_timer_fini(&again);
	loop_free(loop);
	alarm(0);
	return 0;
}

static int join(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&address, address_len), 0);
	return fd;
}

/* At once: a socket keeps fewer small pieces than bytes. */
static void send_lines(int fd, char letter, int nr)
{
	char text[8192];
	size_t len = 0;

	for (int i = 0; i < nr; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%c%d\n", letter, i);
	assert_true(len < sizeof(text));
	assert_int_equal(send(fd, text, len, MSG_NOSIGNAL), len);
}

static void clients_take_turns(void **state)
{
	int a = join(), b = join();
	const char *both;

	(void)state;
	send_lines(a, 'a', NR_LINES);
	send_lines(b, 'b', NR_LINES);
	stop_after = 2 * NR_LINES;
	assert_int_equal(loop_run(loop), 0);
	/* From the moment both were heard they alternate. */
	both = strchr(order, 'b');
	assert_in_range(both - order, 1, 3);
	for (; both[1]; both++)
		assert_int_not_equal(both[0], both[1]);
	close(a);
	close(b);
}

static void commands_leave_most_of_the_time(void **state)
{
	int a = join();
	uint64_t began;

	(void)state;
	send_lines(a, 'a', NR_LINES);
	spend_ns = NS_PER_MS / 2;
	stop_after = NR_LINES;
	began = now_ns();
	assert_int_equal(loop_run(loop), 0);
	/* Whatever the machine does besides can only make the whole longer. The last one, however long it was, has no rest. */
	assert_true(now_ns() - began >= (spent_ns - last_ns) * 3);
	close(a);
}

static size_t heard_before;
static unsigned int quiet;

/* For a tenth of a second nothing more was heard. */
static bool is_quiet(void)
{
	quiet = nr_lines == heard_before ? quiet + 1 : 0;
	heard_before = nr_lines;
	return quiet > 100;
}

static void one_that_does_not_read_is_not_heard(void **state)
{
	int a = join();
	char buf[65536];
	size_t got = 0;

	(void)state;
	answer_len = 8000;
	send_lines(a, 'a', 1000); /* 8 MB of answers */
	is_done = is_quiet;
	quiet = 0;
	loop_timer_at(&again, 1);
	assert_int_equal(loop_run(loop), 0);
	assert_in_range(nr_lines, 1, 500);
	/* It goes on when it reads. */
	stop_after = 1000;
	is_done = NULL;
	while (nr_lines < 1000) {
		ssize_t n = recv(a, buf, sizeof(buf), MSG_DONTWAIT);

		assert_true(n > 0 || errno == EAGAIN);
		got += n > 0 ? (size_t)n : 0;
		is_done = is_quiet;
		quiet = 98;
		loop_timer_at(&again, 1);
		assert_int_equal(loop_run(loop), 0);
	}
	assert_true(got > 4000000);
	close(a);
}

static void one_that_lets_events_pile_up_is_dropped(void **state)
{
	int lazy = join(), good = join();
	char event[1000], buf[65536];
	size_t got = 0, all = 0;
	ssize_t n;

	(void)state;
	memset(event, 'e', sizeof(event));
	event[sizeof(event) - 1] = '\0';
	for (int i = 0; i < 1000; i++) {
		api_clients_tell(clients, event);
		all += sizeof(event) + 1;
		is_done = is_quiet;
		quiet = 100;
		loop_timer_at(&again, 1);
		assert_int_equal(loop_run(loop), 0);
		n = recv(good, buf, sizeof(buf), MSG_DONTWAIT);
		got += n > 0 ? (size_t)n : 0;
	}
	is_done = is_quiet;
	quiet = 0;
	loop_timer_at(&again, 1);
	assert_int_equal(loop_run(loop), 0);
	while ((n = recv(good, buf, sizeof(buf), MSG_DONTWAIT)) > 0)
		got += (size_t)n;
	assert_true(n < 0); /* it is still there, and has all of them but those before it came */
	assert_true(got >= all - 10 * sizeof(event));
	got = 0;
	while ((n = recv(lazy, buf, sizeof(buf), 0)) > 0)
		got += (size_t)n;
	assert_true(got < all / 2 + 300000);
	close(lazy);
	close(good);
}

static void one_that_ends_its_side_still_gets_its_answers(void **state)
{
	int a = join();
	static char buf[1 << 20];
	size_t len = 0, lines = 0;
	ssize_t n = 1;

	(void)state;
	answer_len = 8000;
	send_lines(a, 'a', NR_LINES); /* more than fits into the socket */
	shutdown(a, SHUT_WR);
	while (n) {
		is_done = is_quiet;
		quiet = 98;
		loop_timer_at(&again, 1);
		assert_int_equal(loop_run(loop), 0);
		/* On a busy machine a command may rest for longer than it was waited for. */
		n = recv(a, buf + len, 60000, MSG_DONTWAIT);
		assert_true(n >= 0 || errno == EAGAIN);
		len += n > 0 ? (size_t)n : 0;
	}
	assert_memory_equal(buf, "hello\r\n", 7);
	for (size_t i = 0; i < len; i++)
		lines += buf[i] == '\n';
	assert_int_equal(lines, NR_LINES + 1);
	close(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(clients_take_turns, setup, teardown),
		cmocka_unit_test_setup_teardown(commands_leave_most_of_the_time, setup, teardown),
		cmocka_unit_test_setup_teardown(one_that_does_not_read_is_not_heard, setup, teardown),
		cmocka_unit_test_setup_teardown(one_that_lets_events_pile_up_is_dropped, setup, teardown),
		cmocka_unit_test_setup_teardown(one_that_ends_its_side_still_gets_its_answers, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
