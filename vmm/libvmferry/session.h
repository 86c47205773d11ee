/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VMM_SESSION_H
#define VMM_SESSION_H

#include <pthread.h>

#include "area.h"
#include "harvest.h"
#include "libvmferry.h"

/**
 * struct vmferry - one VM's session with the daemon
 * @run_state: enum vmferry_run_state; written by the session thread only
 * @is_fresh: incoming, and nobody has written to RAM yet
 * @version: of the protocol, that this connection speaks
 * @last: the migration that the daemon told of last and that is not over; session thread
 * @refusal: why the daemon refused this attempt to register; "": it did not; session thread
 * @told_refusal: the last one that the VMM was told of; "": none since it was registered
 * @told_unreachable: the VMM was told that no daemon answers, since it was registered last; session thread
 * @refused_ms: how long the last one was waited out; 0: none since it was registered
 * @stop_fd: eventfd that ends the thread
 */
struct vmferry {
	struct vmferry_config cfg;
	char *socket;
	struct vmferry_msg_register reg;
	struct vmferry_msg_region *regions;
	int *fds;
	struct vmferry_msg_device devices[VMFERRY_VMM_MAX_DEVICES];
	uint64_t *took_ns; /* of each device, in the answer that is being made; session thread */
	struct area area;
	struct harvester *harvester;
	uint32_t run_state;
	bool is_fresh;
	unsigned int version;
	struct vmferry_msg_migration last;
	char refusal[512];
	char told_refusal[512];
	bool told_unreachable;
	int refused_ms;
	int stop_fd;
	int sock;
	pthread_t thread;
	bool thread_is_up;
};

#endif
