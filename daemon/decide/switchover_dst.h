/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef DECIDE_SWITCHOVER_DST_H
#define DECIDE_SWITCHOVER_DST_H

#include <stdbool.h>
#include <stdint.h>

enum dst_state {
	DST_RECEIVING, /* pages come */
	DST_PREPARED,  /* room for the state is made, journal has "begun" */
	DST_LOADING,   /* LOAD asked */
	DST_DROPPING,  /* aborted while loading: its answer is awaited and dropped */
	DST_READY,     /* loaded; only GO may start the guest */
	DST_STARTING,  /* GO heard and journaled, RUN asked */
	DST_RUNNING,   /* guest runs here */
	DST_LOST,      /* GO heard, then the VMM died: nobody may know if it ran */
	DST_DISCARDED, /* never ran here, never will */
	DST_NR_STATES,
};

enum dst_event {
	DEV_PREPARE,
	DEV_RECEIVED, /* every channel has the final mark of this attempt */
	DEV_LOADED,
	DEV_GO,	      /* in DST_READY: heard, and written to the journal */
	DEV_RAN,
	DEV_ABORT,     /* this attempt is off; pages go on */
	DEV_CANCEL,    /* the source ended the migration */
	DEV_PEER_LOST, /* the control connection broke: the source hears nothing any more */
	DEV_CHANNEL_LOST, /* a channel broke, or somebody asked for the outcome: the source can still be told */
	DEV_VMM_LOST,  /* the VMM died or answered with an error */
	DST_NR_EVENTS,
};

enum dst_action {
	DACT_PREPARE = 1 << 0,	    /* journal "begun"; tell PREPARED once that is on the disk */
	DACT_LOAD = 1 << 1,
	DACT_TELL_READY = 1 << 2,
	DACT_RUN = 1 << 3,	    /* RUN; "go" is in the journal since before DEV_GO */
	DACT_TELL_RUNNING = 1 << 4, /* journal "done" */
	DACT_DISCARD = 1 << 5,	    /* journal "never"; VMM: forget what arrived */
	DACT_TELL_FAILED = 1 << 6,  /* source: why; it was never run */
	DACT_FINISH = 1 << 7,
	DACT_CRY = 1 << 8, /* the guest may be lost: say it loudly */
	DACT_ALREADY = 1 << 9,
};

bool switchover_dst_step(enum dst_state *state, enum dst_event event, unsigned int *actions);
const char *dst_state_name(enum dst_state s);
const char *dst_event_name(enum dst_event e);

#endif
