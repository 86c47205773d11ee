/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SIM_NET_H
#define SIM_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct file;

#define NET_MAX_PASSED 8

/**
 * struct end - one end of a connection
 * @other: the far end; they live until the walk ends
 * @is_local: a Unix socket: quick, and it loses nothing; @is_control: it has carried a plan
 * @buf, @at, @len: what has arrived and is not read: bytes @at to @len
 * @passed: files that came along, with the byte that they rode with
 * @has_ended: the far end has closed, and all before that has arrived
 * @is_broken: 0, or the errno of the connection
 * @changed: called, from an event, when any of that changes
 * @is_held: what is under way to this end waits (a network that drops all)
 */
struct end {
	struct end *other;
	bool is_local, is_control, is_closed, has_ended, is_held;
	int is_broken;
	uint8_t *buf;
	size_t at, len, room;
	struct {
		struct file *file;
		uint64_t at;
	} passed[NET_MAX_PASSED];
	unsigned int nr_passed;
	uint64_t taken; /* bytes that were read so far */
	void (*changed)(struct end *e);
	void *owner;

	struct end *next; /* of net_first */
	struct segment *first, **last; /* under way to this end */
	uint64_t last_arrival, in_flight;
	unsigned int usual_us;
};

void net_begin(void);
struct end *net_pair(bool is_local);
int net_send(struct end *e, const void *bytes, size_t len, struct file *const *files, unsigned int nr_files);
size_t net_readable(const struct end *e);
size_t net_read(struct end *e, void *to, size_t len);
void net_peek(const struct end *e, void *to, size_t len);
size_t net_room(const struct end *e);
void net_close(struct end *e);
void net_cut(struct end *e, bool loses_sent, bool loses_coming);
void net_hold(struct end *e, bool is_held);

/* Of each connection between hosts the end that connected, the latest first. */
extern struct end *net_first;

/* Is told of each message of a control connection as it is sent. */
extern void (*net_spy)(struct end *from, uint32_t type);

#endif
