// SPDX-License-Identifier: GPL-2.0-or-later
/* tcp:HOST:PORT (IPv4, names, [IPv6]) and unix:PATH, to connect to and to listen on. */
#include "address.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/cleanup.h"

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
	return 0;
}

/** address_tune() - small control messages must not wait for one another */
void address_tune(int sock)
{
	int one = 1;

	setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(sock, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
}

static int connect_within(int sock, const struct sockaddr *sa, socklen_t len, unsigned int ms)
{
	struct pollfd p = { .fd = sock, .events = POLLOUT };
	socklen_t err_len = sizeof(int);
	int err = 0, n;

	if (!connect(sock, sa, len))
		return 0;
	if (errno != EINPROGRESS && errno != EAGAIN)
		return -errno;
	do {
		n = poll(&p, 1, (int)ms);
	} while (n < 0 && errno == EINTR);
	if (n == 0)
		return -ETIMEDOUT;
	if (getsockopt(sock, SOL_SOCKET, SO_ERROR, &err, &err_len))
		return -errno;
	return -err;
}

static int make_blocking(int sock)
{
	/* accept4() and socket() set it only for the connect. */
	return ioctl(sock, FIONBIO, &(int){ 0 }) ? -errno : 0;
}

static int connect_unix(const char *path, unsigned int ms)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	CLEANUP_CLOSE int sock = -1;
	int err;

	if (strlen(path) >= sizeof(sa.sun_path))
		return -ENAMETOOLONG;
	strcpy(sa.sun_path, path);
	sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (sock < 0)
		return -errno;
	err = connect_within(sock, (struct sockaddr *)&sa, sizeof(sa), ms);
	if (!err)
		err = make_blocking(sock);
	return err ? err : take_fd(&sock);
}

static int connect_tcp(const char *host, const char *port, unsigned int ms, char *why, size_t len)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG };
	struct addrinfo *list, *a;
	int err = getaddrinfo(host, port, &hints, &list);

	if (err) {
		snprintf(why, len, "%s: %s", host, gai_strerror(err));
		return -EHOSTUNREACH;
	}
	err = -EHOSTUNREACH;
	for (a = list; a; a = a->ai_next) {
		CLEANUP_CLOSE int sock = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC |
						SOCK_NONBLOCK, 0);

		if (sock < 0)
			continue;
		err = connect_within(sock, a->ai_addr, a->ai_addrlen, ms);
		if (!err)
			err = make_blocking(sock);
		if (!err) {
			address_tune(sock);
			freeaddrinfo(list);
			return take_fd(&sock);
		}
	}
	freeaddrinfo(list);
	return err;
}

/**
 * address_connect() - a blocking socket connected to @uri
 * @why: gets the reason in words on failure
 */
int address_connect(const char *uri, unsigned int timeout_ms, char *why, size_t why_len)
{
	char host[256], port[32];
	int sock;

	why[0] = '\0';
	if (!strncmp(uri, "unix:", 5)) {
		sock = connect_unix(uri + 5, timeout_ms);
	} else if (!strncmp(uri, "tcp:", 4) && !parse_tcp(uri + 4, host, sizeof(host), port, sizeof(port))) {
		sock = connect_tcp(host[0] ? host : "localhost", port, timeout_ms, why, why_len);
	} else {
		snprintf(why, why_len, "not an address: use tcp:HOST:PORT, tcp:[IPV6]:PORT or unix:PATH");
		return -EINVAL;
	}
	if (sock < 0 && !why[0])
		snprintf(why, why_len, "%s", strerror(-sock));
	return sock;
}

static int listen_unix(const char *path)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	CLEANUP_CLOSE int sock = -1, probe = -1;
	mode_t mask;
	int err;

	if (strlen(path) >= sizeof(sa.sun_path))
		return -ENAMETOOLONG;
	strcpy(sa.sun_path, path);
	sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (sock < 0 || probe < 0)
		return -errno;
	if (!connect(probe, (struct sockaddr *)&sa, sizeof(sa)))
		return -EADDRINUSE; /* somebody lives there */
	unlink(path);
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
	int sock;

	why[0] = '\0';
	if (!strncmp(uri, "unix:", 5)) {
		sock = listen_unix(uri + 5);
	} else if (!strncmp(uri, "tcp:", 4) && !parse_tcp(uri + 4, host, sizeof(host), port, sizeof(port))) {
		sock = listen_tcp(host, port, why, why_len);
	} else {
		snprintf(why, why_len, "not an address: use tcp:HOST:PORT, tcp:[IPV6]:PORT or unix:PATH");
		return -EINVAL;
	}
	if (sock < 0 && !why[0])
		snprintf(why, why_len, "%s", strerror(-sock));
	return sock;
}
