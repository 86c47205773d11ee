/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VMM_MESSAGE_H
#define VMM_MESSAGE_H

#include "session.h"

int message_wait(struct vmferry *v, int sock, int ms);
int message_send(int sock, const struct vmferry_msg *msg, const void *body, const int *fds, unsigned int nr_fds);
int message_receive(struct vmferry *v, void *buf, size_t len, int *fd);

#endif
