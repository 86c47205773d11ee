// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: an address in words becomes the addresses to try, families in turn, and each of them can be
 * written down without the name. A port above 65535 is refused, not taken modulo 65536. To listen at a path removes a socket that nobody serves, and no other file.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "peer/address.h"

static struct address list[ADDRESS_MAX];
static char why[160];

static void numbers_need_no_name_server(void **state)
{
	const struct sockaddr_in *v4 = (struct sockaddr_in *)&list[0].sa;

	(void)state;
	assert_int_equal(address_resolve("tcp:127.0.0.2:4747", list, why, sizeof(why)), 1);
	assert_int_equal(v4->sin_family, AF_INET);
	assert_int_equal(ntohs(v4->sin_port), 4747);
	assert_int_equal(ntohl(v4->sin_addr.s_addr), 0x7f000002);
	assert_string_equal(list[0].uri, "tcp:127.0.0.2:4747");
	assert_int_equal(address_resolve("unix:/run/x.sock", list, why, sizeof(why)), 1);
	assert_int_equal(list[0].sa.ss_family, AF_UNIX);
	assert_string_equal(list[0].uri, "unix:/run/x.sock");
}

static void what_is_written_down_is_the_same_address(void **state)
{
	struct address before;

	(void)state;
	/* Another spelling of an address stands for a name: a machine may know no name at all. */
	assert_int_equal(address_resolve("tcp:127.1:4747", list, why, sizeof(why)), 1);
	assert_string_equal(list[0].uri, "tcp:127.0.0.1:4747");
	before = list[0];
	assert_int_equal(address_resolve(before.uri, list, why, sizeof(why)), 1);
	assert_int_equal(list[0].len, before.len);
	assert_memory_equal(&list[0].sa, &before.sa, before.len);
}

static void only_names_are_looked_up(void **state)
{
	(void)state;
	assert_true(address_needs_look_up("tcp:host2:4747"));
	assert_true(address_needs_look_up("tcp::4747"));
	assert_true(address_needs_look_up("tcp:127.0.0.2:vmferry"));
	assert_false(address_needs_look_up("tcp:127.0.0.2:4747"));
	assert_false(address_needs_look_up("tcp:[fe80::1%eth0]:4747"));
	assert_false(address_needs_look_up("unix:/run/host2"));
	assert_false(address_needs_look_up("host2"));
}

static void what_is_no_address_is_told(void **state)
{
	char long_path[200] = "unix:/";

	(void)state;
	assert_int_equal(address_resolve("carrier-pigeon", list, why, sizeof(why)), -EINVAL);
	assert_non_null(strstr(why, "not an address"));
	assert_int_equal(address_resolve("tcp:fd00::1:4747", list, why, sizeof(why)), -EINVAL);
	assert_int_equal(address_resolve("tcp:127.0.0.1:65536", list, why, sizeof(why)), -EINVAL);
	assert_non_null(strstr(why, "65535"));
	assert_int_equal(address_listen("tcp:127.0.0.1:65536", why, sizeof(why)), -EINVAL);
	assert_int_equal(address_resolve("tcp:127.0.0.1:", list, why, sizeof(why)), -EINVAL);
	assert_true(address_resolve("tcp:127.0.0.1:no-such-port", list, why, sizeof(why)) < 0);
	assert_non_null(strstr(why, "127.0.0.1: "));
	memset(long_path + 6, 'x', 150);
	assert_int_equal(address_resolve(long_path, list, why, sizeof(why)), -ENAMETOOLONG);
	assert_non_null(strstr(why, "too long"));
}

static void an_address_is_checked_without_its_host(void **state)
{
	static const char *const good[] = { "tcp::4747", "tcp:0.0.0.0:0", "tcp:no-such-host.invalid:65535", "tcp:[::]:1",
					    "unix:/x", "tcp::0000000004747" };
	static const struct { const char *uri, *words; } bad[] = {
		{ "", "not an address" }, { "host2:4747", "not an address" }, { "tcp:host2", "not an address" },
		{ "tcp:fd00::1:4747", "not an address" }, { "tcp::", "not an address" }, { "tcp::65536", "65535" },
		{ "tcp::99999999999999999999999", "65535" }, { "tcp::no-such-service", "no-such-service" },
		{ "tcp::-1", "\"-1\"" }, { "unix:", "1 to 107" },
	};
	char path[200] = "unix:/";

	(void)state;
	for (unsigned int i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_int_equal(address_check(good[i], why, sizeof(why)), 0);
	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(address_check(bad[i].uri, why, sizeof(why)), -EINVAL);
		assert_non_null(strstr(why, bad[i].words));
	}
	memset(path + 6, 'x', 106);
	assert_int_equal(address_check(path, why, sizeof(why)), 0);
	path[112] = 'x';
	assert_int_equal(address_check(path, why, sizeof(why)), -EINVAL);
	assert_non_null(strstr(why, "this one 108"));
}

/* 4 and 6: families; the digit after it tells addresses apart */
static void alternate(const char *before, const char *after)
{
	unsigned int nr = (unsigned int)strlen(before) / 2;

	memset(list, 0, sizeof(list));
	for (unsigned int i = 0; i < nr; i++) {
		list[i].sa.ss_family = before[2 * i] == '4' ? AF_INET : AF_INET6;
		memcpy(list[i].uri, before + 2 * i, 2);
	}
	address_alternate(list, nr);
	for (unsigned int i = 0; i < nr; i++)
		assert_memory_equal(list[i].uri, after + 2 * i, 2);
}

static void families_take_turns(void **state)
{
	(void)state;
	alternate("", "");
	alternate("4a", "4a");
	alternate("4a4b4c", "4a4b4c");
	alternate("6a6b6c4a4b", "6a4a6b4b6c");
	alternate("4a6a6b6c", "4a6a6b6c");
	alternate("4a4b4c6a6b6c6d", "4a6a4b6b4c6c6d");
}

/* Makes @path: what the daemon must not remove. */
static void make(const char *path, const char *what)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd;

	if (!strcmp(what, "file")) {
		fd = open(path, O_CREAT | O_WRONLY | O_EXCL, 0600);
	} else if (!strcmp(what, "link")) {
		fd = symlink("/dev/null", path);
	} else {
		fd = socket(AF_UNIX, !strcmp(what, "datagrams") ? SOCK_DGRAM : SOCK_STREAM, 0);
		strcpy(sa.sun_path, path);
		assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	}
	assert_true(fd >= 0);
	if (strcmp(what, "datagrams") && strcmp(what, "link"))
		close(fd);
}

static void only_a_socket_that_is_left_over_is_removed(void **state)
{
	static const struct { const char *what; int err; } rows[] = {
		{ "file", -EEXIST }, { "link", -EEXIST }, { "datagrams", -EADDRINUSE }, { "left over", 0 },
	};
	char folder[] = "/tmp/address-XXXXXX", uri[64];
	struct stat before, after;
	int sock;

	(void)state;
	assert_non_null(mkdtemp(folder));
	snprintf(uri, sizeof(uri), "unix:%s/s", folder);
	for (unsigned int i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		make(uri + 5, rows[i].what);
		lstat(uri + 5, &before);
		sock = address_listen(uri, why, sizeof(why));
		assert_int_equal(lstat(uri + 5, &after), 0);
		if (rows[i].err) {
			assert_int_equal(sock, rows[i].err);
			assert_int_equal(after.st_ino, before.st_ino);
			unlink(uri + 5);
		}
	}
	assert_true(sock >= 0);
	assert_int_equal(address_listen(uri, why, sizeof(why)), -EADDRINUSE);
	close(sock);
	unlink(uri + 5);
	rmdir(folder);
	assert_int_equal(address_listen("unix:", why, sizeof(why)), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers_need_no_name_server),
		cmocka_unit_test(what_is_written_down_is_the_same_address),
		cmocka_unit_test(only_names_are_looked_up),
		cmocka_unit_test(what_is_no_address_is_told),
		cmocka_unit_test(an_address_is_checked_without_its_host),
		cmocka_unit_test(families_take_turns),
		cmocka_unit_test(only_a_socket_that_is_left_over_is_removed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
