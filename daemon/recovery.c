// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * After a crash: who owns the guest? Asked of the journal and of the VMM; held.c asks the peer.
 *
 * Theory of operation, when a VM registers. A VMM of protocol 2 names the last migration that it was told of, and its
 * side of it; verdicts[] then says what is done, by what the journal has of that migration. In words:
 *
 *   VMM says   journal, as source          what is done
 *   running    begun, go                   it runs on here, as somebody has decided: note "never"
 *   running    done                        it may run twice: say so
 *   paused     begun, the marks are whole  GO was never sent: resume
 *   paused     begun else, go              ask the peer until it answers; hold meanwhile
 *   paused     done                        it runs there: release
 *   paused     never                       resume
 *   paused     nothing                     not ours: hold it for the operator
 *   VMM says   journal, as destination
 *   running    begun, go                   note "done"
 *   running    never                       it may run twice: say so
 *   loaded     go, done                    GO was heard: run it
 *   loaded     else                        it has not run: note "never", discard
 *   incoming   begun                       note "never"; empty the RAM
 *   incoming   go                          the guest is lost with its VMM: say so loudly; the source may run it on
 *   incoming   done                        as before, but it has run here: the source must not run it on
 *
 * A VMM that names no migration had none, so no entry is its own: one of the same name may be another VM's. Two kinds
 * are found by their name nevertheless: those of protocol 1, and those that an older daemon moved, whose entries have
 * no time. By name a running VM may be taken for another one.
 *
 * A VMM may register and hang up without end. What is said of it is limited, base/limited.h, and its peer is asked once a
 * second, held.c.
 *
 * A VMM that registers again while its guest's migration is alive in this daemon is not recovery's:
 * migration_vm_is_back() answers it.
 *
 * A VMM whose entry is of a VM of another name lies, for a VM keeps its name when it moves. It is taken for one that
 * names none: another's guest must not be started, resumed or given up by its word. Entries without a name, which are
 * of an older daemon, are anybody's.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/limited.h"
#include "held.h"
#include "migration.h"

_Static_assert(VMFERRY_ROLE_SOURCE == (int)JOURNAL_SOURCE && VMFERRY_ROLE_DESTINATION == (int)JOURNAL_DESTINATION,
	       "what a VMM names is a key of the journal");

/* ---- RAM that must be empty ---- */

static void on_cleaned(void *arg, int status, const void *body, uint32_t len)
{
	struct vm *vm = arg;

	(void)body;
	(void)len;
	vm->is_busy = status != 0; /* not clean: no migration may use it */
	if (status && status != -ECONNRESET)
		limited_error(vm->limited, LIMITED_GUEST, "vm %s: its VMM cannot empty its RAM: %s; restart it", vm->name,
			      strerror(-status));
	vm_put(vm);
}

/** recovery_clean() - have its VMM empty its RAM; busy until that is done */
void recovery_clean(struct vm *vm)
{
	vm->is_busy = true;
	vm_ask(vm, VM_DISCARD, NULL, 0, -1, on_cleaned, vm_get(vm));
}

static void clean(struct ferry *f, struct vm *vm)
{
	/* As long as an incoming's threads may write to that RAM, it would not stay empty. */
	if ((!vm->is_fresh || vm->run_state == VMFERRY_RUN_LOADED) && !incoming_cleans_later(f, vm))
		recovery_clean(vm);
}

/* After "done" the guest has run here: its memory at the source is older than its disks. */
static void say_lost(const struct ferry *f, const struct vm *vm, enum journal_mark mark)
{
	if (mark == JOURNAL_DONE) {
		limited_error(f->limited, LIMITED_LOST, "vm %s: the guest ran here, and its VMM was restarted: the guest is lost "
			      "here; start it anew from its disks; if the source still holds it paused: \"vmferry resolve %s "
			      "--gone\" there, which gives its old memory up", vm->name, vm->name);
		return;
	}
	limited_error(f->limited, LIMITED_LOST, "vm %s: GO was heard, but its VMM was restarted: the guest is lost here; if the "
		      "source still holds it paused: \"vmferry resolve %s --run-here\" there", vm->name, vm->name);
}

/* ---- a VMM that names its migration ---- */

/* From here on it names nothing: neither are questions about that migration answered by what it says. */
static void forget_what_is_anothers(struct ferry *f, struct vm *vm)
{
	const struct journal_entry *e;

	for (int role = JOURNAL_SOURCE; vm->last.role && role <= JOURNAL_DESTINATION; role++) {
		e = journal_find(f->journal, vm->last.id, (enum journal_role)role);
		if (!e || !held_is_anothers(e, vm->name))
			continue;
		limited_error(f->limited, LIMITED_VMM, "vm %s: its VMM (pid %d) names a migration of vm %s as its own: it is "
			      "not believed; look at that VMM", vm->name, vm->pid, e->vm);
		vm->last = (struct vmferry_msg_migration){ 0 };
	}
}

/* Verdicts: bits, carried out in this order. */
enum verdict {
	NOTE_NEVER = 1 << 0,
	NOTE_DONE = 1 << 1,
	CRY = 1 << 2,
	LOST = 1 << 3,
	RESUME = 1 << 4,
	IF_PROVEN = 1 << 5, /* with RESUME: else ASK */
	RELEASE = 1 << 6,
	ASK = 1 << 7,
	HOLD = 1 << 8, /* there is nobody to ask */
	RUN = 1 << 9,
	CLEAN = 1 << 10,
};

#define NR_MARKS (JOURNAL_NEVER + 1)	   /* 0: the migration is not in the journal */
#define NR_STATES (VMFERRY_RUN_LOADED + 1) /* a VMM that has released its guest is told nothing */

/* clang-format off */
static const uint16_t verdicts[][NR_MARKS][NR_STATES] = {
	[JOURNAL_SOURCE] = {	   /* running	  paused	      incoming loaded */
		[0]		= { 0, 0,	  HOLD,		      CLEAN,   CLEAN },
		[JOURNAL_BEGUN] = { 0, NOTE_NEVER, RESUME | IF_PROVEN, CLEAN,   CLEAN },
		[JOURNAL_GO]	= { 0, NOTE_NEVER, ASK,		      CLEAN,   CLEAN },
		[JOURNAL_DONE]	= { 0, CRY,	  RELEASE,	      CLEAN,   CLEAN },
		[JOURNAL_NEVER] = { 0, 0,	  RESUME,	      CLEAN,   CLEAN },
	},
	[JOURNAL_DESTINATION] = {
		/* Acknowledged and forgotten, most often: its VM is proof enough. */
		[0]		= { 0, 0,	  HOLD,		    CLEAN,		CLEAN },
		[JOURNAL_BEGUN] = { 0, NOTE_DONE, NOTE_DONE | HOLD, NOTE_NEVER | CLEAN, NOTE_NEVER | CLEAN },
		[JOURNAL_GO]	= { 0, NOTE_DONE, NOTE_DONE | HOLD, LOST | CLEAN,	RUN },
		[JOURNAL_DONE]	= { 0, 0,	  HOLD,		    LOST | CLEAN,	RUN },
		[JOURNAL_NEVER] = { 0, CRY,	  HOLD,		    CLEAN,		CLEAN },
	},
};
/* clang-format on */

static void ask_peer(struct vm *vm, const struct journal_entry *e)
{
	held_begin(vm->held, e, e->mark == JOURNAL_GO ? HELD_GO_SENT : HELD_UNPROVEN);
}

static void resume(struct ferry *f, struct vm *vm, const struct journal_entry *e)
{
	limited_notice(f->limited, LIMITED_GUEST, "vm %s: its guest was stopped for a switchover that came to nothing: resuming it",
		       vm->name);
	held_resume(vm->held, e->id, e->role);
}

static void run(struct ferry *f, struct vm *vm, const struct journal_entry *e)
{
	limited_notice(f->limited, LIMITED_GUEST, "vm %s: GO was heard before this daemon ended: running the guest", vm->name);
	held_run(vm->held, e->id);
}

static void cry(const struct ferry *f, const struct vm *vm, enum journal_role role, const char *peer)
{
	if (role == JOURNAL_SOURCE)
		limited_error(f->limited, LIMITED_LOST, "vm %s: its guest runs here, and the journal says that it was moved to "
			      "%s: it may run twice; stop one of them (here: pid %d)", vm->name, peer, vm->pid);
	else
		limited_error(f->limited, LIMITED_LOST, "vm %s: its guest runs here, and the journal says that it never arrived: "
			      "it may run twice; stop one of them (here: pid %d)", vm->name, vm->pid);
}

static void carry_out(struct ferry *f, struct vm *vm, const struct journal_entry *e, unsigned int verdict)
{
	if (verdict & NOTE_NEVER)
		journal_note(f->journal, e->id, e->role, JOURNAL_NEVER);
	if (verdict & NOTE_DONE)
		journal_note(f->journal, e->id, e->role, JOURNAL_DONE);
	if (verdict & CRY)
		cry(f, vm, e->role, e->peer);
	if (verdict & LOST)
		say_lost(f, vm, e->mark);
	if (verdict & RESUME)
		resume(f, vm, e);
	if (verdict & RELEASE)
		held_release(vm->held, e->id, e->role);
	if (verdict & ASK)
		ask_peer(vm, e);
	if (verdict & HOLD)
		held_begin(vm->held, e, HELD_UNKNOWN_ID);
	if (verdict & RUN)
		run(f, vm, e);
	if (verdict & CLEAN)
		clean(f, vm);
}

static void judge(struct ferry *f, struct vm *vm)
{
	struct journal_entry e = { .role = (enum journal_role)vm->last.role };
	const struct journal_entry *known;
	unsigned int verdict;

	memcpy(e.id, vm->last.id, sizeof(e.id));
	known = journal_find(f->journal, e.id, e.role);
	if (known)
		e = *known; /* it is valid until the next call only */
	verdict = verdicts[e.role][known ? e.mark : 0][vm->run_state];
	if (verdict & IF_PROVEN && !journal_proves_no_go(f->journal, &e))
		verdict = ASK;
	carry_out(f, vm, &e, verdict);
}

/* ---- a VMM that names none: by its name ---- */

/*
 * A name proves nothing: any VMM may have it. So an entry is closed by name only as what it proves by itself, and "go" of
 * a source by its peer or the operator alone. Else a VMM that registers under the name of a guest that is held, while that
 * guest's VMM is away, would have the guest resumed when its VMM is back.
 */
static void close_by_name(struct ferry *f, const struct journal_entry *e)
{
	if (e->role == JOURNAL_DESTINATION && e->mark == JOURNAL_GO)
		journal_note(f->journal, e->id, e->role, JOURNAL_DONE);
	else if (journal_proves_no_go(f->journal, e))
		journal_note(f->journal, e->id, e->role, JOURNAL_NEVER);
}

/* An older daemon tells no VMM of a migration; its entries have no time. */
static const struct journal_entry *find_by_name(struct ferry *f, const struct vm *vm, enum journal_role role)
{
	const struct journal_entry *e = journal_open_entry(f->journal, vm->name, role);

	return e && (vm->version < 2 || !e->when_s) ? e : NULL;
}

static void source_by_name(struct ferry *f, struct vm *vm)
{
	const struct journal_entry *e = find_by_name(f, vm, JOURNAL_SOURCE), *d;

	if (vm->run_state == VMFERRY_RUN_RUNNING) {
		if (e)
			close_by_name(f, e);
		d = find_by_name(f, vm, JOURNAL_DESTINATION);
		if (d)
			close_by_name(f, d);
		return;
	}
	if (!e)
		held_begin(vm->held, &(struct journal_entry){ 0 }, HELD_NO_JOURNAL);
	else if (e->mark == JOURNAL_BEGUN && journal_proves_no_go(f->journal, e))
		resume(f, vm, e);
	else
		ask_peer(vm, e);
}

static void destination_by_name(struct ferry *f, struct vm *vm)
{
	const struct journal_entry *e = find_by_name(f, vm, JOURNAL_DESTINATION);

	if (vm->run_state == VMFERRY_RUN_LOADED && e && e->mark == JOURNAL_GO) {
		run(f, vm, e);
		return;
	}
	if (e && e->mark == JOURNAL_GO)
		say_lost(f, vm, e->mark);
	else if (e && journal_proves_no_go(f->journal, e)) /* else it may have run here, in another VMM of the name */
		journal_note(f->journal, e->id, JOURNAL_DESTINATION, JOURNAL_NEVER);
	clean(f, vm);
}

/**
 * recovery_refuses() - NULL, or in @text why @vm may not be registered
 *
 * What may ever be needed for it is allocated here: a VM that is registered can be held, resumed and released.
 */
const char *recovery_refuses(void *owner, struct vm *vm, char *text, size_t len)
{
	const char *why = plan_refuses(owner, vm, text, len);

	if (why)
		return why;
	vm->held = held_new(owner, vm);
	vm->held_free = held_free;
	if (vm->held)
		return NULL;
	snprintf(text, len, "vm %s: out of memory; try again", vm->name);
	return text;
}

/** recovery_registered() - called for each VM that registers; one whose migration is alive is answered by that */
void recovery_registered(void *owner, struct vm *vm)
{
	struct ferry *f = owner;

	if (vm->run_state == VMFERRY_RUN_RELEASED || (!vm_is_incoming(vm) && migration_vm_is_back(f, vm)))
		return;
	forget_what_is_anothers(f, vm);
	if (vm->last.role == JOURNAL_SOURCE || vm->last.role == JOURNAL_DESTINATION)
		judge(f, vm);
	else if (vm_is_incoming(vm))
		destination_by_name(f, vm);
	else
		source_by_name(f, vm);
}
