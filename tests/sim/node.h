/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SIM_NODE_H
#define SIM_NODE_H

#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>

#include "ferry.h"

struct heap;
struct disk;

/**
 * struct node - one simulated host and its daemon
 * @life: counts its processes: what an earlier one has left behind is void
 * @boot: of the host; a loss of power makes another
 * @disk: what is on its disk and in its run directory
 * @kill_in: its process is killed by the call of the C library that many calls ahead; 0: it is not
 * @starve_in: the allocation, or the descriptor, that many ahead fails, and @starve_nr that follow
 * @calls: calls of the C library so far
 * @disk_fails: an errno for each write to its disk and each sync; @marks_fail: for each write to its run directory
 * @disk_hangs: works wait
 */
struct node {
	char name[8], peers[16], vmms[16];
	struct ferry f;
	bool is_up, is_powered, may_start;
	unsigned int life;
	uint8_t boot[16], machine[16];
	struct heap *heap;
	struct disk *disk;
	bool turn_is_due, turn_is_busy;
	uint64_t wakes_at;
	uint64_t calls, kill_in;
	unsigned int starve_in, starve_nr;
	int disk_fails, marks_fail;
	bool disk_hangs;
	jmp_buf killed;
};

#define NODES_MAX 3

extern struct node *node_now; /* the daemon that runs; NULL: none */
extern struct node nodes[NODES_MAX];
extern unsigned int nr_nodes;

void nodes_begin(unsigned int nr);
void node_wake(struct node *n);
void node_wake_at(struct node *n, uint64_t at_ns);
void node_turn_begins(bool is_busy);
void node_call(void);
bool node_starves(void);
bool node_run(struct node *n, void (*fn)(void *arg), void *arg);
void node_start(struct node *n);
void node_kill(struct node *n);
void node_term(struct node *n);
void node_lose_power(struct node *n);

#endif
