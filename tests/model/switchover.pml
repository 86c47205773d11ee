/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The switchover's protocol as a model for spin: both daemons, both VMMs, both journals,
 * the control connection, the channels, and the connection that asks afterwards.
 *
 * What may happen here, at any moment and in any order:
 *   the control connection breaks, and any tail of what is in it is lost, either way;
 *   the channels' last mark comes late, after anything on the control connection;
 *   either daemon dies, between any two actions, and starts again: it has its journal;
 *   either VMM dies, with its guest (-DVMM_DIES);
 *   the journal refuses "begun" or GO; time is up; the operator cancels.
 *
 * What is proved:
 *   never two: no VMM begins to run its guest while the other runs it          (assert)
 *   never none: when nothing moves any more, one of them runs it, unless a VMM
 *       has died with it                                                       (Judge)
 *   the guest that begins to run there is the one that was stopped last, whole   (assert)
 *   no deadlock, and no pair of state and event that the code calls a bug      (assert)
 *
 * Mirrors: Source is migration.c, switchover.c and recovery.c; Destination is incoming.c,
 * arrival.c, greeter.c and recovery.c; the two Vmms are libvmferry's session.c. Names at the
 * right say which function. The arcs are decide/switchover_src.c's and switchover_dst.c's, one a
 * line: tests/model/check compares them with what those files do.
 *
 * Left out: pages and their rounds (they are taken again in the next round), harvests, the
 * operator's "resolve" (it is as true as the operator), and a lost host (nothing can help).
 */

#ifndef TRIES
#define TRIES 2
#endif
#ifndef CRASHES
#define CRASHES 1 /* of each daemon */
#endif

#define ARC(from, event, to, actions) :: machine == from && e == event -> machine = to; a = actions;

#define SRC_PRECOPY 0
#define SRC_PREPARING 1
#define SRC_JOURNALED 2
#define SRC_PEER_READY 3
#define SRC_PREPARED 4
#define SRC_STOPPING 5
#define SRC_SENDING 6
#define SRC_WAIT_READY 7
#define SRC_ABORTING 8
#define SRC_GIVING_UP 9
#define SRC_GO_SENT 10
#define SRC_HELD 11
#define SRC_DONE 12
#define SRC_FAILED 13

#define EV_CONVERGED 0
#define EV_JOURNALED 1
#define EV_PEER_PREPARED 2
#define EV_STOPPED 3
#define EV_SENT 4
#define EV_PEER_READY 5
#define EV_PEER_RUNNING 6
#define EV_OVER_BUDGET 7
#define EV_RESUMED 8
#define EV_CANCEL 9
#define EV_PEER_LOST 10
#define EV_PEER_NEVER_RAN 11
#define EV_VMM_LOST 12

#define DST_RECEIVING 0
#define DST_PREPARED 1
#define DST_LOADING 2
#define DST_DROPPING 3
#define DST_READY 4
#define DST_STARTING 5
#define DST_RUNNING 6
#define DST_LOST 7
#define DST_DISCARDED 8

#define DEV_PREPARE 0
#define DEV_RECEIVED 1
#define DEV_LOADED 2
#define DEV_GO 3
#define DEV_RAN 4
#define DEV_ABORT 5
#define DEV_CANCEL 6
#define DEV_PEER_LOST 7
#define DEV_VMM_LOST 8
#define DEV_CHANNEL_LOST 9

#define NOTHING 99 /* no event */

#define JOURNAL_BEGIN 1
#define PREPARE_PEER 2
#define STOP_VCPUS 4
#define SEND_REST 8
#define RESUME_GUEST 16
#define TELL_ABORT 32
#define SEND_GO 64
#define TELL_CANCEL 128
#define HOLD 256
#define RELEASE 512
#define FINISH_SRC 1024
#define RETRY 2048

#define PREPARE_DST 1
#define LOAD_STATE 2
#define TELL_READY 4
#define RUN_GUEST 8
#define TELL_RUNNING 16
#define DISCARD 32
#define TELL_FAILED 64
#define FINISH_DST 128
#define CRY 256

inline src_arcs()
{
	if
	ARC(SRC_PRECOPY, EV_CONVERGED, SRC_PREPARING, JOURNAL_BEGIN | PREPARE_PEER)
	ARC(SRC_PRECOPY, EV_PEER_READY, SRC_PRECOPY, 0)
	ARC(SRC_PRECOPY, EV_OVER_BUDGET, SRC_PRECOPY, 0)
	ARC(SRC_PRECOPY, EV_CANCEL, SRC_FAILED, TELL_CANCEL | FINISH_SRC)
	ARC(SRC_PRECOPY, EV_PEER_LOST, SRC_FAILED, TELL_CANCEL | FINISH_SRC)
	ARC(SRC_PRECOPY, EV_VMM_LOST, SRC_FAILED, TELL_CANCEL | FINISH_SRC)
	ARC(SRC_PREPARING, EV_CONVERGED, SRC_PREPARING, 0)
	ARC(SRC_PREPARING, EV_JOURNALED, SRC_JOURNALED, 0)
	ARC(SRC_PREPARING, EV_PEER_PREPARED, SRC_PEER_READY, 0)
	ARC(SRC_PREPARING, EV_OVER_BUDGET, SRC_PREPARING, 0)
	ARC(SRC_PREPARING, EV_CANCEL, SRC_FAILED, TELL_CANCEL | FINISH_SRC)
	ARC(SRC_PREPARING, EV_PEER_LOST, SRC_FAILED, TELL_CANCEL | FINISH_SRC)
	ARC(SRC_PREPARING, EV_VMM_LOST, SRC_FAILED, TELL_CANCEL | FINISH_SRC)
	ARC(SRC_JOURNALED, EV_CONVERGED, SRC_JOURNALED, 0)
	ARC(SRC_JOURNALED, EV_PEER_PREPARED, SRC_PREPARED, 0)
	ARC(SRC_JOURNALED, EV_OVER_BUDGET, SRC_JOURNALED, 0)
	ARC(SRC_JOURNALED, EV_CANCEL, SRC_FAILED, TELL_CANCEL | FINISH_SRC)
	ARC(SRC_JOURNALED, EV_PEER_LOST, SRC_FAILED, TELL_CANCEL | FINISH_SRC)
	ARC(SRC_JOURNALED, EV_VMM_LOST, SRC_FAILED, TELL_CANCEL | FINISH_SRC)
	ARC(SRC_PEER_READY, EV_CONVERGED, SRC_PEER_READY, 0)
	ARC(SRC_PEER_READY, EV_JOURNALED, SRC_PREPARED, 0)
	ARC(SRC_PEER_READY, EV_OVER_BUDGET, SRC_PEER_READY, 0)
	ARC(SRC_PEER_READY, EV_CANCEL, SRC_FAILED, TELL_CANCEL | FINISH_SRC)
	ARC(SRC_PEER_READY, EV_PEER_LOST, SRC_FAILED, TELL_CANCEL | FINISH_SRC)
	ARC(SRC_PEER_READY, EV_VMM_LOST, SRC_FAILED, TELL_CANCEL | FINISH_SRC)
	ARC(SRC_PREPARED, EV_CONVERGED, SRC_STOPPING, STOP_VCPUS)
	ARC(SRC_PREPARED, EV_SENT, SRC_PREPARED, 0)
	ARC(SRC_PREPARED, EV_PEER_READY, SRC_PREPARED, 0)
	ARC(SRC_PREPARED, EV_OVER_BUDGET, SRC_PREPARED, 0)
	ARC(SRC_PREPARED, EV_CANCEL, SRC_FAILED, TELL_CANCEL | FINISH_SRC)
	ARC(SRC_PREPARED, EV_PEER_LOST, SRC_FAILED, TELL_CANCEL | FINISH_SRC)
	ARC(SRC_PREPARED, EV_VMM_LOST, SRC_FAILED, TELL_CANCEL | FINISH_SRC)
	ARC(SRC_STOPPING, EV_STOPPED, SRC_SENDING, SEND_REST)
	ARC(SRC_STOPPING, EV_PEER_READY, SRC_STOPPING, 0)
	ARC(SRC_STOPPING, EV_OVER_BUDGET, SRC_ABORTING, RESUME_GUEST | TELL_ABORT)
	ARC(SRC_STOPPING, EV_CANCEL, SRC_GIVING_UP, RESUME_GUEST | TELL_CANCEL)
	ARC(SRC_STOPPING, EV_PEER_LOST, SRC_GIVING_UP, RESUME_GUEST | TELL_CANCEL)
	ARC(SRC_STOPPING, EV_VMM_LOST, SRC_GIVING_UP, RESUME_GUEST | TELL_CANCEL)
	ARC(SRC_SENDING, EV_SENT, SRC_WAIT_READY, 0)
	ARC(SRC_SENDING, EV_PEER_READY, SRC_SENDING, 0)
	ARC(SRC_SENDING, EV_OVER_BUDGET, SRC_ABORTING, RESUME_GUEST | TELL_ABORT)
	ARC(SRC_SENDING, EV_CANCEL, SRC_GIVING_UP, RESUME_GUEST | TELL_CANCEL)
	ARC(SRC_SENDING, EV_PEER_LOST, SRC_GIVING_UP, RESUME_GUEST | TELL_CANCEL)
	ARC(SRC_SENDING, EV_VMM_LOST, SRC_GIVING_UP, RESUME_GUEST | TELL_CANCEL)
	ARC(SRC_WAIT_READY, EV_PEER_READY, SRC_GO_SENT, SEND_GO)
	ARC(SRC_WAIT_READY, EV_OVER_BUDGET, SRC_ABORTING, RESUME_GUEST | TELL_ABORT)
	ARC(SRC_WAIT_READY, EV_CANCEL, SRC_GIVING_UP, RESUME_GUEST | TELL_CANCEL)
	ARC(SRC_WAIT_READY, EV_PEER_LOST, SRC_GIVING_UP, RESUME_GUEST | TELL_CANCEL)
	ARC(SRC_WAIT_READY, EV_VMM_LOST, SRC_WAIT_READY, 0)
	ARC(SRC_ABORTING, EV_STOPPED, SRC_ABORTING, 0)
	ARC(SRC_ABORTING, EV_SENT, SRC_ABORTING, 0)
	ARC(SRC_ABORTING, EV_PEER_READY, SRC_ABORTING, 0)
	ARC(SRC_ABORTING, EV_OVER_BUDGET, SRC_ABORTING, 0)
	ARC(SRC_ABORTING, EV_RESUMED, SRC_PREPARED, RETRY)
	ARC(SRC_ABORTING, EV_CANCEL, SRC_GIVING_UP, TELL_CANCEL)
	ARC(SRC_ABORTING, EV_PEER_LOST, SRC_GIVING_UP, TELL_CANCEL)
	ARC(SRC_ABORTING, EV_VMM_LOST, SRC_FAILED, TELL_CANCEL | FINISH_SRC)
	ARC(SRC_GIVING_UP, EV_STOPPED, SRC_GIVING_UP, 0)
	ARC(SRC_GIVING_UP, EV_SENT, SRC_GIVING_UP, 0)
	ARC(SRC_GIVING_UP, EV_PEER_READY, SRC_GIVING_UP, 0)
	ARC(SRC_GIVING_UP, EV_OVER_BUDGET, SRC_GIVING_UP, 0)
	ARC(SRC_GIVING_UP, EV_RESUMED, SRC_FAILED, FINISH_SRC)
	ARC(SRC_GIVING_UP, EV_CANCEL, SRC_GIVING_UP, 0)
	ARC(SRC_GIVING_UP, EV_PEER_LOST, SRC_GIVING_UP, 0)
	ARC(SRC_GIVING_UP, EV_PEER_NEVER_RAN, SRC_GIVING_UP, 0)
	ARC(SRC_GIVING_UP, EV_VMM_LOST, SRC_FAILED, FINISH_SRC)
	ARC(SRC_GO_SENT, EV_PEER_RUNNING, SRC_DONE, RELEASE | FINISH_SRC)
	ARC(SRC_GO_SENT, EV_OVER_BUDGET, SRC_GO_SENT, 0)
	ARC(SRC_GO_SENT, EV_CANCEL, SRC_GO_SENT, 0)
	ARC(SRC_GO_SENT, EV_PEER_LOST, SRC_HELD, HOLD)
	ARC(SRC_GO_SENT, EV_PEER_NEVER_RAN, SRC_GIVING_UP, RESUME_GUEST)
	ARC(SRC_GO_SENT, EV_VMM_LOST, SRC_GO_SENT, 0)
	ARC(SRC_HELD, EV_PEER_RUNNING, SRC_DONE, RELEASE | FINISH_SRC)
	ARC(SRC_HELD, EV_OVER_BUDGET, SRC_HELD, 0)
	ARC(SRC_HELD, EV_CANCEL, SRC_HELD, 0)
	ARC(SRC_HELD, EV_PEER_LOST, SRC_HELD, 0)
	ARC(SRC_HELD, EV_PEER_NEVER_RAN, SRC_GIVING_UP, RESUME_GUEST)
	ARC(SRC_HELD, EV_VMM_LOST, SRC_HELD, 0)
	ARC(SRC_DONE, EV_SENT, SRC_DONE, 0)
	ARC(SRC_DONE, EV_PEER_RUNNING, SRC_DONE, 0)
	ARC(SRC_DONE, EV_OVER_BUDGET, SRC_DONE, 0)
	ARC(SRC_DONE, EV_CANCEL, SRC_DONE, 0)
	ARC(SRC_DONE, EV_PEER_LOST, SRC_DONE, 0)
	ARC(SRC_DONE, EV_VMM_LOST, SRC_DONE, 0)
	ARC(SRC_FAILED, EV_JOURNALED, SRC_FAILED, 0)
	ARC(SRC_FAILED, EV_PEER_PREPARED, SRC_FAILED, 0)
	ARC(SRC_FAILED, EV_STOPPED, SRC_FAILED, 0)
	ARC(SRC_FAILED, EV_SENT, SRC_FAILED, 0)
	ARC(SRC_FAILED, EV_PEER_READY, SRC_FAILED, 0)
	ARC(SRC_FAILED, EV_OVER_BUDGET, SRC_FAILED, 0)
	ARC(SRC_FAILED, EV_RESUMED, SRC_FAILED, 0)
	ARC(SRC_FAILED, EV_CANCEL, SRC_FAILED, 0)
	ARC(SRC_FAILED, EV_PEER_LOST, SRC_FAILED, 0)
	ARC(SRC_FAILED, EV_PEER_NEVER_RAN, SRC_FAILED, 0)
	ARC(SRC_FAILED, EV_VMM_LOST, SRC_FAILED, 0)
	:: else -> assert(false) /* the code calls it a bug */
	fi
}

inline dst_arcs()
{
	if
	ARC(DST_RECEIVING, DEV_PREPARE, DST_PREPARED, PREPARE_DST)
	ARC(DST_RECEIVING, DEV_RECEIVED, DST_DISCARDED, DISCARD | TELL_FAILED | FINISH_DST)
	ARC(DST_RECEIVING, DEV_GO, DST_DISCARDED, DISCARD | TELL_FAILED | FINISH_DST)
	ARC(DST_RECEIVING, DEV_ABORT, DST_RECEIVING, 0)
	ARC(DST_RECEIVING, DEV_CANCEL, DST_DISCARDED, DISCARD | FINISH_DST)
	ARC(DST_RECEIVING, DEV_PEER_LOST, DST_DISCARDED, DISCARD | FINISH_DST)
	ARC(DST_RECEIVING, DEV_VMM_LOST, DST_DISCARDED, DISCARD | TELL_FAILED | FINISH_DST)
	ARC(DST_RECEIVING, DEV_CHANNEL_LOST, DST_DISCARDED, DISCARD | TELL_FAILED | FINISH_DST)
	ARC(DST_PREPARED, DEV_PREPARE, DST_DISCARDED, DISCARD | TELL_FAILED | FINISH_DST)
	ARC(DST_PREPARED, DEV_RECEIVED, DST_LOADING, LOAD_STATE)
	ARC(DST_PREPARED, DEV_GO, DST_DISCARDED, DISCARD | TELL_FAILED | FINISH_DST)
	ARC(DST_PREPARED, DEV_ABORT, DST_PREPARED, 0)
	ARC(DST_PREPARED, DEV_CANCEL, DST_DISCARDED, DISCARD | FINISH_DST)
	ARC(DST_PREPARED, DEV_PEER_LOST, DST_DISCARDED, DISCARD | FINISH_DST)
	ARC(DST_PREPARED, DEV_VMM_LOST, DST_DISCARDED, DISCARD | TELL_FAILED | FINISH_DST)
	ARC(DST_PREPARED, DEV_CHANNEL_LOST, DST_DISCARDED, DISCARD | TELL_FAILED | FINISH_DST)
	ARC(DST_LOADING, DEV_PREPARE, DST_DISCARDED, DISCARD | TELL_FAILED | FINISH_DST)
	ARC(DST_LOADING, DEV_RECEIVED, DST_LOADING, 0)
	ARC(DST_LOADING, DEV_LOADED, DST_READY, TELL_READY)
	ARC(DST_LOADING, DEV_GO, DST_DISCARDED, DISCARD | TELL_FAILED | FINISH_DST)
	ARC(DST_LOADING, DEV_ABORT, DST_DROPPING, 0)
	ARC(DST_LOADING, DEV_CANCEL, DST_DISCARDED, DISCARD | FINISH_DST)
	ARC(DST_LOADING, DEV_PEER_LOST, DST_DISCARDED, DISCARD | FINISH_DST)
	ARC(DST_LOADING, DEV_VMM_LOST, DST_DISCARDED, DISCARD | TELL_FAILED | FINISH_DST)
	ARC(DST_LOADING, DEV_CHANNEL_LOST, DST_DISCARDED, DISCARD | TELL_FAILED | FINISH_DST)
	ARC(DST_DROPPING, DEV_PREPARE, DST_DISCARDED, DISCARD | TELL_FAILED | FINISH_DST)
	ARC(DST_DROPPING, DEV_RECEIVED, DST_DROPPING, 0)
	ARC(DST_DROPPING, DEV_LOADED, DST_PREPARED, 0)
	ARC(DST_DROPPING, DEV_GO, DST_DISCARDED, DISCARD | TELL_FAILED | FINISH_DST)
	ARC(DST_DROPPING, DEV_ABORT, DST_DROPPING, 0)
	ARC(DST_DROPPING, DEV_CANCEL, DST_DISCARDED, DISCARD | FINISH_DST)
	ARC(DST_DROPPING, DEV_PEER_LOST, DST_DISCARDED, DISCARD | FINISH_DST)
	ARC(DST_DROPPING, DEV_VMM_LOST, DST_DISCARDED, DISCARD | TELL_FAILED | FINISH_DST)
	ARC(DST_DROPPING, DEV_CHANNEL_LOST, DST_DISCARDED, DISCARD | TELL_FAILED | FINISH_DST)
	ARC(DST_READY, DEV_PREPARE, DST_DISCARDED, DISCARD | TELL_FAILED | FINISH_DST)
	ARC(DST_READY, DEV_RECEIVED, DST_READY, 0)
	ARC(DST_READY, DEV_GO, DST_STARTING, RUN_GUEST)
	ARC(DST_READY, DEV_ABORT, DST_PREPARED, 0)
	ARC(DST_READY, DEV_CANCEL, DST_DISCARDED, DISCARD | FINISH_DST)
	ARC(DST_READY, DEV_PEER_LOST, DST_DISCARDED, DISCARD | FINISH_DST)
	ARC(DST_READY, DEV_VMM_LOST, DST_DISCARDED, DISCARD | TELL_FAILED | FINISH_DST)
	ARC(DST_READY, DEV_CHANNEL_LOST, DST_DISCARDED, DISCARD | TELL_FAILED | FINISH_DST)
	ARC(DST_STARTING, DEV_PREPARE, DST_STARTING, 0)
	ARC(DST_STARTING, DEV_RECEIVED, DST_STARTING, 0)
	ARC(DST_STARTING, DEV_GO, DST_STARTING, 0)
	ARC(DST_STARTING, DEV_RAN, DST_RUNNING, TELL_RUNNING | FINISH_DST)
	ARC(DST_STARTING, DEV_ABORT, DST_STARTING, 0)
	ARC(DST_STARTING, DEV_CANCEL, DST_STARTING, 0)
	ARC(DST_STARTING, DEV_PEER_LOST, DST_STARTING, 0)
	ARC(DST_STARTING, DEV_VMM_LOST, DST_LOST, FINISH_DST | CRY)
	ARC(DST_STARTING, DEV_CHANNEL_LOST, DST_STARTING, 0)
	ARC(DST_RUNNING, DEV_PREPARE, DST_RUNNING, 0)
	ARC(DST_RUNNING, DEV_RECEIVED, DST_RUNNING, 0)
	ARC(DST_RUNNING, DEV_GO, DST_RUNNING, 0)
	ARC(DST_RUNNING, DEV_ABORT, DST_RUNNING, 0)
	ARC(DST_RUNNING, DEV_CANCEL, DST_RUNNING, 0)
	ARC(DST_RUNNING, DEV_PEER_LOST, DST_RUNNING, 0)
	ARC(DST_RUNNING, DEV_VMM_LOST, DST_RUNNING, 0)
	ARC(DST_RUNNING, DEV_CHANNEL_LOST, DST_RUNNING, 0)
	ARC(DST_LOST, DEV_PREPARE, DST_LOST, 0)
	ARC(DST_LOST, DEV_RECEIVED, DST_LOST, 0)
	ARC(DST_LOST, DEV_GO, DST_LOST, 0)
	ARC(DST_LOST, DEV_ABORT, DST_LOST, 0)
	ARC(DST_LOST, DEV_CANCEL, DST_LOST, 0)
	ARC(DST_LOST, DEV_PEER_LOST, DST_LOST, 0)
	ARC(DST_LOST, DEV_VMM_LOST, DST_LOST, 0)
	ARC(DST_LOST, DEV_CHANNEL_LOST, DST_LOST, 0)
	ARC(DST_DISCARDED, DEV_PREPARE, DST_DISCARDED, 0)
	ARC(DST_DISCARDED, DEV_RECEIVED, DST_DISCARDED, 0)
	ARC(DST_DISCARDED, DEV_LOADED, DST_DISCARDED, 0)
	ARC(DST_DISCARDED, DEV_GO, DST_DISCARDED, 0)
	ARC(DST_DISCARDED, DEV_ABORT, DST_DISCARDED, 0)
	ARC(DST_DISCARDED, DEV_CANCEL, DST_DISCARDED, 0)
	ARC(DST_DISCARDED, DEV_PEER_LOST, DST_DISCARDED, 0)
	ARC(DST_DISCARDED, DEV_VMM_LOST, DST_DISCARDED, 0)
	ARC(DST_DISCARDED, DEV_CHANNEL_LOST, DST_DISCARDED, 0)
	:: else -> assert(false)
	fi
}

/* ---- what survives a daemon's death ---- */

#define V_RUNNING 0
#define V_PAUSED 1
#define V_INCOMING 2
#define V_LOADED 3
#define V_RELEASED 4
#define V_DEAD 5

#define J_NONE 0
#define J_BEGUN 1
#define J_GO 2
#define J_DONE 3
#define J_NEVER 4

byte vs = V_RUNNING, vd = V_INCOMING; /* the VMMs */
byte js = J_NONE, jd = J_NONE;	      /* the journals: journal.c */

mtype = { PREPARE, PREPARED, STATE, READY, GO, RUNNING, ABORT, CANCEL, FAILED,	/* wire.h */
	  PAUSE, RESUME, RELEASE_VM, LOAD, RUN, DROP,				/* vmferry_vmm.h */
	  R_RUNNING, R_NEVER, R_LATER };					/* wire_resolved */

chan to_dst = [6] of { mtype, byte };	/* the control connection */
chan to_src = [6] of { mtype, byte };
bool link = true;
chan marks = [2] of { byte };		/* the channels: the final mark of a try */
chan ask_src_vmm = [4] of { mtype };
chan src_vmm_says = [4] of { mtype };
chan ask_dst_vmm = [4] of { mtype };
chan dst_vmm_says = [4] of { mtype };
chan resolve = [0] of { bit };		/* a connection of its own: WIRE_RESOLVE */
chan resolved = [0] of { mtype };

byte src_crashes = CRASHES, dst_crashes = CRASHES;
byte last_stop = 0; /* the try in which the source's guest was stopped last */
bool src_up = true, dst_up = true, has_incoming = true;

/* What is sent into a broken connection is lost. */
inline tell_dst(what, nr) { if :: link -> to_dst!what, nr :: else fi }
inline tell_src(what, nr) { if :: link -> to_src!what, nr :: else fi }

inline flush_chan(c, m_, n_) { do :: c?m_, n_ :: empty(c) -> break od }

/* ---- the VMMs: session.c. One thread each: requests are worked off in order ---- */

active proctype SourceVmm()
{
end_idle:
	do
	:: atomic { ask_src_vmm?PAUSE -> vs = V_PAUSED; src_vmm_says!PAUSE }	/* do_pause() */
	:: atomic { ask_src_vmm?RESUME ->					/* do_run() */
		assert(vd != V_RUNNING); vs = V_RUNNING; src_vmm_says!RESUME }
	:: atomic { ask_src_vmm?RELEASE_VM ->					/* do_release() */
		assert(vs != V_RUNNING); vs = V_RELEASED; src_vmm_says!RELEASE_VM }
#ifdef VMM_DIES
	:: vs != V_RELEASED -> vs = V_DEAD; break
#endif
	od;
end_dead:
	do :: ask_src_vmm?_ od
}

active proctype DestinationVmm()
{
end_idle:
	do
	:: atomic { ask_dst_vmm?LOAD -> vd = V_LOADED; dst_vmm_says!LOAD }	/* do_load() */
	:: atomic { ask_dst_vmm?RUN ->						/* do_run() */
		assert(vs != V_RUNNING && vd == V_LOADED); vd = V_RUNNING; dst_vmm_says!RUN }
	:: atomic { ask_dst_vmm?DROP ->						/* do_discard() */
		assert(vd != V_RUNNING); vd = V_INCOMING; dst_vmm_says!DROP }
#ifdef VMM_DIES
	:: vd = V_DEAD; break
#endif
	od;
end_dead:
	do :: ask_dst_vmm?_ od
}

/* A dead VMM's requests go nowhere; its answers are not owed any more. */
inline ask_src(what) { if :: vs != V_DEAD -> ask_src_vmm!what :: else fi }
inline ask_dst(what) { if :: vd != V_DEAD -> ask_dst_vmm!what :: else fi }

#define SRC_MAY_DIE if :: src_crashes > 0 -> src_crashes--; goto src_dies :: skip fi
#define DST_MAY_DIE if :: dst_crashes > 0 -> dst_crashes--; goto dst_dies :: skip fi

/* ---- the source's daemon ---- */

active proctype Source()
{
	byte machine = SRC_PRECOPY, e, then = NOTHING, nr, attempt = 0, dropped = 0;
	short a;
	mtype what;
	bool over = false, journaling = false, state_is_sent = false, has_peer = true, knows_vmm = true,
	     may_cancel = true;

top:
	e = NOTHING;
end_idle:
	if
	/* on_message() */
	:: !over && has_peer && nempty(to_src) -> to_src?what, nr;
		if
		:: what == PREPARED -> e = EV_PEER_PREPARED
		:: what == READY && nr == attempt && machine == SRC_SENDING && state_is_sent ->
			e = EV_SENT; then = EV_PEER_READY		/* switchover_take_ready() */
		:: what == READY && nr == attempt && machine == SRC_WAIT_READY -> e = EV_PEER_READY
		:: what == RUNNING && machine == SRC_GO_SENT -> e = EV_PEER_RUNNING
		:: what == FAILED && machine == SRC_GO_SENT -> e = EV_PEER_NEVER_RAN
		:: what == FAILED && machine != SRC_GO_SENT -> e = EV_PEER_LOST
		:: what == ABORT -> dropped = nr			/* WIRE_DROPPED */
		:: else						/* of a try that was called off */
		fi
	/* on_peer_lost(): nothing more comes, or its tail is lost */
	:: !over && has_peer && !link ->
		atomic { flush_chan(to_src, what, nr); has_peer = false; e = EV_PEER_LOST }
	/* answers of the VMM */
	:: src_vmm_says?what ->
		if
		:: what == PAUSE && machine == SRC_STOPPING && !over -> e = EV_STOPPED	/* on_paused() */
		:: what == RESUME && !over -> e = EV_RESUMED				/* on_resumed() */
		:: what == RELEASE_VM -> js = J_DONE					/* on_released() */
		:: else
		fi
	:: !over && knows_vmm && vs == V_DEAD -> knows_vmm = false; e = EV_VMM_LOST	/* on_vm_lost() */
	/* rounds: next_round() */
	:: !over && machine == SRC_PRECOPY -> e = EV_CONVERGED
	:: !over && machine == SRC_PREPARED && attempt < TRIES && dropped == attempt -> e = EV_CONVERGED
	/* tries are bounded: switchover_may_go_on() */
	:: !over && machine == SRC_PREPARED && attempt == TRIES && dropped == attempt -> e = EV_CANCEL
	/* on_journaled() */
	:: !over && journaling -> journaling = false;
		if
		:: js = J_BEGUN; e = EV_JOURNALED
		:: e = EV_CANCEL
		fi
	/* start_state_if_ready(), then switchover_state_is_sent() */
	:: !over && machine == SRC_SENDING && !state_is_sent ->
		atomic { state_is_sent = true; tell_dst(STATE, attempt); if :: link -> marks!attempt :: else fi }
	:: !over && machine == SRC_SENDING && state_is_sent -> e = EV_SENT
	/* switchover_on_budget(), is_off() */
	:: !over && machine >= SRC_STOPPING && machine <= SRC_WAIT_READY -> e = EV_OVER_BUDGET
	/* migration_cancel(), on_timeout() */
	:: !over && may_cancel && machine < SRC_GO_SENT -> may_cancel = false; e = EV_CANCEL
	/* recovery.c: ask() until there is an answer */
	:: !over && machine == SRC_HELD -> resolve!0; resolved?what;
		if
		:: what == R_RUNNING -> e = EV_PEER_RUNNING
		:: what == R_NEVER -> e = EV_PEER_NEVER_RAN
		:: else
		fi
	:: src_crashes > 0 -> src_crashes--; goto src_dies
	fi;

	/* migration_step(), carry_out() */
	do
	:: e != NOTHING ->
		atomic { a = 0; src_arcs() }
		e = then;
		then = NOTHING;
		if :: a & JOURNAL_BEGIN -> journaling = true :: else fi;
		if :: a & PREPARE_PEER -> tell_dst(PREPARE, 0) :: else fi;
		if :: a & STOP_VCPUS -> atomic { attempt++; last_stop = attempt; state_is_sent = false; ask_src(PAUSE) } :: else fi;
		if :: a & RESUME_GUEST -> SRC_MAY_DIE; ask_src(RESUME) :: else fi;
		if :: a & TELL_ABORT -> SRC_MAY_DIE; tell_dst(ABORT, attempt) :: else fi;
		if
		:: a & SEND_GO ->						/* switchover_send_go() */
			SRC_MAY_DIE;
			if
			:: js = J_GO; SRC_MAY_DIE; tell_dst(GO, 0)
			:: e = EV_PEER_NEVER_RAN				/* the journal refuses it */
			fi
		:: else
		fi;
		if :: a & TELL_CANCEL -> tell_dst(CANCEL, 0) :: else fi;
		if :: a & HOLD -> has_peer = false; link = false :: else fi;	/* switchover_hold() */
		if :: a & RELEASE -> SRC_MAY_DIE; ask_src(RELEASE_VM) :: else fi;
		if
		:: a & FINISH_SRC ->						/* finish() */
			SRC_MAY_DIE;
			link = false;
			if :: machine == SRC_FAILED && js == J_BEGUN || machine == SRC_FAILED && js == J_GO ->
				js = J_NEVER
			:: else
			fi;
			over = true
		:: else
		fi
	:: else -> break
	od;
	goto top;

src_dies:
	atomic { src_up = false; link = false; over = true; has_peer = false; machine = SRC_FAILED; journaling = false }
	/* Started again; the VMM registers once it has worked off what it was asked: source_registered() */
	empty(ask_src_vmm);
	do :: src_vmm_says?what :: empty(src_vmm_says) -> break od;
	src_up = true;
	if
	:: vs == V_RUNNING -> if :: js == J_BEGUN || js == J_GO -> js = J_NEVER :: else fi
	:: vs == V_PAUSED && js == J_GO ->					/* hold() */
		do
		:: resolve!0; resolved?what;
			if
			:: what == R_RUNNING -> ask_src(RELEASE_VM); break
			:: what == R_NEVER -> goto resume_here
			:: else
			fi
		:: vs == V_DEAD -> break
		od
	:: vs == V_PAUSED && js != J_GO ->					/* resume_here() */
resume_here:	ask_src(RESUME);
		do
		:: src_vmm_says?what -> js = J_NEVER; break
		:: vs == V_DEAD -> break
		od
	:: vs == V_RELEASED || vs == V_DEAD
	fi;
	goto top
}

/* ---- the destination's daemon ---- */

active proctype Destination()
{
	byte machine = DST_RECEIVING, e, nr, attempt = 0, taken = 0, mark = 0;
	short a;
	mtype what;
	bool over = false, has_peer = true, knows_vmm = true, is_asked = false;

top:
	e = NOTHING;
end_idle:
	if
	/* on_message() */
	:: has_incoming && has_peer && nempty(to_dst) -> to_dst?what, nr;
		if
		:: over						/* it lingers, and hears nothing */
		:: !over && what == PREPARE -> e = DEV_PREPARE
		:: !over && what == STATE -> attempt = nr	/* arrival_take_state() */
		:: !over && what == GO -> e = DEV_GO
		:: !over && what == ABORT -> attempt = nr; taken = nr; e = DEV_ABORT	/* arrival_take_abort() */
		:: !over && what == CANCEL -> e = DEV_CANCEL
		fi
	:: has_incoming && has_peer && !link ->
		atomic { flush_chan(to_dst, what, nr); has_peer = false; if :: !over -> e = DEV_PEER_LOST :: else fi }
	/* the channels: arrival_look_for_received() */
	:: has_incoming && !over && nempty(marks) -> marks?mark
	:: has_incoming && !over && machine == DST_PREPARED && attempt != 0 && attempt != taken && mark == attempt ->
		taken = attempt; e = DEV_RECEIVED
	/* answers of the VMM: on_loaded(), on_ran() */
	:: dst_vmm_says?what ->
		if
		:: what == LOAD && has_incoming && !over -> e = DEV_LOADED
		:: what == RUN && has_incoming && !over -> e = DEV_RAN
		:: else
		fi
	:: has_incoming && !over && knows_vmm && vd == V_DEAD -> knows_vmm = false; e = DEV_VMM_LOST
	/* incoming_resolve() */
	:: resolve?_ ->
		is_asked = true;
		if :: has_incoming && !over && machine < DST_STARTING -> e = DEV_PEER_LOST :: else fi
	:: dst_crashes > 0 -> dst_crashes--; goto dst_dies
	fi;

	if
	:: e != NOTHING ->
		nr = machine;
		atomic { a = 0; dst_arcs() }
		if
		:: a & PREPARE_DST -> jd = J_BEGUN; DST_MAY_DIE; tell_src(PREPARED, 0)	/* arrival_prepare() */
		:: else
		fi;
		if :: a & LOAD_STATE -> ask_dst(LOAD) :: else fi;
		if :: a & TELL_READY -> DST_MAY_DIE; tell_src(READY, taken) :: else fi;
		if
		:: a & RUN_GUEST ->
			assert(taken == last_stop && mark == taken);
			jd = J_GO; DST_MAY_DIE; ask_dst(RUN); DST_MAY_DIE	/* arrival_run_guest() */
		:: else
		fi;
		if
		:: a & TELL_RUNNING -> jd = J_DONE; DST_MAY_DIE; tell_src(RUNNING, 0)	/* arrival_started(), arrival_tell_running() */
		:: else
		fi;
		if
		:: a & DISCARD ->						/* discard() */
			if :: jd != J_NONE -> jd = J_NEVER :: else fi;
			DST_MAY_DIE;
			ask_dst(DROP)
		:: else
		fi;
		if :: a & TELL_FAILED -> DST_MAY_DIE; tell_src(FAILED, 0) :: else fi;
		if :: a & FINISH_DST -> over = true :: else fi;
		/* WIRE_DROPPED: the try is forgotten */
		if
		:: machine == DST_PREPARED && (e == DEV_ABORT || nr == DST_DROPPING) -> tell_src(ABORT, taken)
		:: else
		fi
	:: else
	fi;
	if
	:: is_asked ->
		if
		:: jd == J_DONE -> resolved!R_RUNNING
		:: jd == J_GO -> resolved!R_LATER
		:: else -> jd = J_NEVER; DST_MAY_DIE; resolved!R_NEVER
		fi;
		is_asked = false
	:: else
	fi;
	goto top;

dst_dies:
	atomic { dst_up = false; has_incoming = false; link = false; over = true }
	/* A question that was being answered is answered by the connection's end. */
	if :: is_asked -> is_asked = false; resolved!R_LATER :: else fi;
	/* Started again: destination_registered(), source_registered() */
	empty(ask_dst_vmm);
	do :: dst_vmm_says?what :: empty(dst_vmm_says) -> break od;
	dst_up = true;
	if
	:: vd == V_LOADED && jd == J_GO -> ask_dst(RUN);			/* on_ran() */
		do
		:: dst_vmm_says?what -> jd = J_DONE; break
		:: vd == V_DEAD -> break
		od
	:: vd == V_RUNNING -> assert(jd == J_GO || jd == J_DONE); jd = J_DONE
	:: (vd == V_LOADED || vd == V_INCOMING) && jd != J_GO ->
		if :: jd == J_BEGUN -> jd = J_NEVER :: else fi;
		ask_dst(DROP)							/* clean() */
	:: vd == V_INCOMING && jd == J_GO -> assert(false) /* its VMM did not die: it is loaded */
	:: vd == V_DEAD
	fi;
	goto top
}

/* Nothing moves any more: does exactly one of them run the guest? */
active proctype Judge()
{
	timeout;
	assert(!(vs == V_RUNNING && vd == V_RUNNING));
	assert(vs == V_RUNNING || vd == V_RUNNING || vs == V_DEAD || vd == V_DEAD);
	/* The destination's VMM died: before GO was heard the source still has its guest. */
	assert(vd != V_DEAD || vs == V_DEAD || vs == V_RUNNING || jd == J_GO || jd == J_DONE || js == J_GO || js == J_DONE)
}
