// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: with the kernel module as harvester each request is still answered once, with the
 * right answer, whatever comes between: above all a PAUSE that was called off is never taken for
 * the next one, for its guest runs.
 * The VMM and the module are scripted here: what they are asked is written down, and answered
 * when the test says so.
 * Seen to fail: without call_off_pause(), the first test; without tracker_close() in vm_gone(),
 * a_vm_that_goes_is_owed_nothing; without either half of vm_forget(), who_is_forgotten_is_not_answered.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "pages/dirty.h"
#include "pages/warm.h"
#include "vm/vm.h"

/* ---- a VMM and a module that answer when they are told ---- */

struct asked {
	enum vm_request type;
	uint32_t flags;
	vm_answer_fn answer;
	void *arg;
};

struct module_asked {
	bool final;
	tracker_fn done;
	void *arg;
};

static struct asked vmm[16];
static struct module_asked module[16];
static unsigned int nr_vmm, nr_module;
static int area_error;
static struct tracker { int open; } tracker;

int vm_socket_send(struct vm_socket *s, enum vm_request type, const void *body, uint32_t len, int fd,
		   vm_answer_fn answer, void *arg)
{
	(void)s;
	(void)fd;
	vmm[nr_vmm] = (struct asked){ type, 0, answer, arg };
	if (len == sizeof(struct vmferry_msg_start_log))
		vmm[nr_vmm].flags = ((const struct vmferry_msg_start_log *)body)->flags;
	nr_vmm++;
	return 0;
}

void vm_socket_shut(struct vm_socket *s)
{
	(void)s;
}

void vm_socket_forget(struct vm_socket *s, const void *arg)
{
	(void)s;
	for (unsigned int i = 0; i < nr_vmm; i++)
		if (vmm[i].arg == arg)
			vmm[i].answer = NULL;
}

int tracker_open(struct loop *loop, struct worker *wk, int vm_fd, int pid, struct tracker **out)
{
	(void)loop;
	(void)wk;
	(void)vm_fd;
	(void)pid;
	tracker.open++;
	*out = &tracker;
	return 0;
}

void tracker_close(struct tracker *t)
{
	unsigned int n = nr_module;

	if (!t)
		return;
	t->open--;
	for (unsigned int i = 0; i < n; i++) {
		struct module_asked a = module[i];

		module[i].done = NULL;
		if (a.done)
			a.done(a.arg, -ECANCELED);
	}
}

void tracker_start(struct tracker *t, tracker_fn done, void *arg)
{
	(void)t;
	module[nr_module++] = (struct module_asked){ false, done, arg };
}

void tracker_harvest(struct tracker *t, bool final, tracker_fn done, void *arg)
{
	(void)t;
	module[nr_module++] = (struct module_asked){ final, done, arg };
}

int tracker_fd(const struct tracker *t)
{
	(void)t;
	return -1;
}

const char *tracker_why(const struct tracker *t)
{
	(void)t;
	return "the test says so";
}

static struct dirty_kmod { int mapped; } area, *in_use;

int dirty_map_kmod(const struct dirty *d, int fd, const uint64_t *gpas, struct dirty_kmod **out)
{
	(void)d;
	(void)fd;
	(void)gpas;
	if (area_error)
		return area_error;
	area.mapped++;
	*out = &area;
	return 0;
}

void dirty_use_kmod(struct dirty *d, struct dirty_kmod *k)
{
	(void)d;
	in_use = k;
}

struct dirty_kmod *dirty_take_kmod(struct dirty *d)
{
	struct dirty_kmod *k = in_use;

	(void)d;
	in_use = NULL;
	return k;
}

void dirty_free_kmod(struct dirty_kmod *k)
{
	if (k)
		k->mapped--;
}

void dirty_close(struct dirty *d)
{
	(void)d;
}

void warm_stop(struct warm *w)
{
	(void)w;
}

void region_unmap(struct region *r)
{
	(void)r;
}

static bool holds_works;
static struct work *held;

/* Done at once, or when the test says so. */
void worker_do(struct worker *wk, struct work *w)
{
	(void)wk;
	if (holds_works && !held) {
		held = w;
		return;
	}
	w->run(w);
	w->done(w);
}

static void work_is_done(void)
{
	struct work *w = held;

	held = NULL;
	holds_works = false;
	w->run(w);
	w->done(w);
}

/* ---- the one who asks ---- */

static char asker;
static int status, answers;
static uint64_t harvested_ns;

static void on_answer(void *arg, int s, const void *body, uint32_t len)
{
	assert_ptr_equal(arg, &asker);
	answers++;
	status = s;
	harvested_ns = len == sizeof(struct vmferry_msg_paused) ? ((const struct vmferry_msg_paused *)body)->harvested_ns : 0;
}

static struct vm *vm;

static void vmm_answers(unsigned int i, int s, uint64_t ns)
{
	struct vmferry_msg_paused p = { .harvested_ns = ns };
	bool has_body = vmm[i].type == VM_PAUSE && !s;

	if (vmm[i].answer)
		vmm[i].answer(vmm[i].arg, s, has_body ? &p : NULL, has_body ? sizeof(p) : 0);
}

static void module_answers(unsigned int i, int s)
{
	tracker_fn done = module[i].done;

	module[i].done = NULL;
	done(module[i].arg, s);
}

static void ask(enum vm_request type)
{
	vm_ask(vm, type, NULL, 0, -1, on_answer, &asker);
}

static int setup(void **state)
{
	(void)state;
	nr_vmm = nr_module = 0;
	area_error = answers = status = tracker.open = 0;
	vm = calloc(1, sizeof(*vm));
	vm->refs = 1;
	vm->kvm_fd = 1000000; /* only handed on here */
	vm->sock = (struct vm_socket *)vm;
	strcpy(vm->name, "web1");
	return 0;
}

static int setup_logging(void **state)
{
	setup(state);
	ask(VM_START_LOG);
	assert_int_equal(nr_vmm, 0); /* first the module */
	module_answers(0, 0);
	assert_int_equal(vmm[0].type, VM_START_LOG);
	assert_int_equal(vmm[0].flags, VMFERRY_LOG_MARKS_ONLY);
	vmm_answers(0, 0, 0);
	assert_int_equal(answers, 1);
	assert_int_equal(status, 0);
	answers = 0;
	nr_vmm = nr_module = 0;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	vm->kvm_fd = -1;
	assert_int_equal(vm->refs, 1); /* nobody holds it for an answer that came */
	in_use = NULL; /* with dirty_close() */
	vm_put(vm);
	assert_int_equal(tracker.open, 0);
	return 0;
}

/* ---- the tests ---- */

static void a_pause_called_off_is_not_taken_for_the_next(void **state)
{
	(void)state;
	ask(VM_PAUSE);
	vmm_answers(0, 0, 111);
	assert_int_equal(nr_module, 1);
	assert_true(module[0].final);
	assert_int_equal(answers, 0);
	ask(VM_RESUME); /* late: called off */
	assert_int_equal(answers, 1);
	assert_int_equal(status, -ECANCELED);
	vmm_answers(1, 0, 0);
	assert_int_equal(answers, 2);
	ask(VM_PAUSE);
	module_answers(0, 0); /* of the first try: nobody waits for it */
	assert_int_equal(answers, 2);
	vmm_answers(2, 0, 222);
	assert_int_equal(answers, 2);
	module_answers(1, 0);
	assert_int_equal(answers, 3);
	assert_int_equal(status, 0);
	assert_int_equal(harvested_ns, 222);
}

static void a_pause_called_off_before_the_vmm_answered(void **state)
{
	(void)state;
	ask(VM_PAUSE);
	ask(VM_RESUME);
	assert_int_equal(status, -ECANCELED);
	vmm_answers(0, 0, 111);
	assert_int_equal(nr_module, 0); /* not harvested: the guest is about to run */
	vmm_answers(1, 0, 0);
	assert_int_equal(answers, 2);
}

static void a_vmm_that_cannot_pause_is_not_harvested(void **state)
{
	(void)state;
	ask(VM_PAUSE);
	vmm_answers(0, -EIO, 0);
	assert_int_equal(nr_module, 0);
	assert_int_equal(answers, 1);
	assert_int_equal(status, -EIO);
}

static void a_harvest_that_fails_says_why(void **state)
{
	(void)state;
	ask(VM_HARVEST);
	assert_int_equal(nr_vmm, 0);
	assert_false(module[0].final);
	module_answers(0, -EIO);
	assert_int_equal(status, -EIO);
	assert_string_equal(vm_tracker_why(vm), "the test says so");
}

static void without_the_module_the_vmm_harvests(void **state)
{
	(void)state;
	ask(VM_START_LOG);
	module_answers(0, -ENOENT);
	assert_int_equal(tracker.open, 0);
	assert_int_equal(vmm[0].type, VM_START_LOG);
	assert_int_equal(vmm[0].flags, 0);
	vmm_answers(0, 0, 0);
	assert_int_equal(status, 0);
	ask(VM_HARVEST);
	assert_int_equal(vmm[1].type, VM_HARVEST);
	vmm_answers(1, 0, 0);
	assert_int_equal(answers, 2);
}

static void who_wants_the_module_gets_no_other(void **state)
{
	(void)state;
	vm->tracker_mode = TRACKER_KMOD;
	area_error = -ESTALE;
	ask(VM_START_LOG);
	module_answers(0, 0);
	assert_int_equal(nr_vmm, 0);
	assert_int_equal(answers, 1);
	assert_int_equal(status, -ESTALE);
	assert_string_equal(vm_tracker_why(vm), "KVM has no slot for one of its regions");
	assert_int_equal(tracker.open, 0);
}

static void a_vm_that_goes_is_owed_nothing(void **state)
{
	(void)state;
	ask(VM_HARVEST);
	vm->sock = NULL;
	vm_gone(vm);
	assert_int_equal(answers, 1);
	assert_int_equal(status, -ECANCELED);
	assert_int_equal(tracker.open, 0);
}

/* What is asked has up to three steps; who goes while the last of so many is taken is not answered. */
static void forgotten_after(enum vm_request type, unsigned int module_steps, unsigned int vmm_steps)
{
	nr_vmm = nr_module = answers = 0;
	ask(type);
	for (unsigned int i = 0; i < module_steps; i++)
		module_answers(i, 0);
	for (unsigned int i = 0; i < vmm_steps; i++)
		vmm_answers(i, 0, 1);
	assert_int_equal(answers, 0);
	vm_forget(vm, &asker);
	for (unsigned int i = module_steps; i < nr_module; i++)
		module_answers(i, 0);
	for (unsigned int i = vmm_steps; i < nr_vmm; i++)
		vmm_answers(i, 0, 1);
	for (unsigned int i = module_steps; i < nr_module; i++)
		if (module[i].done)
			module_answers(i, 0);
	assert_int_equal(answers, 0);
	assert_int_equal(vm->refs, 1);
}

static void who_is_forgotten_is_not_answered(void **state)
{
	(void)state;
	forgotten_after(VM_START_LOG, 0, 0);
	forgotten_after(VM_START_LOG, 1, 0);
	forgotten_after(VM_HARVEST, 0, 0);
	forgotten_after(VM_PAUSE, 0, 0);
	forgotten_after(VM_PAUSE, 0, 1);
	forgotten_after(VM_SAVE, 0, 0);
	ask(VM_SAVE); /* and who asks from the same address is */
	vmm_answers(nr_vmm - 1, 0, 0);
	assert_int_equal(answers, 1);
}

static void only_who_is_forgotten_is_not_answered(void **state)
{
	char other;

	(void)state;
	ask(VM_SAVE);
	ask(VM_HARVEST);
	vm_forget(vm, &other);
	vmm_answers(0, 0, 0);
	module_answers(0, 0);
	assert_int_equal(answers, 2);
}

/* Seen to fail with on_area_mapped() asking only whether there is a tracker: the second one got the first one's area. */
static void an_area_of_a_tracker_that_is_gone_is_not_used(void **state)
{
	(void)state;
	area.mapped = 0;
	holds_works = true;
	ask(VM_START_LOG);
	module_answers(0, 0);
	assert_non_null(held);
	assert_int_equal(nr_vmm, 0); /* not before the area is there */
	ask(VM_START_LOG); /* anew, while that of the first is being mapped */
	work_is_done();
	assert_int_equal(answers, 1);
	assert_int_equal(status, -ECANCELED);
	assert_int_equal(area.mapped, 0);
	assert_null(in_use);
	module_answers(1, 0);
	assert_ptr_equal(in_use, &area);
	vmm_answers(0, 0, 0);
	assert_int_equal(answers, 2);
	assert_int_equal(status, 0);
	ask(VM_STOP_LOG);
	assert_null(in_use);
	assert_int_equal(area.mapped, 0);
}

static void an_area_that_is_mapped_when_its_vmm_is_gone_is_let_go(void **state)
{
	(void)state;
	area.mapped = 0;
	holds_works = true;
	ask(VM_START_LOG);
	module_answers(0, 0);
	vm_gone(vm);
	work_is_done();
	assert_int_equal(answers, 1);
	assert_int_equal(status, -ECANCELED);
	assert_int_equal(area.mapped, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_pause_called_off_is_not_taken_for_the_next, setup_logging, teardown),
		cmocka_unit_test_setup_teardown(a_pause_called_off_before_the_vmm_answered, setup_logging, teardown),
		cmocka_unit_test_setup_teardown(a_vmm_that_cannot_pause_is_not_harvested, setup_logging, teardown),
		cmocka_unit_test_setup_teardown(a_harvest_that_fails_says_why, setup_logging, teardown),
		cmocka_unit_test_setup_teardown(without_the_module_the_vmm_harvests, setup, teardown),
		cmocka_unit_test_setup_teardown(who_wants_the_module_gets_no_other, setup, teardown),
		cmocka_unit_test_setup_teardown(a_vm_that_goes_is_owed_nothing, setup_logging, teardown),
		cmocka_unit_test_setup_teardown(who_is_forgotten_is_not_answered, setup_logging, teardown),
		cmocka_unit_test_setup_teardown(only_who_is_forgotten_is_not_answered, setup_logging, teardown),
		cmocka_unit_test_setup_teardown(an_area_of_a_tracker_that_is_gone_is_not_used, setup, teardown),
		cmocka_unit_test_setup_teardown(an_area_that_is_mapped_when_its_vmm_is_gone_is_let_go, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
