/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What lies outside of the daemons: journals, VMMs, connections, and what breaks them. See protocol.pml. */

#define NOTHING 99 /* no event */

mtype = { PREPARE, PREPARED, STATE, READY, GO, RUNNING, ABORT, CANCEL, FAILED,	/* wire.h */
	  PAUSE, RESUME, RELEASE_VM, LOAD, RUN, DROP, REFUSED,			/* vmferry_vmm.h */
	  R_RUNNING, R_NEVER, R_LATER, R_UNKNOWN, R_LOST,			/* wire_resolved */
	  THERE, HERE, SETTLED, CONTRADICTS };					/* wire_outcome, wire_settled */

/* ---- what survives a daemon's death: the VMMs and the journals ---- */

#define V_RUNNING 0
#define V_PAUSED 1
#define V_INCOMING 2
#define V_LOADED 3
#define V_RELEASED 4
#define V_DEAD 5

byte vs = V_RUNNING, vd = V_INCOMING;

#define J_NONE 0
#define J_BEGUN 1
#define J_GO 2
#define J_DONE 3
#define J_NEVER 4

#define AT_SRC 0
#define AT_DST 1
#define KEY(role) role			/* what an entry is found by, beside the migration's id: journal.c */

byte journal[2] = J_NONE;
#define js journal[KEY(AT_SRC)]
#define jd journal[KEY(AT_DST)]

bool proof_s = true, proof_d = true;	/* "begun" bears the stamp of the marks file that is open: journal_proves_no_go() */
bool synced_d;				/* "begun" is on the destination's disk */
bool same_journal = true;		/* the destination's journal has the id that the source learned in the welcome */

/* journal_note(): the table of what may follow what. The journal of another boot has the same table. */
inline note_s(m)
{
	if
	:: js == m -> noted = true
	:: js == J_BEGUN && m > J_BEGUN || js == J_GO && m > J_GO -> js = m; noted = true
	:: else -> noted = false
	fi
}

inline note_d(m)
{
	if
	:: jd == m -> noted = true
	:: jd == J_BEGUN && m > J_BEGUN || jd == J_GO && m == J_DONE || jd == J_NONE && m == J_DONE -> jd = m; noted = true
	:: else -> noted = false
	fi
}

/* ---- connections ---- */

chan to_dst = [5] of { mtype, byte };	/* the control connection */
chan to_src = [5] of { mtype, byte };
bool link = true;
chan marks = [2] of { byte };		/* the channels: the final mark of a try */
chan ask_src_vmm = [3] of { mtype };
chan src_vmm_says = [3] of { mtype };
chan ask_dst_vmm = [3] of { mtype };
chan dst_vmm_says = [3] of { mtype };
chan question = [0] of { mtype };	/* a connection of its own: WIRE_RESOLVE, or WIRE_SETTLE with THERE or HERE */
chan answer = [0] of { mtype };

#define UP 0	/* registered */
#define CUT 1	/* broken, and the daemon has not seen it */
#define DOWN 2	/* the daemon knows; the VMM registers again once it has worked off what it was asked */
byte vmm_s = UP, vmm_d = UP;

byte src_crashes = SRC_CRASHES, wipes = WIPES, power = POWER, refusals = REFUSALS;
#ifdef ONE_DAEMON
#define dst_crashes src_crashes
#else
byte dst_crashes = DST_CRASHES;
#endif
byte src_cuts = SRC_CUTS, dst_cuts = DST_CUTS, breaks = BREAKS, cancels = CANCELS, forgets = FORGETS, namesakes = NAMESAKES;
byte questions = QUESTIONS, resets = RESETS;
#ifdef VMM_DIES
bool src_may_die, dst_may_die;
#endif
bool is_begun; /* Fate has decided */

byte last_stop;		/* the try in which the source's guest was stopped last */
bool ran_there;		/* the destination's guest has run */
bool is_held;		/* the source has a guest that the operator's verb ends: held.c, switchover_hold() */
mtype verb;		/* what the operator says: THERE, HERE */
bool dst_up = true;
byte incoming = 1;	/* the destination's migration: 0 none, or over; 1 before RUN; 2 RUN is asked */
bool kill_s, kill_d;	/* ONE_DAEMON: the other side has died, and so has this one */
bool has_namesake;	/* ... is registered with the destination's daemon */

/* journal_drop(): an entry that does not prove NEVER is dropped together with the journal's id */
#define DROP_UNPROVEN jd = J_NONE; same_journal = false

/* All that an answer of the destination depends on: a question is asked again once that has changed. */
#define SITUATION (jd + 5 * (incoming + 3 * (dst_up + 2 * (proof_d + 2 * same_journal))))
#define NOT_ASKED 255

/* What is sent into a broken connection is lost. */
inline tell_dst(what_, nr_) { if :: link -> to_dst!what_, nr_ :: else fi }
inline tell_src(what_, nr_) { if :: link -> to_src!what_, nr_ :: else fi }

inline flush2(c) { do :: c?_, _ :: empty(c) -> break od }
inline flush(c) { do :: c?_ :: empty(c) -> break od }

/* A request to a VMM that has gone fails at once. */
inline ask_src(what_)
{
	if
	:: vmm_s == UP -> ask_src_vmm!what_
	:: vmm_s == CUT
	:: vmm_s == DOWN -> e = EV_VMM_LOST
	fi
}
inline ask_dst(what_) { if :: vmm_d == UP -> ask_dst_vmm!what_ :: else fi }

/* ---- the VMMs: session.c. One thread each: requests are worked off in order ---- */

inline cut_src() { flush(ask_src_vmm); flush(src_vmm_says); vmm_s = CUT }
inline cut_dst() { flush(ask_dst_vmm); flush(dst_vmm_says); vmm_d = CUT }

active proctype SourceVmm()
{
	is_begun;
end_idle:
	do
	:: atomic { ask_src_vmm?PAUSE -> vs = V_PAUSED; src_vmm_says!PAUSE }		/* do_pause() */
	:: atomic { ask_src_vmm?RESUME ->						/* do_run() */
		if
		:: vs == V_PAUSED -> assert(!ran_there); vs = V_RUNNING; src_vmm_says!RESUME
		:: else -> src_vmm_says!REFUSED
		fi }
	:: atomic { ask_src_vmm?RELEASE_VM ->						/* do_release() */
		assert(vs != V_RUNNING); vs = V_RELEASED; src_vmm_says!RELEASE_VM }
#if SRC_CUTS
	:: atomic { src_cuts > 0 && vmm_s == UP -> src_cuts--; cut_src() }
	:: atomic { src_cuts > 0 && (ask_src_vmm?[RESUME] || ask_src_vmm?[RELEASE_VM]) ->
		src_cuts--; ask_src_vmm?_; src_vmm_says!REFUSED }
#endif
#ifdef VMM_DIES
	:: atomic { src_may_die && vs != V_RELEASED -> vs = V_DEAD; if :: vmm_s == UP -> cut_src() :: else fi; break }
#endif
	od;
end_dead:
	false
}

active proctype DestinationVmm()
{
	is_begun;
end_idle:
	do
	:: atomic { ask_dst_vmm?LOAD -> vd = V_LOADED; dst_vmm_says!LOAD }		/* do_load() */
	:: atomic { ask_dst_vmm?RUN ->							/* do_run() */
		if
		:: vd == V_LOADED -> assert(vs != V_RUNNING); vd = V_RUNNING; ran_there = true; dst_vmm_says!RUN
		:: else -> dst_vmm_says!REFUSED
		fi }
	:: atomic { ask_dst_vmm?DROP ->							/* do_discard() */
		assert(vd != V_RUNNING); vd = V_INCOMING; dst_vmm_says!DROP }
#if DST_CUTS
	:: atomic { dst_cuts > 0 && vmm_d == UP -> dst_cuts--; cut_dst() }
	:: atomic { dst_cuts > 0 && ask_dst_vmm?[RUN] -> dst_cuts--; ask_dst_vmm?_; dst_vmm_says!REFUSED }
#endif
#ifdef VMM_DIES
	:: atomic { dst_may_die && vd != V_DEAD -> vd = V_DEAD; if :: vmm_d == UP -> cut_dst() :: else fi; break }
#endif
	:: atomic { vd == V_DEAD -> break } /* with its host's power */
	od;
end_dead:
	false
}

/*
 * Decides before anything moves how much of what may go wrong does: a guest must also run if nothing more breaks.
 * Then it breaks the control connection.
 */
#define LESS(of) do :: of > 0 -> of-- :: break od
active proctype Fate()
{
	d_step { fill_src_arcs(); fill_dst_arcs() }
	atomic {
		LESS(src_crashes);
		LESS(dst_crashes);
		LESS(src_cuts);
		LESS(dst_cuts);
		LESS(breaks);
		LESS(resets);
		LESS(cancels);
		LESS(forgets);
		LESS(namesakes);
		LESS(questions);
#ifdef VMM_DIES
		if :: src_may_die = true :: skip fi;
		if :: dst_may_die = true :: skip fi;
#endif
		is_begun = true
	}
end_idle:
	do
	:: atomic { breaks > 0 && link -> breaks--; link = false }
	od
}

/* A daemon dies between any two actions. One daemon that is both sides dies as both. */
#ifdef ONE_DAEMON
#define SRC_MAY_DIE if :: kill_s -> goto src_dies :: !kill_s :: !kill_s && src_crashes > 0 -> src_crashes--; kill_d = true; goto src_dies fi
#define SRC_ASKS(what_) if :: question!what_; answer?what :: kill_s -> goto src_dies fi
#define DST_MAY_DIE if :: kill_d -> goto dst_dies :: !kill_d :: !kill_d && dst_crashes > 0 -> dst_crashes--; kill_s = true; goto dst_dies fi
#else
#define SRC_MAY_DIE if :: src_crashes > 0 -> src_crashes--; goto src_dies :: skip fi
#define DST_MAY_DIE if :: dst_crashes > 0 -> dst_crashes--; goto dst_dies :: skip fi
#define SRC_ASKS(what_) question!what_; answer?what
#endif
