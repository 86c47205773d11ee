// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Plain sockets by io_uring. The only file that knows liburing.
 *
 * Theory of operation: a ring belongs to one channel thread and has one operation in
 * flight. We wait with a timeout; after a timeout the socket is shut down and the
 * operation reaped, so that nothing refers to the caller's memory any more.
 */
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "io.h"

#define SLICE (512U << 10)
#define LOW_WATER (64U << 10) /* a smaller rest is waited for byte by byte */

struct channel_io {
	int sock;
	unsigned int timeout_ms;
	int low_water;
	struct io_uring ring;
};

int io_plain_open(int sock, unsigned int timeout_ms, struct channel_io **out)
{
	struct channel_io *io = calloc(1, sizeof(*io));
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

	/* A process that is stopped and goes on comes back with neither an error nor a result. */
	do {
		cqe = NULL;
		err = io_uring_submit_and_wait_timeout(&io->ring, &cqe, 1, &ts, NULL);
	} while (err == -EINTR || (err >= 0 && !cqe));
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

/* One operation; returns the bytes moved, or why none. */
static int transfer(struct channel_io *io, struct iovec *iov, int nr, bool out, int flags)
{
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = (size_t)nr };
	int n;

	do {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&io->ring);

		if (out)
			io_uring_prep_sendmsg(sqe, io->sock, &mh, (unsigned int)flags);
		else
			io_uring_prep_recvmsg(sqe, io->sock, &mh, (unsigned int)flags);
		if (!out)
			sqe->ioprio |= IORING_RECVSEND_POLL_FIRST; /* wait for the low-water mark */
		n = finish(io);
	} while (n == -EINTR || n == -EAGAIN);
	return n ? n : -ECONNRESET;
}

/** io_send() - send all of @iov (which is used up) */
int io_send(struct channel_io *io, struct iovec *iov, int nr)
{
	int n = 0;

	while (nr && n >= 0) {
		n = transfer(io, iov, nr, true, MSG_NOSIGNAL | MSG_WAITALL);
		if (n > 0)
			nr = advance(&iov, nr, (size_t)n);
	}
	return n < 0 ? n : 0;
}

/* Be woken when @want bytes are there, not for each segment: a wake-up costs more than a copy. */
static void set_low_water(struct channel_io *io, int want)
{
	if (io->low_water == want)
		return;
	io->low_water = want;
	setsockopt(io->sock, SOL_SOCKET, SO_RCVLOWAT, &want, sizeof(want));
}

/**
 * io_recv() - fill all of @iov (which is used up)
 *
 * The mark is never above what is still to come, or we would wait for ever; hence no
 * MSG_WAITALL either, which would keep an old mark for a smaller rest.
 */
int io_recv(struct channel_io *io, struct iovec *iov, int nr)
{
	size_t total = 0;
	int n = 0;

	for (int i = 0; i < nr; i++)
		total += iov[i].iov_len;
	while (total && n >= 0) {
		set_low_water(io, total < LOW_WATER ? 1 : (int)(total < SLICE ? total : SLICE));
		n = transfer(io, iov, nr, false, 0);
		if (n > 0) {
			total -= (size_t)n;
			nr = advance(&iov, nr, (size_t)n);
		}
	}
	return n < 0 ? n : 0;
}
