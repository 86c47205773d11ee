// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: never two guests, whatever happens in whatever order.
 * Seen to fail: an arc SRC_GO_SENT/EV_PEER_LOST -> ACT_RESUME_GUEST; an arc
 * DST_PREPARED/DEV_GO -> DACT_RUN; an arc DST_READY/DEV_CHANNEL_LOST without DACT_TELL_FAILED.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "decide/switchover_dst.h"
#include "decide/switchover_src.h"

/* Pairs that cannot happen, counted: a new one must be thought about here. */
#define SRC_BUGS 87
#define DST_BUGS 14

static void every_pair_has_an_arc_or_is_a_bug(void **state)
{
	unsigned int bugs = 0;

	(void)state;
	for (int s = 0; s < SRC_NR_STATES; s++)
		for (int e = 0; e < SRC_NR_EVENTS; e++) {
			enum src_state to = (enum src_state)s;
			unsigned int actions = 99;

			if (!switchover_src_step(&to, (enum src_event)e, &actions)) {
				bugs++;
				assert_int_equal(to, s);
				assert_int_equal(actions, ACT_NONE);
			} else {
				assert_true(to < SRC_NR_STATES);
			}
		}
	assert_int_equal(bugs, SRC_BUGS);
	bugs = 0;
	for (int s = 0; s < DST_NR_STATES; s++)
		for (int e = 0; e < DST_NR_EVENTS; e++) {
			enum dst_state to = (enum dst_state)s;
			unsigned int actions = 99;

			if (!switchover_dst_step(&to, (enum dst_event)e, &actions))
				bugs++;
			else
				assert_true(to < DST_NR_STATES);
		}
	assert_int_equal(bugs, DST_BUGS);
}

static void go_is_sent_only_when_the_peer_is_ready(void **state)
{
	(void)state;
	for (int s = 0; s < SRC_NR_STATES; s++)
		for (int e = 0; e < SRC_NR_EVENTS; e++) {
			enum src_state to = (enum src_state)s;
			unsigned int actions;

			switchover_src_step(&to, (enum src_event)e, &actions);
			if (!(actions & ACT_SEND_GO))
				continue;
			assert_int_equal(s, SRC_WAIT_READY);
			assert_int_equal(e, EV_PEER_READY);
			assert_int_equal(to, SRC_GO_SENT);
			assert_false(actions & ACT_RESUME_GUEST);
		}
}

static void source_resumes_after_go_only_on_the_peers_promise(void **state)
{
	const enum src_state after[] = { SRC_GO_SENT, SRC_HELD, SRC_DONE };

	(void)state;
	for (int i = 0; i < 3; i++)
		for (int e = 0; e < SRC_NR_EVENTS; e++) {
			enum src_state to = after[i];
			unsigned int actions;

			assert_false(src_guest_may_run_here(after[i]));
			switchover_src_step(&to, (enum src_event)e, &actions);
			if (e != EV_PEER_NEVER_RAN) {
				assert_false(actions & ACT_RESUME_GUEST);
				assert_false(src_guest_may_run_here(to));
			}
		}
}

static void a_stopped_guest_is_resumed_by_every_failure_before_go(void **state)
{
	const enum src_state stopped[] = { SRC_STOPPING, SRC_SENDING, SRC_WAIT_READY };
	const enum src_event failures[] = { EV_OVER_BUDGET, EV_CANCEL, EV_PEER_LOST };

	(void)state;
	for (int i = 0; i < 3; i++)
		for (int k = 0; k < 3; k++) {
			enum src_state to = stopped[i];
			unsigned int actions;

			assert_true(switchover_src_step(&to, failures[k], &actions));
			assert_true(actions & ACT_RESUME_GUEST);
			assert_false(actions & (ACT_SEND_GO | ACT_RELEASE));
		}
}

static void every_state_reaches_an_end(void **state)
{
	bool ends[SRC_NR_STATES] = { [SRC_DONE] = true, [SRC_FAILED] = true };
	bool changed = true;

	(void)state;
	while (changed) {
		changed = false;
		for (int s = 0; s < SRC_NR_STATES; s++)
			for (int e = 0; e < SRC_NR_EVENTS && !ends[s]; e++) {
				enum src_state to = (enum src_state)s;
				unsigned int actions;

				if (switchover_src_step(&to, (enum src_event)e, &actions) && ends[to])
					ends[s] = changed = true;
			}
	}
	for (int s = 0; s < SRC_NR_STATES; s++)
		assert_true(ends[s]);
}

static void destination_runs_only_when_ready_and_told(void **state)
{
	(void)state;
	for (int s = 0; s < DST_NR_STATES; s++)
		for (int e = 0; e < DST_NR_EVENTS; e++) {
			enum dst_state to = (enum dst_state)s;
			unsigned int actions;

			switchover_dst_step(&to, (enum dst_event)e, &actions);
			if (actions & DACT_RUN) {
				assert_int_equal(s, DST_READY);
				assert_int_equal(e, DEV_GO);
			}
			/* After GO nothing discards; a discarded guest is never run. */
			if (s >= DST_STARTING && s <= DST_LOST)
				assert_false(actions & DACT_DISCARD);
			if (s == DST_DISCARDED)
				assert_int_equal(to, DST_DISCARDED);
			/* "Failed" is a promise: it never ran and never will. */
			if (actions & DACT_TELL_FAILED)
				assert_true(actions & DACT_DISCARD);
		}
}

static void a_lost_source_discards_before_go_and_runs_after(void **state)
{
	(void)state;
	for (int s = 0; s < DST_STARTING; s++) {
		enum dst_state to = (enum dst_state)s;
		unsigned int actions;

		assert_true(switchover_dst_step(&to, DEV_PEER_LOST, &actions));
		assert_true(actions & DACT_DISCARD);
	}
	for (int s = DST_STARTING; s <= DST_RUNNING; s++) {
		enum dst_state to = (enum dst_state)s;
		unsigned int actions;

		assert_true(switchover_dst_step(&to, DEV_PEER_LOST, &actions));
		assert_int_equal(to, s);
	}
}

/* GO may be on its way: a source that is not told holds its guest until it loses patience. */
static void a_lost_channel_is_told_to_the_source_before_go_and_ignored_after(void **state)
{
	(void)state;
	for (int s = 0; s < DST_NR_STATES; s++) {
		enum dst_state to = (enum dst_state)s;
		unsigned int actions;

		assert_true(switchover_dst_step(&to, DEV_CHANNEL_LOST, &actions));
		if (s < DST_STARTING) {
			assert_int_equal(to, DST_DISCARDED);
			assert_int_equal(actions, DACT_DISCARD | DACT_TELL_FAILED | DACT_FINISH);
		} else {
			assert_int_equal(to, s);
			assert_int_equal(actions, 0);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_pair_has_an_arc_or_is_a_bug),
		cmocka_unit_test(go_is_sent_only_when_the_peer_is_ready),
		cmocka_unit_test(source_resumes_after_go_only_on_the_peers_promise),
		cmocka_unit_test(a_stopped_guest_is_resumed_by_every_failure_before_go),
		cmocka_unit_test(every_state_reaches_an_end),
		cmocka_unit_test(destination_runs_only_when_ready_and_told),
		cmocka_unit_test(a_lost_source_discards_before_go_and_runs_after),
		cmocka_unit_test(a_lost_channel_is_told_to_the_source_before_go_and_ignored_after),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
