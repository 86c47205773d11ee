// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The source's switchover machine, as a table. No I/O, clock or lock: events in, actions
 * out. Drawn in DESIGN.md, contract 4.
 *
 * Invariants (checked by tests/unit/switchover_test.c over every state and event):
 *   - ACT_RESUME_GUEST is never asked once ACT_SEND_GO was, except by EV_PEER_NEVER_RAN.
 *   - ACT_SEND_GO comes only from SRC_WAIT_READY, and only on EV_PEER_READY.
 *   - every pair of state and event has an arc: what cannot happen is said so, by BUG.
 *
 * A VMM that dies once everything is sent costs nothing: RAM and state are with the
 * peer, so the switchover goes on (SRC_WAIT_READY).
 */
#include "switchover_src.h"

#define BUG { SRC_NR_STATES, 0 }
#define STAY(s) { s, ACT_ALREADY }
#define FAIL_RUNNING { SRC_FAILED, ACT_TELL_CANCEL | ACT_FINISH }
#define ABORT_KEEP { SRC_ABORTING, ACT_RESUME_GUEST | ACT_TELL_ABORT }
#define ABORT_END { SRC_GIVING_UP, ACT_RESUME_GUEST | ACT_TELL_CANCEL }

static const struct src_arc arcs[SRC_NR_STATES][SRC_NR_EVENTS] = {
	[SRC_PRECOPY] = {
		[EV_CONVERGED] = { SRC_PREPARING, ACT_JOURNAL_BEGIN | ACT_PREPARE_PEER },
		[EV_JOURNALED] = BUG, [EV_PEER_PREPARED] = BUG, [EV_STOPPED] = BUG,
		[EV_SENT] = BUG, [EV_PEER_READY] = STAY(SRC_PRECOPY), [EV_PEER_RUNNING] = BUG,
		[EV_OVER_BUDGET] = STAY(SRC_PRECOPY), [EV_RESUMED] = BUG,
		[EV_CANCEL] = FAIL_RUNNING, [EV_PEER_LOST] = FAIL_RUNNING,
		[EV_PEER_NEVER_RAN] = BUG, [EV_VMM_LOST] = FAIL_RUNNING,
	},
	[SRC_PREPARING] = {
		[EV_CONVERGED] = STAY(SRC_PREPARING),
		[EV_JOURNALED] = { SRC_JOURNALED, ACT_ALREADY },
		[EV_PEER_PREPARED] = { SRC_PEER_READY, ACT_ALREADY },
		[EV_STOPPED] = BUG, [EV_SENT] = BUG, [EV_PEER_READY] = BUG,
		[EV_PEER_RUNNING] = BUG, [EV_OVER_BUDGET] = STAY(SRC_PREPARING),
		[EV_RESUMED] = BUG, [EV_CANCEL] = FAIL_RUNNING, [EV_PEER_LOST] = FAIL_RUNNING,
		[EV_PEER_NEVER_RAN] = BUG, [EV_VMM_LOST] = FAIL_RUNNING,
	},
	[SRC_JOURNALED] = {
		[EV_CONVERGED] = STAY(SRC_JOURNALED), [EV_JOURNALED] = BUG,
		[EV_PEER_PREPARED] = { SRC_PREPARED, ACT_ALREADY },
		[EV_STOPPED] = BUG, [EV_SENT] = BUG, [EV_PEER_READY] = BUG,
		[EV_PEER_RUNNING] = BUG, [EV_OVER_BUDGET] = STAY(SRC_JOURNALED),
		[EV_RESUMED] = BUG, [EV_CANCEL] = FAIL_RUNNING, [EV_PEER_LOST] = FAIL_RUNNING,
		[EV_PEER_NEVER_RAN] = BUG, [EV_VMM_LOST] = FAIL_RUNNING,
	},
	[SRC_PEER_READY] = {
		[EV_CONVERGED] = STAY(SRC_PEER_READY),
		[EV_JOURNALED] = { SRC_PREPARED, ACT_ALREADY },
		[EV_PEER_PREPARED] = BUG, [EV_STOPPED] = BUG, [EV_SENT] = BUG,
		[EV_PEER_READY] = BUG, [EV_PEER_RUNNING] = BUG,
		[EV_OVER_BUDGET] = STAY(SRC_PEER_READY), [EV_RESUMED] = BUG,
		[EV_CANCEL] = FAIL_RUNNING, [EV_PEER_LOST] = FAIL_RUNNING,
		[EV_PEER_NEVER_RAN] = BUG, [EV_VMM_LOST] = FAIL_RUNNING,
	},
	[SRC_PREPARED] = {
		[EV_CONVERGED] = { SRC_STOPPING, ACT_STOP_VCPUS },
		[EV_JOURNALED] = BUG, [EV_PEER_PREPARED] = BUG, [EV_STOPPED] = BUG,
		[EV_SENT] = STAY(SRC_PREPARED), [EV_PEER_READY] = STAY(SRC_PREPARED),
		[EV_PEER_RUNNING] = BUG, [EV_OVER_BUDGET] = STAY(SRC_PREPARED),
		[EV_RESUMED] = BUG, [EV_CANCEL] = FAIL_RUNNING, [EV_PEER_LOST] = FAIL_RUNNING,
		[EV_PEER_NEVER_RAN] = BUG, [EV_VMM_LOST] = FAIL_RUNNING,
	},
	[SRC_STOPPING] = {
		[EV_CONVERGED] = BUG, [EV_JOURNALED] = BUG, [EV_PEER_PREPARED] = BUG,
		[EV_STOPPED] = { SRC_SENDING, ACT_SEND_REST },
		[EV_SENT] = BUG, [EV_PEER_READY] = STAY(SRC_STOPPING), [EV_PEER_RUNNING] = BUG,
		[EV_OVER_BUDGET] = ABORT_KEEP, [EV_RESUMED] = BUG, [EV_CANCEL] = ABORT_END,
		[EV_PEER_LOST] = ABORT_END, [EV_PEER_NEVER_RAN] = BUG,
		[EV_VMM_LOST] = ABORT_END,
	},
	[SRC_SENDING] = {
		[EV_CONVERGED] = BUG, [EV_JOURNALED] = BUG, [EV_PEER_PREPARED] = BUG,
		[EV_STOPPED] = BUG,
		[EV_SENT] = { SRC_WAIT_READY, ACT_ALREADY },
		[EV_PEER_READY] = STAY(SRC_SENDING), /* of an attempt that was aborted */
		[EV_PEER_RUNNING] = BUG, [EV_OVER_BUDGET] = ABORT_KEEP, [EV_RESUMED] = BUG,
		[EV_CANCEL] = ABORT_END, [EV_PEER_LOST] = ABORT_END, [EV_PEER_NEVER_RAN] = BUG,
		[EV_VMM_LOST] = ABORT_END, /* perhaps before its state was saved */
	},
	[SRC_WAIT_READY] = {
		[EV_CONVERGED] = BUG, [EV_JOURNALED] = BUG, [EV_PEER_PREPARED] = BUG,
		[EV_STOPPED] = BUG, [EV_SENT] = BUG,
		[EV_PEER_READY] = { SRC_GO_SENT, ACT_SEND_GO }, /* commit point: no arc leads back */
		[EV_PEER_RUNNING] = BUG, [EV_OVER_BUDGET] = ABORT_KEEP, [EV_RESUMED] = BUG,
		[EV_CANCEL] = ABORT_END, [EV_PEER_LOST] = ABORT_END, [EV_PEER_NEVER_RAN] = BUG,
		[EV_VMM_LOST] = STAY(SRC_WAIT_READY),
	},
	[SRC_ABORTING] = {
		[EV_CONVERGED] = BUG, [EV_JOURNALED] = BUG, [EV_PEER_PREPARED] = BUG,
		[EV_STOPPED] = STAY(SRC_ABORTING), [EV_SENT] = STAY(SRC_ABORTING),
		[EV_PEER_READY] = STAY(SRC_ABORTING), [EV_PEER_RUNNING] = BUG,
		[EV_OVER_BUDGET] = STAY(SRC_ABORTING),
		[EV_RESUMED] = { SRC_PREPARED, ACT_RETRY },
		[EV_CANCEL] = { SRC_GIVING_UP, ACT_TELL_CANCEL },
		[EV_PEER_LOST] = { SRC_GIVING_UP, ACT_TELL_CANCEL },
		[EV_PEER_NEVER_RAN] = BUG,
		[EV_VMM_LOST] = FAIL_RUNNING,
	},
	[SRC_GIVING_UP] = {
		[EV_CONVERGED] = BUG, [EV_JOURNALED] = BUG, [EV_PEER_PREPARED] = BUG,
		[EV_STOPPED] = STAY(SRC_GIVING_UP), [EV_SENT] = STAY(SRC_GIVING_UP),
		[EV_PEER_READY] = STAY(SRC_GIVING_UP), [EV_PEER_RUNNING] = BUG,
		[EV_OVER_BUDGET] = STAY(SRC_GIVING_UP),
		[EV_RESUMED] = { SRC_FAILED, ACT_FINISH },
		[EV_CANCEL] = STAY(SRC_GIVING_UP), [EV_PEER_LOST] = STAY(SRC_GIVING_UP),
		[EV_PEER_NEVER_RAN] = STAY(SRC_GIVING_UP),
		[EV_VMM_LOST] = { SRC_FAILED, ACT_FINISH },
	},
	[SRC_GO_SENT] = {
		[EV_CONVERGED] = BUG, [EV_JOURNALED] = BUG, [EV_PEER_PREPARED] = BUG,
		[EV_STOPPED] = BUG, [EV_SENT] = BUG, [EV_PEER_READY] = BUG,
		[EV_PEER_RUNNING] = { SRC_DONE, ACT_RELEASE | ACT_FINISH },
		[EV_OVER_BUDGET] = STAY(SRC_GO_SENT), [EV_RESUMED] = BUG,
		[EV_CANCEL] = STAY(SRC_GO_SENT),
		[EV_PEER_LOST] = { SRC_HELD, ACT_HOLD },
		[EV_PEER_NEVER_RAN] = { SRC_GIVING_UP, ACT_RESUME_GUEST },
		[EV_VMM_LOST] = STAY(SRC_GO_SENT),
	},
	[SRC_HELD] = {
		[EV_CONVERGED] = BUG, [EV_JOURNALED] = BUG, [EV_PEER_PREPARED] = BUG,
		[EV_STOPPED] = BUG, [EV_SENT] = BUG, [EV_PEER_READY] = BUG,
		[EV_PEER_RUNNING] = { SRC_DONE, ACT_RELEASE | ACT_FINISH },
		[EV_OVER_BUDGET] = STAY(SRC_HELD), [EV_RESUMED] = BUG,
		[EV_CANCEL] = STAY(SRC_HELD), [EV_PEER_LOST] = STAY(SRC_HELD),
		[EV_PEER_NEVER_RAN] = { SRC_GIVING_UP, ACT_RESUME_GUEST },
		[EV_VMM_LOST] = STAY(SRC_HELD),
	},
	[SRC_DONE] = {
		[EV_CONVERGED] = BUG, [EV_JOURNALED] = BUG, [EV_PEER_PREPARED] = BUG,
		[EV_STOPPED] = BUG, [EV_SENT] = STAY(SRC_DONE), [EV_PEER_READY] = BUG,
		[EV_PEER_RUNNING] = STAY(SRC_DONE), [EV_OVER_BUDGET] = STAY(SRC_DONE),
		[EV_RESUMED] = BUG, [EV_CANCEL] = STAY(SRC_DONE), [EV_PEER_LOST] = STAY(SRC_DONE),
		[EV_PEER_NEVER_RAN] = BUG, [EV_VMM_LOST] = STAY(SRC_DONE),
	},
	[SRC_FAILED] = {
		[EV_CONVERGED] = BUG, [EV_JOURNALED] = STAY(SRC_FAILED),
		[EV_PEER_PREPARED] = STAY(SRC_FAILED), [EV_STOPPED] = STAY(SRC_FAILED),
		[EV_SENT] = STAY(SRC_FAILED), [EV_PEER_READY] = STAY(SRC_FAILED),
		[EV_PEER_RUNNING] = BUG, [EV_OVER_BUDGET] = STAY(SRC_FAILED),
		[EV_RESUMED] = STAY(SRC_FAILED), [EV_CANCEL] = STAY(SRC_FAILED),
		[EV_PEER_LOST] = STAY(SRC_FAILED), [EV_PEER_NEVER_RAN] = STAY(SRC_FAILED),
		[EV_VMM_LOST] = STAY(SRC_FAILED),
	},
};

static const char *const state_names[] = {
	"precopy", "preparing", "journaled", "peer-ready", "prepared", "stopping", "sending",
	"wait-ready", "aborting", "giving-up", "go-sent", "held", "done", "failed",
};

static const char *const event_names[] = {
	"converged", "journaled", "peer-prepared", "stopped", "sent", "peer-ready",
	"peer-running", "over-budget", "resumed", "cancel", "peer-lost", "peer-never-ran",
	"vmm-lost",
};

/**
 * switchover_src_step() - take @event
 * Return: false if this pair cannot happen: our bug, the caller ends the migration with
 * the guest safe. The state is then unchanged.
 */
bool switchover_src_step(enum src_state *state, enum src_event event, unsigned int *actions)
{
	const struct src_arc *arc = &arcs[*state][event];

	*actions = ACT_NONE;
	if (!arc->actions)
		return false;
	*state = (enum src_state)arc->to;
	*actions = arc->actions & ~ACT_ALREADY;
	return true;
}

const char *src_state_name(enum src_state s)
{
	return state_names[s];
}

const char *src_event_name(enum src_event e)
{
	return event_names[e];
}

/** src_guest_may_run_here() - before the commit point, or after the peer gave the guest back */
bool src_guest_may_run_here(enum src_state s)
{
	return s != SRC_GO_SENT && s != SRC_HELD && s != SRC_DONE;
}
