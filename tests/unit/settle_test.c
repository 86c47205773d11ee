// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: an outcome is told to its destination until that has acknowledged it: soon at first, ever more rarely, one
 * connection a peer at a time and four in all; what is contradicted is said once; what a VMM may still need is kept.
 * Seen to fail: with settle_soon() that tells nothing; with postpone() that waits no longer each time; without the wait
 * of RELEASE_S; without that of RETURN_S; with one peer that may take all connections; with CONTRADICTS asked again;
 * without is_awaited() the operator's word is dropped before the VMM hears it; with another VM's VMM taken for that one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "connect.h"
#include "control/journal.h"
#include "settle.h"

#define S 1000000000ULL
#define BOOTED_S 1000000 /* of the wall clock, when the monotonic one began */
#define MAX 16

static struct ferry f;
static uint64_t mono_ns;
static struct loop_timer *timer;
static void (*on_timer)(void *owner);
static void *timer_owner;
static uint64_t due_ns;
static struct journal_entry entries[MAX];
static bool is_there[MAX];
static struct connector *out[MAX]; /* that wait for an answer */
static unsigned int nr_out, nr_started, nr_said;

/* ---- time ---- */

int clock_gettime(clockid_t id, struct timespec *ts)
{
	(void)id;
	*ts = (struct timespec){ .tv_sec = (time_t)(mono_ns / S), .tv_nsec = (long)(mono_ns % S) };
	return 0;
}

time_t time(time_t *to)
{
	(void)to;
	return (time_t)(BOOTED_S + mono_ns / S);
}

int loop_timer_init_named(struct loop_timer *t, struct loop *l, void (*fn)(void *owner), void *owner, const char *name)
{
	(void)l;
	(void)name;
	timer = t;
	on_timer = fn;
	timer_owner = owner;
	return 0;
}

void loop_timer_at(struct loop_timer *t, uint64_t at_ns)
{
	assert_ptr_equal(t, timer);
	assert_int_not_equal(at_ns, 0);
	due_ns = at_ns;
}

void loop_timer_fini(struct loop_timer *t)
{
	(void)t;
	due_ns = 0;
}

/* So many seconds go by, and the timer with them. */
static void pass(uint64_t seconds)
{
	uint64_t end = mono_ns + seconds * S;

	while (due_ns && due_ns <= end) {
		uint64_t before = due_ns;

		mono_ns = due_ns > mono_ns ? due_ns : mono_ns;
		on_timer(timer_owner);
		assert_true(due_ns > before); /* else the loop would spin */
	}
	mono_ns = end;
}

/* ---- connections ---- */

void connector_init(struct connector *c, const char *uri)
{
	*c = (struct connector){ .control = -1 };
	snprintf(c->uri, sizeof(c->uri), "%s", uri);
}

int connector_start(struct connector *c, struct loop *l, struct worker *wk)
{
	(void)l;
	(void)wk;
	assert_int_equal(c->hello.role, WIRE_SETTLE);
	assert_true(nr_out < MAX);
	out[nr_out++] = c;
	nr_started++;
	return 0;
}

void connector_fini(struct connector *c)
{
	for (unsigned int i = 0; i < nr_out; i++)
		if (out[i] == c)
			out[i--] = out[--nr_out];
}

/* The first of the connections that are out is answered. */
static void answer(int error, int status)
{
	struct connector *c = out[0];

	assert_true(nr_out);
	out[0] = out[--nr_out];
	c->error = error;
	c->welcome.status = status;
	c->done(c->owner);
}

/* ---- the journal and the log ---- */

static int find(const uint8_t id[16])
{
	for (int i = 0; i < MAX; i++)
		if (is_there[i] && !memcmp(entries[i].id, id, 16))
			return i;
	return -1;
}

const struct journal_entry *journal_find(struct journal *j, const uint8_t id[16], enum journal_role role)
{
	int i = find(id);

	(void)j;
	return i >= 0 && entries[i].role == role ? &entries[i] : NULL;
}

const struct journal_entry *journal_next(struct journal *j, const struct journal_entry *after)
{
	(void)j;
	for (int i = after ? find(after->id) + 1 : 0; i < MAX; i++)
		if (is_there[i])
			return &entries[i];
	return NULL;
}

int journal_settled(struct journal *j, const uint8_t id[16], enum journal_role role)
{
	(void)j;
	assert_int_equal(role, JOURNAL_SOURCE);
	assert_true(find(id) >= 0);
	is_there[find(id)] = false;
	return 0;
}

void error_report(const char *fmt, ...)
{
	(void)fmt;
	nr_said++;
}

/* Entry @i is written now. */
static const uint8_t *note(int i, enum journal_role role, enum journal_mark mark, const char *peer)
{
	entries[i] = (struct journal_entry){ .id = { (uint8_t)(i * 40), 5 }, .role = role, .mark = mark, .vm = "web1" };
	entries[i].when_s = BOOTED_S + mono_ns / S;
	strcpy(entries[i].peer, peer);
	is_there[i] = true;
	return entries[i].id;
}

static int setup(void **state)
{
	(void)state;
	memset(&f, 0, sizeof(f));
	memset(is_there, 0, sizeof(is_there));
	mono_ns = 5000 * S;
	nr_out = nr_started = nr_said = 0;
	due_ns = 0;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	settle_stop(&f);
	assert_int_equal(nr_out, 0);
	return 0;
}

/* ---- tests ---- */

static void what_is_closed_is_told_and_then_dropped(void **state)
{
	(void)state;
	note(0, JOURNAL_SOURCE, JOURNAL_NEVER, "a");
	note(1, JOURNAL_DESTINATION, JOURNAL_NEVER, "");
	note(2, JOURNAL_SOURCE, JOURNAL_BEGUN, "b");
	note(3, JOURNAL_SOURCE, JOURNAL_GO, "c");
	assert_int_equal(settle_start(&f), 0);
	pass(0);
	assert_int_equal(nr_started, 0); /* not at once */
	pass(1);
	assert_int_equal(nr_started, 1);
	assert_string_equal(out[0]->uri, "a");
	assert_int_equal(out[0]->hello.outcome, WIRE_OUTCOME_HERE);
	assert_memory_equal(out[0]->hello.id, entries[0].id, 16);
	answer(0, WIRE_SETTLED);
	assert_false(is_there[0]);
	assert_true(is_there[1] && is_there[2] && is_there[3]);
	pass(1000);
	assert_int_equal(nr_started, 1);
	settle_soon(&f, note(2, JOURNAL_SOURCE, JOURNAL_DONE, "b"));
	pass(1);
	assert_int_equal(nr_started, 2);
	assert_int_equal(out[0]->hello.outcome, WIRE_OUTCOME_THERE);
}

static void one_that_nobody_told_of_is_found_within_a_minute(void **state)
{
	(void)state;
	assert_int_equal(settle_start(&f), 0);
	note(0, JOURNAL_SOURCE, JOURNAL_NEVER, "a");
	pass(62);
	assert_int_equal(nr_started, 1);
}

static void it_is_told_ever_more_rarely(void **state)
{
	unsigned int before;

	(void)state;
	assert_int_equal(settle_start(&f), 0);
	settle_soon(&f, note(0, JOURNAL_SOURCE, JOURNAL_NEVER, "a"));
	pass(1);
	for (int i = 0; i < 3; i++) { /* after 1, 2, 4 s */
		answer(0, WIRE_SETTLED_LATER);
		pass((1U << i) - 1);
		assert_int_equal(nr_out, 0);
		pass(1);
		assert_int_equal(nr_out, 1);
	}
	for (int i = 0; i < 10; i++) {
		answer(-ECONNREFUSED, 0);
		pass(300);
		assert_int_equal(nr_out, 1); /* 5 min at most */
	}
	answer(-ECONNREFUSED, 0);
	before = nr_started;
	pass(3000);
	assert_true(nr_started <= before + 1);
	assert_true(is_there[0]);
}

static void a_silent_peer_is_not_asked_for_each_and_keeps_nobody_waiting(void **state)
{
	(void)state;
	for (int i = 0; i < 4; i++)
		note(i, JOURNAL_SOURCE, JOURNAL_NEVER, "gone");
	note(4, JOURNAL_SOURCE, JOURNAL_NEVER, "here");
	note(5, JOURNAL_SOURCE, JOURNAL_NEVER, "here");
	assert_int_equal(settle_start(&f), 0);
	pass(1);
	assert_int_equal(nr_out, 2); /* one a peer */
	if (!strcmp(out[0]->uri, "gone"))
		answer(-EHOSTUNREACH, 0);
	assert_string_equal(out[0]->uri, "here");
	answer(0, WIRE_SETTLED);
	while (nr_out && strcmp(out[0]->uri, "here"))
		answer(-EHOSTUNREACH, 0);
	assert_int_equal(nr_out, 1); /* the next one at once */
	assert_string_equal(out[0]->uri, "here");
	answer(0, WIRE_SETTLED);
	assert_int_equal(nr_out, 0); /* none of the other three */
	pass(1);
	assert_int_equal(nr_out, 1);
	answer(0, WIRE_SETTLED); /* it is back: the rest follows */
	pass(10);
	answer(0, WIRE_SETTLED);
	answer(0, WIRE_SETTLED);
	answer(0, WIRE_SETTLED);
	assert_int_equal(journal_next(NULL, NULL) == NULL, 1);
}

static void four_at_once(void **state)
{
	static const char *const peers[] = { "a", "b", "c", "d", "e", "f" };

	(void)state;
	for (int i = 0; i < 6; i++)
		note(i, JOURNAL_SOURCE, JOURNAL_NEVER, peers[i]);
	assert_int_equal(settle_start(&f), 0);
	pass(1);
	assert_int_equal(nr_out, 4);
	answer(0, WIRE_SETTLED);
	assert_int_equal(nr_out, 4);
	assert_int_equal(nr_started, 5);
}

static void done_is_kept_for_a_vmm_that_has_not_released_its_guest(void **state)
{
	struct vm vm = { .name = "web1", .run_state = VMFERRY_RUN_PAUSED, .last = { .role = JOURNAL_SOURCE } };

	(void)state;
	memcpy(vm.last.id, note(0, JOURNAL_SOURCE, JOURNAL_DONE, "a"), 16);
	assert_int_equal(settle_start(&f), 0);
	pass(59);
	assert_int_equal(nr_started, 0); /* it may still register */
	f.vms.first = &vm;
	pass(600);
	assert_int_equal(nr_started, 0); /* it is being told to release it */
	vm.run_state = VMFERRY_RUN_RELEASED;
	settle_soon(&f, entries[0].id);
	pass(1);
	assert_int_equal(nr_started, 1);
	f.vms.first = NULL;
}

static void what_the_operator_says_is_kept_for_a_vmm_that_is_away(void **state)
{
	struct vm vm = { .name = "web1", .run_state = VMFERRY_RUN_PAUSED, .last = { .role = JOURNAL_SOURCE } };
	struct vm liar = { .run_state = VMFERRY_RUN_RUNNING };

	(void)state;
	assert_int_equal(settle_start(&f), 0);
	memcpy(vm.last.id, note(0, JOURNAL_SOURCE, JOURNAL_NEVER, "a"), 16);
	settle_awaits_vmm(&f, entries[0].id);
	settle_awaits_vmm(&f, note(1, JOURNAL_SOURCE, JOURNAL_DONE, "b"));
	pass(20 * 3600);
	assert_int_equal(nr_started, 0);
	assert_true(settle_is_awaiting_vmm(&f, entries[0].id) && settle_is_awaiting_vmm(&f, entries[1].id));
	strcpy(liar.name, "evil");
	liar.last = (struct vmferry_msg_migration){ .role = JOURNAL_SOURCE };
	memcpy(liar.last.id, entries[0].id, 16);
	f.vms.first = &liar;
	pass(600);
	assert_int_equal(nr_started, 0); /* it is another VM */
	assert_true(settle_is_awaiting_vmm(&f, entries[0].id));
	f.vms.first = &vm;
	pass(600);
	assert_int_equal(nr_started, 0); /* it is being told */
	vm.run_state = VMFERRY_RUN_RUNNING;
	settle_soon(&f, entries[0].id);
	assert_false(settle_is_awaiting_vmm(&f, entries[0].id));
	pass(1);
	assert_int_equal(nr_started, 1);
	answer(0, WIRE_SETTLED);
	pass(5 * 3600); /* it does not come any more */
	assert_false(settle_is_awaiting_vmm(&f, entries[1].id));
	assert_int_equal(nr_started, 2);
	f.vms.first = NULL;
}

/* After a restart: the VMM is told what the entry says, and then its destination. */
static void an_outcome_is_kept_for_vmms_that_have_not_come_back(void **state)
{
	const enum journal_mark marks[] = { JOURNAL_NEVER, JOURNAL_DONE };
	struct vm vm = { .name = "web1", .run_state = VMFERRY_RUN_PAUSED, .last = { .role = JOURNAL_SOURCE } };

	(void)state;
	for (int i = 0; i < 2; i++) {
		memcpy(vm.last.id, note(i, JOURNAL_SOURCE, marks[i], "a"), 16);
		pass(3600); /* the daemon is not there */
		f.started_ns = mono_ns;
		assert_int_equal(settle_start(&f), 0);
		pass(10);
		assert_int_equal(nr_started, i);
		f.vms.first = &vm; /* it has come back */
		pass(600);
		assert_int_equal(nr_started, i);
		vm.run_state = i ? VMFERRY_RUN_RELEASED : VMFERRY_RUN_RUNNING;
		settle_soon(&f, entries[i].id);
		pass(1);
		assert_int_equal(nr_started, i + 1);
		answer(0, WIRE_SETTLED);
		assert_false(is_there[i]);
		settle_stop(&f);
		f.vms.first = NULL;
		vm.run_state = VMFERRY_RUN_PAUSED;
	}
}

static void what_is_contradicted_is_said_once_and_kept(void **state)
{
	(void)state;
	note(0, JOURNAL_SOURCE, JOURNAL_NEVER, "a");
	note(1, JOURNAL_SOURCE, JOURNAL_NEVER, "a");
	assert_int_equal(settle_start(&f), 0);
	pass(1);
	answer(0, WIRE_SETTLED_CONTRADICTS);
	assert_int_equal(nr_said, 1);
	answer(0, WIRE_SETTLED);
	pass(100000);
	assert_int_equal(nr_started, 2);
	assert_int_equal(nr_said, 1);
	assert_int_equal(is_there[0] + is_there[1], 1);
}

static void what_the_operator_forgets_is_not_told(void **state)
{
	(void)state;
	note(0, JOURNAL_SOURCE, JOURNAL_NEVER, "a");
	assert_int_equal(settle_start(&f), 0);
	is_there[0] = false;
	pass(1000);
	assert_int_equal(nr_started, 0);
}

static void an_old_peer_that_knows_no_acknowledgement_is_given_a_day(void **state)
{
	(void)state;
	settle_start(&f);
	settle_soon(&f, note(0, JOURNAL_SOURCE, JOURNAL_NEVER, "a"));
	pass(1);
	answer(-EPROTONOSUPPORT, 0);
	assert_true(is_there[0]);
	for (int i = 0; i < 300 && is_there[0]; i++) {
		pass(300);
		if (nr_out)
			answer(-EPROTONOSUPPORT, 0);
	}
	assert_false(is_there[0]);
	assert_true(mono_ns > 5000 * S + 24 * 3600 * S);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(what_is_closed_is_told_and_then_dropped),
		TEST(one_that_nobody_told_of_is_found_within_a_minute),
		TEST(it_is_told_ever_more_rarely),
		TEST(a_silent_peer_is_not_asked_for_each_and_keeps_nobody_waiting),
		TEST(four_at_once),
		TEST(done_is_kept_for_a_vmm_that_has_not_released_its_guest),
		TEST(what_the_operator_says_is_kept_for_a_vmm_that_is_away),
		TEST(an_outcome_is_kept_for_vmms_that_have_not_come_back),
		TEST(what_is_contradicted_is_said_once_and_kept),
		TEST(what_the_operator_forgets_is_not_told),
		TEST(an_old_peer_that_knows_no_acknowledgement_is_given_a_day),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
