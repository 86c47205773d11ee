/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef CLI_CLIENT_H
#define CLI_CLIENT_H

#include <jansson.h>

/* Exit codes of vmferry: scripts rely on them. */
enum { EXIT_OK = 0, EXIT_UNWRITTEN = 1, EXIT_BAD_USAGE = 2, EXIT_NO_DAEMON = 3, EXIT_REFUSED = 4, EXIT_NOT_MOVED = 5,
       EXIT_CANCELLED = 6, EXIT_HELD = 7 };

struct client;

int client_open(const char *path, struct client **out);
void client_close(struct client *c);
int client_fd(const struct client *c);
json_t *client_ask(struct client *c, const char *command, json_t *args, json_t **error);
json_t *client_next_event(struct client *c);

int watch_migration(struct client *c, const char *vm, int as_json);
int write_report(json_t *account, const char *path);
void print_blackouts(json_t *answer);
int print_journal(struct client *c, int as_json, json_t **error);
json_t *held_ask(struct client *c);
void held_add_to_list(json_t *vms, const json_t *held);
void held_print(const json_t *held);
void held_print_away(const json_t *held, int as_json);
int watch_stalls(int pid, double min_ms, double seconds, int as_json);

#endif
