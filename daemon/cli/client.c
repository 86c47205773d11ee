// SPDX-License-Identifier: GPL-2.0-or-later
/* The QMP client under vmferry: one command at a time, events kept for later. */
#include "client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct client {
	int fd;
	char *buf;
	size_t len, room;
	json_t *events;
};

/* The next line as JSON; NULL when the connection ended. */
static json_t *next_line(struct client *c)
{
	for (;;) {
		char *end = c->len ? memchr(c->buf, '\n', c->len) : NULL;
		ssize_t n;

		if (end) {
			size_t len = (size_t)(end - c->buf) + 1;
			json_t *j = json_loadb(c->buf, len, 0, NULL);

			c->len -= len;
			memmove(c->buf, c->buf + len, c->len);
			return j;
		}
		if (c->room - c->len < 4096) {
			char *p = realloc(c->buf, c->room + 65536);

			if (!p)
				return NULL;
			c->buf = p;
			c->room += 65536;
		}
		n = recv(c->fd, c->buf + c->len, c->room - c->len, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return NULL;
		c->len += (size_t)n;
	}
}

int client_open(const char *path, struct client **out)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	struct client *c = calloc(1, sizeof(*c));
	json_t *greeting, *error = NULL, *ok;

	if (!c)
		return -ENOMEM;
	c->events = json_array();
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&sa, sizeof(sa))) {
		int err = -errno;

		client_close(c);
		return err;
	}
	greeting = next_line(c);
	ok = greeting ? client_ask(c, "qmp_capabilities", NULL, &error) : NULL;
	json_decref(greeting);
	json_decref(error);
	if (!ok) {
		client_close(c);
		return -EPROTO;
	}
	json_decref(ok);
	*out = c;
	return 0;
}

void client_close(struct client *c)
{
	if (!c)
		return;
	if (c->fd >= 0)
		close(c->fd);
	json_decref(c->events);
	free(c->buf);
	free(c);
}

int client_fd(const struct client *c)
{
	return c->fd;
}

/** client_ask() - takes @args; Return: the result, or NULL with *error (NULL: daemon gone) */
json_t *client_ask(struct client *c, const char *command, json_t *args, json_t **error)
{
	json_t *j = json_pack("{s:s, s:o}", "execute", command, "arguments", args ? args : json_object());
	char *text = json_dumps(j, JSON_COMPACT);
	json_t *got, *result;
	size_t len = text ? strlen(text) : 0;

	json_decref(j);
	*error = NULL;
	if (!text || send(c->fd, text, len, MSG_NOSIGNAL) != (ssize_t)len ||
	    send(c->fd, "\n", 1, MSG_NOSIGNAL) != 1) {
		free(text);
		return NULL;
	}
	free(text);
	while ((got = next_line(c)) && json_object_get(got, "event"))
		json_array_append_new(c->events, got);
	result = json_incref(json_object_get(got, "return"));
	*error = json_incref(json_object_get(json_object_get(got, "error"), "desc"));
	json_decref(got);
	return result;
}

/** client_next_event() - waits for one; NULL when the daemon is gone */
json_t *client_next_event(struct client *c)
{
	json_t *e = json_incref(json_array_get(c->events, 0));

	if (e) {
		json_array_remove(c->events, 0);
		return e;
	}
	return next_line(c);
}
