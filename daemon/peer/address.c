// SPDX-License-Identifier: GPL-2.0-or-later
/* tcp:HOST:PORT (IPv4, names, [IPv6]) and unix:PATH: the addresses behind them, and listening on them. */
#include "address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/cleanup.h"

/* A number that no port has; a name is for the resolver. */
static bool is_too_high(const char *port)
{
	return !port[strspn(port, "0123456789")] && strtoul(port, NULL, 10) > UINT16_MAX;
}

/* Return: 0; -EINVAL: not HOST:PORT; -ERANGE: a port above 65535, which getaddrinfo() takes modulo 65536 */
static int parse_tcp(const char *rest, char *host, size_t host_len, char *port, size_t port_len)
{
	const char *colon = strrchr(rest, ':');
	size_t n;

	if (!colon || !colon[1] || strlen(colon + 1) >= port_len)
		return -EINVAL;
	n = (size_t)(colon - rest);
	if (n >= 2 && rest[0] == '[' && rest[n - 1] == ']') {
		rest++;
		n -= 2;
	} else if (memchr(rest, ':', n)) {
		return -EINVAL; /* IPv6 without brackets */
	}
	if (n >= host_len)
		return -EINVAL;
	memcpy(host, rest, n);
	host[n] = '\0';
	strcpy(port, colon + 1);
	return is_too_high(port) ? -ERANGE : 0;
}

static int parse_uri(const char *uri, char *host, size_t host_len, char *port, size_t port_len)
{
	return strncmp(uri, "tcp:", 4) ? -EINVAL : parse_tcp(uri + 4, host, host_len, port, port_len);
}

static int not_an_address(int err, char *why, size_t len)
{
	snprintf(why, len, err == -ERANGE ? "a port is a number up to 65535" :
			   "not an address: use tcp:HOST:PORT, tcp:[IPV6]:PORT or unix:PATH");
	return -EINVAL;
}

/** address_tune() - small control messages must not wait for one another */
void address_tune(int sock)
{
	int one = 1;

	setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(sock, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
}

static int unix_address(const char *path, struct address *to)
{
	struct sockaddr_un *sa = (struct sockaddr_un *)&to->sa;

	if (strlen(path) >= sizeof(sa->sun_path))
		return -ENAMETOOLONG;
	*to = (struct address){ .sa.ss_family = AF_UNIX, .len = sizeof(*sa) };
	strcpy(sa->sun_path, path);
	snprintf(to->uri, sizeof(to->uri), "unix:%s", path);
	return 0;
}

static bool is_listed(const struct address *list, unsigned int nr, const struct addrinfo *a)
{
	for (unsigned int i = 0; i < nr; i++)
		if (list[i].len == a->ai_addrlen && !memcmp(&list[i].sa, a->ai_addr, a->ai_addrlen))
			return true;
	return false;
}

static void take_address(struct address *to, const struct addrinfo *a)
{
	char host[64], port[16];

	*to = (struct address){ .len = a->ai_addrlen };
	memcpy(&to->sa, a->ai_addr, a->ai_addrlen);
	if (getnameinfo(a->ai_addr, a->ai_addrlen, host, sizeof(host), port, sizeof(port),
			NI_NUMERICHOST | NI_NUMERICSERV))
		strcpy(host, "?"), strcpy(port, "?");
	snprintf(to->uri, sizeof(to->uri), a->ai_family == AF_INET6 ? "tcp:[%s]:%s" : "tcp:%s:%s", host, port);
}

static int tcp_addresses(const char *host, const char *port, struct address *list, char *why, size_t len)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG };
	struct addrinfo *found, *a;
	int err = getaddrinfo(host, port, &hints, &found);
	unsigned int nr = 0;

	if (err) {
		snprintf(why, len, "%s: %s", host, gai_strerror(err));
		return -EHOSTUNREACH;
	}
	for (a = found; a && nr < ADDRESS_MAX; a = a->ai_next)
		if (a->ai_addrlen <= sizeof(list->sa) && !is_listed(list, nr, a))
			take_address(&list[nr++], a);
	freeaddrinfo(found);
	address_alternate(list, nr);
	return (int)nr;
}

/** address_needs_look_up() - does address_resolve() of @uri ask others than this process? */
bool address_needs_look_up(const char *uri)
{
	char host[256], port[32], number[sizeof(struct in6_addr)];

	if (parse_uri(uri, host, sizeof(host), port, sizeof(port)))
		return false; /* a path, or no address at all */
	host[strcspn(host, "%")] = '\0'; /* fe80::1%eth0 */
	return port[strspn(port, "0123456789")] ||
	       (inet_pton(AF_INET, host, number) != 1 && inet_pton(AF_INET6, host, number) != 1);
}

/**
 * address_alternate() - bring @list into the order in which addresses are tried
 *
 * The families take turns (RFC 8305, section 4): a host whose IPv6 is broken costs one address, not
 * all of them. The first address stays the first, and the order within a family stays.
 */
void address_alternate(struct address *list, unsigned int nr)
{
	for (unsigned int at = 1; at < nr; at++) {
		unsigned int next = at;
		struct address a;

		while (next < nr && list[next].sa.ss_family == list[at - 1].sa.ss_family)
			next++;
		if (next == nr)
			return; /* one family is left */
		a = list[next];
		memmove(&list[at + 1], &list[at], (next - at) * sizeof(*list));
		list[at] = a;
	}
}

/**
 * address_resolve() - the addresses behind @uri, in the order in which to try them
 * @list: has room for ADDRESS_MAX; further addresses are left out
 * @why: gets the reason in words on failure
 *
 * Context: may wait for a name server for as long as the resolver does; never on the loop.
 * Return: how many there are, at least 1; or a negative errno.
 */
int address_resolve(const char *uri, struct address *list, char *why, size_t why_len)
{
	char host[256], port[32];
	int n, err = parse_uri(uri, host, sizeof(host), port, sizeof(port));

	why[0] = '\0';
	if (!strncmp(uri, "unix:", 5)) {
		n = unix_address(uri + 5, list);
		n = n ? n : 1;
	} else if (!err) {
		n = tcp_addresses(host[0] ? host : "localhost", port, list, why, why_len);
	} else {
		return not_an_address(err, why, why_len);
	}
	if (!n)
		n = -EHOSTUNREACH;
	if (n < 0 && !why[0])
		snprintf(why, why_len, "%s", strerror(-n));
	return n;
}

static int check_path(const char *path, char *why, size_t len)
{
	size_t most = sizeof(((struct sockaddr_un *)0)->sun_path) - 1;

	if (*path && strlen(path) <= most)
		return 0;
	snprintf(why, len, "the path of a socket has 1 to %zu bytes, this one %zu", most, strlen(path));
	return -EINVAL;
}

/**
 * address_check() - is @uri written as an address must be? Whether it can be listened at is not asked.
 * @why: gets the reason in words on failure
 *
 * Context: asks no name server; the name of a service may be looked up in a file.
 * Return: 0 or -EINVAL.
 */
int address_check(const char *uri, char *why, size_t why_len)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE }, *found;
	char host[256], port[32];
	int err;

	why[0] = '\0';
	if (!strncmp(uri, "unix:", 5))
		return check_path(uri + 5, why, why_len);
	err = parse_uri(uri, host, sizeof(host), port, sizeof(port));
	if (err)
		return not_an_address(err, why, why_len);
	if (!port[strspn(port, "0123456789")])
		return 0;
	err = getaddrinfo(NULL, port, &hints, &found);
	if (!err)
		freeaddrinfo(found);
	if (err != EAI_SERVICE && err != EAI_NONAME)
		return 0;
	snprintf(why, why_len, "no service is named \"%s\"; a port is a number up to 65535", port);
	return -EINVAL;
}

/* Removes the socket of a process that has ended, and nothing else. Return: 0: @sa is free now */
static int remove_left_over(const struct sockaddr_un *sa, char *why, size_t len)
{
	CLEANUP_CLOSE int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct stat st;

	if (probe < 0)
		return -errno;
	if (lstat(sa->sun_path, &st))
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode)) {
		snprintf(why, len, "a file that is no socket has this name; it is left alone");
		return -EEXIST;
	}
	if (!connect(probe, (const struct sockaddr *)sa, sizeof(*sa)) || errno != ECONNREFUSED)
		return -EADDRINUSE; /* somebody lives there, maybe with a full queue */
	return unlink(sa->sun_path) ? -errno : 0;
}

static int listen_unix(const char *path, char *why, size_t len)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	CLEANUP_CLOSE int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	mode_t mask;
	int err;

	if (sock < 0)
		return -errno;
	if (strlen(path) >= sizeof(sa.sun_path))
		return -ENAMETOOLONG;
	if (!*path) /* the kernel would choose an abstract one */
		return -EINVAL;
	strcpy(sa.sun_path, path);
	err = remove_left_over(&sa, why, len);
	if (err)
		return err;
	mask = umask(0177);
	err = bind(sock, (struct sockaddr *)&sa, sizeof(sa)) ? -errno : 0;
	umask(mask);
	if (!err && listen(sock, 64))
		err = -errno;
	return err ? err : take_fd(&sock);
}

static int listen_tcp(const char *host, const char *port, char *why, size_t len)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE };
	struct addrinfo *list;
	int one = 1, err = getaddrinfo(host[0] ? host : NULL, port, &hints, &list);
	CLEANUP_CLOSE int sock = -1;

	if (err) {
		snprintf(why, len, "%s: %s", host, gai_strerror(err));
		return -EADDRNOTAVAIL;
	}
	sock = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	err = sock < 0 ? -errno : 0;
	if (!err)
		setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (!err && (bind(sock, list->ai_addr, list->ai_addrlen) || listen(sock, 64)))
		err = -errno;
	freeaddrinfo(list);
	return err ? err : take_fd(&sock);
}

/** address_listen() - a non-blocking listening socket; Unix sockets are for the owner only */
int address_listen(const char *uri, char *why, size_t why_len)
{
	char host[256], port[32];
	int sock, err = parse_uri(uri, host, sizeof(host), port, sizeof(port));

	why[0] = '\0';
	if (!strncmp(uri, "unix:", 5)) {
		sock = listen_unix(uri + 5, why, why_len);
	} else if (!err) {
		sock = listen_tcp(host, port, why, why_len);
	} else {
		return not_an_address(err, why, why_len);
	}
	if (sock < 0 && !why[0])
		snprintf(why, why_len, "%s", strerror(-sock));
	return sock;
}
