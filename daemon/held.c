// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A guest that stands here while no migration of this daemon has it: what is asked of its VMM, what is asked of its
 * peer, and what the operator may decide.
 *
 * Theory of operation
 *
 *   held_new(): with each VM that registers ---------> NOT
 *   recovery.c:  held_begin() NOT -> ASKING --peer says never, or operator: run here--> RESUMING --answer--> NOT
 *                                    |    \--peer says running, or operator: gone----> RELEASING --answer--> NOT
 *                                    `-- without a peer: only the operator
 *                held_resume() NOT -> RESUMING        held_run() NOT -> STARTING --answer--> NOT
 *   migration:   held_release() NOT -> RELEASING
 *
 * A held is of one connection of a VMM. It ends with that connection, and lets the RAM go. What lasts is the journal's
 * entry: when the VMM registers again, recovery.c begins anew from there. So nothing of it can be lost but an answer,
 * and that is asked for again.
 *
 * Invariants:
 *   - It is allocated before the VM is registered: a VM that is registered can always be held.
 *   - NEVER is noted after the VMM has said that the guest runs, not before, unless the operator has decided. A VMM that
 *     refuses is disbelieved: its connection ends, it registers again, and is asked once more.
 *   - DONE of a source is noted before RELEASE is asked: the guest is the peer's from then on, whatever the VMM
 *     answers. One that comes back paused with this migration's id is asked to leave again.
 *   - An operator's word is noted at once, before a VMM is asked: a VMM that is not connected, or that loses its connection
 *     before it has acted, is told when it registers again. No second guest comes of a NEVER that is noted while the guest
 *     is still paused: the operator has said that the guest never runs at the peer, and settle.c does not tell the peer
 *     before the VMM has acted, or a day has passed.
 */
#include "held.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/deadline.h"
#include "base/error.h"
#include "base/limited.h"
#include "held_meant.h"
#include "migration.h"
#include "settle.h"

#define ASK_AGAIN_NS NS_PER_S
#define ASK_UNKNOWING_NS (60 * NS_PER_S) /* a peer without proof seldom finds one */
#define REMIND_EVERY 60

/* ---- the asker ---- */

static void ask(struct asker *a);

static void take_answer(struct asker *a, enum wire_resolved answer)
{
	limited_notice(a->f->limited, LIMITED_GUEST, "vm %s: the peer at %s says: the guest %s", a->vm, a->connector.uri,
		       answer == WIRE_RESOLVED_RUNNING ? "runs there" : "never ran there");
	asker_stop(a);
	a->answer(a->arg, answer);
}

/**
 * held_advice() - what the operator may say of the guest of @vm that migration @id holds, and what comes of it
 *
 * It is named by @id if @vm fits other held guests, too.
 * Return: @text
 */
const char *held_advice(struct ferry *f, const char *vm, const uint8_t id[16], char *text, size_t len)
{
	char handle[64];

	held_handle(f, vm, id, handle);
	snprintf(text, len, "\"vmferry resolve %s --gone\" if it runs at the other host (its memory here is given up), or "
		 "\"vmferry resolve %s --run-here\" if it surely never ran there and never will (it goes on here)", handle, handle);
	return text;
}

static void remind(const struct asker *a)
{
	char advice[512];

	held_advice(a->f, a->vm, a->connector.hello.id, advice, sizeof(advice));
	if (a->says_unknown)
		limited_error(a->f->limited, LIMITED_GUEST, "vm %s: still held paused: the peer at %s does not know whether the "
			      "guest ran there, as after a loss of power; look there, then say %s", a->vm, a->connector.uri,
			      advice);
	else
		limited_error(a->f->limited, LIMITED_GUEST, "vm %s: still held paused: the peer at %s does not say whether the "
			      "guest runs there; if you know, say %s", a->vm, a->connector.uri, advice);
}

static void on_asked(void *owner)
{
	struct asker *a = owner;
	int answer = a->connector.error ? 0 : a->connector.welcome.status;
	bool was_unknown = a->says_unknown;

	connector_fini(&a->connector);
	if (answer == WIRE_RESOLVED_RUNNING || answer == WIRE_RESOLVED_NEVER) {
		take_answer(a, (enum wire_resolved)answer);
		return;
	}
	a->says_unknown = answer == WIRE_RESOLVED_UNKNOWN;
	if (++a->asked % REMIND_EVERY == 1 || a->says_unknown != was_unknown)
		remind(a);
	loop_timer_at(&a->again, now_ns() + (a->says_unknown ? ASK_UNKNOWING_NS : ASK_AGAIN_NS));
}

static void on_again(void *owner)
{
	ask(owner);
}

/*
 * When the peer may be asked: at once, or a second after it was asked last about this migration, maybe by an asker of an
 * earlier connection of the VMM. Two migrations with the same first byte forget each other's time: ids are random, and a
 * VMM is held with a peer to ask only if its migration is in the journal.
 */
static uint64_t may_ask_at_ns(struct asker *a, uint64_t now)
{
	const uint8_t *id = a->connector.hello.id;
	struct ferry_asked *last = &a->f->asked[id[0] % FERRY_NR_ASKED];

	if (last->when_ns && !memcmp(last->id, id, sizeof(last->id)) && now < last->when_ns + ASK_AGAIN_NS)
		return last->when_ns + ASK_AGAIN_NS;
	memcpy(last->id, id, sizeof(last->id));
	last->when_ns = now;
	return now;
}

static void ask(struct asker *a)
{
	uint64_t now = now_ns(), at = may_ask_at_ns(a, now);

	if (at > now) {
		loop_timer_at(&a->again, at);
		return;
	}
	if (!connector_start(&a->connector, a->f->loop, a->f->worker))
		return;
	connector_fini(&a->connector);
	loop_timer_at(&a->again, now_ns() + ASK_AGAIN_NS);
}

/** asker_init() - nothing is asked yet; Return: 0, or -ENOMEM, and @a is as after asker_fini() */
int asker_init(struct asker *a, struct ferry *f, void (*answer)(void *arg, enum wire_resolved a), void *arg)
{
	*a = (struct asker){ .f = f, .answer = answer, .arg = arg };
	connector_init(&a->connector, "");
	return loop_timer_init(&a->again, f->loop, on_again, a);
}

/**
 * asker_start() - ask the peer of @e what became of it, until there is an answer
 * @e: copied; its peer is the address that welcomed the migration, without a name: a name may stand for another host now
 *
 * Context: the loop; @a is initialized and stopped.
 */
void asker_start(struct asker *a, const struct journal_entry *e)
{
	connector_init(&a->connector, e->peer);
	snprintf(a->vm, sizeof(a->vm), "%s", e->vm);
	a->connector.hello = wire_hello_for(WIRE_RESOLVE);
	memcpy(a->connector.hello.id, e->id, 16);
	memcpy(a->connector.hello.host, a->f->host, 16);
	memcpy(a->connector.hello.journal, e->peer_journal, 16);
	a->connector.done = on_asked;
	a->connector.owner = a;
	a->asked = 0;
	a->says_unknown = false;
	a->is_on = true;
	ask(a);
}

/** asker_stop() - answer() is not called any more; may be called again, and on zeroes */
void asker_stop(struct asker *a)
{
	if (!a->is_on)
		return;
	a->is_on = false;
	connector_fini(&a->connector);
	loop_timer_stop(&a->again);
}

/** asker_fini() - asker_stop(), and what asker_init() made; may be called again, and on zeroes */
void asker_fini(struct asker *a)
{
	asker_stop(a);
	loop_timer_fini(&a->again);
}

/* ---- a guest that stands here ---- */

enum held_step { HELD_NOT, HELD_ASKING, HELD_RESUMING, HELD_STARTING, HELD_RELEASING };

/**
 * struct held - of one VM, as long as its VMM is connected; the VM's, see vm->held
 * @step: what is under way; @why: of HELD_ASKING
 * @e: the migration it is about; a copy, zeroes where nothing is known
 */
struct held {
	struct ferry *f;
	struct vm *vm;
	struct vm_watcher watcher;
	struct asker asker;
	enum held_step step;
	enum held_why why;
	struct journal_entry e;
};

static void end(struct held *h)
{
	h->step = HELD_NOT;
	h->vm->is_busy = false;
	if (h->vm->watcher == &h->watcher)
		h->vm->watcher = NULL;
}

static void on_vm_lost(void *owner)
{
	struct held *h = owner;

	asker_stop(&h->asker);
	end(h);
}

static void watch(struct held *h, enum held_step step)
{
	h->step = step;
	h->vm->is_busy = true;
	h->watcher = (struct vm_watcher){ on_vm_lost, h };
	if (h->vm->sock)
		h->vm->watcher = &h->watcher;
}

/* Only an entry that is there is closed: what is not in the journal is not proven by a VM's word. */
static void note(struct held *h, enum journal_mark mark)
{
	const struct journal_entry *e = journal_find(h->f->journal, h->e.id, h->e.role);

	if (e && !held_is_anothers(e, h->vm->name))
		journal_note(h->f->journal, h->e.id, h->e.role, mark);
}

/* Return: true: the VMM has done @what. Else the VM stays busy until its connection ends. */
static bool has_acted(struct held *h, int status, const char *what)
{
	struct vm *vm = h->vm;

	if (!status) {
		end(h);
		limited_notice(h->f->limited, LIMITED_GUEST, "vm %s: its VMM did %s", vm->name, what);
		return true;
	}
	if (status != -ECONNRESET)
		limited_error(h->f->limited, LIMITED_VMM, "vm %s: its VMM did not %s: %s; it is asked again; look at the VMM "
			      "(pid %d)", vm->name, what, strerror(-status), vm->pid);
	vm_disbelieve(vm);
	return false;
}

static void on_resumed(void *arg, int status, const void *body, uint32_t len)
{
	struct held *h = arg;

	(void)body;
	(void)len;
	if (!has_acted(h, status, "run the guest on"))
		return;
	if (h->e.role == JOURNAL_SOURCE) {
		note(h, JOURNAL_NEVER);
		settle_soon(h->f, h->e.id);
	}
	h->f->emit(h->f, h->vm->name, "MIGRATION", migration_status_name(MIGRATION_FAILED));
}

static void on_ran(void *arg, int status, const void *body, uint32_t len)
{
	struct held *h = arg;

	(void)body;
	(void)len;
	if (!has_acted(h, status, "start the guest"))
		return;
	note(h, JOURNAL_DONE);
	h->f->emit(h->f, h->vm->name, "MIGRATION_ARRIVED", NULL);
}

static void on_released(void *arg, int status, const void *body, uint32_t len)
{
	struct held *h = arg;

	(void)body;
	(void)len;
	if (has_acted(h, status, "let its guest go, which runs elsewhere"))
		settle_soon(h->f, h->e.id);
}

static void act(struct held *h, enum held_step step, enum vm_request request, vm_answer_fn answer)
{
	asker_stop(&h->asker);
	watch(h, step);
	vm_ask(h->vm, request, NULL, 0, -1, answer, h);
}

static void remember(struct held *h, const uint8_t id[16], enum journal_role role)
{
	struct journal_entry named = { .role = role };
	const struct journal_entry *e;

	memcpy(named.id, id, sizeof(named.id)); /* first: it may be the journal's */
	e = journal_find(h->f->journal, named.id, role);
	h->e = e && !held_is_anothers(e, h->vm->name) ? *e : named;
	snprintf(h->e.vm, sizeof(h->e.vm), "%s", h->vm->name);
}

/** held_resume() - migration @id came to nothing: its VMM runs the guest on here */
void held_resume(struct held *h, const uint8_t id[16], enum journal_role role)
{
	remember(h, id, role);
	act(h, HELD_RESUMING, VM_RESUME, on_resumed);
	vm_ask(h->vm, VM_STOP_LOG, NULL, 0, -1, NULL, NULL);
}

/** held_run() - GO of migration @id was heard: its VMM starts the guest, which has arrived here */
void held_run(struct held *h, const uint8_t id[16])
{
	remember(h, id, JOURNAL_DESTINATION);
	act(h, HELD_STARTING, VM_RUN, on_ran);
}

/** held_release() - the guest of migration @id runs elsewhere for good: noted at once, then its VMM lets it go */
void held_release(struct held *h, const uint8_t id[16], enum journal_role role)
{
	remember(h, id, role);
	if (role == JOURNAL_SOURCE)
		note(h, JOURNAL_DONE);
	act(h, HELD_RELEASING, VM_RELEASE, on_released);
}

/* It is held no longer. */
static void decide(struct held *h, bool runs_there)
{
	struct journal_entry e = h->e;

	if (!runs_there) {
		held_resume(h, e.id, e.role);
		return;
	}
	held_release(h, e.id, e.role);
	h->f->emit(h->f, e.vm, "MIGRATION", migration_status_name(MIGRATION_COMPLETED));
}

static void on_peer_answered(void *arg, enum wire_resolved answer)
{
	decide(arg, answer == WIRE_RESOLVED_RUNNING);
}

/** held_words() - why @h is held, for the operator */
const char *held_words(const struct held *h, char *text, size_t len)
{
	const char *peer = h->e.peer;
	int n = 0;

	switch (h->why) {
	case HELD_GO_SENT:
		n = snprintf(text, len, "GO was sent to %s: the guest is held paused here until the peer says whether it runs "
			     "there", peer);
		break;
	case HELD_UNPROVEN:
		n = snprintf(text, len, "its switchover to %s had begun, and what was written after that is lost here: the guest "
			     "is held paused here until the peer says whether it runs there", peer);
		break;
	case HELD_UNKNOWN_ID:
		n = snprintf(text, len, "a migration paused it that is not in the journal here: the guest is held paused here");
		break;
	case HELD_NO_JOURNAL:
		n = snprintf(text, len, "its guest is paused and no journal here says why: it is held paused here");
		break;
	}
	if (h->asker.says_unknown && (size_t)n < len)
		snprintf(text + n, len - (size_t)n, "; the peer does not know");
	return text;
}

/**
 * held_begin() - nobody here knows whether the guest of @h may run: ask, and let the operator decide
 * @e: the migration that has paused it, copied; with an empty peer there is nobody to ask
 */
void held_begin(struct held *h, const struct journal_entry *e, enum held_why why)
{
	char text[512], advice[512];

	h->e = *e;
	snprintf(h->e.vm, sizeof(h->e.vm), "%s", h->vm->name);
	h->why = why;
	watch(h, HELD_ASKING);
	limited_error(h->f->limited, LIMITED_GUEST, "vm %s: %s; if you know where it runs, say %s", h->vm->name,
		      held_words(h, text, sizeof(text)), held_advice(h->f, h->vm->name, h->e.id, advice, sizeof(advice)));
	h->f->emit(h->f, h->vm->name, "MIGRATION", migration_status_name(MIGRATION_HELD));
	if (h->e.peer[0])
		asker_start(&h->asker, &h->e);
}

/** held_new() - for @vm, which is about to be registered; NULL: out of memory */
struct held *held_new(struct ferry *f, struct vm *vm)
{
	struct held *h = calloc(1, sizeof(*h));

	if (!h || asker_init(&h->asker, f, on_peer_answered, h)) {
		free(h);
		return NULL;
	}
	h->f = f;
	h->vm = vm;
	return h;
}

/** held_free() - of a VM that is about to be freed; NULL is fine. Context: the loop */
void held_free(struct held *h)
{
	if (!h)
		return;
	asker_fini(&h->asker);
	free(h);
}

/* ---- the operator ---- */

static int digit_of(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* It is asked of each entry of the journal: without sscanf(), which takes a microsecond. */
static bool parse_id(const char *text, uint8_t id[16])
{
	for (int i = 0; i < 16; i++) {
		int high = digit_of(text[i * 2]), low = high < 0 ? -1 : digit_of(text[i * 2 + 1]);

		if (low < 0)
			return false;
		id[i] = (uint8_t)(high << 4 | low);
	}
	return !text[32];
}

/** held_is_meant() - does the operator's @vm_or_id name this VM, or this migration? */
bool held_is_meant(const char *vm_or_id, const char *vm, const uint8_t id[16])
{
	uint8_t asked[16];

	return !strcmp(vm_or_id, vm) || (parse_id(vm_or_id, asked) && !memcmp(asked, id, 16));
}

static struct held *find(struct ferry *f, const char *vm_or_id)
{
	for (struct vm *vm = f->vms.first; vm; vm = vm->next)
		if (vm->held && vm->held->step == HELD_ASKING && held_is_meant(vm_or_id, vm->name, vm->held->e.id))
			return vm->held;
	return NULL;
}

/** held_find() - what holds the guest of @vm, NULL: nothing, or a live migration does */
const struct held *held_find(struct ferry *f, const char *vm)
{
	return find(f, vm);
}

/** held_entry() - the migration that @h is about, zeroes but for the name where nothing is known; its peer is asked */
const struct journal_entry *held_entry(const struct held *h)
{
	return &h->e;
}

/** held_is_asking() - is the guest of @h held, and nothing decided yet? */
bool held_is_asking(const struct held *h)
{
	return h->step == HELD_ASKING;
}

/* Is it about a VM that is connected, which has come to @step, at least? Behind ASKING its VMM is being told. */
static bool has_vm_in(const struct ferry *f, const uint8_t id[16], enum held_step step)
{
	for (const struct vm *vm = f->vms.first; vm; vm = vm->next)
		if (vm->held && vm->held->step >= step && !memcmp(vm->held->e.id, id, 16))
			return true;
	return false;
}

static bool may_be_undecided(struct ferry *f, const struct journal_entry *e)
{
	return e->role == JOURNAL_SOURCE &&
	       (e->mark == JOURNAL_GO || (e->mark == JOURNAL_BEGUN && !journal_proves_no_go(f->journal, e)));
}

/*
 * A switchover of this source that may have been carried out, and whose outcome is not known. That of a live migration
 * is not open in this sense.
 */
static bool is_undecided(struct ferry *f, const struct journal_entry *e)
{
	return may_be_undecided(f, e) && !migration_is_live(f, e->id) && !has_vm_in(f, e->id, HELD_RESUMING);
}

/** held_is_missing() - is @e a switchover without an outcome, and its guest in no VMM that is connected? */
bool held_is_missing(struct ferry *f, const struct journal_entry *e)
{
	return may_be_undecided(f, e) && !migration_is_live(f, e->id) && !has_vm_in(f, e->id, HELD_ASKING);
}

/**
 * held_missing() - the newest switchover of @vm_or_id without an outcome whose VMM is not connected, NULL: none
 *
 * Its guest stands in a VMM that has lost its connection, or has died with it.
 */
const struct journal_entry *held_missing(struct ferry *f, const char *vm_or_id)
{
	const struct journal_entry *found = NULL;

	for (const struct journal_entry *e = journal_next(f->journal, NULL); e; e = journal_next(f->journal, e))
		if (held_is_meant(vm_or_id, e->vm, e->id) && (!found || e->when_s > found->when_s) && is_undecided(f, e))
			found = e;
	return found;
}

/**
 * held_keep_word() - note what the operator decided about migration @id, of which this daemon is the source
 *
 * It is kept until the VMM of the guest has acted on it, see settle_awaits_vmm().
 * Return: 0, or a negative errno: nothing is noted
 */
int held_keep_word(struct ferry *f, const uint8_t id[16], bool run_here)
{
	int err = journal_note(f->journal, id, JOURNAL_SOURCE, run_here ? JOURNAL_NEVER : JOURNAL_DONE);

	if (!err)
		settle_awaits_vmm(f, id);
	return err;
}

/**
 * held_finds_its_word() - does @vm, which registers again paused, find by its migration's id what the operator decided?
 *
 * A VMM of protocol 1 names no id. An open entry of its name is all that leads it to its peer, so NEVER is not noted
 * before it has acted.
 */
bool held_finds_its_word(const struct vm *vm)
{
	return vm->version >= 2;
}

/* If it cannot be noted, the VMM is asked nevertheless: only a loss of its connection now would lose the word. */
static void keep_word(struct held *h, bool run_here)
{
	const struct journal_entry *e = journal_find(h->f->journal, h->e.id, JOURNAL_SOURCE);

	if (h->e.role != JOURNAL_SOURCE || !e || held_is_anothers(e, h->vm->name))
		return;
	if (!run_here || held_finds_its_word(h->vm))
		held_keep_word(h->f, h->e.id, run_here);
}

/* It is not held any more, for its VMM is being told already: words of that in @why. */
static void say_if_being_told(const struct ferry *f, const char *vm_or_id, char *why, size_t len)
{
	static const char *const acts[] = { [HELD_RESUMING] = "run the guest on here",
					    [HELD_STARTING] = "start the guest here",
					    [HELD_RELEASING] = "let the guest go, which runs elsewhere" };

	for (const struct vm *vm = f->vms.first; vm; vm = vm->next)
		if (vm->held && vm->held->step > HELD_ASKING && held_is_meant(vm_or_id, vm->name, vm->held->e.id))
			snprintf(why, len, "vm %s: is not held any more: it is decided, and its VMM (pid %d) is being told to %s",
				 vm->name, vm->pid, acts[vm->held->step]);
}

static int resolve_missing(struct ferry *f, const struct journal_entry *e, bool run_here, char *why, size_t len)
{
	uint8_t id[16];
	char vm[64];
	int err;

	snprintf(vm, sizeof(vm), "%s", e->vm);
	memcpy(id, e->id, sizeof(id));
	err = held_keep_word(f, id, run_here);
	if (err) {
		snprintf(why, len, "vm %s: the journal cannot take it: %s", vm, strerror(-err));
		return err;
	}
	notice_report("vm %s: the operator says: %s; its VMM is not connected, and is told when it registers again", vm,
		      run_here ? "run it here" : "it runs there");
	return 0;
}

/**
 * held_resolve() - the operator knows what became of a guest that is held, by a live migration or not
 * @vm_or_id: its name, or the id of the migration, in hexadecimal; one that fits several held guests is refused
 * @run_here: it does not run at the peer and never will; else it runs there
 * @words: what was decided of which migration, or why nothing was
 *
 * Return: 0, or a negative errno
 */
int held_resolve(struct ferry *f, const char *vm_or_id, bool run_here, char *words, size_t len)
{
	struct held_meant meant;
	struct held_guest *g = &meant.guests[0];
	const struct journal_entry *e;
	char id[33], vm[64];
	int err = 0;

	held_meant_find(f, vm_or_id, &meant);
	if (!meant.nr) {
		snprintf(words, len, "vm %s: is not held", vm_or_id);
		say_if_being_told(f, vm_or_id, words, len);
		return -ESRCH;
	}
	if (meant.nr > 1) {
		held_meant_refuse(&meant, vm_or_id, words, len);
		return -EINVAL;
	}
	e = g->here ? &g->here->e : g->away;
	snprintf(vm, sizeof(vm), "%s", e ? e->vm : migration_vm(g->live));
	held_id_text(e ? e->id : migration_id(g->live), id);
	if (e && !e->role)
		snprintf(id, sizeof(id), "unknown");
	if (g->live) {
		err = migration_resolve(g->live, run_here, words, len);
	} else if (g->away) {
		err = resolve_missing(f, g->away, run_here, words, len);
	} else {
		notice_report("vm %s: the operator says: %s", vm, run_here ? "run it here" : "it runs there");
		keep_word(g->here, run_here);
		decide(g->here, !run_here);
	}
	if (err)
		return err;
	snprintf(words, len, "vm %s, migration %s: decided that it %s", vm, id,
		 run_here ? "runs on here" : "runs at the other host; its memory here is given up");
	return 0;
}
