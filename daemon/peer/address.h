/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef PEER_ADDRESS_H
#define PEER_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#define ADDRESS_MAX 16 /* of one name */

/**
 * struct address - where a peer may be
 * @uri: the same in words, without a name that has to be looked up: tcp:192.0.2.1:4747
 */
struct address {
	struct sockaddr_storage sa;
	socklen_t len;
	char uri[128];
};

int address_resolve(const char *uri, struct address *list, char *why, size_t why_len);
bool address_needs_look_up(const char *uri);
void address_alternate(struct address *list, unsigned int nr);
int address_check(const char *uri, char *why, size_t why_len);
int address_listen(const char *uri, char *why, size_t why_len);
void address_tune(int sock);

#endif
