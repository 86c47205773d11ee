// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Judges a walk by what the VMMs were told and did, never by a log or a journal.
 *
 *   at each start   no other VMM has that guest running; what starts is the guest as it was when it stood still last;
 *                   what RUN starts has no namesake that runs at that host and is registered
 *   at rest         each guest runs once; or all that had it was destroyed by the walk; or it is held, and the operator's
 *                   true word makes it run (walk.c asks for that before judge_rest())
 *                   no VM is busy, no migration and no incoming is left, no daemon takes itself for urgent
 *
 * The first verdict counts, and ends the walk.
 */
#include "judge.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "migration_private.h"
#include "node.h"
#include "vmm.h"
#include "walk.h"
#include "world.h"

struct verdict judge_verdict;
static bool ignores_guests;

void judge_begin(void)
{
	memset(&judge_verdict, 0, sizeof(judge_verdict));
	ignores_guests = false;
}

/** judge_ignore_guests() - a message was forged that decides who owns a guest: daemons must survive it, guests need not */
void judge_ignore_guests(void)
{
	ignores_guests = true;
}

void judge_fail(const char *kind, const char *fmt, ...)
{
	va_list ap;

	if (judge_verdict.kind[0])
		return;
	snprintf(judge_verdict.kind, sizeof(judge_verdict.kind), "%s", kind);
	va_start(ap, fmt);
	vsnprintf(judge_verdict.text, sizeof(judge_verdict.text), fmt, ap);
	va_end(ap);
	world_trace("VERDICT %s: %s", judge_verdict.kind, judge_verdict.text);
	world_end();
}

static void judge_memory(const struct vmm *v, const char *by)
{
	if (v->loaded != v->guest->latest)
		judge_fail("stale", "%s at %s: %s runs a state of stop %llu; its last stop was %llu", v->guest->name, v->host->name,
			   by, (unsigned long long)v->loaded, (unsigned long long)v->guest->latest);
	for (unsigned int k = 0; k < v->nr_channels; k++)
		if (v->ram[k] != v->guest->latest)
			judge_fail("stale", "%s at %s: %s runs RAM of stop %llu (channel %u); its last stop was %llu", v->guest->name,
				   v->host->name, by, (unsigned long long)v->ram[k], k, (unsigned long long)v->guest->latest);
}

/* Does the daemon of its host have it registered? It may believe so itself, and be wrong. */
static bool is_registered(const struct vmm *v)
{
	for (const struct vm *vm = v->host->is_up ? v->host->f.vms.first : NULL; vm; vm = vm->next)
		if (vm->peer_pid == v->pid)
			return true;
	return false;
}

/* Another guest of that name, at that host; NULL: there is none */
static const struct vmm *namesake_of(const struct vmm *v)
{
	for (unsigned int i = 0; i < nr_vmms; i++)
		if (vmms[i].is_alive && vmms[i].guest != v->guest && vmms[i].host == v->host &&
		    !strcmp(vmms[i].guest->name, v->guest->name))
			return &vmms[i];
	return NULL;
}

/** judge_name_is_taken() - by another guest, at its host? Then one of the two is refused, in words */
bool judge_name_is_taken(const struct vmm *v)
{
	return namesake_of(v);
}

/* What RUN starts must not join a guest that was registered when its state came. */
static void judge_name(const struct vmm *v)
{
	const struct vmm *o = namesake_of(v);

	if (v->run_state == VMFERRY_RUN_LOADED && o && o->runs && is_registered(o) && o->registered_at < v->loaded_at)
		judge_fail("namesake", "%s at %s: RUN starts it, and another guest of that name runs there", v->guest->name,
			   v->host->name);
}

/** judge_starts() - @v lets its guest run, for it was told to: @by */
void judge_starts(struct vmm *v, const char *by)
{
	if (ignores_guests)
		return;
	for (unsigned int i = 0; i < nr_vmms; i++) {
		const struct vmm *o = &vmms[i];

		if (o != v && o->is_alive && o->runs && o->guest == v->guest)
			judge_fail("two-run", "%s: %s at %s starts it, and it runs at %s", v->guest->name, by, v->host->name,
				   o->host->name);
	}
	judge_name(v);
	if (v->run_state == VMFERRY_RUN_LOADED)
		judge_memory(v, by);
	else if (v->stamp != v->guest->latest)
		judge_fail("stale", "%s at %s: %s runs it as of stop %llu; its last stop was %llu", v->guest->name, v->host->name, by,
			   (unsigned long long)v->stamp, (unsigned long long)v->guest->latest);
}

static const struct vmm *where_it_runs(const struct guest *g)
{
	for (unsigned int i = 0; i < nr_vmms; i++)
		if (vmms[i].guest == g && vmms[i].is_alive && vmms[i].runs)
			return &vmms[i];
	return NULL;
}

static void judge_guest(const struct guest *g)
{
	const struct vmm *paused = NULL;

	if (where_it_runs(g))
		return;
	for (unsigned int i = 0; i < nr_vmms; i++)
		if (vmms[i].guest == g && vmms[i].is_alive && vmms[i].run_state == VMFERRY_RUN_PAUSED)
			paused = &vmms[i];
	if (paused)
		judge_fail("none-runs", "%s is paused at %s, and no word of the operator makes it run", g->name, paused->host->name);
	else if (!g->lost)
		judge_fail("none-runs", "%s is nowhere, and nothing of it was destroyed", g->name);
}

/* A VM that is not clean: its VMM has to be started anew, and the daemon has said so. */
static bool is_unclean(const struct vm *vm)
{
	for (unsigned int i = 0; i < nr_vmms; i++)
		if (vmms[i].pid == vm->peer_pid)
			return vmms[i].refused_discard;
	return false;
}

static void judge_daemon(const struct node *n)
{
	for (const struct vm *vm = n->f.vms.first; vm && !ignores_guests; vm = vm->next)
		if (vm->is_busy && !is_unclean(vm))
			judge_fail("busy", "%s: VM %s (%s) stays busy", n->name, vm->name, vm_state_name(vm));
	for (const struct migration *m = n->f.outgoing; m; m = m->next)
		if (!migration_is_over(migration_status(m)))
			judge_fail("unended", "%s: the migration of %s does not end: %s, %s", n->name, migration_vm(m),
				   migration_status_name(migration_status(m)), migration_error(m));
	if (n->f.incoming)
		judge_fail("unended", "%s: an incoming migration does not end", n->name);
	if (n->f.urgent)
		judge_fail("urgent", "%s: takes itself for urgent, and no guest waits", n->name);
}

/* Does its guest run in another VMM that is registered there? One daemon was both sides. */
static bool has_twin(const struct vmm *v)
{
	for (unsigned int i = 0; i < nr_vmms; i++)
		if (&vmms[i] != v && vmms[i].is_alive && vmms[i].guest == v->guest && vmms[i].host == v->host && vmms[i].runs &&
		    vmms[i].step == VMM_SERVING)
			return true;
	return false;
}

/** judge_rest() - all is healed, time has passed, the operator has spoken */
void judge_rest(void)
{
	for (unsigned int i = 0; i < walk_nr_guests && !ignores_guests; i++)
		judge_guest(&walk_guests[i]);
	for (unsigned int i = 0; i < nr_vmms && !ignores_guests; i++)
		if (vmms[i].is_alive && vmms[i].step != VMM_SERVING && !judge_name_is_taken(&vmms[i]))
			judge_fail(has_twin(&vmms[i]) ? "twin" : "apart", "%s: the VMM of %s (state %u) cannot register", vmms[i].host->name, vmms[i].guest->name,
				   vmms[i].run_state);
	for (unsigned int i = 0; i < nr_nodes; i++)
		if (nodes[i].is_up)
			judge_daemon(&nodes[i]);
		else
			judge_fail("down", "%s: its daemon does not run", nodes[i].name);
}
