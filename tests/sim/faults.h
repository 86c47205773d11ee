/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SIM_FAULTS_H
#define SIM_FAULTS_H

#include <stdbool.h>
#include <stdint.h>

#define FAULTS_MAX 8

enum fault_kind {
	FAULT_KILL,	  /* SIGKILL of a daemon, and a new one later */
	FAULT_TERM,	  /* SIGTERM, and a new one later */
	FAULT_POWER,	  /* a host loses power, with its VMMs */
	FAULT_NET_CUT,	  /* all connections between hosts break, or one of them */
	FAULT_NET_HOLD,	  /* nothing arrives for a while */
	FAULT_VMM_CUT,	  /* a VMM closes its connection and connects anew */
	FAULT_VMM_DIES,
	FAULT_VMM_FREEZES, /* for longer than a daemon waits, or shorter */
	FAULT_VMM_LIES,	  /* refuses, or denies what it did */
	FAULT_DISK_FAILS,
	FAULT_DISK_HANGS,
	FAULT_MEMORY,	  /* some allocations fail */
	FAULT_CANCEL,	  /* the operator calls it off */
	FAULT_QUESTION,	  /* a stranger asks what became of the migration */
	FAULT_STRANGER,	  /* a stranger says hello, and something else */
	FAULT_MESSAGE,	  /* a message out of place on a control connection */
	FAULT_NR,
};

enum fault_when { WHEN_TIME, WHEN_MESSAGE, WHEN_REQUEST, WHEN_DONE };

/**
 * struct fault - one thing that goes wrong in a walk
 * @when: at @at_ns, or @after_ns behind the first message, request, or end of a request, of type @what
 * @at: which node, VMM or connection, taken modulo what there is
 * @how: which variant; @lasts_ns: until it is over
 */
struct fault {
	enum fault_kind kind;
	enum fault_when when;
	uint32_t what, at, how;
	uint64_t at_ns, after_ns, lasts_ns;
	bool is_left_out, is_done;
};

extern const char *const fault_names[FAULT_NR];
extern uint64_t fault_counts[FAULT_NR];

unsigned int faults_plan(struct fault *list, uint64_t *stream);
void faults_begin(struct fault *list, unsigned int nr);
void faults_heal(void);
void fault_describe(const struct fault *f, char *text, unsigned int len);

#endif
