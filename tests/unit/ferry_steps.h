/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef UNIT_FERRY_STEPS_H
#define UNIT_FERRY_STEPS_H
/*
 * Steps of the tests of whole daemons: two of them in one process, connections of peers to them, and VMMs that register.
 * All objects are the daemon's own; the loops take turns on one thread. Include it after cmocka.h.
 */
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

static inline void end_turn(void *owner)
{
	struct host *h = owner;

	loop_stop(h->f.loop);
}

static inline struct ferry_config config_of(struct host *h)
{
	return (struct ferry_config){ .listen = h->peers, .run_dir = h->run, .state_dir = h->state,
				      .vmm_socket = h->vmms, .tracker = TRACKER_VMM, .boot = "one host" };
}

static inline void open_host(struct host *h)
{
	struct ferry_config c = config_of(h);

	memset(&h->f, 0, sizeof(h->f));
	h->is_open = true;
	assert_int_equal(ferry_open(&h->f, &c), 0);
	assert_int_equal(loop_timer_init(&h->tick, h->f.loop, end_turn, h), 0);
}

static inline void close_host(struct host *h)
{
	if (!h->is_open)
		return;
	h->is_open = false;
	loop_timer_fini(&h->tick);
	ferry_stop(&h->f, "was told to end");
	assert_true(ferry_close(&h->f));
}

/* Both daemons take turns of a millisecond. */
static inline void until(bool (*is_so)(void *arg), void *arg)
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

static inline void name_host(struct host *h, const char *name)
{
	memset(h, 0, sizeof(*h));
	snprintf(h->run, sizeof(h->run), "%s/%s-run", folder, name);
	snprintf(h->state, sizeof(h->state), "%s/%s-state", folder, name);
	snprintf(h->peers, sizeof(h->peers), "unix:%s/%s-peers", folder, name);
	snprintf(h->vmms, sizeof(h->vmms), "%s/%s-vmms", folder, name);
}

static inline int setup(void **state)
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

static inline int remove_one(const char *path, const struct stat *st, int type, struct FTW *where)
{
	(void)st;
	(void)type;
	(void)where;
	return remove(path);
}

static inline int teardown(void **state)
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

static inline void link_open(struct link *l, const char *path, size_t want)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	size_t len = strlen(path);

	*l = (struct link){ .sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), .want = want };
	assert_true(len < sizeof(sa.sun_path));
	memcpy(sa.sun_path, path, len);
	assert_int_equal(connect(l->sock, (struct sockaddr *)&sa, sizeof(sa)), 0);
}

static inline bool has_answer(void *arg)
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

static inline bool is_closed(void *arg)
{
	struct link *l = arg;
	char c;
	ssize_t n = recv(l->sock, &c, 1, MSG_DONTWAIT | MSG_PEEK);

	return !n || (n < 0 && errno == ECONNRESET);
}

static inline struct wire_welcome greet(struct host *h, const struct wire_hello *hello)
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
static inline int ask_as(struct host *h, uint64_t magic, uint32_t oldest, uint32_t newest, const uint8_t id[16])
{
	struct wire_hello hello = { .magic = magic, .version = oldest, .role = WIRE_RESOLVE, .newest = newest };

	memcpy(hello.id, id, sizeof(hello.id));
	return greet(h, &hello).status;
}

static inline int ask(struct host *h, const uint8_t id[16])
{
	return ask_as(h, WIRE_MAGIC, WIRE_OLDEST, WIRE_VERSION, id);
}

/** struct vmm - a VMM that registers and then does nothing */
struct vmm {
	struct link link;
	struct area area;
	int ram;
};

static inline void send_with_fds(int sock, const void *what, size_t len, const int fds[2])
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

/* What it registers: a shared area and RAM. */
static inline void vmm_make_ram(struct vmm *v)
{
	struct vmferry_region region = { .size = RAM };

	assert_int_equal(area_init(&v->area, &region, 1, 1), 0);
	v->ram = memfd_create("ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(v->ram, RAM), 0);
	assert_int_equal(fcntl(v->ram, F_ADD_SEALS, F_SEAL_SHRINK), 0);
}

/* Hello and registration of a guest that runs; the answers are still to come. */
static inline void vmm_register(struct vmm *v, struct host *h, const char *name)
{
	struct { struct vmferry_msg msg; struct vmferry_msg_hello hello; } first = {
		{ .type = VMFERRY_MSG_HELLO, .len = sizeof(first.hello), .seq = 1 },
		{ .magic = VMFERRY_VMM_MAGIC, .version = 1 },
	};
	struct { struct vmferry_msg msg; struct vmferry_msg_register reg; struct vmferry_msg_region ram; } second = {
		{ .type = VMFERRY_MSG_REGISTER, .len = sizeof(second.reg) + sizeof(second.ram), .seq = 2 },
		{ .run_state = VMFERRY_RUN_RUNNING, .nr_regions = 1, .nr_vcpus = 1, .pid = getpid() },
		{ .name = "ram", .size = RAM, .page_size = 4096 },
	};

	vmm_make_ram(v);
	second.reg.area_size = v->area.size;
	snprintf(second.reg.name, sizeof(second.reg.name), "%s", name);
	link_open(&v->link, h->vmms, sizeof(first) + sizeof(struct vmferry_msg));
	assert_int_equal(send(v->link.sock, &first, sizeof(first), MSG_NOSIGNAL), sizeof(first));
	send_with_fds(v->link.sock, &second, sizeof(second), (int[]){ v->area.fd, v->ram });
}

static inline void vmm_is_registered(struct vmm *v)
{
	struct vmferry_msg m;

	until(has_answer, &v->link);
	memcpy(&m, v->link.said + v->link.want - sizeof(m), sizeof(m));
	assert_int_equal(m.type, VMFERRY_MSG_REGISTER | VMFERRY_MSG_REPLY);
	assert_int_equal(m.status, 0);
}

static inline void vmm_end(struct vmm *v)
{
	close(v->link.sock);
	close(v->ram);
	area_fini(&v->area);
}

#endif
