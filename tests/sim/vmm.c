// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * VMMs of the simulated world: they register, answer their daemon, lie where the walk says so, and tell the judge what
 * their guests do.
 *
 * Theory of operation
 *
 * A VMM behaves as vmm/libvmferry/session.c does: requests are carried out one after the other, the run state decides what
 * is refused, a connection that is lost changes nothing of the guest, and the VMM connects again 50 ms later, or earlier. What a
 * request does is done at one instant, a random time after it has come.
 *
 * A guest's state is a stamp: even while it runs, made odd by its stop; each start makes a new one, and voids all others. SAVE writes the stamp
 * into the state file, channels bring the stamp that the RAM had when a round was sent. What RUN starts must have the
 * stamp of the guest's last stop in its state and from all channels: else memory or state of an earlier time would run.
 */
#include "vmm.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "files.h"
#include "judge.h"
#include "net.h"
#include "node.h"
#include "world.h"

#define LIBVMFERRY_RETRY_NS (50 * MS)
#define STATE_LEN 4096
#define RAM_LEN 65536

struct vmm vmms[VMMS_MAX];
unsigned int nr_vmms;
void (*vmm_spy)(struct vmm *v, uint32_t type, bool is_done);

void vmms_begin(void)
{
	memset(vmms, 0, sizeof(vmms));
	nr_vmms = 0;
}

int vmm_pid(const struct vmm *v)
{
	return v->pid;
}

/* ---- the guest ---- */

static void start_guest(struct vmm *v, const char *by)
{
	v->runs = true;
	judge_starts(v, by);
	v->stamp = v->guest->latest = ++v->guest->version * 2; /* from here on its disk is ahead of what stood still elsewhere */
	v->run_state = VMFERRY_RUN_RUNNING;
}

static void stop_guest(struct vmm *v)
{
	v->runs = false;
	v->stamp |= 1;
	v->guest->latest = v->stamp;
	v->run_state = VMFERRY_RUN_PAUSED;
}

/** vmm_write_ram() - a channel of the daemon has placed what it received */
void vmm_write_ram(struct vmm *v, unsigned int channel, uint64_t stamp)
{
	if (!v->is_alive)
		return;
	if (v->run_state != VMFERRY_RUN_INCOMING && v->run_state != VMFERRY_RUN_LOADED)
		judge_fail("ram", "channel %u writes into the RAM of %s at %s, whose guest is there (state %u)", channel,
			   v->guest->name, v->host->name, v->run_state);
	v->ram[channel] = stamp;
}

/* ---- its connection ---- */

/* libvmferry's wait, or another VMM's. */
static uint64_t retry_ns(void)
{
	return world_chance(1, 2) ? LIBVMFERRY_RETRY_NS : world_between(MS, LIBVMFERRY_RETRY_NS);
}

static void go_on(void *arg);

static void wake(struct vmm *v, uint64_t after_ns)
{
	if (v->is_due || !v->is_alive)
		return;
	v->is_due = true;
	world_after(after_ns, go_on, v);
}

static void on_changed(struct end *e)
{
	struct vmm *v = e->owner;

	if (v->sock == e)
		wake(v, world_delay(5 * US));
}

static void drop_sock(struct vmm *v)
{
	if (v->sock)
		net_close(v->sock);
	v->sock = NULL;
	v->step = VMM_APART;
}

static int say(struct vmm *v, uint32_t type, uint32_t seq, int status, const void *body, size_t len,
	       struct file *const *files, unsigned int nr_files)
{
	uint8_t out[1024];
	struct vmferry_msg m = { type, (uint32_t)len, seq, status };

	memcpy(out, &m, sizeof(m));
	if (len)
		memcpy(out + sizeof(m), body, len);
	return net_send(v->sock, out, sizeof(m) + len, files, nr_files);
}

static void connect_daemon(struct vmm *v)
{
	struct vmferry_msg_hello hello = { VMFERRY_VMM_MAGIC, VMFERRY_VMM_OLDEST,
					   (uint64_t)v->version << VMFERRY_FEATURES_NEWEST_SHIFT };
	char uri[32];

	snprintf(uri, sizeof(uri), "unix:%s", v->host->vmms);
	v->sock = files_connect(uri, true);
	if (!v->sock) {
		wake(v, retry_ns());
		return;
	}
	v->sock->owner = v;
	v->sock->changed = on_changed;
	v->step = VMM_GREETING;
	say(v, VMFERRY_MSG_HELLO, 1, 0, &hello, sizeof(hello), NULL, 0);
}

static void register_vm(struct vmm *v)
{
	struct {
		struct vmferry_msg_register reg;
		struct vmferry_msg_region region;
		struct vmferry_msg_device device;
		struct vmferry_msg_migration last; /* of version 2 */
	} __attribute__((packed)) body = {
		.reg = { .run_state = v->run_state, .nr_regions = 1, .nr_vcpus = 1, .pid = v->pid, .area_size = 4096,
			 .state_size = STATE_LEN, .nr_devices = 1, .flags = v->is_fresh ? VMFERRY_REGISTER_FRESH : 0 },
		.region = { .name = "ram", .size = RAM_LEN, .page_size = 4096 },
		.device = { .name = "nic0", .kind = "nic", .state_size = 64 },
		.last = v->last,
	};
	size_t len = sizeof(body) - (v->version < 2 ? sizeof(body.last) : 0);
	struct file *files[] = { file_new(FILE_MEMORY), file_new(FILE_MEMORY) };

	strcpy(body.reg.name, v->guest->name);
	files[1]->ram_of = v;
	files[0]->refs = files[1]->refs = 1;
	v->is_fresh = false;
	v->step = VMM_REGISTERING;
	say(v, VMFERRY_MSG_REGISTER, 2, 0, &body, len, files, 2);
}

/* ---- requests ---- */

static int pause_guest(struct vmm *v, struct vmferry_msg_paused *out)
{
	if (v->run_state != VMFERRY_RUN_RUNNING)
		return -EINVAL;
	out->last_exit_ns = out->stopped_ns = out->harvested_ns = world_now();
	stop_guest(v);
	return 0;
}

static int run_guest(struct vmm *v, uint32_t from, struct vmferry_msg_resumed *out)
{
	if (v->run_state != from)
		return -EINVAL;
	out->first_entry_ns = world_now();
	v->guest->moves += from == VMFERRY_RUN_LOADED;
	start_guest(v, from == VMFERRY_RUN_PAUSED ? "RESUME" : "RUN");
	return 0;
}

static int save(struct vmm *v, struct vmferry_msg_saved *out)
{
	if (v->run_state != VMFERRY_RUN_PAUSED || !v->asked_file)
		return -EINVAL;
	v->asked_file->content = v->stamp;
	out->len = 100;
	return 0;
}

static int load(struct vmm *v)
{
	if (v->run_state != VMFERRY_RUN_INCOMING && v->run_state != VMFERRY_RUN_LOADED)
		return -EINVAL;
	if (!v->asked_file)
		return -EBADF;
	v->loaded = v->asked_file->content;
	v->loaded_at = world_now();
	v->run_state = VMFERRY_RUN_LOADED;
	return 0;
}

static int discard(struct vmm *v)
{
	if (v->run_state != VMFERRY_RUN_INCOMING && v->run_state != VMFERRY_RUN_LOADED)
		return -EINVAL;
	v->run_state = VMFERRY_RUN_INCOMING;
	v->loaded = 0;
	memset(v->ram, 0, sizeof(v->ram));
	v->last = (struct vmferry_msg_migration){ 0 };
	return 0;
}

static int be_told(struct vmm *v)
{
	memcpy(&v->last, v->body, sizeof(v->last));
	return v->last.role > VMFERRY_ROLE_DESTINATION ? -EINVAL : 0;
}

static int release(struct vmm *v)
{
	if (v->run_state != VMFERRY_RUN_PAUSED)
		return -EINVAL;
	v->run_state = VMFERRY_RUN_RELEASED;
	v->stamp = 0;
	v->last = (struct vmferry_msg_migration){ 0 };
	return 0;
}

union answer {
	struct vmferry_msg_paused paused;
	struct vmferry_msg_resumed resumed;
	struct {
		struct vmferry_msg_saved saved;
		uint64_t saved_ns;
	};
	uint64_t loaded_ns;
	struct vmferry_msg_state state;
};

static int carry_out(struct vmm *v, union answer *a, size_t *len)
{
	*len = 0;
	switch (v->asked.type) {
	case VMFERRY_MSG_START_LOG:
	case VMFERRY_MSG_STOP_LOG:
	case VMFERRY_MSG_HARVEST:
	case VMFERRY_MSG_THROTTLE:
		return 0;
	case VMFERRY_MSG_PAUSE:
		*len = sizeof(a->paused);
		return pause_guest(v, &a->paused);
	case VMFERRY_MSG_RESUME:
		*len = sizeof(a->resumed);
		return run_guest(v, VMFERRY_RUN_PAUSED, &a->resumed);
	case VMFERRY_MSG_RUN:
		*len = sizeof(a->resumed);
		return run_guest(v, VMFERRY_RUN_LOADED, &a->resumed);
	case VMFERRY_MSG_SAVE:
		*len = sizeof(a->saved) + sizeof(a->saved_ns);
		return save(v, &a->saved);
	case VMFERRY_MSG_LOAD:
		*len = sizeof(a->loaded_ns);
		a->loaded_ns = 1000;
		return load(v);
	case VMFERRY_MSG_DISCARD:
		return discard(v);
	case VMFERRY_MSG_RELEASE:
		return release(v);
	case VMFERRY_MSG_QUERY:
		*len = sizeof(a->state);
		a->state.run_state = v->run_state;
		return 0;
	case VMFERRY_MSG_MIGRATION:
		return v->version < 2 ? -EOPNOTSUPP : be_told(v);
	default:
		return -EOPNOTSUPP;
	}
}

static const char *request_name(uint32_t type)
{
	static const char *const names[] = { "?",     "HELLO",	"REGISTER", "START_LOG", "STOP_LOG", "HARVEST", "PAUSE", "RESUME",
					     "SAVE", "LOAD", "RUN",	  "THROTTLE",  "RELEASE",   "QUERY",	 "DISCARD",
					     "MIGRATION" };

	return type < sizeof(names) / sizeof(names[0]) ? names[type] : "?";
}

/* The guest has left: the VMM waits for the next one, as what it is now. */
static void begin_anew(struct vmm *v)
{
	v->run_state = VMFERRY_RUN_INCOMING;
	v->is_fresh = true;
	v->refused_discard = false;
	v->loaded = 0;
	memset(v->ram, 0, sizeof(v->ram));
	drop_sock(v);
}

static void forget_asked(struct vmm *v)
{
	v->is_busy = false;
	if (v->asked_file)
		file_put(v->asked_file);
	v->asked_file = NULL;
}

static void serve(void *arg)
{
	struct vmm *v = arg;
	enum lie lie = v->lie_at == v->asked.type ? v->lie : LIE_NONE;
	union answer a = { 0 };
	size_t len;
	int err;

	if (!v->is_alive)
		return;
	if (v->frozen_until > world_now()) {
		world_at(v->frozen_until, serve, v);
		return;
	}
	if (lie)
		v->lie = LIE_NONE;
	if (lie == LIE_FREEZE) {
		vmm_freeze(v, 11 * S);
		world_at(v->frozen_until, serve, v);
		return;
	}
	if (vmm_spy)
		vmm_spy(v, v->asked.type, false);
	if (lie == LIE_DIE_BEFORE) {
		vmm_die(v, "the VMM died");
		return;
	}
	err = lie == LIE_REFUSE || lie == LIE_CUT_BEFORE ? -EIO : carry_out(v, &a, &len);
	world_trace("%s: VMM of %s: %s%s%s", v->host->name, v->guest->name, request_name(v->asked.type), err ? ": " : "",
		    err ? strerror(-err) : "");
	if (lie == LIE_DENY)
		err = -EIO;
	if (v->asked.type == VMFERRY_MSG_DISCARD && err)
		v->refused_discard = true;
	if (lie == LIE_DIE_AFTER) {
		vmm_die(v, "the VMM died");
		return;
	}
	if (lie == LIE_CUT_BEFORE || lie == LIE_CUT_AFTER) {
		world_trace("%s: VMM of %s closes its connection", v->host->name, v->guest->name);
		drop_sock(v);
	} else if (v->sock && say(v, v->asked.type | VMFERRY_MSG_REPLY, v->asked.seq, err, &a, err ? 0 : len, NULL, 0) < 0) {
		drop_sock(v);
	}
	if (v->run_state == VMFERRY_RUN_RELEASED)
		begin_anew(v);
	if (vmm_spy)
		vmm_spy(v, v->asked.type, true);
	forget_asked(v);
	wake(v, v->sock ? world_delay(5 * US) : retry_ns());
}

static uint64_t usual_ns(const struct vmm *v)
{
	switch (v->asked.type) {
	case VMFERRY_MSG_LOAD:
		return v->load_us * US;
	case VMFERRY_MSG_SAVE:
	case VMFERRY_MSG_DISCARD:
		return 500 * US;
	default:
		return 60 * US;
	}
}

static void take_request(struct vmm *v)
{
	struct end *e = v->sock;

	net_read(e, &v->asked, sizeof(v->asked));
	net_read(e, v->body, v->asked.len < sizeof(v->body) ? v->asked.len : sizeof(v->body));
	while (e->nr_passed && e->passed[0].at < e->taken) {
		if (v->asked_file)
			file_put(v->asked_file);
		v->asked_file = e->passed[0].file;
		memmove(e->passed, e->passed + 1, --e->nr_passed * sizeof(e->passed[0]));
	}
	v->is_busy = true;
	world_after(world_delay(usual_ns(v)), serve, v);
}

static bool is_whole(const struct end *e)
{
	struct vmferry_msg m;

	if (net_readable(e) < sizeof(m))
		return false;
	net_peek(e, &m, sizeof(m));
	return net_readable(e) - sizeof(m) >= m.len;
}

/* An answer to HELLO or REGISTER. */
static void take_answer(struct vmm *v)
{
	struct vmferry_msg m;
	uint8_t body[512];

	net_read(v->sock, &m, sizeof(m));
	net_read(v->sock, body, m.len);
	if (m.status) {
		drop_sock(v);
		/* One that is refused waits longer each time: 1, 2, 4, 8 s. */
		wake(v, S << (v->nr_refused < 3 ? v->nr_refused : 3));
		v->nr_refused++;
	} else if (v->step == VMM_GREETING) {
		register_vm(v);
		wake(v, 1); /* the daemon may have gone meanwhile */
	} else {
		v->step = VMM_SERVING;
		v->nr_refused = 0;
		v->registered_at = world_now();
		wake(v, 1);
	}
}

static void go_on(void *arg)
{
	struct vmm *v = arg;

	v->is_due = false;
	if (!v->is_alive || v->is_busy)
		return;
	if (v->frozen_until > world_now()) {
		wake(v, v->frozen_until - world_now());
	} else if (!v->sock) {
		connect_daemon(v);
	} else if (!v->sock->is_broken && is_whole(v->sock)) {
		if (v->step == VMM_SERVING)
			take_request(v);
		else
			take_answer(v);
	} else if (v->sock->is_broken || v->sock->has_ended) {
		drop_sock(v);
		wake(v, retry_ns());
	}
}

/* ---- what the walk does ---- */

/** vmm_new() - a VMM of @g: with its guest, which runs, or waiting for it; @version: of the VMM protocol */
struct vmm *vmm_new(struct guest *g, struct node *host, bool is_incoming, unsigned int version)
{
	struct vmm *v = &vmms[nr_vmms++];

	*v = (struct vmm){ .guest = g, .host = host, .pid = 1000 + (int)nr_vmms, .is_alive = true, .is_fresh = is_incoming, .was_incoming = is_incoming,
			   .run_state = VMFERRY_RUN_INCOMING, .version = version, .load_us = 500 };
	if (!is_incoming) {
		v->runs = true;
		v->run_state = VMFERRY_RUN_RUNNING;
		v->stamp = g->latest = ++g->version * 2;
	}
	wake(v, world_delay(50 * US));
	return v;
}

/** vmm_die() - its process is gone, and what it had of its guest */
void vmm_die(struct vmm *v, const char *how)
{
	if (!v->is_alive)
		return;
	world_trace("%s: VMM of %s (state %u) is gone: %s", v->host->name, v->guest->name, v->run_state, how);
	if (v->run_state != VMFERRY_RUN_INCOMING && v->run_state != VMFERRY_RUN_RELEASED)
		v->guest->lost = how;
	v->is_alive = v->runs = false;
	drop_sock(v);
	forget_asked(v);
}

/** vmm_cut() - its connection breaks, without any notice of the guest */
void vmm_cut(struct vmm *v)
{
	if (!v->sock)
		return;
	world_trace("%s: VMM of %s: its connection breaks", v->host->name, v->guest->name);
	drop_sock(v);
	wake(v, retry_ns());
}

/** vmm_freeze() - SIGSTOP for @ns: its guest stands still, too, but nobody may know */
void vmm_freeze(struct vmm *v, uint64_t ns)
{
	world_trace("%s: VMM of %s freezes", v->host->name, v->guest->name);
	v->frozen_until = world_now() + ns;
}

void vmms_lose_power(const struct node *n)
{
	for (unsigned int i = 0; i < nr_vmms; i++)
		if (vmms[i].host == n)
			vmm_die(&vmms[i], "its host lost power");
}
