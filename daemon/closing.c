// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How a migration ends at the source. Closing blocks: threads are joined, memory is unmapped, BPF programs
 * are detached. So the end has two steps, and the loop waits in neither.
 *
 * Theory of operation
 *
 *   loop:    closing_begin()  timers, answers, journal, VMM at full speed, peer and connector closed
 *      |          \_ a work of the set-up or of a round is out: its done() comes back by closing_is_due()
 *      v
 *   worker:  close_all()      channels' threads joined, maps and files closed, probe, learned figures
 *      v
 *   loop:    on_closed()      dirty logging off, VM given back, final status; freed if nobody asks for it any more
 *
 * Invariants:
 *   - The guest goes on before any of this: RESUME is asked by the state machine, closing_begin() follows its answer.
 *   - While a work is out, the page set, the channels, the VM's dirty areas and the state file are the work's. One
 *     work of a migration is out at a time, and closing_begin() touches none of these.
 *   - Dirty logging ends after the channels' threads have: they look into the kernel module's area, which goes
 *     with it.
 *   - NEVER is written only of a guest that certainly runs here: a PAUSE without an answered RESUME leaves the
 *     entry open, and recovery.c resumes the guest when its VMM registers again.
 *   - A guest that is held outlives its VMM's connection here, but not its RAM: channels and maps are closed at once, by a
 *     work of their own, and closing finds them closed.
 *   - The migration is not over before it is closed: a new one of the same VM would share its dirty areas.
 */
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/deadline.h"
#include "base/error.h"
#include "base/fault.h"
#include "migration_private.h"
#include "settle.h"

static void report_end(struct migration *m)
{
	const struct migration_report *r = &m->report;

	if (m->state == SRC_DONE) {
		notice_report("vm %s: moved to %s in %llu ms; downtime %llu us, limit %u ms", m->name,
			      m->connector.uri,
			      (unsigned long long)(m->ended_ns - m->started_ns) / NS_PER_MS,
			      (unsigned long long)(r->blackout_ns ? r->blackout_ns : r->downtime_ns) / 1000,
			      m->params.downtime_limit_ms);
		migration_set_status(m, MIGRATION_COMPLETED);
		return;
	}
	if (m->state != SRC_FAILED)
		return; /* GO was sent, the outcome is not known, and the daemon ends */
	if (!m->cancelled)
		error_report("vm %s: not moved: %s; %s", m->name, m->error,
			     !migration_vmm(m)->sock ? "its VMM is not connected: if it lives its guest goes on, at the "
						       "latest when it registers again" :
			     m->may_be_stopped ? "its VMM has not said that the guest runs on at the source" :
						 "the guest runs on at the source; retry with \"vmferry migrate\"");
	migration_set_status(m, m->cancelled ? MIGRATION_CANCELLED : MIGRATION_FAILED);
}

static void let_go(struct migration *m, struct vm *vm)
{
	if (m->state == SRC_FAILED && vm->sock)
		vm_ask(vm, VM_STOP_LOG, NULL, 0, -1, NULL, NULL);
	if (m->state == SRC_FAILED)
		vm->is_busy = false; /* else until it is released */
	/* Its RAM must not stay allocated through us once the VMM is gone. */
	vm_put(vm);
}

static void give_vm_back(struct migration *m)
{
	if (m->vm_back)
		let_go(m, m->vm_back);
	let_go(m, m->vm);
	m->vm = m->vm_back = NULL;
}

static void forget_answers(struct migration *m, struct vm *vm)
{
	vm_forget(vm, m);
	if (vm->watcher == &m->watcher || vm->watcher == &m->back_watcher)
		vm->watcher = NULL;
}

static void close_all(struct work *w)
{
	struct migration *m = w->owner;

	fault_point_of("close-migration", m->name);
	precopy_close(&m->precopy);
	cleanup_close_fd(&m->state_fd);
	account_close(m);
}

static void on_closed(struct work *w)
{
	struct migration *m = w->owner;

	warm_allow();
	precopy_fini(&m->precopy);
	account_closed(m);
	report_end(m);
	give_vm_back(m);
	m->is_closed = true;
	if (m->is_dropped)
		migration_free(m);
}

static void start_close(struct migration *m)
{
	migration_read_report(m, &m->report);
	m->closing_slot = take_fd(&m->probe_slot);
	precopy_abort(&m->precopy);
	migration_do(m, close_all, on_closed);
}

/**
 * closing_is_due() - for the done() of each work of a migration: has its end begun meanwhile?
 *
 * Return: true: it has; it goes on, and the caller must not.
 */
bool closing_is_due(struct migration *m)
{
	if (m->is_doomed)
		start_close(m);
	return m->is_doomed;
}

static void let_ram_go(struct work *w)
{
	struct migration *m = w->owner;

	precopy_close(&m->precopy);
	vm_let_ram_go(m->vm);
}

static void on_ram_gone(struct work *w)
{
	closing_is_due(w->owner);
}

/**
 * closing_let_ram_go() - if the guest of @m is held, and its VMM has lost its connection: nothing more is sent of its RAM
 *
 * The guest may be held for days, and a VMM that has died would not free its memory before it is decided. One that lives
 * registers anew, see migration_vm_is_back().
 */
void closing_let_ram_go(struct migration *m)
{
	if (m->state != SRC_HELD || m->vm->sock || m->is_doomed || m->work.is_out || m->has_no_ram)
		return;
	m->has_no_ram = true;
	migration_read_report(m, &m->report);
	precopy_abort(&m->precopy);
	migration_do(m, let_ram_go, on_ram_gone);
}

/** closing_begin() - the migration is over: does at once what the guest, its VMM and the peer wait for; see above */
void closing_begin(struct migration *m)
{
	if (m->is_doomed)
		return;
	m->is_doomed = true;
	m->ended_ns = now_ns();
	loop_timer_fini(&m->budget);
	rounds_fini_timers(m);
	if (m->state == SRC_FAILED && m->vm->sock)
		rounds_throttle(m, 0);
	forget_answers(m, m->vm);
	if (m->vm_back)
		forget_answers(m, m->vm_back);
	account_end(m);
	journal_forget(m->f->journal, m);
	if (m->state == SRC_FAILED && !m->may_be_stopped && journal_find(m->f->journal, m->id, JOURNAL_SOURCE) &&
	    !journal_note(m->f->journal, m->id, JOURNAL_SOURCE, JOURNAL_NEVER))
		settle_soon(m->f, m->id);
	if (m->state == SRC_FAILED)
		migration_set_status(m, MIGRATION_CANCELLING);
	peer_close(m->peer);
	m->peer = NULL;
	asker_fini(&m->asker);
	connector_fini(&m->connector);
	precopy_stop(&m->precopy);
	if (!m->work.is_out)
		start_close(m);
}
