// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The destination's switchover machine, as a table. See DESIGN.md, contract 4.
 *
 * Invariants: DACT_RUN comes only from DST_READY and only on DEV_GO; before it every
 * loss ends in DACT_DISCARD; after it none does. A loss that leaves the control connection is
 * told to the source: GO may be on its way, and the source holds its guest until it hears.
 */
#include "switchover_dst.h"

#define BUG { DST_NR_STATES, 0 }
#define STAY(s) { s, DACT_ALREADY }
#define DISCARD { DST_DISCARDED, DACT_DISCARD | DACT_FINISH }
#define REFUSE { DST_DISCARDED, DACT_DISCARD | DACT_TELL_FAILED | DACT_FINISH }

struct dst_arc {
	uint8_t to;
	uint16_t actions;
};

static const struct dst_arc arcs[DST_NR_STATES][DST_NR_EVENTS] = {
	[DST_RECEIVING] = {
		[DEV_PREPARE] = { DST_PREPARED, DACT_PREPARE },
		[DEV_RECEIVED] = REFUSE, [DEV_LOADED] = BUG, [DEV_GO] = REFUSE, [DEV_RAN] = BUG,
		[DEV_ABORT] = STAY(DST_RECEIVING), [DEV_CANCEL] = DISCARD,
		[DEV_PEER_LOST] = DISCARD, [DEV_VMM_LOST] = REFUSE,
		[DEV_CHANNEL_LOST] = REFUSE,
	},
	[DST_PREPARED] = {
		[DEV_PREPARE] = REFUSE, [DEV_RECEIVED] = { DST_LOADING, DACT_LOAD },
		[DEV_LOADED] = BUG, [DEV_GO] = REFUSE, [DEV_RAN] = BUG,
		[DEV_ABORT] = STAY(DST_PREPARED), [DEV_CANCEL] = DISCARD,
		[DEV_PEER_LOST] = DISCARD, [DEV_VMM_LOST] = REFUSE,
		[DEV_CHANNEL_LOST] = REFUSE,
	},
	[DST_LOADING] = {
		[DEV_PREPARE] = REFUSE, [DEV_RECEIVED] = STAY(DST_LOADING),
		[DEV_LOADED] = { DST_READY, DACT_TELL_READY },
		[DEV_GO] = REFUSE, [DEV_RAN] = BUG, [DEV_ABORT] = { DST_DROPPING, DACT_ALREADY },
		[DEV_CANCEL] = DISCARD, [DEV_PEER_LOST] = DISCARD, [DEV_VMM_LOST] = REFUSE,
		[DEV_CHANNEL_LOST] = REFUSE,
	},
	[DST_DROPPING] = {
		[DEV_PREPARE] = REFUSE, [DEV_RECEIVED] = STAY(DST_DROPPING),
		[DEV_LOADED] = { DST_PREPARED, DACT_ALREADY },
		[DEV_GO] = REFUSE, [DEV_RAN] = BUG, [DEV_ABORT] = STAY(DST_DROPPING),
		[DEV_CANCEL] = DISCARD, [DEV_PEER_LOST] = DISCARD, [DEV_VMM_LOST] = REFUSE,
		[DEV_CHANNEL_LOST] = REFUSE,
	},
	[DST_READY] = {
		[DEV_PREPARE] = REFUSE, [DEV_RECEIVED] = STAY(DST_READY), [DEV_LOADED] = BUG,
		[DEV_GO] = { DST_STARTING, DACT_RUN }, /* the commit point, seen from here */
		[DEV_RAN] = BUG, [DEV_ABORT] = { DST_PREPARED, DACT_ALREADY },
		[DEV_CANCEL] = DISCARD, [DEV_PEER_LOST] = DISCARD, [DEV_VMM_LOST] = REFUSE,
		[DEV_CHANNEL_LOST] = REFUSE,
	},
	[DST_STARTING] = {
		[DEV_PREPARE] = STAY(DST_STARTING), [DEV_RECEIVED] = STAY(DST_STARTING),
		[DEV_LOADED] = BUG, [DEV_GO] = STAY(DST_STARTING),
		[DEV_RAN] = { DST_RUNNING, DACT_TELL_RUNNING | DACT_FINISH },
		[DEV_ABORT] = STAY(DST_STARTING), [DEV_CANCEL] = STAY(DST_STARTING),
		[DEV_PEER_LOST] = STAY(DST_STARTING),
		[DEV_VMM_LOST] = { DST_LOST, DACT_CRY | DACT_FINISH },
		[DEV_CHANNEL_LOST] = STAY(DST_STARTING),
	},
	[DST_RUNNING] = {
		[DEV_PREPARE] = STAY(DST_RUNNING), [DEV_RECEIVED] = STAY(DST_RUNNING),
		[DEV_LOADED] = BUG, [DEV_GO] = STAY(DST_RUNNING), [DEV_RAN] = BUG,
		[DEV_ABORT] = STAY(DST_RUNNING), [DEV_CANCEL] = STAY(DST_RUNNING),
		[DEV_PEER_LOST] = STAY(DST_RUNNING), [DEV_VMM_LOST] = STAY(DST_RUNNING),
		[DEV_CHANNEL_LOST] = STAY(DST_RUNNING),
	},
	[DST_LOST] = {
		[DEV_PREPARE] = STAY(DST_LOST), [DEV_RECEIVED] = STAY(DST_LOST),
		[DEV_LOADED] = BUG, [DEV_GO] = STAY(DST_LOST), [DEV_RAN] = BUG,
		[DEV_ABORT] = STAY(DST_LOST), [DEV_CANCEL] = STAY(DST_LOST),
		[DEV_PEER_LOST] = STAY(DST_LOST), [DEV_VMM_LOST] = STAY(DST_LOST),
		[DEV_CHANNEL_LOST] = STAY(DST_LOST),
	},
	[DST_DISCARDED] = {
		[DEV_PREPARE] = STAY(DST_DISCARDED), [DEV_RECEIVED] = STAY(DST_DISCARDED),
		[DEV_LOADED] = STAY(DST_DISCARDED), [DEV_GO] = STAY(DST_DISCARDED),
		[DEV_RAN] = BUG, [DEV_ABORT] = STAY(DST_DISCARDED),
		[DEV_CANCEL] = STAY(DST_DISCARDED), [DEV_PEER_LOST] = STAY(DST_DISCARDED),
		[DEV_VMM_LOST] = STAY(DST_DISCARDED),
		[DEV_CHANNEL_LOST] = STAY(DST_DISCARDED),
	},
};

static const char *const state_names[] = { "receiving", "prepared", "loading",
					   "dropping",	"ready",    "starting",
					   "running",	"lost",	    "discarded" };

static const char *const event_names[] = { "prepare", "received", "loaded",    "go",	  "ran",
					   "abort",   "cancel",	  "peer-lost", "channel-lost", "vmm-lost" };

/** switchover_dst_step() - take @event; false: this pair cannot happen, state unchanged */
bool switchover_dst_step(enum dst_state *state, enum dst_event event, unsigned int *actions)
{
	const struct dst_arc *arc = &arcs[*state][event];

	*actions = 0;
	if (!arc->actions)
		return false;
	*state = (enum dst_state)arc->to;
	*actions = arc->actions & ~(unsigned int)DACT_ALREADY;
	return true;
}

const char *dst_state_name(enum dst_state s)
{
	return state_names[s];
}

const char *dst_event_name(enum dst_event e)
{
	return event_names[e];
}
