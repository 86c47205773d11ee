// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * After a crash: who owns the guest? Asked of the journal, of the VMM, and of the peer.
 *
 * Theory of operation, when a VM registers:
 *
 *   VMM says   journal, as source          what is done
 *   running    begun or go                 it runs here: note "never"
 *   paused     begun, GO not written       GO was never sent: resume
 *   paused     go                          ask the peer until it answers; hold meanwhile
 *   paused     nothing                     not ours: say so, touch nothing
 *   VMM says   journal, as destination
 *   running    go                          note "done"
 *   loaded     go                          GO was heard: run it
 *   loaded     else                        note "never", discard
 *   incoming   go                          the guest is lost with its VMM: say so loudly
 *   incoming   else                        note "never"; empty the RAM unless it is fresh
 *
 * A VMM that registers again while its guest's migration is alive in this daemon is not recovery's:
 * migration_vm_is_back() answers it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/deadline.h"
#include "base/error.h"
#include "connect.h"
#include "migration.h"
#include "settle.h"

#define ASK_AGAIN_NS NS_PER_S
#define REMIND_EVERY 60

struct recovery {
	struct ferry *f;
	struct connector connector;
	bool is_asking;
	struct loop_timer again;
	char vm[64];
	unsigned int asked;
	recovery_fn answer;
	void *arg;
};

static void ask(struct recovery *r);

static void on_asked(void *owner)
{
	struct recovery *r = owner;
	int answer = r->connector.error ? 0 : r->connector.welcome.status;

	connector_fini(&r->connector);
	r->is_asking = false;
	if (answer == WIRE_RESOLVED_RUNNING || answer == WIRE_RESOLVED_NEVER) {
		recovery_fn fn = r->answer;
		void *arg = r->arg;

		notice_report("vm %s: the peer at %s says: the guest %s", r->vm, r->connector.uri,
			      answer == WIRE_RESOLVED_RUNNING ? "runs there" : "never ran there");
		recovery_stop(r);
		fn(arg, answer == WIRE_RESOLVED_RUNNING);
		return;
	}
	if (++r->asked % REMIND_EVERY == 1)
		error_report("vm %s: still held paused: the peer at %s does not say whether the guest runs "
			     "there; if you know: \"vmferry resolve %s --gone\" or \"--run-here\"",
			     r->vm, r->connector.uri, r->vm);
	loop_timer_at(&r->again, now_ns() + ASK_AGAIN_NS);
}

static void on_again(void *owner)
{
	ask(owner);
}

static void ask(struct recovery *r)
{
	r->is_asking = true;
	if (connector_start(&r->connector, r->f->loop, r->f->worker)) {
		connector_fini(&r->connector);
		r->is_asking = false;
		loop_timer_at(&r->again, now_ns() + ASK_AGAIN_NS);
	}
}

/**
 * recovery_ask_peer() - ask at @uri what became of @id until there is an answer
 * @uri: the address that welcomed the migration, without a name: a name may stand for another host now
 */
struct recovery *recovery_ask_peer(struct ferry *f, const uint8_t id[16], const char *vm,
				   const char *uri, recovery_fn answer, void *arg)
{
	struct recovery *r = calloc(1, sizeof(*r));

	if (!r || loop_timer_init(&r->again, f->loop, on_again, r)) {
		free(r);
		return NULL;
	}
	r->f = f;
	r->answer = answer;
	r->arg = arg;
	connector_init(&r->connector, uri);
	snprintf(r->vm, sizeof(r->vm), "%s", vm);
	r->connector.hello = wire_hello_for(WIRE_RESOLVE);
	memcpy(r->connector.hello.id, id, 16);
	memcpy(r->connector.hello.host, f->host, 16);
	r->connector.done = on_asked;
	r->connector.owner = r;
	ask(r);
	return r;
}

void recovery_stop(struct recovery *r)
{
	if (!r)
		return;
	if (r->is_asking)
		connector_fini(&r->connector);
	loop_timer_fini(&r->again);
	free(r);
}

/* ---- a VM whose daemon died in mid-switchover ---- */

struct held {
	struct ferry *f;
	struct vm *vm;
	uint8_t id[16];
};

/*
 * Outcomes are noted only once the VMM has acted: a daemon that dies in between finds the
 * entry still open, and does the same again.
 */
static void acted(void *arg, int status, enum journal_role role, enum journal_mark mark, const char *what)
{
	struct held *h = arg;

	h->vm->is_busy = false;
	if (status) {
		error_report("vm %s: its VMM did not %s: %s; look at the VMM (pid %d)", h->vm->name, what,
			     strerror(-status), h->vm->pid);
	} else {
		journal_note(h->f->journal, h->id, role, mark);
		notice_report("vm %s: its VMM did %s", h->vm->name, what);
	}
	vm_put(h->vm);
	free(h);
}

static void on_resumed(void *arg, int status, const void *body, uint32_t len)
{
	(void)body;
	(void)len;
	acted(arg, status, JOURNAL_SOURCE, JOURNAL_NEVER, "run the guest on");
}

static void on_ran(void *arg, int status, const void *body, uint32_t len)
{
	(void)body;
	(void)len;
	acted(arg, status, JOURNAL_DESTINATION, JOURNAL_DONE, "start the guest");
}

static void on_released(void *arg, int status, const void *body, uint32_t len)
{
	struct held *h = arg;

	(void)body;
	(void)len;
	/* It may be gone already: the guest is the destination's in any case. */
	(void)status;
	if (!journal_note(h->f->journal, h->id, JOURNAL_SOURCE, JOURNAL_DONE))
		settle_soon(h->f, h->id);
	h->vm->is_busy = false;
	vm_put(h->vm);
	free(h);
}

static struct held *held_new(struct ferry *f, struct vm *vm, const uint8_t id[16])
{
	struct held *h = calloc(1, sizeof(*h));

	if (!h) {
		error_report("vm %s: out of memory while recovering; restart vmferryd", vm->name);
		return NULL;
	}
	h->f = f;
	h->vm = vm_get(vm);
	memcpy(h->id, id, 16);
	vm->is_busy = true;
	return h;
}

static void act(struct ferry *f, struct vm *vm, const uint8_t id[16], enum vm_request request,
		vm_answer_fn answer)
{
	struct held *h = held_new(f, vm, id);

	if (h)
		vm_ask(vm, request, NULL, 0, -1, answer, h);
}

static void resume_here(struct ferry *f, struct vm *vm, const uint8_t id[16])
{
	act(f, vm, id, VM_RESUME, on_resumed);
	vm_ask(vm, VM_STOP_LOG, NULL, 0, -1, NULL, NULL);
}

/** recovery_release() - the guest of migration @id runs elsewhere for good */
void recovery_release(struct ferry *f, struct vm *vm, const uint8_t id[16])
{
	act(f, vm, id, VM_RELEASE, on_released);
}

static void on_peer_answered(void *arg, bool runs_there)
{
	struct held *h = arg;

	if (runs_there)
		recovery_release(h->f, h->vm, h->id);
	else
		resume_here(h->f, h->vm, h->id);
	vm_put(h->vm);
	free(h);
}

static void hold(struct ferry *f, struct vm *vm, const struct journal_entry *e)
{
	struct held *h = held_new(f, vm, e->id);

	if (!h)
		return;
	error_report("vm %s: GO was sent to %s before this daemon ended: the guest is held paused here "
		     "until the peer says whether it runs there", vm->name, e->peer);
	recovery_ask_peer(f, e->id, vm->name, e->peer, on_peer_answered, h);
}

static void on_cleaned(void *arg, int status, const void *body, uint32_t len)
{
	struct vm *vm = arg;

	(void)body;
	(void)len;
	vm->is_busy = status != 0; /* not clean: no migration may use it */
	if (status && status != -ECONNRESET)
		error_report("vm %s: its VMM cannot empty its RAM: %s; restart it", vm->name,
			     strerror(-status));
	vm_put(vm);
}

/** recovery_clean() - have its VMM empty its RAM; busy until that is done */
void recovery_clean(struct vm *vm)
{
	vm->is_busy = true;
	vm_ask(vm, VM_DISCARD, NULL, 0, -1, on_cleaned, vm_get(vm));
}

static void source_registered(struct ferry *f, struct vm *vm)
{
	const struct journal_entry *e = journal_open_entry(f->journal, vm->name, JOURNAL_SOURCE);
	const struct journal_entry *d = journal_open_entry(f->journal, vm->name, JOURNAL_DESTINATION);

	if (vm->run_state == VMFERRY_RUN_RUNNING) {
		if (e)
			journal_note(f->journal, e->id, JOURNAL_SOURCE, JOURNAL_NEVER);
		if (d)
			journal_note(f->journal, d->id, JOURNAL_DESTINATION,
				     d->mark == JOURNAL_GO ? JOURNAL_DONE : JOURNAL_NEVER);
		return;
	}
	if (vm->run_state != VMFERRY_RUN_PAUSED)
		return;
	if (!e) {
		error_report("vm %s: its guest is paused and no journal here says why; nothing is done to it",
			     vm->name);
	} else if (e->mark == JOURNAL_GO) {
		hold(f, vm, e);
	} else {
		notice_report("vm %s: the daemon ended while the guest was stopped, before GO: resuming it",
			      vm->name);
		resume_here(f, vm, e->id);
	}
}

static void destination_registered(struct ferry *f, struct vm *vm)
{
	const struct journal_entry *e = journal_open_entry(f->journal, vm->name, JOURNAL_DESTINATION);

	if (vm->run_state == VMFERRY_RUN_LOADED && e && e->mark == JOURNAL_GO) {
		notice_report("vm %s: GO was heard before this daemon ended: running the guest", vm->name);
		act(f, vm, e->id, VM_RUN, on_ran);
		return;
	}
	if (e && e->mark == JOURNAL_GO)
		error_report("vm %s: GO was heard, but its VMM was restarted: the guest is lost here; if the "
			     "source still holds it paused: \"vmferry resolve %s --run-here\" there",
			     vm->name, vm->name);
	else if (e)
		journal_note(f->journal, e->id, JOURNAL_DESTINATION, JOURNAL_NEVER);
	/* As long as an incoming's threads may write to that RAM, it would not stay empty. */
	if ((!vm->is_fresh || vm->run_state == VMFERRY_RUN_LOADED) && !incoming_cleans_later(f, vm))
		recovery_clean(vm);
}

/** recovery_refuses() - NULL, or in @text why @vm may not be registered */
const char *recovery_refuses(void *owner, struct vm *vm, char *text, size_t len)
{
	return incoming_refuses(owner, vm, text, len);
}

/** recovery_registered() - called for each VM that registers; one whose migration is alive is answered by that */
void recovery_registered(void *owner, struct vm *vm)
{
	struct ferry *f = owner;

	if (!vm_is_incoming(vm) && migration_vm_is_back(f, vm))
		return;
	if (vm_is_incoming(vm))
		destination_registered(f, vm);
	else
		source_registered(f, vm);
}
