// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Simulated hosts: starts, turns and ends of their daemons.
 *
 * Theory of operation
 *
 * A daemon is what ferry_open() makes, in memory and descriptors of its own. Its loop takes one turn at a time: a turn is
 * an event of the world, due a little after something of the daemon has become ready. loop_run() returns after one turn,
 * for epoll_wait() (files.c) stops the loop first. After a turn in which something was ready another is due: the first one
 * that finds nothing leaves the loop asleep, with its alarm set.
 *
 * All code of a daemon runs in node_run(), which says whose it is. SIGKILL takes a process at any of its calls of the C
 * library: node_call() jumps out of node_run(). Memory, descriptors, works and attempts to connect are then forgotten.
 * SIGTERM is ferry_stop() and ferry_close(), as in main.c. A loss of power is SIGKILL of all of the host, and the disk
 * keeps no more than was synced, and perhaps some of the rest (disk.c).
 */
#include "node.h"

#include <stdio.h>
#include <string.h>

#include "base/loop.h"
#include "disk.h"
#include "files.h"
#include "heap.h"
#include "judge.h"
#include "migration.h"
#include "vmm.h"
#include "world.h"

struct node nodes[NODES_MAX], *node_now;
unsigned int nr_nodes;

static void new_boot(struct node *n)
{
	for (int i = 0; i < 16; i++)
		n->boot[i] = (uint8_t)world_random();
}

/** nodes_begin() - @nr hosts, powered, without a daemon */
void nodes_begin(unsigned int nr)
{
	nr_nodes = nr;
	node_now = NULL;
	for (unsigned int i = 0; i < nr; i++) {
		struct node *n = &nodes[i];
		struct heap *heap = n->heap ? n->heap : heap_new();
		unsigned int life = n->life;

		memset(n, 0, sizeof(*n));
		n->heap = heap;
		n->disk = disk_new();
		n->life = life + 1;
		heap_forget(heap);
		snprintf(n->name, sizeof(n->name), "%c", 'a' + i);
		snprintf(n->peers, sizeof(n->peers), "sim:%c", 'a' + i);
		snprintf(n->vmms, sizeof(n->vmms), "%c-vmms", 'a' + i);
		memset(n->machine, 'A' + (int)i, sizeof(n->machine));
		new_boot(n);
		n->is_powered = n->may_start = true;
	}
}

static void take_turn(void *arg)
{
	loop_run(((struct node *)arg)->f.loop);
}

static void on_turn(void *arg)
{
	struct node *n = arg;

	n->turn_is_due = false;
	if (!n->is_up)
		return;
	n->turn_is_busy = true; /* whatever ends it before it has begun */
	if (node_run(n, take_turn, n) && n->turn_is_busy)
		node_wake(n);
}

/** node_wake() - something of it is ready: its loop's next turn is due */
void node_wake(struct node *n)
{
	if (n->turn_is_due || !n->is_up)
		return;
	n->turn_is_due = true;
	world_after(world_delay(5 * US), on_turn, n);
}

static void on_alarm(void *arg)
{
	struct node *n = arg;

	if (world_now() >= n->wakes_at) /* else it was set anew meanwhile */
		node_wake(n);
}

/** node_wake_at() - its alarm is set */
void node_wake_at(struct node *n, uint64_t at_ns)
{
	n->wakes_at = at_ns;
	world_at(at_ns, on_alarm, n);
}

/** node_turn_begins() - of the daemon that runs; @is_busy: something is ready, another turn follows */
void node_turn_begins(bool is_busy)
{
	node_now->turn_is_busy = is_busy;
	loop_stop(node_now->f.loop);
}

/** node_call() - the daemon calls the C library; it does not return to one that is killed here */
void node_call(void)
{
	struct node *n = node_now;

	n->calls++;
	if (n->kill_in && !--n->kill_in)
		longjmp(n->killed, 1);
}

/** node_starves() - a call that may fail for want of memory or descriptors; true: it does */
bool node_starves(void)
{
	struct node *n = node_now;

	node_call();
	if (!n->starve_in || --n->starve_in)
		return false;
	n->starve_in = n->starve_nr ? 1 : 0;
	n->starve_nr -= !!n->starve_nr;
	world_trace("%s: an allocation fails", n->name);
	return true;
}

static void process_is_gone(struct node *n)
{
	n->is_up = n->turn_is_busy = false;
	n->life++;
	n->kill_in = n->starve_in = 0;
	n->wakes_at = 0;
	files_close_all(n);
	heap_forget(n->heap);
}

/** node_run() - @fn as code of @n; false: it was killed meanwhile */
bool node_run(struct node *n, void (*fn)(void *arg), void *arg)
{
	node_now = n;
	if (setjmp(n->killed)) {
		node_now = NULL;
		world_trace("%s: SIGKILL in the middle of its work", n->name);
		process_is_gone(n);
		return false;
	}
	fn(arg);
	node_now = NULL;
	return n->is_up;
}

static void on_start(void *arg)
{
	node_start(arg);
}

static void open_daemon(void *arg)
{
	struct node *n = arg;
	struct ferry_config c = { .listen = n->peers, .run_dir = "run", .state_dir = "state", .vmm_socket = n->vmms,
				  .tracker = TRACKER_VMM };
	int err;

	memcpy(c.boot, n->boot, sizeof(c.boot));
	memcpy(c.machine, n->machine, sizeof(c.machine));
	err = ferry_open(&n->f, &c);
	if (!err)
		return;
	world_trace("%s: does not start: %s", n->name, strerror(-err));
	ferry_stop(&n->f, "cannot start");
	ferry_close(&n->f);
	n->is_up = false;
}

/** node_start() - its daemon; one that cannot start is started again a second later */
void node_start(struct node *n)
{
	if (n->is_up || !n->is_powered || !n->may_start)
		return;
	world_trace("%s: vmferryd starts", n->name);
	memset(&n->f, 0, sizeof(n->f));
	n->is_up = true;
	n->wakes_at = UINT64_MAX;
	if (node_run(n, open_daemon, n)) {
		node_wake(n);
		return;
	}
	process_is_gone(n);
	world_after(S, on_start, n);
}

/** node_kill() - SIGKILL, between two turns */
void node_kill(struct node *n)
{
	if (!n->is_up)
		return;
	world_trace("%s: SIGKILL", n->name);
	process_is_gone(n);
}

static void close_daemon(void *arg)
{
	struct node *n = arg;

	ferry_stop(&n->f, "was told to end");
	if (!ferry_close(&n->f)) {
		world_trace("%s: a work hangs: the process just ends", n->name);
		return;
	}
	if (files_nr_open(n) || heap_in_use(n->heap))
		judge_fail("leak", "%s: after its end %u descriptors are open and %zu blocks of memory are not freed", n->name,
			   files_nr_open(n), heap_in_use(n->heap));
}

/** node_term() - SIGTERM */
void node_term(struct node *n)
{
	if (!n->is_up)
		return;
	world_trace("%s: SIGTERM", n->name);
	if (node_run(n, close_daemon, n))
		process_is_gone(n);
}

/** node_lose_power() - the host goes down; on_start() is the caller's, with may_start and is_powered */
void node_lose_power(struct node *n)
{
	world_trace("%s: loses power", n->name);
	node_kill(n);
	process_is_gone(n);
	n->is_powered = false;
	vmms_lose_power(n);
	disk_lose_power(n->disk);
	new_boot(n);
}
