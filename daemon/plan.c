// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The beginning of an incoming migration: does what the source plans fit what waits here, and
 * is there room for it? The twin of setup.c.
 *
 * Theory of operation
 *
 *   loop:    plan_take()     refusals; the VM is this migration's from here on
 *   worker:  make_room()     a walk of the files of its RAM, threads, memory; the probe is attached
 *   loop:    on_room_made()  PLAN_OK; or the migration is over already, and the room is closed again
 *
 * The source opens its channels after PLAN_OK: each finds its thread waiting.
 *
 * No host gets a guest twice: find_vm() refuses the one that arrives, plan_refuses() the VMM that registers meanwhile.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "incoming_private.h"
#include "pages/warm.h"

#define MAX_STATE (1ULL << 32)

/* An entry of this id is of an earlier migration, which must not be taken for this one: ids are random. */
static const char *journal_refuses(const struct incoming *in)
{
	struct journal *j = in->f->journal;

	if (journal_find(j, in->id, JOURNAL_DESTINATION))
		return "a migration of this id was there before";
	if (journal_nr_kept(j) >= JOURNAL_KEPT_MOST)
		return "its journal is full of migrations whose outcome no other host has acknowledged; see \"vmferry "
		       "journal\" there, and \"vmferry forget\"";
	return NULL;
}

/* Is this daemon the source of @in, too? */
static bool is_of_own_source(const struct incoming *in)
{
	const struct migration *m = migration_find(in->f, in->name);

	return m && migration_has_id(m, in->id);
}

/*
 * A guest of the name that has not left: it would be here twice. RELEASED ones have left. The guest of a migration
 * within this daemon is here as its own source.
 */
static const struct vm *guest_is_here(const struct incoming *in)
{
	for (const struct vm *vm = in->f->vms.first; vm; vm = vm->next)
		if (!strcmp(vm->name, in->name) && !is_of_own_source(in) &&
		    (vm->run_state == VMFERRY_RUN_RUNNING || vm->run_state == VMFERRY_RUN_PAUSED))
			return vm;
	return NULL;
}

/*
 * Within one daemon the two VMMs have one name, and each has to say which side of the migration it is when it registers
 * again. One of protocol 1 cannot: its source would be refused for ever, paused, since the arrived guest has its name.
 * Return: the one that cannot, NULL: none
 */
static const struct vm *find_vm_without_side(const struct incoming *in, const struct vm *waits)
{
	const struct vm *source = is_of_own_source(in) ? vm_find(&in->f->vms, in->name, false) : NULL;

	if (!source)
		return NULL;
	return source->version < 2 ? source : waits->version < 2 ? waits : NULL;
}

static const char *find_vm(struct incoming *in, const struct wire_plan *p,
			   const struct wire_region *regions, char *text, size_t len)
{
	static const uint8_t none[16];
	const struct vm *here = guest_is_here(in), *old;
	struct vm *vm = vm_find(&in->f->vms, in->name, true);

	if (here) {
		snprintf(text, len, "VM %s is %s there already (pid %d): the guest would be there twice; stop that one, "
			 "or give one of them another name", in->name, vm_state_name(here), here->pid);
		return text;
	}
	if (!vm) {
		snprintf(text, len, "no VM named %s waits there; start one with --incoming", in->name);
		return text;
	}
	old = find_vm_without_side(in, vm);
	if (old) {
		snprintf(text, len, "source and destination are one daemon, and the VMM with pid %d speaks version 1 of the VMM "
			 "protocol, which cannot say which of the two it is; update its libvmferry, or move the guest to "
			 "another daemon", old->pid);
		return text;
	}
	if (vm->is_busy)
		return "the VM that waits there is busy with another migration, or being cleaned; retry";
	if (memcmp(vm->uuid, none, 16) && memcmp(vm->uuid, p->uuid, 16))
		return "the VM that waits there has another UUID";
	if (vm->nr_vcpus != p->nr_vcpus || vm->nr_regions != p->nr_regions) {
		snprintf(text, len, "the VM that waits there has %u vCPUs and %u regions, the source %u and %u",
			 vm->nr_vcpus, vm->nr_regions, p->nr_vcpus, p->nr_regions);
		return text;
	}
	for (unsigned int i = 0; i < p->nr_regions; i++) {
		const struct region *r = &vm->regions[i];

		if (strncmp(r->name, regions[i].name, 63) || r->gpa != regions[i].gpa ||
		    r->size != regions[i].size) {
			snprintf(text, len, "region %s there is %llu MiB at 0x%llx, at the source %.32s: "
				 "%llu MiB at 0x%llx", r->name, (unsigned long long)r->size >> 20,
				 (unsigned long long)r->gpa, regions[i].name,
				 (unsigned long long)regions[i].size >> 20,
				 (unsigned long long)regions[i].gpa);
			return text;
		}
	}
	in->vm = vm_get(vm);
	return NULL;
}

static void make_room(struct work *w)
{
	struct incoming *in = w->owner;

	in->room_error = room_open(&in->room, in->vm, &in->received);
	if (!in->room_error)
		in->probe_slot = blackout_watch(in->f->blackouts, in->vm->peer_pid);
}

static void on_room_made(struct work *w)
{
	struct incoming *in = w->owner;
	struct wire_plan_ok ok;

	if (in->phase != IN_PLANNING) {
		incoming_close_room(in);
		return;
	}
	if (in->room_error) {
		incoming_blame(in, "no room there: %s", strerror(-in->room_error));
		incoming_step(in, DEV_VMM_LOST);
		return;
	}
	blackout_say_watched(in->f->blackouts, in->probe_slot, in->vm->peer_pid);
	blackout_arm(in->f->blackouts, in->probe_slot);
	in->phase = IN_RECEIVING;
	ok = (struct wire_plan_ok){ .huge = place_huge_pages(in->room.place) };
	if (peer_send(in->peer, WIRE_PLAN_OK, &ok, sizeof(ok)))
		incoming_step(in, DEV_PEER_LOST);
}

/** plan_take() - WIRE_PLAN: the first message of a migration; PLAN_OK follows once there is room */
void plan_take(struct incoming *in, const void *body, uint32_t len)
{
	const struct wire_plan *p = body;
	char text[WIRE_TEXT_LEN];
	const char *why;

	if (len < sizeof(*p) || !p->nr_channels || p->nr_channels > CHANNEL_MAX ||
	    !p->nr_regions || p->nr_regions > VMFERRY_MAX_REGIONS || p->state_size > MAX_STATE ||
	    len != sizeof(*p) + p->nr_regions * sizeof(struct wire_region)) {
		incoming_blame(in, "bad plan");
		incoming_step(in, DEV_VMM_LOST);
		return;
	}
	if (!text_is_name(p->name, sizeof(p->name))) {
		incoming_blame(in, "the plan's name of the VM is not 1 to %zu printable ASCII characters without blanks",
			       sizeof(p->name) - 1);
		incoming_step(in, DEV_VMM_LOST);
		return;
	}
	memcpy(in->name, p->name, sizeof(in->name) - 1);
	why = journal_refuses(in);
	if (!why)
		why = find_vm(in, p, (const struct wire_region *)(p + 1), text, sizeof(text));
	if (why) {
		incoming_blame(in, "%s", why);
		incoming_step(in, DEV_VMM_LOST);
		return;
	}
	incoming_watch_vm(in);
	vm_tell_migration(in->vm, in->id, JOURNAL_DESTINATION);
	warm_cease(in->vm->warm);
	warm_hold(); /* until the room is closed */
	in->vm->is_fresh = false;
	in->room.nr_channels = p->nr_channels;
	in->room.state_size = p->state_size;
	in->phase = IN_PLANNING;
	in->work = (struct work){ .run = make_room, .done = on_room_made, .owner = in };
	worker_do(in->f->worker, &in->work);
}

/** plan_take_ahead() - WIRE_AHEAD: blocks that will have data, to be faulted in before it comes */
void plan_take_ahead(struct incoming *in, const uint8_t *body, uint32_t len)
{
	struct wire_ahead a;
	int err = -EBADMSG;

	if (len >= sizeof(a)) {
		memcpy(&a, body, sizeof(a));
		if (a.nr_blocks <= (uint64_t)WIRE_MAX_BODY * 8 && (a.nr_blocks + 7) / 8 == len - sizeof(a))
			err = place_ahead(in->room.place, a.region, body + sizeof(a), a.nr_blocks);
	}
	if (err) {
		incoming_blame(in, "bad list of blocks to fault in");
		incoming_step(in, DEV_VMM_LOST);
	}
}

/*
 * Is @vm the guest of @in itself, whose VMM has lost its connection since it was started? A pid of 0 is any process of a
 * pid namespace that this daemon does not see.
 */
static bool is_own_vm(const struct incoming *in, const struct vm *vm)
{
	return vm->peer_pid && vm->peer_pid == in->vm->peer_pid &&
	       (vm->version < 2 || (vm->last.role == JOURNAL_DESTINATION && !memcmp(vm->last.id, in->id, sizeof(in->id))));
}

/**
 * plan_refuses() - may @vm, which is about to register, be here beside the guests that arrive?
 * @text: room for words
 *
 * A guest that runs here, or is held, refuses the one of its name that arrives, as a plan would be refused. From GO
 * on the arriving guest is this host's, and @vm is the one too many.
 *
 * Return: NULL: it may; else why not
 */
const char *plan_refuses(struct ferry *f, struct vm *vm, char *text, size_t len)
{
	if (vm->run_state != VMFERRY_RUN_RUNNING && vm->run_state != VMFERRY_RUN_PAUSED)
		return NULL;
	for (struct incoming *in = f->incoming; in; in = in->next) {
		if (!in->vm || strcmp(in->name, vm->name) || is_of_own_source(in))
			continue;
		if (!incoming_is_over(in) && in->state < DST_STARTING) {
			incoming_blame(in, "VM %s has registered there meanwhile, %s (pid %d): the guest would be there "
				       "twice; stop that one, or give one of them another name", vm->name,
				       vm_state_name(vm), vm->pid);
			incoming_step(in, DEV_VMM_LOST);
		} else if (!incoming_is_over(in) || (in->phase == IN_GRACE && !is_own_vm(in, vm))) {
			snprintf(text, len, "a guest named %s has just arrived here and is being started", vm->name);
			return text;
		}
	}
	return NULL;
}
