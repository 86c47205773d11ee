// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: a process may have several daemons, and these share nothing: each has its journal, its peers, its VMMs and
 * its limits of messages; one ends, and the other does not notice; one that starts again finds what its folders have.
 * All objects are the daemon's own; the loops take turns on one thread.
 * Seen to fail: with one static struct vm_socket_set or greeter_set for all, the first test, which then waits until its
 * alarm; with one struct limited for all, the second; with a journal at another path at each start, the third; with
 * make_dir() that reads errno after error_report(), and under ASan without free() after address_listen(), the last.
 *
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

#include <area.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/deadline.h"
#include "control/journal.h"
#include "ferry.h"
#include "peer/wire.h"

#define PATIENCE_S 120
#define RAM (1 << 20)

/** struct host - a daemon and its folders; @tick ends its turn */
struct host {
	struct ferry f;
	struct loop_timer tick;
	bool is_open;
	char run[80], state[80], peers[96], vmms[96];
};

static struct host a, b;
static char folder[32];
static const uint8_t id1[16] = { 1 }, id2[16] = { 2 };

static void end_turn(void *owner)
{
	struct host *h = owner;

	loop_stop(h->f.loop);
}

static struct ferry_config config_of(struct host *h)
{
	return (struct ferry_config){ .listen = h->peers, .run_dir = h->run, .state_dir = h->state,
				      .vmm_socket = h->vmms, .tracker = TRACKER_VMM, .boot = "one host" };
}

static void open_host(struct host *h)
{
	struct ferry_config c = config_of(h);

	memset(&h->f, 0, sizeof(h->f));
	h->is_open = true;
	assert_int_equal(ferry_open(&h->f, &c), 0);
	assert_int_equal(loop_timer_init(&h->tick, h->f.loop, end_turn, h), 0);
}

static void close_host(struct host *h)
{
	if (!h->is_open)
		return;
	h->is_open = false;
	loop_timer_fini(&h->tick);
	ferry_stop(&h->f, "was told to end");
	assert_true(ferry_close(&h->f));
}

/* Both daemons take turns of a millisecond. */
static void until(bool (*is_so)(void *arg), void *arg)
{
	struct host *hosts[] = { &a, &b };

	while (!is_so(arg))
		for (int i = 0; i < 2; i++) {
			if (!hosts[i]->is_open)
				continue;
			loop_timer_at(&hosts[i]->tick, now_ns() + NS_PER_MS);
			assert_int_equal(loop_run(hosts[i]->f.loop), 0);
		}
}

static void name_host(struct host *h, const char *name)
{
	memset(h, 0, sizeof(*h));
	snprintf(h->run, sizeof(h->run), "%s/%s-run", folder, name);
	snprintf(h->state, sizeof(h->state), "%s/%s-state", folder, name);
	snprintf(h->peers, sizeof(h->peers), "unix:%s/%s-peers", folder, name);
	snprintf(h->vmms, sizeof(h->vmms), "%s/%s-vmms", folder, name);
}

static int setup(void **state)
{
	(void)state;
	alarm(PATIENCE_S);
	strcpy(folder, "/tmp/vmferry-ferry-XXXXXX");
	if (!mkdtemp(folder))
		return -1;
	name_host(&a, "a");
	name_host(&b, "b");
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st;
	(void)type;
	(void)where;
	return remove(path);
}

static int teardown(void **state)
{
	(void)state;
	close_host(&a);
	close_host(&b);
	alarm(0);
	return nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* ---- connections ---- */

/** struct link - one connection to a daemon, and what it said there so far, until @want bytes are there */
struct link {
	int sock;
	size_t want, len;
	uint8_t said[512];
};

static void link_open(struct link *l, const char *path, size_t want)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };

	*l = (struct link){ .sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), .want = want };
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	assert_int_equal(connect(l->sock, (struct sockaddr *)&sa, sizeof(sa)), 0);
}

static bool has_answer(void *arg)
{
	struct link *l = arg;
	ssize_t n = recv(l->sock, l->said + l->len, l->want - l->len, MSG_DONTWAIT);

	if (n < 0)
		assert_int_equal(errno, EAGAIN);
	else
		assert_int_not_equal(n, 0); /* closed before it has answered */
	l->len += n > 0 ? (size_t)n : 0;
	return l->len == l->want;
}

static bool is_closed(void *arg)
{
	struct link *l = arg;
	char c;
	ssize_t n = recv(l->sock, &c, 1, MSG_DONTWAIT | MSG_PEEK);

	return !n || (n < 0 && errno == ECONNRESET);
}

static struct wire_welcome greet(struct host *h, const struct wire_hello *hello)
{
	struct wire_welcome w;
	struct link l;

	link_open(&l, h->peers + strlen("unix:"), sizeof(w));
	assert_int_equal(send(l.sock, hello, sizeof(*hello), MSG_NOSIGNAL), sizeof(*hello));
	until(has_answer, &l);
	close(l.sock);
	memcpy(&w, l.said, sizeof(w));
	return w;
}

/* Return: the status of the welcome to a peer that asks what became of @id */
static int ask_as(struct host *h, uint64_t magic, uint32_t oldest, uint32_t newest, const uint8_t id[16])
{
	struct wire_hello hello = { .magic = magic, .version = oldest, .role = WIRE_RESOLVE, .newest = newest };

	memcpy(hello.id, id, sizeof(hello.id));
	return greet(h, &hello).status;
}

static int ask(struct host *h, const uint8_t id[16])
{
	return ask_as(h, WIRE_MAGIC, WIRE_OLDEST, WIRE_VERSION, id);
}

/** struct vmm - a VMM that registers and then does nothing */
struct vmm {
	struct link link;
	struct area area;
	int ram;
};

static void send_with_fds(int sock, const void *what, size_t len, const int fds[2])
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(2 * sizeof(int))];
	} c = { 0 };
	struct iovec iov = { (void *)(uintptr_t)what, len };
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = c.buf, .msg_controllen = sizeof(c.buf) };
	struct cmsghdr *cm = CMSG_FIRSTHDR(&mh);

	cm->cmsg_level = SOL_SOCKET;
	cm->cmsg_type = SCM_RIGHTS;
	cm->cmsg_len = CMSG_LEN(2 * sizeof(int));
	memcpy(CMSG_DATA(cm), fds, 2 * sizeof(int));
	assert_int_equal(sendmsg(sock, &mh, MSG_NOSIGNAL), len);
}

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
	struct vmferry_region region = { .size = RAM };
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

	assert_int_equal(area_init(&v->area, &region, 1, 1), 0);
	v->ram = memfd_create("ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(v->ram, RAM), 0);
	assert_int_equal(fcntl(v->ram, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	m.reg.area_size = v->area.size;
	snprintf(m.reg.name, sizeof(m.reg.name), "%s", name);
	v->link.len = 0;
	v->link.want = sizeof(struct vmferry_msg);
	send_with_fds(v->link.sock, &m, sizeof(m), (int[]){ v->area.fd, v->ram });
}

/* Hello and registration of a guest that runs; the answers are still to come. */
static void vmm_register(struct vmm *v, struct host *h, const char *name)
{
	struct vmferry_region region = { .size = RAM };
	struct { struct vmferry_msg msg; struct vmferry_msg_hello hello; } first = {
		{ .type = VMFERRY_MSG_HELLO, .len = sizeof(first.hello), .seq = 1 },
		{ .magic = VMFERRY_VMM_MAGIC, .version = 1 },
	};
	struct { struct vmferry_msg msg; struct vmferry_msg_register reg; struct vmferry_msg_region ram; } second = {
		{ .type = VMFERRY_MSG_REGISTER, .len = sizeof(second.reg) + sizeof(second.ram), .seq = 2 },
		{ .run_state = VMFERRY_RUN_RUNNING, .nr_regions = 1, .nr_vcpus = 1, .pid = getpid() },
		{ .name = "ram", .size = RAM, .page_size = 4096 },
	};

	assert_int_equal(area_init(&v->area, &region, 1, 1), 0);
	v->ram = memfd_create("ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(v->ram, RAM), 0);
	assert_int_equal(fcntl(v->ram, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	second.reg.area_size = v->area.size;
	snprintf(second.reg.name, sizeof(second.reg.name), "%s", name);
	link_open(&v->link, h->vmms, sizeof(first) + sizeof(struct vmferry_msg));
	assert_int_equal(send(v->link.sock, &first, sizeof(first), MSG_NOSIGNAL), sizeof(first));
	send_with_fds(v->link.sock, &second, sizeof(second), (int[]){ v->area.fd, v->ram });
}

static void vmm_is_registered(struct vmm *v)
{
	struct vmferry_msg m;

	until(has_answer, &v->link);
	memcpy(&m, v->link.said + v->link.want - sizeof(m), sizeof(m));
	assert_int_equal(m.type, VMFERRY_MSG_REGISTER | VMFERRY_MSG_REPLY);
	assert_int_equal(m.status, 0);
}

static void vmm_end(struct vmm *v)
{
	close(v->link.sock);
	close(v->ram);
	area_fini(&v->area);
}

static void begin(struct host *h, const uint8_t id[16], enum journal_role role, const char *vm, const char *peer)
{
	struct journal_entry e = { .role = role };

	memcpy(e.id, id, sizeof(e.id));
	strcpy(e.vm, vm);
	strcpy(e.peer, peer);
	assert_int_equal(journal_begin(h->f.journal, &e), 0);
}

/* ---- the tests ---- */

static void one_of_two_daemons_ends_and_the_other_goes_on(void **state)
{
	struct link silent_a, silent_b;
	struct vmm vmm_a, vmm_b;
	struct vm *vm;

	(void)state;
	open_host(&a);
	open_host(&b);
	/* The same name at both, at the same time. */
	vmm_register(&vmm_a, &a, "web1");
	vmm_register(&vmm_b, &b, "web1");
	vmm_is_registered(&vmm_a);
	vmm_is_registered(&vmm_b);
	vm = vm_find(&b.f.vms, "web1", false);
	assert_non_null(vm_find(&a.f.vms, "web1", false));
	assert_non_null(vm);
	assert_ptr_not_equal(vm_find(&a.f.vms, "web1", false), vm);
	/* Only one of them has a journal in which migration 1 began. */
	begin(&a, id1, JOURNAL_DESTINATION, "web2", "");
	link_open(&silent_a, a.peers + strlen("unix:"), 1);
	link_open(&silent_b, b.peers + strlen("unix:"), 1);
	assert_int_equal(ask(&b, id1), WIRE_RESOLVED_UNKNOWN);
	assert_int_equal(ask(&a, id1), WIRE_RESOLVED_NEVER);

	close_host(&a);
	until(is_closed, &silent_a);
	until(is_closed, &vmm_a.link);
	assert_int_equal(ask(&b, id1), WIRE_RESOLVED_UNKNOWN);
	assert_false(is_closed(&silent_b));
	assert_false(is_closed(&vmm_b.link));
	assert_ptr_equal(vm_find(&b.f.vms, "web1", false), vm);
	assert_null(vm->next);
	close_host(&b);
	until(is_closed, &silent_b);
	until(is_closed, &vmm_b.link);
	vmm_end(&vmm_a);
	vmm_end(&vmm_b);
	close(silent_a.sock);
	close(silent_b.sock);
}

/* How many refusals with @reason @log says one by one, and as counts. */
static void count_refusals(FILE *log, const char *reason, unsigned int *said, unsigned int *kept)
{
	char line[1024];
	unsigned int nr;

	rewind(log);
	*said = *kept = 0;
	while (fgets(line, sizeof(line), log)) {
		if (!strstr(line, reason))
			continue;
		if (strstr(line, ">refused a connection"))
			++*said;
		else if (sscanf(line, "<5>%u more connections of peers were refused", &nr) == 1)
			*kept += nr;
	}
}

static void a_flood_at_one_daemon_hides_no_message_of_another(void **state)
{
	unsigned int said, kept;
	int to = dup(STDERR_FILENO);
	FILE *log = tmpfile();

	(void)state;
	assert_non_null(log);
	open_host(&a);
	open_host(&b);
	dup2(fileno(log), STDERR_FILENO);
	for (int i = 0; i < 100; i++)
		ask_as(&a, 1, WIRE_OLDEST, WIRE_VERSION, id1);
	for (int i = 0; i < 3; i++)
		ask_as(&b, WIRE_MAGIC, 1, 0, id1);
	close_host(&a);
	close_host(&b);
	dup2(to, STDERR_FILENO);
	close(to);
	count_refusals(log, "it does not understand what you say", &said, &kept);
	assert_int_equal(said + kept, 100);
	assert_int_not_equal(kept, 0);
	count_refusals(log, "speaks version", &said, &kept);
	assert_int_equal(said, 3);
	assert_int_equal(kept, 0);
	fclose(log);
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

static void a_daemon_starts_again_on_its_folders(void **state)
{
	struct vmm vmm;

	(void)state;
	open_host(&a);
	open_host(&b);
	begin(&a, id1, JOURNAL_DESTINATION, "web2", "");
	assert_int_equal(journal_note(a.f.journal, id1, JOURNAL_DESTINATION, JOURNAL_GO), 0);
	begin(&a, id2, JOURNAL_SOURCE, "web3", "unix:/there");
	for (int i = 0; i < 3; i++) {
		const struct journal_entry *e;

		vmm_register(&vmm, &a, "web1");
		vmm_is_registered(&vmm);
		close_host(&a);
		until(is_closed, &vmm.link);
		vmm_end(&vmm);
		open_host(&a);
		e = journal_find(a.f.journal, id1, JOURNAL_DESTINATION);
		assert_non_null(e);
		assert_int_equal(e->mark, JOURNAL_GO);
		assert_string_equal(e->vm, "web2");
		e = journal_open_entry(a.f.journal, "web3", JOURNAL_SOURCE);
		assert_non_null(e);
		assert_int_equal(e->mark, JOURNAL_BEGUN);
		assert_string_equal(e->peer, "unix:/there");
		assert_null(vm_find(&a.f.vms, "web1", false));
		assert_null(journal_find(b.f.journal, id1, JOURNAL_DESTINATION));
		assert_int_equal(ask(&a, id1), WIRE_RESOLVED_LATER);
	}
}

static void a_daemon_that_cannot_start_leaves_nothing(void **state)
{
	struct ferry_config configs[3];
	char nowhere[128];

	(void)state;
	open_host(&a);
	for (int i = 0; i < 3; i++)
		configs[i] = config_of(&b);
	snprintf(nowhere, sizeof(nowhere), "%s/not/there", folder);
	configs[0].state_dir = nowhere;
	configs[1].listen = a.peers;
	configs[2].vmm_socket = a.vmms;
	for (int i = 0; i < 3; i++) {
		struct ferry f = { 0 };

		assert_int_equal(ferry_open(&f, &configs[i]), i ? -EADDRINUSE : -ENOENT);
		ferry_stop(&f, "cannot start");
		assert_true(ferry_close(&f));
		assert_int_equal(ask(&a, id1), WIRE_RESOLVED_UNKNOWN);
	}
	open_host(&b);
	assert_int_equal(ask(&b, id1), WIRE_RESOLVED_UNKNOWN);
}

static ino_t inode_of_journal(const struct host *h)
{
	char journal[128];
	struct stat st;

	snprintf(journal, sizeof(journal), "%s/journal", h->state);
	assert_int_equal(stat(journal, &st), 0);
	return st.st_ino;
}

/*
 * A second daemon on either folder of the first ends before it has touched anything: what the first wrote, and writes
 * later, is found again. Seen to fail: without lock_folders() the second starts, or fails at the socket after it has
 * put an empty marks file in the place of the one that the first writes to.
 */
static void a_second_daemon_on_a_folder_in_use_changes_nothing(void **state)
{
	struct ferry_config on_run, on_state;
	const struct ferry_config *configs[] = { &on_run, &on_state };
	ino_t inode;

	(void)state;
	open_host(&a);
	begin(&a, id1, JOURNAL_SOURCE, "web1", "unix:/there");
	inode = inode_of_journal(&a);
	on_run = on_state = config_of(&b);
	on_run.run_dir = a.run;
	on_state.state_dir = a.state;
	for (int i = 0; i < 2; i++) {
		struct ferry f = { 0 };

		assert_int_equal(ferry_open(&f, configs[i]), -EWOULDBLOCK);
		assert_true(ferry_close(&f));
	}
	assert_int_equal(inode_of_journal(&a), inode);
	assert_int_equal(journal_note(a.f.journal, id1, JOURNAL_SOURCE, JOURNAL_GO), 0);
	close_host(&a);
	open_host(&a);
	assert_int_equal(journal_find(a.f.journal, id1, JOURNAL_SOURCE)->mark, JOURNAL_GO);
	/* It was refused a folder, and has let the other one go. */
	open_host(&b);
}

/* Seen to fail: with two locks, the second of which the first keeps from being taken. */
static void one_folder_may_be_both(void **state)
{
	(void)state;
	strcpy(a.state, a.run);
	for (int i = 0; i < 2; i++) {
		open_host(&a);
		close_host(&a);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(one_of_two_daemons_ends_and_the_other_goes_on, setup, teardown),
		cmocka_unit_test_setup_teardown(a_flood_at_one_daemon_hides_no_message_of_another, setup, teardown),
		cmocka_unit_test_setup_teardown(peers_of_other_versions_are_told_in_words, setup, teardown),
		cmocka_unit_test_setup_teardown(vmms_of_all_versions_are_understood, setup, teardown),
		cmocka_unit_test_setup_teardown(a_vmm_says_which_migration_it_was_told_of_last, setup, teardown),
		cmocka_unit_test_setup_teardown(a_vmm_of_version_1_is_told_of_no_migration, setup, teardown),
		cmocka_unit_test_setup_teardown(a_registration_that_the_daemon_refuses_is_told_why, setup, teardown),
		cmocka_unit_test_setup_teardown(a_daemon_starts_again_on_its_folders, setup, teardown),
		cmocka_unit_test_setup_teardown(a_daemon_that_cannot_start_leaves_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(a_second_daemon_on_a_folder_in_use_changes_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(one_folder_may_be_both, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
