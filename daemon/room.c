// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Room for an arriving guest: the bookkeeping of its RAM, memory for its device state, and the
 * threads of its channels. Both functions that make and unmake it block, and run in works.
 */
#include "room.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"

/** room_init() - nothing is there yet; room_close() is fine from here on */
void room_init(struct room *r)
{
	*r = (struct room){ .state_fd = -1 };
}

/* All of it is allocated: there is none in the blackout. */
static int make_state(struct room *r)
{
	r->state_fd = memfd_create("vmferry-state", MFD_CLOEXEC);
	if (r->state_fd < 0 || ftruncate(r->state_fd, (off_t)r->state_size))
		return -errno;
	if (r->state_size && fallocate(r->state_fd, 0, 0, (off_t)r->state_size))
		return -errno;
	return 0;
}

/**
 * room_open() - room for a guest of @vm's shape; @r->nr_channels and @r->state_size are set
 * @received: raised by the channels
 *
 * Return: 0, or a negative errno; room_close() is due in both cases.
 */
int room_open(struct room *r, const struct vm *vm, struct loop_event *received)
{
	int err;

	fault_point_of("open-room", vm->name);
	err = make_state(r);
	if (!err)
		err = place_open(vm->regions, vm->nr_regions, &r->place);
	for (unsigned int i = 0; i < r->nr_channels && !err; i++) {
		struct channel_recv_config cfg = { i, r->nr_channels, r->place, vm->sizes, vm->nr_regions,
						   r->state_fd, r->state_size, received };

		err = channel_recv_open(&cfg, &r->channels[i]);
	}
	return err;
}

/** room_close() - waits for all threads: nothing is written to the guest's RAM from here any more */
void room_close(struct room *r)
{
	for (unsigned int i = 0; i < CHANNEL_MAX; i++)
		channel_recv_end(r->channels[i]); /* all of them first: they end side by side */
	for (unsigned int i = 0; i < CHANNEL_MAX; i++) {
		channel_recv_close(r->channels[i]);
		r->channels[i] = NULL;
	}
	place_close(r->place);
	r->place = NULL;
	cleanup_close_fd(&r->state_fd);
}
