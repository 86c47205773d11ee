/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef DECIDE_SWITCHOVER_SRC_H
#define DECIDE_SWITCHOVER_SRC_H

#include <stdbool.h>
#include <stdint.h>

enum src_state {
	SRC_PRECOPY,	  /* guest runs here; rounds */
	SRC_PREPARING,	  /* journal and peer are getting ready; rounds go on */
	SRC_JOURNALED,	  /* journal synced, peer not yet prepared */
	SRC_PEER_READY,	  /* peer prepared, journal not yet synced */
	SRC_PREPARED,	  /* may stop as soon as it is expected to make the limit */
	SRC_STOPPING,	  /* PAUSE asked */
	SRC_SENDING,	  /* stopped: last pages and state on their way */
	SRC_WAIT_READY,	  /* all sent */
	SRC_ABORTING,	  /* RESUME asked: the guest goes on here, and so does precopy */
	SRC_GIVING_UP,	  /* RESUME asked: the guest goes on here, the migration is over */
	SRC_GO_SENT,	  /* commit point passed */
	SRC_HELD,	  /* GO sent, peer lost: only the peer or the operator knows */
	SRC_DONE,	  /* guest runs there */
	SRC_FAILED,	  /* guest runs here, or died with its VMM before GO */
	SRC_NR_STATES,
};

enum src_event {
	EV_CONVERGED,	     /* a switchover now is expected to make the limit */
	EV_JOURNALED,	     /* "begun" is on disk */
	EV_PEER_PREPARED,
	EV_STOPPED,	     /* all vCPUs stopped, last harvest published */
	EV_SENT,	     /* channels have sent last pages and state */
	EV_PEER_READY,	     /* peer has loaded everything */
	EV_PEER_RUNNING,     /* guest runs there */
	EV_OVER_BUDGET,	     /* strict: the limit would be crossed */
	EV_RESUMED,	     /* guest runs here again */
	EV_CANCEL,	     /* the operator, or the overall timeout */
	EV_PEER_LOST,	     /* a connection broke, or the peer reported an error */
	EV_PEER_NEVER_RAN,   /* the peer promises: never ran, never will */
	EV_VMM_LOST,	     /* the VMM died or answered with an error */
	SRC_NR_EVENTS,
};

/* Actions: bits, carried out by migration_src.c in this order. */
enum src_action {
	ACT_NONE = 0,
	ACT_JOURNAL_BEGIN = 1 << 0, /* append and sync; answer EV_JOURNALED */
	ACT_PREPARE_PEER = 1 << 1,
	ACT_STOP_VCPUS = 1 << 2,
	ACT_SEND_REST = 1 << 3,
	ACT_RESUME_GUEST = 1 << 4, /* first of all that an abort does */
	ACT_TELL_ABORT = 1 << 5,   /* peer: drop this attempt, keep the RAM */
	ACT_SEND_GO = 1 << 6,	   /* journal "go" (not synced), then GO */
	ACT_TELL_CANCEL = 1 << 7,  /* peer: discard everything */
	ACT_HOLD = 1 << 8,	   /* say it loudly; go on asking the peer */
	ACT_RELEASE = 1 << 9,	   /* VMM: the guest has left; journal "done" */
	ACT_FINISH = 1 << 10,	   /* report, clean up */
	ACT_RETRY = 1 << 11,	   /* on with precopy */
	ACT_ALREADY = 1 << 12,	   /* expected here, nothing to do */
};

struct src_arc {
	uint8_t to;
	uint16_t actions;
};

bool switchover_src_step(enum src_state *state, enum src_event event, unsigned int *actions);
const char *src_state_name(enum src_state s);
const char *src_event_name(enum src_event e);
bool src_guest_may_run_here(enum src_state s);

#endif
