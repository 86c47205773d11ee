// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Answers about the outcome of migrations to this host: to a source that does not know it, to a source that does, and
 * to an operator who wants an entry of the journal dropped.
 *
 * Theory of operation
 *
 * A source that has sent GO and heard nothing holds its guest. It asks by WIRE_RESOLVE, and runs the guest on if the
 * answer is NEVER. So NEVER is answered only if something proves that GO was not heard here, and will not be:
 *
 *   live here, no GO yet        it ends, which notes "never"; then as below
 *   live here, being started    LATER
 *   entry says done             RUNNING
 *   entry says never            NEVER
 *   entry says go               LATER while its VMM may still say what it did; then UNKNOWN
 *   entry says begun            with proof, journal_proves_no_go(): "never" is noted, NEVER; else UNKNOWN
 *   no entry                    UNKNOWN if a VM here says that it has arrived by this migration; else
 *                               NEVER if this is the journal that the source was welcomed with; else UNKNOWN
 *
 * A VMM's word without an entry is a claim: any VMM that has learned the id can name it, under any name. It is not
 * believed, for a source that hears RUNNING gives its guest up, and none would run. Nor is it passed over, for the state
 * directory may have been restored from a copy, and NEVER would let two run. So it is reported here, and the source holds.
 * Where an entry is left, only a VMM of the entry's name counts, and a VMM of protocol 1 goes by that name; all that it
 * gains is LATER instead of UNKNOWN, and the guest is held as long either way. What a VMM itself is told to do by its claim
 * is in recovery.c: without an entry it is held, or its own RAM is emptied; it closes nothing.
 *
 * UNKNOWN leaves the decision to the operator of the source. Nothing is written for a question about a migration
 * that the journal does not have: anybody may ask.
 *
 * A source that knows the outcome tells it by WIRE_SETTLE until it is acknowledged; then both sides drop their entries.
 * The two sides may disagree: a source whose operator has said --run-here, while the guest runs here. Then nothing is
 * dropped and both say so.
 *
 *   entry says     the source: THERE (it runs here)               HERE (it runs at the source)
 *   none           SETTLED                                        SETTLED
 *   begun          SETTLED; with proof CONTRADICTS                SETTLED
 *   go             LATER: it is kept, see below                   SETTLED; LATER while its VMM may still say
 *   done           SETTLED                                        CONTRADICTS
 *   never          CONTRADICTS                                    SETTLED
 *
 * A "go" whose source has given the guest up is all that tells its VMM to start it: one that is away, with the guest loaded,
 * finds the entry when it registers again, however late, and runs the guest. Without the entry its RAM would be emptied, and
 * none would run. It is dropped once it says "done", or by the operator, who knows that this VMM has ended.
 *
 * Invariant: an entry that does not prove NEVER is dropped together with the journal's id. Else a question that comes
 * after it, from a stranger's SETTLE for one, would take the absent entry for proof, and two guests would run.
 *
 * A loss of power may bring an entry back that was dropped. It is acknowledged once more, or forgotten by the operator.
 */
#include "outcome.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/deadline.h"
#include "base/limited.h"
#include "held.h"
#include "incoming.h"
#include "settle.h"

#define VMM_PATIENCE_S 60 /* for a VMM that has lost its connection to register again: it tries every 8 s at least */

/* Of an entry that says "go": may its VMM still say whether the guest runs? */
static bool vmm_may_still_say(const struct ferry *f, const struct journal_entry *e)
{
	uint64_t now_s = (uint64_t)time(NULL);

	for (const struct vm *vm = f->vms.first; vm; vm = vm->next) {
		if (vm->last.role == JOURNAL_DESTINATION && !memcmp(vm->last.id, e->id, sizeof(e->id)) &&
		    !strcmp(vm->name, e->vm))
			return true;
		if (vm->version < 2 && !strcmp(vm->name, e->vm) &&
		    (vm->run_state == VMFERRY_RUN_LOADED || vm->run_state == VMFERRY_RUN_RUNNING))
			return true;
	}
	return now_ns() - f->started_ns < VMM_PATIENCE_S * NS_PER_S ||
	       (e->when_s <= now_s && now_s - e->when_s < VMM_PATIENCE_S);
}

/* Of a migration that is not in the journal: the VM here whose VMM says that it was started by it; NULL: none does */
static const struct vm *find_claimant(const struct ferry *f, const uint8_t id[16])
{
	for (const struct vm *vm = f->vms.first; vm; vm = vm->next)
		if (vm->last.role == JOURNAL_DESTINATION && !memcmp(vm->last.id, id, sizeof(vm->last.id)) &&
		    (vm->run_state == VMFERRY_RUN_RUNNING || vm->run_state == VMFERRY_RUN_PAUSED))
			return vm;
	return NULL;
}

/* Does the absence of an entry prove anything to who was welcomed with @journal? */
static bool absence_is_proof(const struct ferry *f, const uint8_t journal[16])
{
	static const uint8_t none[16];
	uint8_t mine[16];

	journal_id(f->journal, mine);
	return memcmp(mine, none, sizeof(mine)) && !memcmp(mine, journal, sizeof(mine));
}

/* What is answered of a migration that is not in the journal; see "A VMM's word" above. */
static enum wire_resolved resolve_absent(struct ferry *f, const uint8_t id[16], const uint8_t journal[16])
{
	const struct vm *vm = find_claimant(f, id);

	if (!vm)
		return absence_is_proof(f, journal) ? WIRE_RESOLVED_NEVER : WIRE_RESOLVED_UNKNOWN;
	limited_error(f->limited, LIMITED_MISPLACED,
		      "vm %s: its VMM (pid %d) says that its guest came by a migration which is not in the journal, and whose "
		      "source asks: the source holds that guest until its operator decides; if it is this guest: \"vmferry "
		      "resolve %s --gone\" at the source", vm->name, vm->pid, vm->name);
	return WIRE_RESOLVED_UNKNOWN;
}

/**
 * outcome_resolve() - a source that sent GO and heard nothing asks: does the guest run here?
 * @journal: the id that this daemon's journal had in the welcome to @id; zeros: the source does not know it
 */
enum wire_resolved outcome_resolve(struct ferry *f, const uint8_t id[16], const uint8_t journal[16])
{
	const struct journal_entry *e;

	if (incoming_give_up(f, id))
		return WIRE_RESOLVED_LATER;
	e = journal_find(f->journal, id, JOURNAL_DESTINATION);
	if (!e)
		return resolve_absent(f, id, journal);
	switch (e->mark) {
	case JOURNAL_DONE:
		return WIRE_RESOLVED_RUNNING;
	case JOURNAL_NEVER:
		return WIRE_RESOLVED_NEVER;
	case JOURNAL_GO:
		return vmm_may_still_say(f, e) ? WIRE_RESOLVED_LATER : WIRE_RESOLVED_UNKNOWN;
	default:
		if (!journal_proves_no_go(f->journal, e))
			return WIRE_RESOLVED_UNKNOWN;
		/* A promise: it is written first. */
		return journal_note(f->journal, id, JOURNAL_DESTINATION, JOURNAL_NEVER) ? WIRE_RESOLVED_LATER :
											  WIRE_RESOLVED_NEVER;
	}
}

static bool proves_never(const struct ferry *f, const struct journal_entry *e)
{
	return e->mark == JOURNAL_NEVER || journal_proves_no_go(f->journal, e);
}

/* See the table above. */
static enum wire_settled judge(const struct ferry *f, const struct journal_entry *e, enum wire_outcome o)
{
	if (e->mark == JOURNAL_GO && (o == WIRE_OUTCOME_THERE || vmm_may_still_say(f, e)))
		return WIRE_SETTLED_LATER;
	if (o == WIRE_OUTCOME_THERE ? proves_never(f, e) : e->mark == JOURNAL_DONE)
		return WIRE_SETTLED_CONTRADICTS;
	return WIRE_SETTLED;
}

/* 0, or a negative errno: it stays */
static int drop(struct ferry *f, const struct journal_entry *e)
{
	return proves_never(f, e) ? journal_settled(f->journal, e->id, e->role) : journal_drop(f->journal, e->id, e->role);
}

/* Nothing but its VMM, or the operator, ends this; see "A "go" whose source" above. */
static void say_awaited(const struct ferry *f, const struct journal_entry *e)
{
	char id[33];

	for (int i = 0; i < 16; i++)
		sprintf(id + i * 2, "%02x", e->id[i]);
	limited_error(f->limited, LIMITED_MISPLACED,
		      "vm %s: its source has given the guest up: it is this host's, GO was heard, and its VMM is away; it runs as "
		      "soon as that VMM registers again; if that has ended for good the guest is lost here: \"vmferry forget %s "
		      "--vmm-ended\"", e->vm, id);
}

/** outcome_settle() - a source tells the outcome of migration @id; the entry here is dropped if it agrees */
enum wire_settled outcome_settle(struct ferry *f, const uint8_t id[16], enum wire_outcome o)
{
	const struct journal_entry *e = journal_find(f->journal, id, JOURNAL_DESTINATION);
	enum wire_settled answer;

	if (incoming_is_live(f, id))
		return WIRE_SETTLED_LATER;
	if (!e)
		return WIRE_SETTLED;
	answer = judge(f, e, o);
	if (answer == WIRE_SETTLED_LATER && o == WIRE_OUTCOME_THERE && !vmm_may_still_say(f, e))
		say_awaited(f, e);
	if (answer == WIRE_SETTLED)
		return drop(f, e) ? WIRE_SETTLED_LATER : WIRE_SETTLED;
	if (answer == WIRE_SETTLED_CONTRADICTS)
		limited_error(f->limited, LIMITED_MISPLACED,
			      o == WIRE_OUTCOME_HERE ?
				      "vm %s: its source says that the guest runs there, and it was started here: it may "
				      "run twice; stop one of them" :
				      "vm %s: its source says that the guest runs here, and it never did: it may run "
				      "nowhere; look for it at its source", e->vm);
	return answer;
}

/* Is it @vm whose guest is not where it belongs yet, by migration @id? A VMM of version 1 names no id. */
static bool has_open_vm(struct ferry *f, const struct vm *vm, const uint8_t id[16])
{
	const struct journal_entry *e = journal_find(f->journal, id, JOURNAL_SOURCE);

	if (vm->last.role)
		return vm->run_state != VMFERRY_RUN_RUNNING && !memcmp(vm->last.id, id, sizeof(vm->last.id));
	return vm->run_state == VMFERRY_RUN_PAUSED && e && !strcmp(vm->name, e->vm);
}

/* Why the entries of @id are still needed, in @why; NULL: they are not */
static const char *is_needed(struct ferry *f, const uint8_t id[16], char *why, size_t len)
{
	for (const struct vm *vm = f->vms.first; vm; vm = vm->next) {
		if (!has_open_vm(f, vm, id))
			continue;
		snprintf(why, len, "the guest of vm %s is %s here, and this entry says what becomes of it; see \"vmferry "
			 "status %s\"", vm->name, vm_state_name(vm), vm->name);
		return why;
	}
	if (!incoming_is_live(f, id) && !migration_is_live(f, id))
		return NULL;
	snprintf(why, len, "this migration is not over");
	return why;
}

/* Why a VMM that is away still needs the entries of @id when it registers again, in @why; NULL: none does */
static const char *is_awaited(struct ferry *f, const uint8_t id[16], char *why, size_t len)
{
	const struct journal_entry *arrived = journal_find(f->journal, id, JOURNAL_DESTINATION), *left;

	if (arrived && arrived->mark == JOURNAL_GO) {
		snprintf(why, len, "it is kept for the VMM of vm %s, which is away: when that registers again it learns from here "
			 "that it has to run its guest; if that VMM has ended for good, say --vmm-ended", arrived->vm);
		return why;
	}
	left = journal_find(f->journal, id, JOURNAL_SOURCE);
	if (left && held_is_missing(f, left)) {
		snprintf(why, len, "the guest of vm %s is held by this entry: its VMM is away, and nobody has said where the guest runs; "
			 "see \"vmferry list\"; if that VMM has ended for good, say --vmm-ended", left->vm);
		return why;
	}
	if (!settle_is_awaiting_vmm(f, id))
		return NULL;
	snprintf(why, len, "it is kept for the VMM of vm %s, which is away: when that registers again it learns from here what "
		 "the operator decided; if that VMM has ended for good, say --vmm-ended",
		 journal_find(f->journal, id, JOURNAL_SOURCE)->vm);
	return why;
}

/**
 * outcome_forget() - the operator says that nobody will ask about migration @id any more
 * @vmm_has_ended: nor does its VMM come back, which is away
 * @why: room for words if it is refused
 *
 * Return: 0: the entries of both roles are gone; or a negative errno
 */
int outcome_forget(struct ferry *f, const uint8_t id[16], bool vmm_has_ended, char *why, size_t len)
{
	int err, nr = 0;

	if (is_needed(f, id, why, len) || (!vmm_has_ended && is_awaited(f, id, why, len)))
		return -EBUSY;
	for (int role = JOURNAL_SOURCE; role <= JOURNAL_DESTINATION; role++) {
		if (!journal_find(f->journal, id, (enum journal_role)role))
			continue;
		err = journal_drop(f->journal, id, (enum journal_role)role);
		if (err) {
			snprintf(why, len, "the journal cannot be written: %s", strerror(-err));
			return err;
		}
		nr++;
	}
	journal_sync(f->journal, NULL, NULL);
	if (nr)
		return 0;
	snprintf(why, len, "the journal has no migration of this id; see \"vmferry journal\"");
	return -ENOENT;
}
