/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef ROOM_H
#define ROOM_H
/* What an incoming migration takes of this host: see room.c. */
#include "pages/channel.h"
#include "vm/vm.h"

/**
 * struct room - where a guest arrives
 * @place: its RAM; NULL: there is no room
 * @channels: one thread each; @nr_channels of them
 * @state_fd: memory for the device state, @state_size bytes, allocated; -1: none
 *
 * While room_open() or room_close() runs it is the worker's, else the loop's.
 */
struct room {
	struct place *place;
	struct channel_receiver *channels[CHANNEL_MAX];
	unsigned int nr_channels;
	int state_fd;
	uint64_t state_size;
};

void room_init(struct room *r);
int room_open(struct room *r, const struct vm *vm, struct loop_event *received);
void room_close(struct room *r);

#endif
