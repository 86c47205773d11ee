/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef PAGES_IO_H
#define PAGES_IO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define IO_MAX_IOV 300

/**
 * struct channel_io - the bytes of one connection; one thread uses it
 *
 * Every operation moves all it was asked to, or fails: -ETIMEDOUT when nothing moved for
 * the timeout, -ECONNRESET when the peer closed. io_shutdown() by another thread makes
 * a waiting one fail.
 */
struct channel_io;

int io_plain_open(int sock, unsigned int timeout_ms, struct channel_io **out);
void io_close(struct channel_io *io);
int io_send(struct channel_io *io, struct iovec *iov, int nr);
int io_recv(struct channel_io *io, struct iovec *iov, int nr);

#endif
