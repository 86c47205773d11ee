// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: VMMs and peers of older and newer versions are understood, or refused in words; a VMM says which migration
 * it was told of last.
 * Seen to fail: with wire_common() or common_version() that know no range; without vm_disbelieve() in on_told(), without
 * the question for version 1 in vm_tell_migration(), and with a DISCARD that forgets nothing, the tests of these names.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "ferry_steps.h"

/* A hello of versions @oldest to @newest, 0: no range. Return: the version in the answer; negative: it is refused */
static int vmm_greet(struct vmm *v, struct host *h, uint32_t oldest, uint64_t newest)
{
	struct { struct vmferry_msg msg; struct vmferry_msg_hello hello; } m = {
		{ .type = VMFERRY_MSG_HELLO, .len = sizeof(m.hello), .seq = 1 },
		{ .magic = VMFERRY_VMM_MAGIC, .version = oldest, .features = newest << VMFERRY_FEATURES_NEWEST_SHIFT },
	};

	link_open(&v->link, h->vmms, sizeof(m));
	assert_int_equal(send(v->link.sock, &m, sizeof(m), MSG_NOSIGNAL), sizeof(m));
	until(has_answer, &v->link);
	memcpy(&m, v->link.said, sizeof(m));
	return m.msg.status ? m.msg.status : (int)m.hello.version;
}

/* Registration in version 2; the answer is still to come. */
static void vmm_register_again(struct vmm *v, const char *name, uint32_t run_state, const struct vmferry_msg_migration *last)
{
	struct {
		struct vmferry_msg msg;
		struct vmferry_msg_register reg;
		struct vmferry_msg_region ram;
		struct vmferry_msg_migration last;
	} m = {
		{ .type = VMFERRY_MSG_REGISTER, .len = sizeof(m) - sizeof(m.msg), .seq = 2 },
		{ .run_state = run_state, .nr_regions = 1, .nr_vcpus = 1, .pid = getpid(), .flags = VMFERRY_REGISTER_FRESH },
		{ .name = "ram", .size = RAM, .page_size = 4096 },
		*last,
	};

	vmm_make_ram(v);
	m.reg.area_size = v->area.size;
	snprintf(m.reg.name, sizeof(m.reg.name), "%s", name);
	v->link.len = 0;
	v->link.want = sizeof(struct vmferry_msg);
	send_with_fds(v->link.sock, &m, sizeof(m), (int[]){ v->area.fd, v->ram });
}

/* What a peer of versions @oldest to @newest is told; @text: NULL, or a part of the words */
static int greeted(uint32_t role, uint32_t oldest, uint32_t newest, const char *text)
{
	struct wire_hello hello = { .magic = WIRE_MAGIC, .version = oldest, .role = role, .newest = newest,
				    .outcome = WIRE_OUTCOME_THERE };
	struct wire_welcome w = greet(&a, &hello);

	assert_int_equal(w.version, WIRE_OLDEST);
	assert_int_equal(w.newest, WIRE_VERSION);
	if (text && !strstr(w.text, text))
		fail_msg("no \"%s\" in: %s", text, w.text);
	return w.status;
}

static void peers_of_other_versions_are_told_in_words(void **state)
{
	struct wire_hello bad = wire_hello_for(WIRE_SETTLE);

	(void)state;
	open_host(&a);
	assert_int_equal(greeted(WIRE_CONTROL, 2, 3, NULL), 0);
	assert_int_equal(greeted(WIRE_CONTROL, 1, 8, NULL), 0);
	assert_int_equal(greeted(WIRE_RESOLVE, 2, 0, NULL), WIRE_RESOLVED_LATER);
	assert_int_equal(greeted(WIRE_SETTLE, 2, 3, NULL), WIRE_SETTLED);
	assert_int_equal(greeted(WIRE_CONTROL, 2, 0, "needs version 3 of the wire, yours speaks version 2; update yours"),
			 -EPROTONOSUPPORT);
	assert_int_equal(greeted(WIRE_CHANNEL, 1, 2, "yours speaks versions 1 to 2; update yours"), -EPROTONOSUPPORT);
	assert_int_equal(greeted(WIRE_SETTLE, 2, 0, "update yours"), -EPROTONOSUPPORT);
	assert_int_equal(greeted(WIRE_RESOLVE, 1, 0, "needs versions 2 to 3 of the wire"), -EPROTONOSUPPORT);
	assert_int_equal(greeted(WIRE_RESOLVE, 4, 6, "yours speaks versions 4 to 6; update this one"), -EPROTONOSUPPORT);
	assert_int_equal(greeted(99, 2, 3, "bad role"), -EINVAL);
	assert_int_equal(greet(&a, &bad).status, -EINVAL); /* settles nothing: no outcome */
}

static void vmms_of_all_versions_are_understood(void **state)
{
	static const struct { uint32_t oldest; uint64_t newest; int spoken; } table[] = {
		{ 1, 0, 1 }, { 1, 1, 1 }, { 1, 2, 2 }, { 2, 0, 2 }, { 2, 7, 2 }, { 3, 0, -EPROTONOSUPPORT },
		{ 3, 4, -EPROTONOSUPPORT }, { 0, 0, -EPROTONOSUPPORT }, { 2, 1, -EPROTONOSUPPORT },
	};

	(void)state;
	open_host(&a);
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		struct vmm v;

		assert_int_equal(vmm_greet(&v, &a, table[i].oldest, table[i].newest), table[i].spoken);
		close(v.link.sock);
	}
}

static void on_done(void *arg, int status, const void *body, uint32_t len)
{
	(void)body;
	(void)len;
	*(int *)arg = status;
}

static bool is_done(void *arg)
{
	return *(int *)arg != 1;
}

/* The VMM hears @type and answers it with @status; @arg: of on_done() */
static void vmm_answers(struct vmm *v, uint32_t type, size_t len, int32_t status, int *done)
{
	struct vmferry_msg m;

	v->link.len = 0;
	v->link.want = sizeof(m) + len;
	until(has_answer, &v->link);
	memcpy(&m, v->link.said, sizeof(m));
	assert_int_equal(m.type, type);
	assert_int_equal(m.len, len);
	m = (struct vmferry_msg){ type | VMFERRY_MSG_REPLY, 0, m.seq, status };
	assert_int_equal(send(v->link.sock, &m, sizeof(m), MSG_NOSIGNAL), sizeof(m));
	if (done)
		until(is_done, done);
}

static void a_vmm_says_which_migration_it_was_told_of_last(void **state)
{
	struct vmferry_msg_migration last = { .id = { 1, 2, 3 }, .role = VMFERRY_ROLE_SOURCE }, heard;
	int done = 1;
	struct vmm v;
	struct vm *vm;

	(void)state;
	open_host(&a);
	assert_int_equal(vmm_greet(&v, &a, 1, 2), 2);
	vmm_register_again(&v, "web1", VMFERRY_RUN_INCOMING, &last);
	vmm_is_registered(&v);
	vm = vm_find(&a.f.vms, "web1", true);
	assert_int_equal(vm->version, 2);
	assert_memory_equal(&vm->last, &last, sizeof(last));

	vm_tell_migration(vm, id2, VMFERRY_ROLE_DESTINATION);
	vmm_answers(&v, VMFERRY_MSG_MIGRATION, sizeof(heard), 0, NULL);
	memcpy(&heard, v.link.said + sizeof(struct vmferry_msg), sizeof(heard));
	assert_memory_equal(heard.id, id2, sizeof(heard.id));
	assert_int_equal(heard.role, VMFERRY_ROLE_DESTINATION);
	assert_memory_equal(&vm->last, &heard, sizeof(heard));

	vm_ask(vm, VM_DISCARD, NULL, 0, -1, on_done, &done);
	vmm_answers(&v, VMFERRY_MSG_DISCARD, 0, 0, &done);
	assert_int_equal(done, 0);
	assert_int_equal(vm->last.role, VMFERRY_ROLE_NONE);

	/* A VMM that does not take it would name an older one after a crash. */
	vm_tell_migration(vm, id1, VMFERRY_ROLE_DESTINATION);
	vmm_answers(&v, VMFERRY_MSG_MIGRATION, sizeof(heard), -EIO, NULL);
	until(is_closed, &v.link);
	vmm_end(&v);
}

static void a_vmm_of_version_1_is_told_of_no_migration(void **state)
{
	struct vmm v;
	struct vm *vm;
	int done = 1;

	(void)state;
	open_host(&a);
	vmm_register(&v, &a, "web1");
	vmm_is_registered(&v);
	vm = vm_find(&a.f.vms, "web1", false);
	vm_tell_migration(vm, id1, VMFERRY_ROLE_SOURCE);
	vm_ask(vm, VM_HARVEST, NULL, 0, -1, on_done, &done);
	vmm_answers(&v, VMFERRY_MSG_HARVEST, 0, 0, &done); /* the first that it hears */
	assert_int_equal(vm->last.role, VMFERRY_ROLE_NONE);
	vmm_end(&v);
}

static const char *refuse_everybody(void *owner, struct vm *vm, char *text, size_t len)
{
	(void)owner;
	snprintf(text, len, "%s runs here already", vm->name);
	return text;
}

static void a_registration_that_the_daemon_refuses_is_told_why(void **state)
{
	static const char why[] = "web1 runs here already";
	struct vmferry_msg_migration last = { 0 };
	struct vmferry_msg m;
	struct vmm v;

	(void)state;
	open_host(&a);
	a.f.vms.refuses = refuse_everybody;
	vmm_greet(&v, &a, 1, 2);
	vmm_register_again(&v, "web1", VMFERRY_RUN_RUNNING, &last);
	v.link.want = sizeof(m) + sizeof(why) - 1;
	until(has_answer, &v.link);
	memcpy(&m, v.link.said, sizeof(m));
	assert_true(m.status < 0);
	assert_int_equal(m.len, sizeof(why) - 1);
	assert_memory_equal(v.link.said + sizeof(m), why, sizeof(why) - 1);
	until(is_closed, &v.link);
	assert_null(vm_find(&a.f.vms, "web1", false)); /* never listed */
	vmm_end(&v);

	/* Version 1 has no room for words. */
	vmm_register(&v, &a, "web1");
	until(has_answer, &v.link);
	memcpy(&m, v.link.said + v.link.want - sizeof(m), sizeof(m));
	assert_true(m.status < 0);
	assert_int_equal(m.len, 0);
	until(is_closed, &v.link);
	vmm_end(&v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(peers_of_other_versions_are_told_in_words, setup, teardown),
		cmocka_unit_test_setup_teardown(vmms_of_all_versions_are_understood, setup, teardown),
		cmocka_unit_test_setup_teardown(a_vmm_says_which_migration_it_was_told_of_last, setup, teardown),
		cmocka_unit_test_setup_teardown(a_vmm_of_version_1_is_told_of_no_migration, setup, teardown),
		cmocka_unit_test_setup_teardown(a_registration_that_the_daemon_refuses_is_told_why, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
