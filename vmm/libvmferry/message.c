// SPDX-License-Identifier: LGPL-2.1-or-later
/* Messages on the socket, whole, with the fds that ride along; every wait ends when the session does. */
#include "message.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/** message_wait() - until @sock can be read, the session ends, or @ms passed; @sock -1: none. Return: 1: readable */
int message_wait(struct vmferry *v, int sock, int ms)
{
	struct pollfd p[] = { { .fd = v->stop_fd, .events = POLLIN },
			      { .fd = sock, .events = POLLIN } };
	int n = poll(p, sock >= 0 ? 2 : 1, ms);

	if (n < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	if (p[0].revents)
		return -ECANCELED;
	if (n == 0)
		return -ETIMEDOUT;
	return 1;
}

/** message_send() - whole, with its body of msg->len bytes; waits for a daemon that does not read */
int message_send(int sock, const struct vmferry_msg *msg, const void *body, const int *fds,
		 unsigned int nr_fds)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int) * VMFERRY_VMM_MAX_FDS)];
	} c;
	struct iovec iov[] = { { (void *)msg, sizeof(*msg) }, { (void *)body, msg->len } };
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = msg->len ? 2 : 1 };
	size_t want = sizeof(*msg) + msg->len;
	ssize_t n;

	if (nr_fds) {
		struct cmsghdr *cm;

		memset(&c, 0, sizeof(c));
		mh.msg_control = c.buf;
		mh.msg_controllen = CMSG_SPACE(sizeof(int) * nr_fds);
		cm = CMSG_FIRSTHDR(&mh);
		cm->cmsg_level = SOL_SOCKET;
		cm->cmsg_type = SCM_RIGHTS;
		cm->cmsg_len = CMSG_LEN(sizeof(int) * nr_fds);
		memcpy(CMSG_DATA(cm), fds, sizeof(int) * nr_fds);
	}
	do {
		n = sendmsg(sock, &mh, MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	return (size_t)n == want ? 0 : -EPIPE;
}

/** message_receive() - exactly @len bytes; an fd that rides along goes to *fd if that is wanted */
int message_receive(struct vmferry *v, void *buf, size_t len, int *fd)
{
	size_t done = 0;

	while (done < len) {
		union {
			struct cmsghdr align;
			char buf[CMSG_SPACE(sizeof(int))];
		} c;
		struct iovec iov = { (char *)buf + done, len - done };
		struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };
		struct cmsghdr *cm;
		ssize_t n;
		int err = message_wait(v, v->sock, -1);

		if (err == -EAGAIN)
			continue;
		if (err < 0)
			return err;
		if (fd) {
			mh.msg_control = c.buf;
			mh.msg_controllen = sizeof(c.buf);
		}
		n = recvmsg(v->sock, &mh, MSG_CMSG_CLOEXEC);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -ECONNRESET;
		cm = fd ? CMSG_FIRSTHDR(&mh) : NULL;
		if (cm && cm->cmsg_level == SOL_SOCKET && cm->cmsg_type == SCM_RIGHTS) {
			if (*fd >= 0)
				close(*fd);
			memcpy(fd, CMSG_DATA(cm), sizeof(int));
		}
		done += (size_t)n;
	}
	return 0;
}
