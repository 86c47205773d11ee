/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CONTROL_API_CLIENT_H
#define CONTROL_API_CLIENT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/limited.h"

struct api_clients;
struct api_client;

/**
 * struct api_client_ops - what the owner of a control socket is told, on the loop's thread
 * @came: a client has connected
 * @line: it said one line, of @len bytes without its end; the text is only valid during the call
 */
struct api_client_ops {
	void (*came)(void *owner, struct api_client *c);
	void (*line)(void *owner, struct api_client *c, const char *line, size_t len);
};

int api_clients_open(struct loop *l, struct limited *limited, int listen_fd, const struct api_client_ops *ops,
		     void *owner, struct api_clients **out);
void api_clients_close(struct api_clients *a);
void api_clients_tell(struct api_clients *a, const char *text);

void api_client_say(struct api_client *c, const char *text);
void api_client_listens(struct api_client *c);
bool api_client_is_listening(const struct api_client *c);

#endif
