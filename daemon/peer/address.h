/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef PEER_ADDRESS_H
#define PEER_ADDRESS_H

#include <stddef.h>

int address_connect(const char *uri, unsigned int timeout_ms, char *why, size_t why_len);
int address_listen(const char *uri, char *why, size_t why_len);
void address_tune(int sock);

#endif
