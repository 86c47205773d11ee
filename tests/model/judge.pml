/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Who asks without a right to, and who judges at the end. See protocol.pml. */

#if QUESTIONS
/* Anybody who knows the migration's id. */
active proctype Stranger()
{
	is_begun;
end_idle:
	do
	:: questions > 0 -> questions--;
		if
		:: question!GO
#ifdef SETTLES
		:: question!THERE
		:: question!HERE
#endif
		fi;
		answer?_
	od
}
#endif

#define RUNS (vs == V_RUNNING || vd == V_RUNNING)

/* Nothing moves any more: no timer and no question is left. The operator knows who runs, and ends what is held. */
active proctype Judge()
{
	is_begun;
	timeout;
	assert(!(vs == V_RUNNING && vd == V_RUNNING));
	assert(vd != V_LOADED);
	if
	:: vs == V_PAUSED ->
		assert(is_held);
		/* What no disk, no tmpfs and no VMM has lost is found out by the daemons: nothing is left to the operator. */
		assert(vd == V_DEAD || !proof_s || !proof_d || !same_journal);
		if
		:: vd == V_RUNNING -> verb = THERE
		:: !ran_there -> verb = HERE
		:: else -> goto end /* it ran, and was lost with its VMM: nobody can know that it may run again */
		fi;
		timeout;
		assert(!verb && vs != V_PAUSED)
	:: else
	fi;
	assert(RUNS || vs == V_DEAD || vd == V_DEAD && ran_there);
#ifdef SETTLES
	/* What both sides know is dropped. An outcome that the source does not know is for "vmferry forget". */
	assert(vs == V_DEAD || vd == V_DEAD || js == J_NONE || js == J_GO || js == J_BEGUN && !proof_s)
#endif
end:	skip
}
