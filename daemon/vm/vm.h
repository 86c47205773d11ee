/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef VM_VM_H
#define VM_VM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <vmferry_vmm.h>

#include "base/loop.h"
#include "base/worker.h"
#include "pages/region.h"
#include "tracker.h"

struct dirty;
struct held;
struct limited;
struct register_request;

/** enum vm_request - what can be asked of a VMM, whatever kind it is */
enum vm_request {
	VM_START_LOG = VMFERRY_MSG_START_LOG,
	VM_STOP_LOG = VMFERRY_MSG_STOP_LOG,
	VM_HARVEST = VMFERRY_MSG_HARVEST,
	VM_PAUSE = VMFERRY_MSG_PAUSE,
	VM_RESUME = VMFERRY_MSG_RESUME,
	VM_SAVE = VMFERRY_MSG_SAVE,
	VM_LOAD = VMFERRY_MSG_LOAD,
	VM_RUN = VMFERRY_MSG_RUN,
	VM_THROTTLE = VMFERRY_MSG_THROTTLE,
	VM_RELEASE = VMFERRY_MSG_RELEASE,
	VM_QUERY = VMFERRY_MSG_QUERY,
	VM_DISCARD = VMFERRY_MSG_DISCARD,
	VM_MIGRATION = VMFERRY_MSG_MIGRATION,
};

struct vm;
struct vm_asked;

/** vm_answer_fn - @status: 0, the VMM's negative errno, -ECONNRESET if it is gone */
typedef void (*vm_answer_fn)(void *arg, int status, const void *body, uint32_t len);

/**
 * struct vm_watcher - who is told that a VM's connection is gone
 * Answers still owed are given first, with -ECONNRESET.
 */
struct vm_watcher {
	void (*lost)(void *owner);
	void *owner;
};

/**
 * struct vm - one registered VM; the loop's thread only
 * @refs: the connection's and one a migration; RAM stays mapped until the last is gone
 * @sock: the VMM's connection, NULL once it is gone
 * @is_fresh: its RAM is known to be empty (incoming)
 * @is_busy: a migration, or the recovery after one, has it
 * @kvm_fd: KVM's VM, -1 if the VMM does not give it away
 * @area_fd: of the shared area, until vm_map() has mapped it
 * @peer_pid: whose socket it is, by the kernel's word
 * @tracker: the kernel module harvests; NULL: the VMM does
 * @tracker_nr: how many it has had: a work of one finds out that it is not there any more
 * @devices: those the VMM tells apart, @nr_devices of them
 * @asked: requests of more than one step that are not answered yet
 * @pausing: of those a PAUSE whose answer waits for the module's last harvest
 * @version: of the VMM protocol, that its VMM and we speak
 * @last: the migration that its VMM was told of last, by this daemon or an earlier one; role 0: none, it is over,
 *	or the VMM speaks version 1
 * @held: made and used by the owner of the list, see vm_list.refuses; @held_free() ends it, on the loop, before the
 *	VM is torn down; NULL: nothing to end
 * @limited: for messages that its VMM can provoke
 * @number: the later it was listed, the greater
 * @work: maps all before it is registered, unmaps and closes all once the last reference is gone
 */
struct vm {
	char name[VMFERRY_VMM_NAME_LEN];
	uint8_t uuid[16];
	uint32_t run_state;
	uint32_t nr_vcpus;
	int pid;
	uint64_t state_size;
	char untracked[VMFERRY_VMM_NAME_LEN];
	struct vmferry_msg_device devices[VMFERRY_VMM_MAX_DEVICES];
	unsigned int nr_devices;
	struct region *regions;
	uint64_t *sizes;
	unsigned int nr_regions;
	struct dirty *dirty;
	struct warm *warm;
	unsigned int refs;
	struct vm_socket *sock;
	bool is_fresh;
	bool is_busy;
	int kvm_fd;
	int area_fd;
	uint64_t area_size;
	int peer_pid;
	enum tracker_mode tracker_mode;
	struct tracker *tracker;
	unsigned int tracker_nr;
	struct vm_asked *asked;
	struct vm_asked *pausing;
	char tracker_why[200];
	struct loop *loop;
	struct limited *limited;
	struct worker *worker;
	struct work work;
	struct vm_watcher *watcher;
	unsigned int version;
	struct vmferry_msg_migration last;
	uint64_t number;
	struct held *held;
	void (*held_free)(struct held *held);
	struct vm *next;
};

/**
 * struct vm_list - all VMs of one daemon
 * @sockets: of their VMMs; from vm_socket_listen() to vm_socket_stop()
 * @limited: for messages that VMMs can provoke
 * @first: the newest; @nr_listed: so many ever were
 * @tracker: for all of them
 * @refuses: NULL, or asked of each new one before it is listed and its VMM answered: the reason why it may not
 *	register, in @text or elsewhere; NULL: it may. It sends nothing to the VMM
 * @registered: is told of each new one, which is listed and whose VMM is answered
 */
struct vm_list {
	struct vm *first;
	uint64_t nr_listed;
	struct vm_socket_set *sockets;
	struct loop *loop;
	struct worker *worker;
	struct limited *limited;
	enum tracker_mode tracker;
	const char *(*refuses)(void *owner, struct vm *vm, char *text, size_t len);
	void (*registered)(void *owner, struct vm *vm);
	void *owner;
};

struct vm *vm_find(struct vm_list *l, const char *name, bool incoming);
struct vm *vm_get(struct vm *vm);
void vm_put(struct vm *vm);
void vm_let_ram_go(struct vm *vm);
bool vm_is_incoming(const struct vm *vm);
uint64_t vm_ram_size(const struct vm *vm);
const char *vm_state_name(const struct vm *vm);
const char *vm_tracker_why(const struct vm *vm);

void vm_ask(struct vm *vm, enum vm_request type, const void *body, uint32_t len, int fd,
	    vm_answer_fn answer, void *arg);
void vm_forget(struct vm *vm, const void *arg);
void vm_disbelieve(struct vm *vm);
void vm_tell_migration(struct vm *vm, const uint8_t id[16], uint32_t role);

int vm_socket_listen(struct vm_list *l, const char *path);
void vm_socket_stop(struct vm_list *l);
/* for vm_socket.c */
void vm_gone(struct vm *vm);
struct vm *vm_new(struct worker *wk, const struct register_request *from, int *fds);
int vm_map(struct vm *vm, char *why, size_t why_len);
int vm_socket_send(struct vm_socket *s, enum vm_request type, const void *body, uint32_t len,
		   int fd, vm_answer_fn answer, void *arg);
void vm_socket_forget(struct vm_socket *s, const void *arg);
void vm_socket_shut(struct vm_socket *s);

#endif
