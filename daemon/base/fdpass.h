/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BASE_FDPASS_H
#define BASE_FDPASS_H

#include <stddef.h>
#include <sys/types.h>

int fdpass_send(int sock, const void *msg, size_t len, int fd);
ssize_t fdpass_recv(int sock, void *buf, size_t len, int *fds, unsigned int *nr_fds,
		    unsigned int max_fds);

#endif
