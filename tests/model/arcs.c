// SPDX-License-Identifier: GPL-2.0-or-later
/* Prints every arc of the daemon's switchover machines as switchover.pml writes it. */
#include <stdio.h>

#include "decide/switchover_dst.h"
#include "decide/switchover_src.h"

static const char *const src_actions[] = { "JOURNAL_BEGIN", "PREPARE_PEER", "STOP_VCPUS",  "SEND_REST",
					   "RESUME_GUEST",  "TELL_ABORT",   "SEND_GO",	   "TELL_CANCEL",
					   "HOLD",	    "RELEASE",	    "FINISH_SRC", "RETRY" };

static const char *const dst_actions[] = { "PREPARE_DST", "LOAD_STATE",	  "TELL_READY", "RUN_GUEST", "TELL_RUNNING",
					   "DISCARD",	  "TELL_FAILED", "FINISH_DST", "CRY" };

static void print_name(const char *machine, const char *name)
{
	printf("%s", machine);
	for (; *name; name++)
		putchar(*name == '-' ? '_' : *name >= 'a' && *name <= 'z' ? *name - 'a' + 'A' : *name);
}

static void print_arc(const char *machine, const char *const *names, unsigned int nr, const char *from,
		      const char *event, const char *to, unsigned int actions)
{
	const char *between = "";

	printf("ARC(");
	print_name(machine, from);
	printf(", ");
	print_name(machine[0] == 'S' ? "EV_" : "DEV_", event);
	printf(", ");
	print_name(machine, to);
	printf(", ");
	for (unsigned int i = 0; i < nr; i++)
		if (actions & 1u << i) {
			printf("%s%s", between, names[i]);
			between = " | ";
		}
	printf("%s)\n", actions ? "" : "0");
}

int main(void)
{
	for (int s = 0; s < SRC_NR_STATES; s++)
		for (int e = 0; e < SRC_NR_EVENTS; e++) {
			enum src_state to = (enum src_state)s;
			unsigned int actions;

			if (switchover_src_step(&to, (enum src_event)e, &actions))
				print_arc("SRC_", src_actions, 12, src_state_name((enum src_state)s),
					  src_event_name((enum src_event)e), src_state_name(to), actions);
		}
	for (int s = 0; s < DST_NR_STATES; s++)
		for (int e = 0; e < DST_NR_EVENTS; e++) {
			enum dst_state to = (enum dst_state)s;
			unsigned int actions;

			if (switchover_dst_step(&to, (enum dst_event)e, &actions))
				print_arc("DST_", dst_actions, 9, dst_state_name((enum dst_state)s),
					  dst_event_name((enum dst_event)e), dst_state_name(to), actions);
		}
	return 0;
}
