// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Counts how often each arc of both switchover machines was taken, by the calls that the daemons make; and lists the arcs
 * that no daemon can take, with the reason.
 *
 * Such an arc is there because the tables answer to each event in each state. One that is taken nevertheless fails the
 * run: then its reason is wrong.
 */
#include "arcs.h"

#include <stddef.h>
#include <stdio.h>

struct arcs arcs;

bool __wrap_switchover_src_step(enum src_state *state, enum src_event event, unsigned int *actions);
bool __wrap_switchover_dst_step(enum dst_state *state, enum dst_event event, unsigned int *actions);

bool __wrap_switchover_src_step(enum src_state *state, enum src_event event, unsigned int *actions)
{
	arcs.src[*state][event]++;
	return switchover_src_step(state, event, actions);
}

bool __wrap_switchover_dst_step(enum dst_state *state, enum dst_event event, unsigned int *actions)
{
	arcs.dst[*state][event]++;
	return switchover_dst_step(state, event, actions);
}

void arcs_add(struct arcs *to, const struct arcs *from)
{
	for (size_t i = 0; i < SRC_NR_STATES * SRC_NR_EVENTS; i++)
		(&to->src[0][0])[i] += (&from->src[0][0])[i];
	for (size_t i = 0; i < DST_NR_STATES * DST_NR_EVENTS; i++)
		(&to->dst[0][0])[i] += (&from->dst[0][0])[i];
}

#define ANY (-1)

/* The first row that fits counts. @state, @event: ANY for all */
struct unreachable {
	int state, event;
	const char *why;
};

static const struct unreachable src_unreachable[] = {
	{ SRC_DONE, ANY, "the migration is doomed in the step that comes to this state: migration_step() takes no event then" },
	{ SRC_FAILED, ANY, "the migration is doomed in the step that comes to this state: migration_step() takes no event then" },
	{ SRC_WAIT_READY, EV_PEER_READY, NULL },
	{ ANY, EV_PEER_READY, "switchover_take_ready() drops READY in any other state, and has EV_SENT come first" },
	{ SRC_STOPPING, EV_OVER_BUDGET, NULL },
	{ SRC_SENDING, EV_OVER_BUDGET, NULL },
	{ SRC_WAIT_READY, EV_OVER_BUDGET, NULL },
	{ ANY, EV_OVER_BUDGET, "switchover_on_budget() and is_off() call off only from the stop to READY" },
	{ SRC_PREPARING, EV_CONVERGED, "switch_over() begins one only in precopy and prepared" },
	{ SRC_JOURNALED, EV_CONVERGED, "switch_over() begins one only in precopy and prepared" },
	{ SRC_PEER_READY, EV_CONVERGED, "switch_over() begins one only in precopy and prepared" },
	{ SRC_PREPARED, EV_SENT, "on_job_done() has a job of the state only in sending" },
	{ SRC_ABORTING, EV_SENT, "on_job_done() has a job of the state only in sending" },
	{ SRC_GIVING_UP, EV_SENT, "on_job_done() has a job of the state only in sending" },
	{ SRC_ABORTING, EV_STOPPED, "on_paused() drops an answer that comes after the try was called off" },
	{ SRC_GIVING_UP, EV_STOPPED, "on_paused() drops an answer that comes after the try was called off" },
	{ SRC_GIVING_UP, EV_PEER_NEVER_RAN, "nobody is asked any more once RESUME was asked" },
	{ SRC_GO_SENT, EV_CANCEL, "migration_cancel() refuses after GO" },
	{ SRC_HELD, EV_CANCEL, "migration_cancel() refuses after GO" },
	{ SRC_HELD, EV_PEER_LOST, "switchover_hold() closes the connection; channels that fail are nobody's then" },
};

static const struct unreachable dst_unreachable[] = {
	{ DST_RUNNING, ANY, "the incoming is over: messages and losses change only its phase" },
	{ DST_LOST, ANY, "the incoming is over: messages and losses change only its phase" },
	{ DST_DISCARDED, ANY, "the incoming is over: messages and losses change only its phase" },
	{ DST_STARTING, DEV_CHANNEL_LOST, "on_received() passes over channels that end once the guest is being started" },
	{ DST_PREPARED, DEV_RECEIVED, NULL },
	{ ANY, DEV_RECEIVED, "arrival_look_for_received() looks only in prepared" },
};

#define NR(list) (sizeof(list) / sizeof((list)[0]))

static const char *why_not(const struct unreachable *list, size_t nr, int state, int event)
{
	for (size_t i = 0; i < nr; i++)
		if ((list[i].state == ANY || list[i].state == state) && (list[i].event == ANY || list[i].event == event))
			return list[i].why;
	return NULL;
}

static bool src_has(int s, int e)
{
	enum src_state state = (enum src_state)s;
	unsigned int actions;

	return switchover_src_step(&state, (enum src_event)e, &actions);
}

static bool dst_has(int s, int e)
{
	enum dst_state state = (enum dst_state)s;
	unsigned int actions;

	return switchover_dst_step(&state, (enum dst_event)e, &actions);
}

/* Return: is that arc as it has to be? */
static bool print_arc(const char *machine, const char *state, const char *event, uint64_t taken, const char *why_none,
		      uint64_t least, bool all)
{
	bool is_good = why_none ? !taken : taken >= least;

	if (all || !is_good)
		printf("# arc %s %s %s: %llu%s%s\n", machine, state, event, (unsigned long long)taken,
		       why_none ? "; cannot be taken: " : "", why_none ? why_none : "");
	return is_good;
}

/** arcs_print() - those that were taken less than @least times, those that cannot be taken and were, or @all. Return: all is well */
bool arcs_print(const struct arcs *a, uint64_t least, bool all)
{
	bool is_good = true;

	for (int s = 0; s < SRC_NR_STATES; s++)
		for (int e = 0; e < SRC_NR_EVENTS; e++)
			if (src_has(s, e))
				is_good &= print_arc("source", src_state_name((enum src_state)s), src_event_name((enum src_event)e),
						     a->src[s][e], why_not(src_unreachable, NR(src_unreachable), s, e), least, all);
	for (int s = 0; s < DST_NR_STATES; s++)
		for (int e = 0; e < DST_NR_EVENTS; e++)
			if (dst_has(s, e))
				is_good &= print_arc("destination", dst_state_name((enum dst_state)s),
						     dst_event_name((enum dst_event)e), a->dst[s][e],
						     why_not(dst_unreachable, NR(dst_unreachable), s, e), least, all);
	return is_good;
}
