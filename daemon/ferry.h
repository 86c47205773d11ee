/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef FERRY_H
#define FERRY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/worker.h"
#include "vm/vm.h"

#define FERRY_NR_ASKED 256
#define FERRY_GRACE_NS 10000000ULL /* a guest has just begun to run: cleaning up may disturb it */

/** struct ferry_asked - a question to a peer what became of migration @id; @when_ns: 0: none was asked */
struct ferry_asked {
	uint8_t id[16];
	uint64_t when_ns;
};

/**
 * struct ferry - one daemon: what all its migrations share
 * @worker: does what may block, see base/worker.h
 * @limited: what is said of what others can provoke, see base/limited.h
 * @run_lock, @state_lock: no other daemon uses these folders
 * @greeters: the peers' address; from greeter_listen() to greeter_stop()
 * @asked: when the peer of a migration was asked last what became of it, by the first byte of the migration's id: a VMM
 *	that registers again and again has it asked once a second; held.c
 * @settler: tells peers the outcomes of migrations; from settle_start() to settle_stop()
 * @started_ns: when ferry_open() began
 * @emit: tells operators of an event of @vm; @detail may be NULL
 *
 * A process may have several. They share what is the process's: the log, the count of abandoned look-ups
 * (connect.c), the hold on warming (pages/warm.c), and the priority of the thread that runs their loops.
 */
struct ferry {
	struct lock_file *run_lock, *state_lock;
	struct loop *loop;
	struct worker *worker;
	struct limited *limited;
	struct vm_list vms;
	struct greeter_set *greeters;
	struct journal *journal;
	struct scribe *scribe;
	struct blackouts *blackouts;
	char learned_dir[300];
	unsigned int urgent; /* guests that stand still, or are about to */
	uint8_t host[16];
	struct migration *outgoing;
	struct incoming *incoming;
	struct ferry_asked asked[FERRY_NR_ASKED];
	struct settler *settler;
	uint64_t started_ns;
	void (*emit)(struct ferry *f, const char *vm, const char *event, const char *detail);
	void *api;
};

/**
 * struct ferry_config - where a daemon keeps its files and listens
 * @listen: the peers' address, see peer/address.h
 * @run_dir: on a tmpfs; @state_dir: on a disk; both are made if they are not there
 *
 * @boot: id of the host's boot: peers with the same one share a clock; another one: the tmpfs began empty
 * @machine: id of the host, over boots
 *
 * The strings are the caller's; ferry_open() copies what it needs for longer.
 */
struct ferry_config {
	const char *listen;
	const char *run_dir;
	const char *state_dir;
	const char *vmm_socket;
	enum tracker_mode tracker;
	uint8_t boot[16], machine[16];
};

int ferry_open(struct ferry *f, const struct ferry_config *c);
void ferry_stop(struct ferry *f, const char *why);
bool ferry_close(struct ferry *f);

void ferry_urgent(struct ferry *f, bool *was, bool is);

#endif
