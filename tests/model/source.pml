/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The source's daemon: migration.c, switchover.c, closing.c, recovery.c, held.c, settle.c. See protocol.pml. */

active proctype Source()
{
	byte machine = SRC_PRECOPY, e, then = NOTHING, nr, attempt, dropped, heard = NOT_ASKED, told = NOT_ASKED;
	short a;
	mtype what;
	bool over, journaling, state_is_sent, has_peer = true, may_be_stopped, noted;
	bool asks; /* recovery's guest is held, and the peer is asked */

	is_begun;
top:
end_idle:
	atomic {
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
		:: what == ABORT -> dropped = nr; e = NOTHING		/* WIRE_DROPPED */
		:: else -> e = NOTHING					/* of a try that was called off */
		fi
	/* on_peer_lost(): nothing more comes, or its tail is lost */
	:: !over && has_peer && !link -> flush2(to_src); has_peer = false; e = EV_PEER_LOST
	/* answers of the VMM */
	:: vmm_s == UP && nempty(src_vmm_says) -> src_vmm_says?what; e = NOTHING;
		if
		:: what == PAUSE && machine == SRC_STOPPING && !over -> e = EV_STOPPED	/* on_paused() */
		:: what == RESUME && !over -> may_be_stopped = false; e = EV_RESUMED	/* on_resumed() */
		:: what == RESUME && over -> note_s(J_NEVER)				/* recovery.c: acted() */
		:: what == REFUSED ->							/* vm_disbelieve() */
			cut_src(); vmm_s = DOWN;
			if :: !over -> e = EV_VMM_LOST :: else fi
		:: else
		fi
	/* on_vm_lost(); what recovery held ends with the connection */
	:: vmm_s == CUT -> vmm_s = DOWN; asks = false; e = NOTHING;
		if :: !over -> e = EV_VMM_LOST :: else -> is_held = false fi
	/* it registers again: migration_vm_is_back(), else recovery.c: source_registered() */
	:: vmm_s == DOWN && vs != V_DEAD && vs != V_RELEASED && empty(ask_src_vmm) -> flush(src_vmm_says); vmm_s = UP; e = NOTHING;
		if
		:: !over && machine < SRC_GO_SENT -> may_be_stopped = vs != V_RUNNING; e = EV_CANCEL
		:: !over && machine >= SRC_GO_SENT
		:: over && vs == V_RUNNING -> assert(js != J_DONE);
			if :: js != J_NONE -> note_s(J_NEVER) :: else fi
		:: over && vs == V_PAUSED && (js == J_BEGUN && proof_s || js == J_NEVER) -> ask_src(RESUME)
		:: over && vs == V_PAUSED && (js == J_BEGUN && !proof_s || js == J_GO) -> asks = true; is_held = true; heard = NOT_ASKED
		:: over && vs == V_PAUSED && js == J_DONE -> ask_src(RELEASE_VM)
		:: over && vs == V_PAUSED && js == J_NONE -> is_held = true	/* no journal says why */
		fi
	/* rounds: next_round() */
	:: !over && machine == SRC_PRECOPY -> e = EV_CONVERGED
	:: !over && machine == SRC_PREPARED && attempt < TRIES && dropped == attempt -> e = EV_CONVERGED
	/* tries are bounded: switchover_may_go_on() */
	:: !over && machine == SRC_PREPARED && attempt == TRIES && dropped == attempt -> e = EV_CANCEL
	/* on_journaled() */
	:: !over && journaling -> journaling = false;
		if
		:: e = EV_JOURNALED
		:: refusals > 0 -> refusals--; e = EV_CANCEL
		fi
	/* start_state_if_ready(), then switchover_state_is_sent() */
	:: !over && machine == SRC_SENDING && !state_is_sent ->
		state_is_sent = true; tell_dst(STATE, attempt); e = NOTHING;
		if :: link -> marks!attempt :: else fi
	:: !over && machine == SRC_SENDING && state_is_sent -> e = EV_SENT
	/* switchover_on_budget(), is_off() */
	:: !over && machine >= SRC_STOPPING && machine <= SRC_WAIT_READY -> e = EV_OVER_BUDGET
	/* migration_cancel(), on_timeout() */
	:: !over && cancels > 0 && machine < SRC_GO_SENT -> cancels--; e = EV_CANCEL
	/* held.c: the asker, until there is an answer */
	:: (!over && machine == SRC_HELD || asks) && dst_up && heard != SITUATION ->
		heard = SITUATION; e = NOTHING; SRC_ASKS(GO);
		if
		:: what == R_RUNNING && !over -> e = EV_PEER_RUNNING
		:: what == R_NEVER && !over -> e = EV_PEER_NEVER_RAN
		:: what == R_RUNNING && over && asks -> asks = false; is_held = false; note_s(J_DONE); SRC_MAY_DIE; ask_src(RELEASE_VM)
		:: what == R_NEVER && over && asks -> asks = false; is_held = false; ask_src(RESUME)
		:: what == R_LOST -> heard = NOT_ASKED
		:: else
		fi
	/* held_resolve(): the operator */
	:: verb != 0 && is_held && vmm_s == UP -> is_held = false; asks = false; e = NOTHING;
		if
		:: verb == THERE && !over -> e = EV_PEER_RUNNING
		:: verb == HERE && !over -> e = EV_PEER_NEVER_RAN
		:: verb == THERE && over -> note_s(J_DONE); ask_src(RELEASE_VM)
		:: verb == HERE && over -> ask_src(RESUME)
		fi;
		verb = 0
#ifdef SETTLES
	/* settle.c: until the destination has acknowledged the outcome */
	:: over && (js == J_DONE && vs != V_PAUSED || js == J_NEVER) && dst_up && told != SITUATION ->
		told = SITUATION; e = NOTHING;
		if :: js == J_DONE -> what = THERE :: js == J_NEVER -> what = HERE fi;
		SRC_ASKS(what);
		if
		:: what == SETTLED -> js = J_NONE			/* journal_settled() */
		:: what == R_LOST -> told = NOT_ASKED
		:: what == CONTRADICTS -> assert(false)
		:: else
		fi
#endif
#ifdef ONE_DAEMON
	:: kill_s -> goto src_dies
#endif
	:: src_crashes > 0 -> src_crashes--;
#ifdef ONE_DAEMON
		kill_d = true;
#endif
		goto src_dies
	fi;

	/* migration_step(), carry_out() */
	do
	:: e != NOTHING && !over ->
		src_step();
		e = then;
		then = NOTHING;
		if
		:: a & JOURNAL_BEGIN && js <= J_BEGUN -> js = J_BEGUN; journaling = true	/* switchover_begin_journal() */
		:: a & JOURNAL_BEGIN && js > J_BEGUN -> e = EV_CANCEL				/* it contradicts what stands there */
		:: else
		fi;
		if :: a & PREPARE_PEER -> tell_dst(PREPARE, 0) :: else fi;
		if
		:: a & STOP_VCPUS ->
			attempt++; last_stop = attempt; state_is_sent = false; may_be_stopped = true; ask_src(PAUSE)
		:: else
		fi;
		if :: a & RESUME_GUEST -> SRC_MAY_DIE; is_held = false; ask_src(RESUME) :: else fi;
		if :: a & TELL_ABORT -> SRC_MAY_DIE; tell_dst(ABORT, attempt) :: else fi;
		if
		:: a & SEND_GO ->						/* switchover_send_go() */
			SRC_MAY_DIE;
			if
			:: note_s(J_GO); SRC_MAY_DIE; tell_dst(GO, 0)
			:: refusals > 0 -> refusals--; noted = false
			fi;
			if :: !noted -> e = EV_PEER_NEVER_RAN :: else fi
		:: else
		fi;
		if :: a & TELL_CANCEL -> tell_dst(CANCEL, 0) :: else fi;
		if
		:: a & HOLD -> has_peer = false; link = false; is_held = true; heard = NOT_ASKED	/* switchover_hold() */
		:: else
		fi;
		if
		:: a & RELEASE -> note_s(J_DONE); SRC_MAY_DIE; is_held = false; ask_src(RELEASE_VM)	/* switchover_release() */
		:: else
		fi;
		if
		:: a & FINISH_SRC ->						/* closing_begin() */
			SRC_MAY_DIE;
			link = false;
			if
			:: machine == SRC_FAILED && !may_be_stopped && js != J_NONE -> note_s(J_NEVER)
			:: else
			fi;
			over = true; has_peer = false; journaling = false; heard = NOT_ASKED; e = NOTHING
		:: else
		fi
	:: else -> break
	od;
	e = NOTHING
	}
	goto top;

src_dies:
	atomic {
		over = true; link = false; has_peer = false; journaling = false; asks = false; is_held = false;
		heard = NOT_ASKED; told = NOT_ASKED; e = NOTHING; then = NOTHING; machine = SRC_FAILED; attempt = 0; dropped = 0;
		state_is_sent = false; may_be_stopped = false;
		vmm_s = DOWN;
#if WIPES
		if
		:: wipes > 0 -> wipes--; proof_s = false;
			if
			:: js > J_BEGUN -> js = J_BEGUN
			:: skip
			fi
		:: skip
		fi;
#endif
		kill_s = false
	}
#ifdef ONE_DAEMON
	!kill_d;
#endif
	goto top
}
