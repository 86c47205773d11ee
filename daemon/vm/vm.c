// SPDX-License-Identifier: GPL-2.0-or-later
/* A registered VM: its regions mapped, its dirty area checked, its life counted. */
#include "vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/fault.h"
#include "pages/dirty.h"
#include "pages/warm.h"
#include "register.h"

bool vm_is_incoming(const struct vm *vm)
{
	return vm->run_state == VMFERRY_RUN_INCOMING || vm->run_state == VMFERRY_RUN_LOADED;
}

/** vm_find() - a VM can be here twice, once leaving and once arriving */
struct vm *vm_find(struct vm_list *l, const char *name, bool incoming)
{
	for (struct vm *vm = l->first; vm; vm = vm->next)
		if (!strcmp(vm->name, name) && vm_is_incoming(vm) == incoming)
			return vm;
	return NULL;
}

uint64_t vm_ram_size(const struct vm *vm)
{
	uint64_t size = 0;

	for (unsigned int i = 0; i < vm->nr_regions; i++)
		size += vm->sizes[i];
	return size;
}

const char *vm_state_name(const struct vm *vm)
{
	static const char *const names[] = { "unknown", "running",  "paused",
					     "inmigrate", "loaded", "postmigrate" };

	return vm->run_state < 6 ? names[vm->run_state] : names[0];
}

struct vm *vm_get(struct vm *vm)
{
	vm->refs++;
	return vm;
}

/**
 * vm_let_ram_go() - unmap the RAM of a VM whose connection is gone, and close its files, while there are references to @vm
 *
 * Its shared area stays.
 * Context: a work: it takes 40 ms a GiB. Nobody else uses the RAM, now or later.
 */
void vm_let_ram_go(struct vm *vm)
{
	warm_stop(vm->warm);
	vm->warm = NULL;
	for (unsigned int i = 0; i < vm->nr_regions; i++) {
		region_unmap(&vm->regions[i]);
		cleanup_close_fd(&vm->regions[i].fd);
	}
	cleanup_close_fd(&vm->kvm_fd);
}

static void tear_down(struct work *w)
{
	struct vm *vm = w->owner;

	fault_point_of("vm-teardown", vm->name);
	vm_let_ram_go(vm);
	dirty_close(vm->dirty);
	cleanup_close_fd(&vm->area_fd);
	free(vm->regions);
	free(vm->sizes);
}

static void torn_down(struct work *w)
{
	free(w->owner);
}

/** vm_put() - the last one has the VM unmapped and freed, by the worker */
void vm_put(struct vm *vm)
{
	if (!vm || --vm->refs)
		return;
	vm_gone(vm);
	if (vm->held_free)
		vm->held_free(vm->held);
	vm->work = (struct work){ .run = tear_down, .done = torn_down, .owner = vm };
	worker_do(vm->worker, &vm->work);
}

static void add_region(struct vm *vm, const struct vmferry_msg_region *from, int *fd)
{
	struct region *r = &vm->regions[vm->nr_regions];

	memcpy(r->name, from->name, sizeof(r->name));
	r->name[sizeof(r->name) - 1] = '\0';
	r->gpa = from->gpa;
	r->size = vm->sizes[vm->nr_regions] = from->size;
	r->fd_off = from->fd_off;
	r->page_size = from->page_size;
	r->fd = take_fd(fd);
	vm->nr_regions++;
}

/**
 * vm_new() - a VM from its registration; takes the fds out of @fds; vm_map() follows
 * @wk: unmaps and frees it one day
 * Return: NULL if there is no memory
 */
struct vm *vm_new(struct worker *wk, const struct register_request *from, int *fds)
{
	const struct vmferry_msg_register *reg = &from->reg;
	struct vm *vm = calloc(1, sizeof(*vm));

	if (!vm)
		return NULL;
	vm->refs = 1;
	vm->worker = wk;
	vm->kvm_fd = vm->area_fd = -1;
	memcpy(vm->name, reg->name, sizeof(vm->name) - 1);
	memcpy(vm->uuid, reg->uuid, sizeof(vm->uuid));
	memcpy(vm->untracked, reg->untracked, sizeof(vm->untracked) - 1);
	vm->run_state = reg->run_state;
	vm->is_fresh = reg->flags & VMFERRY_REGISTER_FRESH;
	vm->nr_vcpus = reg->nr_vcpus;
	vm->pid = reg->pid;
	vm->state_size = reg->state_size;
	vm->version = from->version;
	vm->last = from->last;
	vm->nr_devices = reg->nr_devices;
	for (unsigned int i = 0; i < vm->nr_devices; i++) {
		vm->devices[i] = from->devices[i];
		vm->devices[i].name[sizeof(vm->devices[i].name) - 1] = '\0';
		vm->devices[i].kind[sizeof(vm->devices[i].kind) - 1] = '\0';
	}
	vm->regions = calloc(reg->nr_regions, sizeof(*vm->regions));
	vm->sizes = calloc(reg->nr_regions, sizeof(*vm->sizes));
	if (!vm->regions || !vm->sizes) {
		vm_put(vm);
		return NULL;
	}
	vm->area_fd = take_fd(&fds[0]);
	vm->area_size = reg->area_size;
	if (reg->flags & VMFERRY_REGISTER_VM_FD)
		vm->kvm_fd = take_fd(&fds[reg->nr_regions + 1]);
	for (unsigned int i = 0; i < reg->nr_regions; i++)
		add_region(vm, &from->regions[i], &fds[i + 1]);
	return vm;
}

/* ---- requests; where the kernel module harvests, it has a part in some of them ---- */

/* @tracker_nr: of the tracker that it is of; @fd: the attachment */
struct tracker_area {
	unsigned int tracker_nr;
	int fd;
	uint64_t gpas[VMFERRY_MAX_REGIONS];
	struct dirty_kmod *kmod;
	int err;
};

/*
 * A request that takes more than one step. @body: the VMM's answer, while the module
 * harvests for the last time. @answer: NULL once nobody waits for it.
 */
struct vm_asked {
	struct vm *vm;
	struct vm_asked *next;
	vm_answer_fn answer;
	void *arg;
	uint8_t body[64];
	uint32_t len;
	/* The module's area, which is being mapped for a tracker that may have gone meanwhile. */
	struct work work;
	struct tracker_area area;
};

static void ask_vmm(struct vm *vm, enum vm_request type, const void *body, uint32_t len, int fd,
		    vm_answer_fn answer, void *arg)
{
	int err = vm->sock ? vm_socket_send(vm->sock, type, body, len, fd, answer, arg) :
			     -ECONNRESET;

	if (err && answer)
		answer(arg, err, NULL, 0);
}

static void finish_asked(struct vm_asked *a, int status)
{
	vm_answer_fn answer = a->answer;

	if (a->vm->pausing == a)
		a->vm->pausing = NULL;
	a->answer = NULL;
	if (answer)
		answer(a->arg, status, status ? NULL : a->body, status ? 0 : a->len);
}

static void free_asked(struct vm_asked *a)
{
	struct vm *vm = a->vm;

	for (struct vm_asked **p = &vm->asked; *p; p = &(*p)->next)
		if (*p == a) {
			*p = a->next;
			break;
		}
	free(a);
	vm_put(vm);
}

static struct vm_asked *asked_new(struct vm *vm, vm_answer_fn answer, void *arg)
{
	struct vm_asked *a = calloc(1, sizeof(*a));

	if (a) {
		*a = (struct vm_asked){ .vm = vm_get(vm), .next = vm->asked, .answer = answer, .arg = arg };
		vm->asked = a;
	} else if (answer) {
		answer(arg, -ENOMEM, NULL, 0);
	}
	return a;
}

/**
 * vm_gone() - its VMM is not there any more: what is owed by the module is answered
 * Its area stays mapped until the last vm_put(): channels may be looking at it.
 */
void vm_gone(struct vm *vm)
{
	struct tracker *t = vm->tracker;

	vm->tracker = NULL; /* first: answers that are owed may ask again */
	tracker_close(t);
}

struct dropped_area {
	struct work work;
	struct dirty_kmod *kmod;
};

static void unmap_dropped(struct work *w)
{
	struct dropped_area *d = w->owner;

	dirty_free_kmod(d->kmod);
}

static void free_dropped(struct work *w)
{
	free(w->owner);
}

static void drop_area(struct vm *vm, struct dirty_kmod *k)
{
	struct dropped_area *d = k ? calloc(1, sizeof(*d)) : NULL;

	if (d) {
		d->kmod = k;
		d->work = (struct work){ .run = unmap_dropped, .done = free_dropped, .owner = d };
		worker_do(vm->worker, &d->work);
	} else {
		dirty_free_kmod(k);
	}
}

/* Nobody looks at the module's area any more. */
static void drop_tracker(struct vm *vm)
{
	drop_area(vm, dirty_take_kmod(vm->dirty));
	vm_gone(vm);
}

static void start_vmm_log(struct vm *vm, uint32_t flags, vm_answer_fn answer, void *arg)
{
	struct vmferry_msg_start_log start = { .flags = flags };

	ask_vmm(vm, VM_START_LOG, &start, sizeof(start), -1, answer, arg);
}

static void fall_back(struct vm_asked *a, int err)
{
	struct vm *vm = a->vm;

	drop_tracker(vm);
	if (vm->tracker_mode == TRACKER_KMOD) {
		finish_asked(a, err);
	} else {
		notice_report("vm %s: its VMM harvests dirty pages, not the kernel module: %s", vm->name,
			      vm->tracker_why);
		start_vmm_log(vm, 0, a->answer, a->arg);
	}
	free_asked(a);
}

static void map_area(struct work *w)
{
	struct vm_asked *a = w->owner;
	struct tracker_area *t = &a->area;

	fault_point_of("map-area", a->vm->name);
	t->err = dirty_map_kmod(a->vm->dirty, t->fd, t->gpas, &t->kmod);
}

static void on_area_mapped(struct work *w)
{
	struct vm_asked *a = w->owner;
	struct tracker_area *t = &a->area;
	struct vm *vm = a->vm;

	if (!vm->tracker || vm->tracker_nr != t->tracker_nr) { /* called off */
		drop_area(vm, t->kmod);
		finish_asked(a, -ECANCELED);
		free_asked(a);
	} else if (t->err) {
		snprintf(vm->tracker_why, sizeof(vm->tracker_why), t->err == -ESTALE ?
			 "KVM has no slot for one of its regions" :
			 "the module's area cannot be used: %s", strerror(-t->err));
		fall_back(a, t->err);
	} else {
		dirty_use_kmod(vm->dirty, t->kmod);
		start_vmm_log(vm, VMFERRY_LOG_MARKS_ONLY, a->answer, a->arg);
		free_asked(a);
	}
}

static void on_tracker_started(void *arg, int err)
{
	struct vm_asked *a = arg;
	struct vm *vm = a->vm;

	if (!vm->tracker) { /* called off */
		finish_asked(a, err ? err : -ECANCELED);
		free_asked(a);
		return;
	}
	if (err) {
		snprintf(vm->tracker_why, sizeof(vm->tracker_why), "%s", tracker_why(vm->tracker));
		fall_back(a, err);
		return;
	}
	a->area.tracker_nr = vm->tracker_nr;
	a->area.fd = fcntl(tracker_fd(vm->tracker), F_DUPFD_CLOEXEC, 0);
	for (unsigned int i = 0; i < vm->nr_regions; i++)
		a->area.gpas[i] = vm->regions[i].gpa;
	a->work = (struct work){ .run = map_area, .done = on_area_mapped, .owner = a };
	worker_do(vm->worker, &a->work);
}

static void start_log(struct vm *vm, vm_answer_fn answer, void *arg)
{
	struct vm_asked *a;
	int err;

	drop_tracker(vm);
	vm->tracker_why[0] = '\0';
	if (vm->tracker_mode == TRACKER_VMM) {
		start_vmm_log(vm, 0, answer, arg);
		return;
	}
	a = asked_new(vm, answer, arg);
	if (!a)
		return;
	if (vm->kvm_fd < 0) {
		snprintf(vm->tracker_why, sizeof(vm->tracker_why),
			 "it does not share KVM's VM fd with the daemon");
		fall_back(a, -EOPNOTSUPP);
		return;
	}
	vm->tracker_nr++;
	err = tracker_open(vm->loop, vm->worker, vm->kvm_fd, vm->peer_pid, &vm->tracker);
	if (err) {
		snprintf(vm->tracker_why, sizeof(vm->tracker_why), "%s", strerror(-err));
		fall_back(a, err);
		return;
	}
	tracker_start(vm->tracker, on_tracker_started, a);
}

static void on_tracker_harvested(void *arg, int err)
{
	struct vm_asked *a = arg;

	if (err && a->vm->tracker)
		snprintf(a->vm->tracker_why, sizeof(a->vm->tracker_why), "%s", tracker_why(a->vm->tracker));
	finish_asked(a, err);
	free_asked(a);
}

static void harvest(struct vm *vm, vm_answer_fn answer, void *arg)
{
	struct vm_asked *a = asked_new(vm, answer, arg);

	if (a)
		tracker_harvest(vm->tracker, false, on_tracker_harvested, a);
}

static void on_vmm_paused(void *arg, int status, const void *body, uint32_t len)
{
	struct vm_asked *a = arg;

	/* Without an answer it was called off while the VMM stopped the vCPUs: see resume(). */
	if (!status && len > sizeof(a->body))
		status = -EPROTO;
	if (!status && !a->vm->tracker)
		status = -ECANCELED;
	if (status || !a->answer) {
		finish_asked(a, status);
		free_asked(a);
		return;
	}
	memcpy(a->body, body, len);
	a->len = len;
	tracker_harvest(a->vm->tracker, true, on_tracker_harvested, a);
}

static void pause_and_harvest(struct vm *vm, vm_answer_fn answer, void *arg)
{
	struct vm_asked *a = asked_new(vm, answer, arg);

	if (!a)
		return;
	vm->pausing = a;
	ask_vmm(vm, VM_PAUSE, NULL, 0, -1, on_vmm_paused, a);
}

/*
 * A PAUSE that is still waiting for its last harvest is over: answered later, it would be
 * taken for the answer to the next one, and its pages for all there are.
 */
static void call_off_pause(struct vm *vm)
{
	if (vm->pausing)
		finish_asked(vm->pausing, -ECANCELED);
}

/** vm_tracker_why() - why the kernel module did not harvest, or failed; "" if it did */
const char *vm_tracker_why(const struct vm *vm)
{
	return vm->tracker_why;
}

/** vm_ask() - ask the VMM; @answer is called once: at once if the VMM is gone, else later; see vm_forget() */
void vm_ask(struct vm *vm, enum vm_request type, const void *body, uint32_t len, int fd,
	    vm_answer_fn answer, void *arg)
{
	switch (type) {
	case VM_START_LOG:
		start_log(vm, answer, arg);
		return;
	case VM_HARVEST:
		if (vm->tracker) {
			harvest(vm, answer, arg);
			return;
		}
		break;
	case VM_PAUSE:
		if (vm->tracker) {
			pause_and_harvest(vm, answer, arg);
			return;
		}
		break;
	case VM_RESUME:
		call_off_pause(vm);
		break;
	case VM_STOP_LOG:
	case VM_RELEASE:
		drop_tracker(vm);
		break;
	default:
		break;
	}
	ask_vmm(vm, type, body, len, fd, answer, arg);
}

/**
 * vm_forget() - @arg is about to go: what it asked of @vm is carried out, but not answered
 *
 * Who asks for the next thing may well be at the same address.
 */
void vm_forget(struct vm *vm, const void *arg)
{
	for (struct vm_asked *a = vm->asked; a; a = a->next)
		if (a->arg == arg)
			a->answer = NULL;
	if (vm->sock)
		vm_socket_forget(vm->sock, arg);
}

/**
 * vm_disbelieve() - the VMM refused what it must do: whether its guest runs is not known any more
 *
 * Its connection ends in the next turn of the loop. It registers again, says where it stands, and recovery.c asks
 * it once more. Callable from an answer's callback.
 */
void vm_disbelieve(struct vm *vm)
{
	if (vm->sock)
		vm_socket_shut(vm->sock);
}

static void on_told(void *arg, int status, const void *body, uint32_t len)
{
	(void)body;
	(void)len;
	if (status)
		vm_disbelieve(arg);
}

/**
 * vm_tell_migration() - have the VMM remember that migration @id of it begins, with @role (enum vmferry_role)
 *
 * A VMM that does not take it would name an older migration after a crash, whose outcome is not this one's: its
 * connection ends, and the migration with it. Requests are carried out in order, so that a guest which was paused
 * later has a VMM that knows @id. Does nothing for a VMM of version 1.
 *
 * Context: the loop's thread; not while the guest stands still.
 */
void vm_tell_migration(struct vm *vm, const uint8_t id[16], uint32_t role)
{
	if (vm->version < 2)
		return;
	vm->last = (struct vmferry_msg_migration){ .role = role };
	memcpy(vm->last.id, id, sizeof(vm->last.id));
	ask_vmm(vm, VM_MIGRATION, &vm->last, sizeof(vm->last), -1, on_told, vm);
}
