// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Plain sockets by io_uring. The only file that knows liburing.
 *
 * Theory of operation: a ring belongs to one channel thread and has one operation in
 * flight. The kernel carries an operation to its end (MSG_WAITALL) and we wait with a
 * timeout; after a timeout the socket is shut down and the operation reaped, so that
 * nothing refers to the caller's memory any more.
 */
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "io.h"

#define SLICE (512U << 10)
#define SLICE_MIN (64U << 10)

struct channel_io {
	int sock;
	unsigned int timeout_ms;
	int low_water;
	struct io_uring ring;
};

int io_plain_open(int sock, unsigned int timeout_ms, struct channel_io **out)
{
	struct channel_io *io = calloc(1, sizeof(*io));
	struct timeval tv = { timeout_ms / 1000, (timeout_ms % 1000) * 1000 };
	int err;

	if (!io)
		return -ENOMEM;
	io->sock = sock;
	io->timeout_ms = timeout_ms;
	err = io_uring_queue_init(4, &io->ring, 0);
	if (err) {
		free(io);
		return err;
	}
	setsockopt(sock, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)); /* for sendfile() */
	*out = io;
	return 0;
}

/* The socket stays the caller's. */
void io_close(struct channel_io *io)
{
	if (!io)
		return;
	io_uring_queue_exit(&io->ring);
	free(io);
}

/* Submits what was prepared and waits; returns the operation's result. */
static int finish(struct channel_io *io)
{
	struct __kernel_timespec ts = { io->timeout_ms / 1000,
					(long long)(io->timeout_ms % 1000) * 1000000 };
	struct io_uring_cqe *cqe;
	int err, res;

	do {
		err = io_uring_submit_and_wait_timeout(&io->ring, &cqe, 1, &ts, NULL);
	} while (err == -EINTR);
	if (err < 0) {
		shutdown(io->sock, SHUT_RDWR);
		while (io_uring_wait_cqe(&io->ring, &cqe) == -EINTR)
			;
		io_uring_cqe_seen(&io->ring, cqe);
		return err == -ETIME ? -ETIMEDOUT : err;
	}
	res = cqe->res;
	io_uring_cqe_seen(&io->ring, cqe);
	return res;
}

/* Drops @done bytes from the front; returns the vectors left. */
static int advance(struct iovec **iov, int nr, size_t done)
{
	while (nr && done >= (*iov)->iov_len) {
		done -= (*iov)->iov_len;
		(*iov)++;
		nr--;
	}
	if (nr && done) {
		(*iov)->iov_base = (char *)(*iov)->iov_base + done;
		(*iov)->iov_len -= done;
	}
	return nr;
}

static int transfer(struct channel_io *io, struct iovec *iov, int nr, bool out, int flags)
{
	while (nr) {
		struct msghdr mh = { .msg_iov = iov, .msg_iovlen = (size_t)nr };
		struct io_uring_sqe *sqe = io_uring_get_sqe(&io->ring);
		int n;

		if (out)
			io_uring_prep_sendmsg(sqe, io->sock, &mh, (unsigned int)flags);
		else
			io_uring_prep_recvmsg(sqe, io->sock, &mh, (unsigned int)flags);
		n = finish(io);
		if (n == -EINTR || n == -EAGAIN)
			continue;
		if (n < 0)
			return n;
		if (n == 0)
			return -ECONNRESET;
		nr = advance(&iov, nr, (size_t)n);
	}
	return 0;
}

/** io_send() - send all of @iov (which is used up) */
int io_send(struct channel_io *io, struct iovec *iov, int nr)
{
	return transfer(io, iov, nr, true, MSG_NOSIGNAL | MSG_WAITALL);
}

/* Be woken when @want bytes are there, not for each segment: a wake-up costs more than a copy. */
static void set_low_water(struct channel_io *io, int want)
{
	if (io->low_water == want)
		return;
	io->low_water = want;
	setsockopt(io->sock, SOL_SOCKET, SO_RCVLOWAT, &want, sizeof(want));
}

/* Moves the first @len bytes' worth of vectors from the front of *iov to @to. */
static int take_front(struct iovec **iov, int *nr, size_t len, struct iovec *to)
{
	int n = 0;

	while (len) {
		size_t part = (*iov)->iov_len < len ? (*iov)->iov_len : len;

		to[n++] = (struct iovec){ (*iov)->iov_base, part };
		*nr = advance(iov, *nr, part);
		len -= part;
	}
	return n;
}

/**
 * io_recv() - fill all of @iov (which is used up)
 *
 * In slices, each with the low-water mark at its size: a mark above what is still to
 * come would wait for ever.
 */
int io_recv(struct channel_io *io, struct iovec *iov, int nr)
{
	struct iovec slice[IO_MAX_IOV];
	size_t total = 0;
	int err = 0;

	for (int i = 0; i < nr; i++)
		total += iov[i].iov_len;
	while (total && !err) {
		size_t want = total < SLICE ? total : SLICE;
		int n = take_front(&iov, &nr, want, slice);

		set_low_water(io, want < SLICE_MIN ? 1 : (int)want);
		err = transfer(io, slice, n, false, MSG_WAITALL);
		total -= want;
	}
	return err;
}
