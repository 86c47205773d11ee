// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Acknowledges outcomes, the source's side: a migration that is over stays in the journals of both sides until they
 * agree on its outcome; outcome.c has the destination's side.
 *
 * Theory of operation
 *
 *   look through the journal: each closed entry of the source -> struct owed, due in a while
 *   timer -> what is due: a connection WIRE_SETTLE -> SETTLED      the entry is dropped
 *                                                  -> LATER        due again, after twice the time, up to 5 min
 *                                                  -> CONTRADICTS  said once; asked no more until the daemon restarts
 *                                                  -> no answer    all that is owed to this peer is due later
 *
 * The journal is looked through when the daemon starts, when settle_soon() says that an outcome was noted, and once a
 * minute: an outcome that there was no memory for, or that nobody told of, is found then.
 *
 * An entry is more than an outcome: a VMM that registers again with its guest paused is told to release it, or to run it
 * on. The entry is not settled while such a VMM is here, nor within RETURN_S after the daemon has started: VMMs are
 * still to come back then. "Done" is not settled within RELEASE_S after it was noted, either. settle_soon() says that
 * the VMM has acted, and ends both waits.
 *
 * What the operator says of a guest is kept until its VMM has acted, for AWAIT_S at most, settle_awaits_vmm(): a VMM that is
 * away, or loses its connection meanwhile, would hold the guest once more without the entry. So long the operator's forget is
 * refused, too, unless it says that the VMM has ended for good. A daemon that restarts does not know that any more.
 *
 * One connection a peer at a time, MAX_OUT at once: hosts that are gone must not keep others waiting, and one that
 * returns is not flooded.
 *
 * A destination that speaks version 2 of the wire cannot acknowledge anything. Its entries are dropped after a day.
 *
 * All of it is the loop's. While the daemon has nothing to settle it costs one timer a minute.
 */
#include "settle.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/deadline.h"
#include "base/error.h"
#include "connect.h"
#include "control/journal.h"
#include "held.h"

#define MAX_OUT 4
#define FIRST_NS NS_PER_S
#define MOST_NS (300 * NS_PER_S)
#define LOOK_NS (60 * NS_PER_S)
#define RELEASE_S 60
#define AWAIT_S (24 * 3600)
#define RETURN_S 15 /* a VMM that has lost its connection tries every 8 s at least */
#define OLD_PEER_S (24 * 3600)
#define NR_BUCKETS 256

/**
 * struct owed - an outcome that its destination has not acknowledged
 * @next: of its bucket
 * @delay_ns: how long to wait after the next answer that does not settle it
 * @is_out: a connection is on its way
 * @is_disputed: the destination contradicts
 * @is_awaited: the VMM of the guest may be away, and has to act on it first
 */
struct owed {
	struct owed *next;
	uint8_t id[16];
	char peer[256];
	uint64_t due_ns, delay_ns;
	bool is_out, is_disputed, is_awaited;
};

/** struct asking - one connection; @owed: what it tells; NULL: none is under way */
struct asking {
	struct settler *s;
	struct owed *owed;
	struct connector connector;
};

/**
 * struct settler - of one daemon
 * @owed: by the first byte of the id, which is random
 * @look_ns: when to look through the journal again
 */
struct settler {
	struct ferry *f;
	struct loop_timer timer;
	struct owed *owed[NR_BUCKETS];
	struct asking asking[MAX_OUT];
	uint64_t look_ns;
};

/* ---- what is owed ---- */

static struct owed *find(const struct settler *s, const uint8_t id[16])
{
	struct owed *o = s->owed[id[0]];

	while (o && memcmp(o->id, id, sizeof(o->id)))
		o = o->next;
	return o;
}

static void forget(struct settler *s, struct owed *o)
{
	struct owed **p = &s->owed[o->id[0]];

	while (*p != o)
		p = &(*p)->next;
	*p = o->next;
	free(o);
}

static bool is_closed(const struct journal_entry *e)
{
	return e->role == JOURNAL_SOURCE && (e->mark == JOURNAL_DONE || e->mark == JOURNAL_NEVER) && e->peer[0];
}

static uint64_t later_of(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* Until when @e is kept for a VMM that may still have to act on it. */
static uint64_t kept_until_ns(const struct settler *s, const struct journal_entry *e)
{
	uint64_t now_s = (uint64_t)time(NULL), age_s = now_s > e->when_s ? now_s - e->when_s : 0;
	uint64_t returned_ns = s->f->started_ns + RETURN_S * NS_PER_S;

	if (e->mark != JOURNAL_DONE || age_s >= RELEASE_S)
		return returned_ns;
	return later_of(returned_ns, now_ns() + (RELEASE_S - age_s) * NS_PER_S);
}

static void owe(struct settler *s, const struct journal_entry *e)
{
	struct owed *o = find(s, e->id);

	if (o || !is_closed(e))
		return;
	o = calloc(1, sizeof(*o));
	if (!o)
		return; /* the next look finds it */
	memcpy(o->id, e->id, sizeof(o->id));
	memcpy(o->peer, e->peer, sizeof(o->peer));
	o->due_ns = later_of(now_ns() + FIRST_NS, kept_until_ns(s, e));
	o->delay_ns = FIRST_NS;
	o->next = s->owed[o->id[0]];
	s->owed[o->id[0]] = o;
}

static void look(struct settler *s)
{
	struct journal *j = s->f->journal;

	for (const struct journal_entry *e = journal_next(j, NULL); e; e = journal_next(j, e))
		owe(s, e);
	s->look_ns = now_ns() + LOOK_NS;
}

/* Its guest stands here: the VMM is being told to let it go, or the operator has to decide. */
static bool has_paused_vm(const struct ferry *f, const struct journal_entry *e)
{
	for (const struct vm *vm = f->vms.first; vm; vm = vm->next)
		if (vm->run_state == VMFERRY_RUN_PAUSED && !held_is_anothers(e, vm->name) &&
		    (!vm->last.role || !memcmp(vm->last.id, e->id, sizeof(e->id))))
			return true;
	return false;
}

/* A VMM may have named the migration before it had an entry: it counts only if it has the name of the entry, too. */
static bool has_acting_vm(const struct ferry *f, const struct journal_entry *e)
{
	for (const struct vm *vm = f->vms.first; vm; vm = vm->next)
		if (vm->run_state != VMFERRY_RUN_PAUSED && vm->last.role == JOURNAL_SOURCE &&
		    !held_is_anothers(e, vm->name) && !memcmp(vm->last.id, e->id, sizeof(e->id)))
			return true;
	return false;
}

/* Its VMM is away, and may still come to hear of it. */
static bool is_awaited(const struct ferry *f, const struct owed *o, const struct journal_entry *e)
{
	return o->is_awaited && !has_acting_vm(f, e) && (uint64_t)time(NULL) < e->when_s + AWAIT_S;
}

static void postpone(struct owed *o)
{
	o->due_ns = now_ns() + o->delay_ns;
	o->delay_ns = o->delay_ns * 2 < MOST_NS ? o->delay_ns * 2 : MOST_NS;
}

/* ---- connections ---- */

static void go_on(struct settler *s);

static void settled(struct settler *s, struct owed *o)
{
	if (journal_find(s->f->journal, o->id, JOURNAL_SOURCE) && journal_settled(s->f->journal, o->id, JOURNAL_SOURCE))
		postpone(o); /* the marks are full, as the journal has said */
	else
		forget(s, o);
}

static void is_contradicted(struct settler *s, struct owed *o)
{
	const struct journal_entry *e = journal_find(s->f->journal, o->id, JOURNAL_SOURCE);

	o->is_disputed = true;
	if (e && e->mark == JOURNAL_NEVER)
		error_report("vm %s: the daemon at %s says that the guest was started there, and it was run on here: it may "
			     "run twice; stop one of them", e->vm, o->peer);
	else if (e)
		error_report("vm %s: the daemon at %s says that the guest never ran there, and it was given up here: it may "
			     "run nowhere", e->vm, o->peer);
}

/* A peer that does not answer one question would not answer the others. */
static void peer_is_silent(struct settler *s, const struct owed *silent)
{
	struct owed copy = *silent;

	postpone(&copy);
	for (unsigned int i = 0; i < NR_BUCKETS; i++)
		for (struct owed *o = s->owed[i]; o; o = o->next)
			if (!strcmp(o->peer, copy.peer) && o->due_ns < copy.due_ns) {
				o->due_ns = copy.due_ns;
				o->delay_ns = copy.delay_ns;
			}
}

/* A version 2 destination knows no acknowledgement, and one that is updated within a day does. */
static bool is_from_old_peer(const struct settler *s, const struct owed *o)
{
	const struct journal_entry *e = journal_find(s->f->journal, o->id, JOURNAL_SOURCE);
	uint64_t now_s = (uint64_t)time(NULL);

	return e && e->when_s + OLD_PEER_S < now_s;
}

static void on_answer(void *owner)
{
	struct asking *a = owner;
	struct settler *s = a->s;
	struct owed *o = a->owed;
	int err = a->connector.error, answer = a->connector.welcome.status;

	connector_fini(&a->connector);
	a->owed = NULL;
	o->is_out = false;
	if (err == -EPROTONOSUPPORT && is_from_old_peer(s, o))
		settled(s, o);
	else if (err)
		peer_is_silent(s, o);
	else if (answer == WIRE_SETTLED)
		settled(s, o);
	else if (answer == WIRE_SETTLED_CONTRADICTS)
		is_contradicted(s, o);
	else
		postpone(o);
	go_on(s);
}

static void ask(struct asking *a, struct owed *o, const struct journal_entry *e)
{
	struct ferry *f = a->s->f;

	connector_init(&a->connector, e->peer);
	a->connector.hello = wire_hello_for(WIRE_SETTLE);
	memcpy(a->connector.hello.id, e->id, sizeof(e->id));
	memcpy(a->connector.hello.host, f->host, sizeof(f->host));
	memcpy(a->connector.hello.journal, e->peer_journal, sizeof(e->peer_journal));
	a->connector.hello.outcome = e->mark == JOURNAL_DONE ? WIRE_OUTCOME_THERE : WIRE_OUTCOME_HERE;
	a->connector.done = on_answer;
	a->connector.owner = a;
	if (connector_start(&a->connector, f->loop, f->worker)) {
		connector_fini(&a->connector);
		postpone(o);
		return;
	}
	o->is_out = true;
	a->owed = o;
}

static struct asking *free_asking(struct settler *s, const char *peer)
{
	struct asking *found = NULL;

	for (unsigned int i = 0; i < MAX_OUT; i++) {
		if (!s->asking[i].owed)
			found = &s->asking[i];
		else if (!strcmp(s->asking[i].owed->peer, peer))
			return NULL;
	}
	return found;
}

/* Asks about @o if that is due and can be; Return: when it is due, 0: not known yet, or never */
static uint64_t see_to(struct settler *s, struct owed *o, uint64_t now)
{
	const struct journal_entry *e;
	struct asking *a;

	if (o->is_out || o->is_disputed)
		return 0;
	if (o->due_ns > now)
		return o->due_ns;
	a = free_asking(s, o->peer);
	if (!a)
		return 0; /* go_on() is called again when one has ended */
	e = journal_find(s->f->journal, o->id, JOURNAL_SOURCE);
	if (!e || !is_closed(e)) { /* the operator had it forgotten */
		forget(s, o);
		return 0;
	}
	if (has_paused_vm(s->f, e) || is_awaited(s->f, o, e))
		postpone(o);
	else
		ask(a, o, e);
	return o->is_out ? 0 : o->due_ns;
}

static void go_on(struct settler *s)
{
	uint64_t now = now_ns(), next_ns = s->look_ns;

	for (unsigned int i = 0; i < NR_BUCKETS; i++)
		for (struct owed *o = s->owed[i], *next; o; o = next) {
			uint64_t due_ns;

			next = o->next;
			due_ns = see_to(s, o, now);
			if (due_ns && due_ns < next_ns)
				next_ns = due_ns;
		}
	loop_timer_at(&s->timer, next_ns);
}

static void on_time(void *owner)
{
	struct settler *s = owner;

	if (now_ns() >= s->look_ns)
		look(s);
	go_on(s);
}

/* ---- what others call ---- */

/** settle_start() - begin with what the journal has; Return: 0, or a negative errno */
int settle_start(struct ferry *f)
{
	struct settler *s = calloc(1, sizeof(*s));
	int err = s ? loop_timer_init(&s->timer, f->loop, on_time, s) : -ENOMEM;

	if (err) {
		free(s);
		return err;
	}
	s->f = f;
	for (unsigned int i = 0; i < MAX_OUT; i++) {
		s->asking[i].s = s;
		connector_init(&s->asking[i].connector, "");
	}
	f->settler = s;
	look(s);
	go_on(s);
	return 0;
}

/* Migration @id among what is owed, from now on, this daemon being its source; NULL: its outcome is not noted, or no memory */
static struct owed *owe_outcome_of(struct ferry *f, const uint8_t id[16])
{
	struct settler *s = f->settler;
	const struct journal_entry *e = s ? journal_find(f->journal, id, JOURNAL_SOURCE) : NULL;

	if (!e)
		return NULL;
	owe(s, e);
	return find(s, id);
}

/** settle_soon() - the outcome of migration @id is noted, this daemon being its source, and its VMM has acted on it */
void settle_soon(struct ferry *f, const uint8_t id[16])
{
	struct owed *o = owe_outcome_of(f, id);

	if (!o)
		return;
	o->is_awaited = false;
	if (!o->is_out)
		o->due_ns = now_ns() + FIRST_NS;
	go_on(f->settler);
}

/** settle_awaits_vmm() - the operator's word about migration @id is noted, and the VMM of its guest has not acted on it yet */
void settle_awaits_vmm(struct ferry *f, const uint8_t id[16])
{
	struct owed *o = owe_outcome_of(f, id);

	if (!o)
		return;
	o->is_awaited = true;
	go_on(f->settler);
}

/** settle_is_awaiting_vmm() - what the operator said about migration @id is still kept for the VMM of its guest */
bool settle_is_awaiting_vmm(struct ferry *f, const uint8_t id[16])
{
	const struct settler *s = f->settler;
	const struct journal_entry *e = s ? journal_find(f->journal, id, JOURNAL_SOURCE) : NULL;
	const struct owed *o = e ? find(s, id) : NULL;

	return o && is_awaited(f, o, e);
}

/** settle_stop() - nothing is asked any more; what is owed stays in the journal. Nothing to do if it was not started */
void settle_stop(struct ferry *f)
{
	struct settler *s = f->settler;

	if (!s)
		return;
	f->settler = NULL;
	loop_timer_fini(&s->timer);
	for (unsigned int i = 0; i < MAX_OUT; i++)
		connector_fini(&s->asking[i].connector);
	for (unsigned int i = 0; i < NR_BUCKETS; i++)
		while (s->owed[i])
			forget(s, s->owed[i]);
	free(s);
}
