/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The destination's daemon: incoming.c, arrival.c, recovery.c, outcome.c. See protocol.pml. */

active proctype Destination()
{
	byte machine = DST_RECEIVING, e, nr, attempt, taken, mark;
	short a;
	mtype what, asked = 0;
	bool over, has_peer = true, noted, is_syncing;

	is_begun;
top:
end_idle:
	atomic {
	if
	/* on_message() */
	:: incoming && has_peer && nempty(to_dst) -> to_dst?what, nr; e = NOTHING;
		if
		:: what == PREPARE -> e = DEV_PREPARE
		:: what == STATE -> attempt = nr			/* arrival_take_state() */
		:: what == GO -> e = DEV_GO;				/* GO that cannot be noted is refused */
			if
			:: machine == DST_READY && refusals > 0 -> refusals--; e = DEV_VMM_LOST
			:: machine == DST_READY -> note_d(J_GO); if :: !noted -> e = DEV_VMM_LOST :: else fi
			:: machine != DST_READY
			fi
		:: what == ABORT -> attempt = nr; taken = nr; e = DEV_ABORT	/* arrival_take_abort() */
		:: what == CANCEL -> e = DEV_CANCEL
		fi
	:: incoming && has_peer && !link -> flush2(to_dst); has_peer = false; e = DEV_PEER_LOST
	/* the channels: arrival_look_for_received() */
	:: incoming && nempty(marks) -> marks?mark; e = NOTHING
	:: incoming && machine == DST_PREPARED && attempt != 0 && attempt != taken && mark == attempt ->
		taken = attempt; e = DEV_RECEIVED
	/* on_begun(): PREPARED waits for the disk */
	:: incoming && is_syncing -> is_syncing = false; e = NOTHING;
		if
		:: synced_d = true;
			if :: machine == DST_PREPARED -> DST_MAY_DIE; tell_src(PREPARED, 0) :: else fi
		:: refusals > 0 && machine == DST_PREPARED -> refusals--; e = DEV_VMM_LOST
		fi
	/* answers of the VMM: on_loaded(), on_ran() */
	:: vmm_d == UP && nempty(dst_vmm_says) -> dst_vmm_says?what; e = NOTHING;
		if
		:: what == LOAD && incoming -> e = DEV_LOADED
		:: what == RUN && incoming -> e = DEV_RAN
		:: what == RUN && !incoming -> note_d(J_DONE)		/* recovery.c: acted() */
		:: what == REFUSED ->					/* vm_disbelieve() */
			cut_dst(); vmm_d = DOWN;
			if :: incoming -> e = DEV_VMM_LOST :: else fi
		:: else
		fi
	/* on_vm_lost() */
	:: vmm_d == CUT -> vmm_d = DOWN; e = NOTHING;
		if :: incoming -> e = DEV_VMM_LOST :: else fi
	/* recovery.c: destination_registered() */
	:: vmm_d == DOWN && vd != V_DEAD && !incoming && empty(ask_dst_vmm) -> flush(dst_vmm_says); vmm_d = UP; e = NOTHING;
		if
		:: vd == V_RUNNING -> assert(jd != J_NEVER); note_d(J_DONE)
		:: vd == V_LOADED && (jd == J_GO || jd == J_DONE) -> ask_dst(RUN)
		:: vd == V_LOADED && jd != J_GO && jd != J_DONE ->
			if :: jd == J_BEGUN -> note_d(J_NEVER) :: else fi;
			DST_MAY_DIE;
			ask_dst(DROP)
		:: vd == V_INCOMING -> ask_dst(DROP)
		fi
	/* outcome_resolve(): what has no GO ends first, and its source is told; outcome_settle() */
	:: question?asked -> e = NOTHING;
		if :: incoming == 1 && asked == GO -> e = DEV_CHANNEL_LOST :: else fi
#if RESETS
	/* on_received() */
	:: incoming && resets > 0 -> resets--; e = DEV_CHANNEL_LOST
#endif
#if FORGETS
	:: forgets > 0 && (jd == J_DONE || jd == J_NEVER) -> forgets--; e = NOTHING; DROP_UNPROVEN
#endif
#if NAMESAKES
	/* plan_take(), plan_refuses(): a name runs once here */
	:: namesakes > 0 && !has_namesake && incoming < 2 -> namesakes--; has_namesake = true; e = NOTHING;
		if :: incoming == 1 -> e = DEV_VMM_LOST :: else fi
#endif
#ifdef ONE_DAEMON
	:: kill_d -> goto dst_dies
#endif
	:: dst_crashes > 0 -> dst_crashes--;
#ifdef ONE_DAEMON
		kill_s = true;
#endif
		goto dst_dies
	fi;

	if
	:: e != NOTHING && !over ->
		nr = machine;
		dst_step();
		if
		:: a & PREPARE_DST ->						/* arrival_prepare() */
			if
			:: jd <= J_BEGUN -> jd = J_BEGUN; is_syncing = true
			/* It contradicts what stands there: DEV_VMM_LOST in PREPARED */
			:: jd > J_BEGUN -> machine = DST_DISCARDED; a = DISCARD | TELL_FAILED | FINISH_DST
			fi
		:: else
		fi;
		if :: a & LOAD_STATE -> ask_dst(LOAD) :: else fi;
		if :: a & TELL_READY -> DST_MAY_DIE; tell_src(READY, taken) :: else fi;
		if
		:: a & RUN_GUEST ->						/* arrival_run_guest() */
			assert(taken == last_stop && mark == taken && !has_namesake);
			incoming = 2; DST_MAY_DIE; ask_dst(RUN); DST_MAY_DIE
		:: else
		fi;
		if
		:: a & TELL_RUNNING -> note_d(J_DONE); DST_MAY_DIE; tell_src(RUNNING, 0)	/* arrival_started(), arrival_tell_running() */
		:: else
		fi;
		if
		:: a & DISCARD ->						/* discard() */
			if :: jd != J_NONE -> note_d(J_NEVER) :: else fi;
			DST_MAY_DIE;
			ask_dst(DROP)
		:: else
		fi;
		if :: a & TELL_FAILED -> DST_MAY_DIE; tell_src(FAILED, 0) :: else fi;
		/* Nothing is said of a VMM that was lost after GO: the connection ends. */
		if :: a & CRY -> link = false :: else fi;
		if :: a & FINISH_DST -> over = true; incoming = 0; has_peer = false :: else fi;
		/* WIRE_DROPPED: the try is forgotten */
		if
		:: machine == DST_PREPARED && (e == DEV_ABORT || nr == DST_DROPPING) -> tell_src(ABORT, taken)
		:: else
		fi
	:: else
	fi;
	e = NOTHING; nr = 0;
	if
	:: asked == GO ->							/* outcome_resolve() */
		asked = 0;
		if
		:: incoming == 2 || jd == J_GO -> answer!R_LATER
		:: incoming != 2 && jd == J_DONE -> answer!R_RUNNING
		:: jd == J_NEVER -> answer!R_NEVER
		:: jd == J_BEGUN && proof_d -> note_d(J_NEVER); asked = GO; DST_MAY_DIE; asked = 0; answer!R_NEVER
		:: jd == J_BEGUN && !proof_d -> answer!R_UNKNOWN
		:: jd == J_NONE && same_journal -> answer!R_NEVER
		:: jd == J_NONE && !same_journal -> answer!R_UNKNOWN
		fi
#ifdef SETTLES
	:: asked == THERE ->							/* outcome_settle() */
		asked = 0;
		if
		:: incoming != 0 || jd == J_GO -> answer!R_LATER
		:: incoming == 0 && jd == J_NONE -> answer!SETTLED
		:: incoming == 0 && (jd == J_DONE || jd == J_BEGUN && !proof_d) ->
			DROP_UNPROVEN; answer!SETTLED
		:: incoming == 0 && (jd == J_NEVER || jd == J_BEGUN && proof_d) -> answer!CONTRADICTS
		fi
	:: asked == HERE ->
		asked = 0;
		if
		:: incoming != 0 || jd == J_GO && vmm_d == UP -> answer!R_LATER
		:: incoming == 0 && (jd == J_NEVER || jd == J_BEGUN && proof_d || jd == J_NONE) -> jd = J_NONE; answer!SETTLED
		:: incoming == 0 && (jd == J_GO && vmm_d != UP || jd == J_BEGUN && !proof_d) -> DROP_UNPROVEN; answer!SETTLED
		:: incoming == 0 && jd == J_DONE -> answer!CONTRADICTS
		fi
#endif
	:: else
	fi
	}
	goto top;

dst_dies:
	atomic {
		dst_up = false; incoming = 0; over = true; link = false; has_peer = false; has_namesake = false;
		machine = DST_DISCARDED; e = NOTHING; nr = 0; is_syncing = false; attempt = 0; taken = 0; mark = 0;
		vmm_d = DOWN;
		/* A question that was being answered is answered by the connection's end. */
		if :: asked -> asked = 0; answer!R_LOST :: else fi;
#if WIPES || POWER
		if
#if WIPES
		:: wipes > 0 -> wipes--; proof_d = false;
			if :: jd > J_BEGUN -> jd = J_BEGUN :: skip fi
#endif
#if POWER
		:: power > 0 -> power--; proof_d = false; vd = V_DEAD; flush(ask_dst_vmm);
			if
			:: jd > J_BEGUN && synced_d -> jd = J_BEGUN
			:: !synced_d -> jd = J_NONE
			:: jd = J_NONE; same_journal = false	/* the disk is damaged: the journal has a new id */
			:: skip
			fi
#endif
		:: skip
		fi;
#endif
		kill_d = false
	}
#ifdef ONE_DAEMON
	!kill_s;
#endif
	dst_up = true;
	goto top
}
