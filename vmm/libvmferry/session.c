// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The VMM's end of the socket: connects, registers, answers the daemon's requests, and
 * connects again when the daemon went away.
 *
 * Theory of operation
 *
 *   connect -> HELLO -> REGISTER (fds) -> answer requests ... -> lost -> wait 50 ms -> connect
 *     |         |         |-> refused: the VMM is told why -> wait 1, 2, 4, 8, 8, ... s -> connect
 *     +---------+---------+-> no answer: the VMM is told, once until it is registered -> wait 50 ms -> connect
 *
 * One thread does it all, so callbacks never overlap. When the connection is lost the
 * run state stays as it was, above all PAUSED: only a daemon that has read its journal
 * may know whether the guest now runs elsewhere, so we never resume by ourselves.
 * What we do undo is brownout: logging and throttling end with the connection.
 *
 * The thread waits for requests before all ordinary threads, where it has the right to: a
 * guest may be standing still. What takes its time it does like everybody else.
 */
#include "message.h"

#include <errno.h>
#include <linux/kvm.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define RETRY_MS 50
#define REFUSED_MS 1000 /* the first time; twice as long each time */
#define REFUSED_MAX_MS 8000

int vmferry_enable_ring(int vm_fd, uint32_t entries)
{
	int caps[] = { KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING };

	for (unsigned int i = 0; i < 2; i++) {
		int max = ioctl(vm_fd, KVM_CHECK_EXTENSION, caps[i]);
		struct kvm_enable_cap cap = { .cap = (uint32_t)caps[i] };
		uint64_t size = (uint64_t)entries * sizeof(struct kvm_dirty_gfn);

		if (max <= 0)
			continue;
		if (size > (uint64_t)max)
			size = (uint64_t)max;
		cap.args[0] = size;
		if (ioctl(vm_fd, KVM_ENABLE_CAP, &cap))
			return -errno;
		return (int)(size / sizeof(struct kvm_dirty_gfn));
	}
	return 0;
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

/* Why the daemon does not take the VM; its words may stand in anybody's log. */
static void __attribute__((format(printf, 2, 3))) note_refusal(struct vmferry *v, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(v->refusal, sizeof(v->refusal), fmt, ap);
	va_end(ap);
	for (char *c = v->refusal; *c; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
}

/* Agrees on the version. */
static int greet(struct vmferry *v)
{
	struct vmferry_msg_hello hello = { VMFERRY_VMM_MAGIC, VMFERRY_VMM_OLDEST,
					   (__u64)VMFERRY_VMM_VERSION << VMFERRY_FEATURES_NEWEST_SHIFT };
	struct vmferry_msg msg = { .type = VMFERRY_MSG_HELLO, .len = sizeof(hello) };
	int err = message_send(v->sock, &msg, &hello, NULL, 0);

	if (!err)
		err = message_receive(v, &msg, sizeof(msg), NULL);
	if (!err && msg.len != sizeof(hello))
		err = -EPROTO;
	if (!err)
		err = message_receive(v, &hello, sizeof(hello), NULL);
	if (!err && hello.magic != VMFERRY_VMM_MAGIC)
		err = -EPROTO;
	if (err)
		return err;
	if (msg.status || hello.version < VMFERRY_VMM_OLDEST || hello.version > VMFERRY_VMM_VERSION) {
		note_refusal(v, "the daemon speaks version %u of the VMM protocol, libvmferry %d to %d", hello.version,
			     VMFERRY_VMM_OLDEST, VMFERRY_VMM_VERSION);
		return -EPROTONOSUPPORT;
	}
	v->version = hello.version;
	return 0;
}

static int send_registration(struct vmferry *v)
{
	size_t regions_len = v->cfg.nr_ram * sizeof(*v->regions);
	size_t devices_len = v->cfg.nr_devices * sizeof(v->devices[0]);
	char body[sizeof(v->reg) + VMFERRY_MAX_REGIONS * sizeof(*v->regions) + sizeof(v->devices) + sizeof(v->last)];
	size_t len = sizeof(v->reg) + regions_len + devices_len;
	struct vmferry_msg msg = { .type = VMFERRY_MSG_REGISTER };

	v->reg.run_state = v->run_state;
	v->reg.flags = VMFERRY_REGISTER_VM_FD | (v->is_fresh ? VMFERRY_REGISTER_FRESH : 0);
	v->is_fresh = false; /* from here on the daemon may write to RAM */
	memcpy(body, &v->reg, sizeof(v->reg));
	memcpy(body + sizeof(v->reg), v->regions, regions_len);
	memcpy(body + sizeof(v->reg) + regions_len, v->devices, devices_len);
	if (v->version >= 2) {
		memcpy(body + len, &v->last, sizeof(v->last));
		len += sizeof(v->last);
	}
	msg.len = (uint32_t)len;
	return message_send(v->sock, &msg, body, v->fds, v->cfg.nr_ram + 2);
}

static int greet_and_register(struct vmferry *v)
{
	char why[sizeof(v->refusal)] = "";
	struct vmferry_msg msg;
	int err = greet(v);

	if (!err)
		err = send_registration(v);
	if (!err)
		err = message_receive(v, &msg, sizeof(msg), NULL);
	if (!err && msg.len >= sizeof(why))
		err = -EPROTO;
	if (!err)
		err = message_receive(v, why, msg.len, NULL);
	if (err || !msg.status)
		return err;
	if (why[0])
		note_refusal(v, "%s", why);
	else
		note_refusal(v, "the daemon says why in its log (%s)", strerror(-msg.status));
	return -EPERM;
}

static int connect_daemon(struct vmferry *v)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };

	if (strlen(v->socket) >= sizeof(sa.sun_path))
		return -ENAMETOOLONG;
	strcpy(sa.sun_path, v->socket);
	v->sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (v->sock < 0)
		return -errno;
	if (connect(v->sock, (struct sockaddr *)&sa, sizeof(sa)))
		return -errno;
	return greet_and_register(v);
}

static void disconnect(struct vmferry *v)
{
	if (v->sock >= 0)
		close(v->sock);
	v->sock = -1;
	harvest_stop(v->harvester);
	v->cfg.ops->set_throttle(v->cfg.vmm, 0);
}

static int do_start_log(struct vmferry *v, const struct vmferry_msg_start_log *in)
{
	if (in->flags & ~VMFERRY_LOG_MARKS_ONLY || in->reserved)
		return -EOPNOTSUPP;
	return harvest_start(v->harvester, in->flags & VMFERRY_LOG_MARKS_ONLY);
}

static int do_pause(struct vmferry *v, struct vmferry_msg_paused *out)
{
	uint64_t last_exit_ns = 0;
	int err;

	if (v->run_state != VMFERRY_RUN_RUNNING)
		return -EINVAL;
	err = v->cfg.ops->pause(v->cfg.vmm, &last_exit_ns);
	out->last_exit_ns = last_exit_ns;
	if (err)
		return err;
	v->run_state = VMFERRY_RUN_PAUSED;
	out->stopped_ns = now_ns();
	err = harvest_run(v->harvester);
	out->harvested_ns = now_ns();
	return err;
}

static int do_run(struct vmferry *v, uint32_t from, struct vmferry_msg_resumed *out)
{
	uint64_t first_entry_ns = 0;
	int err;

	if (v->run_state != from)
		return -EINVAL;
	err = v->cfg.ops->resume(v->cfg.vmm, &first_entry_ns);
	out->first_entry_ns = first_entry_ns;
	if (!err)
		v->run_state = VMFERRY_RUN_RUNNING;
	return err;
}

static int do_save(struct vmferry *v, int fd, struct vmferry_msg_saved *out)
{
	uint64_t len = 0;
	int err;

	if (v->run_state != VMFERRY_RUN_PAUSED || fd < 0)
		return -EINVAL;
	err = v->cfg.ops->save(v->cfg.vmm, fd, &len);
	out->len = len;
	return err;
}

static int do_load(struct vmferry *v, const struct vmferry_msg_saved *in, int fd)
{
	int err;

	if (v->run_state != VMFERRY_RUN_INCOMING && v->run_state != VMFERRY_RUN_LOADED)
		return -EINVAL;
	err = fd < 0 ? -EBADF : v->cfg.ops->load(v->cfg.vmm, fd, in->len);
	if (!err)
		v->run_state = VMFERRY_RUN_LOADED;
	return err;
}

static int do_discard(struct vmferry *v)
{
	if (v->run_state != VMFERRY_RUN_INCOMING && v->run_state != VMFERRY_RUN_LOADED)
		return -EINVAL;
	v->cfg.ops->discard(v->cfg.vmm);
	v->run_state = VMFERRY_RUN_INCOMING;
	v->last = (struct vmferry_msg_migration){ 0 };
	return 0;
}

static int do_migration(struct vmferry *v, const struct vmferry_msg_migration *in)
{
	if (in->role > VMFERRY_ROLE_DESTINATION)
		return -EINVAL;
	v->last = *in;
	return 0;
}

/* The guest left. A VMM that stays for another guest says so by incoming in release(). */
static int do_release(struct vmferry *v)
{
	if (v->run_state != VMFERRY_RUN_PAUSED)
		return -EINVAL;
	harvest_stop(v->harvester);
	v->run_state = VMFERRY_RUN_RELEASED;
	return 0;
}

union answer {
	struct vmferry_msg_paused paused;
	struct vmferry_msg_resumed resumed;
	struct {
		struct vmferry_msg_saved saved;
		uint64_t saved_ns[VMFERRY_VMM_MAX_DEVICES];
	};
	uint64_t loaded_ns[VMFERRY_VMM_MAX_DEVICES];
	struct vmferry_msg_state state;
};

static int carry_out(struct vmferry *v, const struct vmferry_msg *msg, const void *body, int fd,
		     union answer *ans, uint32_t *ans_len)
{
	*ans_len = 0;
	switch (msg->type) {
	case VMFERRY_MSG_START_LOG:
		if (msg->len != sizeof(struct vmferry_msg_start_log))
			return -EPROTO;
		return do_start_log(v, body);
	case VMFERRY_MSG_STOP_LOG:
		return harvest_stop(v->harvester);
	case VMFERRY_MSG_HARVEST:
		return harvest_run(v->harvester);
	case VMFERRY_MSG_PAUSE:
		*ans_len = sizeof(ans->paused);
		return do_pause(v, &ans->paused);
	case VMFERRY_MSG_RESUME:
		*ans_len = sizeof(ans->resumed);
		return do_run(v, VMFERRY_RUN_PAUSED, &ans->resumed);
	case VMFERRY_MSG_RUN:
		*ans_len = sizeof(ans->resumed);
		return do_run(v, VMFERRY_RUN_LOADED, &ans->resumed);
	case VMFERRY_MSG_SAVE:
		*ans_len = (uint32_t)(sizeof(ans->saved) + v->cfg.nr_devices * sizeof(uint64_t));
		v->took_ns = ans->saved_ns;
		return do_save(v, fd, &ans->saved);
	case VMFERRY_MSG_LOAD:
		*ans_len = (uint32_t)(v->cfg.nr_devices * sizeof(uint64_t));
		v->took_ns = ans->loaded_ns;
		return msg->len == sizeof(struct vmferry_msg_saved) ? do_load(v, body, fd) : -EPROTO;
	case VMFERRY_MSG_THROTTLE:
		if (msg->len != sizeof(struct vmferry_msg_throttle))
			return -EPROTO;
		return v->cfg.ops->set_throttle(
			v->cfg.vmm, ((const struct vmferry_msg_throttle *)body)->percent);
	case VMFERRY_MSG_RELEASE:
		return do_release(v);
	case VMFERRY_MSG_DISCARD:
		return do_discard(v);
	case VMFERRY_MSG_MIGRATION:
		return msg->len == sizeof(struct vmferry_msg_migration) ? do_migration(v, body) : -EPROTO;
	case VMFERRY_MSG_QUERY:
		*ans_len = sizeof(ans->state);
		ans->state = (struct vmferry_msg_state){ .run_state = v->run_state };
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}

static void be_urgent(bool urgent)
{
	struct sched_param p = { .sched_priority = urgent };

	pthread_setschedparam(pthread_self(), urgent ? SCHED_FIFO : SCHED_OTHER, &p);
}

/* Long work: whoever waits for it, it must not keep a vCPU from running. */
static bool is_long(uint32_t type)
{
	switch (type) {
	case VMFERRY_MSG_START_LOG:
	case VMFERRY_MSG_STOP_LOG:
	case VMFERRY_MSG_HARVEST:
	case VMFERRY_MSG_SAVE:
	case VMFERRY_MSG_LOAD:
	case VMFERRY_MSG_DISCARD:
	case VMFERRY_MSG_RELEASE:
		return true;
	default:
		return false;
	}
}

static int serve_one(struct vmferry *v)
{
	char body[256] __attribute__((aligned(8)));
	union answer ans = { 0 };
	struct vmferry_msg msg, reply;
	uint32_t ans_len;
	int fd = -1, err;

	err = message_receive(v, &msg, sizeof(msg), &fd);
	if (!err && msg.len > sizeof(body))
		err = -EPROTO;
	if (!err && msg.len)
		err = message_receive(v, body, msg.len, NULL);
	if (err)
		goto out;
	if (is_long(msg.type))
		be_urgent(false);
	err = carry_out(v, &msg, body, fd, &ans, &ans_len);
	if (is_long(msg.type))
		be_urgent(true);
	reply = (struct vmferry_msg){
		.type = msg.type | VMFERRY_MSG_REPLY,
		.len = err ? 0 : ans_len,
		.seq = msg.seq,
		.status = err,
	};
	err = message_send(v->sock, &reply, &ans, NULL, 0);
	/* Only once the daemon has its answer: release() may end the process. */
	if (msg.type == VMFERRY_MSG_RELEASE && v->run_state == VMFERRY_RUN_RELEASED) {
		v->cfg.ops->release(v->cfg.vmm);
		/* Still here: the VMM emptied its RAM and waits for the next guest. */
		v->run_state = VMFERRY_RUN_INCOMING;
		v->last = (struct vmferry_msg_migration){ 0 };
		v->is_fresh = true;
		err = -ECONNRESET; /* register again, as what we are now */
	}
out:
	if (fd >= 0)
		close(fd);
	return err;
}

/* Tells the VMM, once for each reason. Return: how long to wait before the next attempt */
static int take_refusal(struct vmferry *v)
{
	int ms = v->refused_ms ? v->refused_ms * 2 : REFUSED_MS;

	v->refused_ms = ms < REFUSED_MAX_MS ? ms : REFUSED_MAX_MS;
	if (strcmp(v->refusal, v->told_refusal) && v->cfg.ops->refused)
		v->cfg.ops->refused(v->cfg.vmm, v->refusal);
	strcpy(v->told_refusal, v->refusal);
	v->refusal[0] = '\0';
	return v->refused_ms;
}

/* The VMM may be told again of what it was told before it was registered. */
static void take_registration(struct vmferry *v)
{
	v->refused_ms = 0;
	v->told_refusal[0] = '\0';
	v->told_unreachable = false;
	if (v->cfg.ops->registered)
		v->cfg.ops->registered(v->cfg.vmm);
}

/* Tells the VMM, once, that no daemon answers. */
static void take_failure(struct vmferry *v, int err)
{
	if (!v->told_unreachable && v->cfg.ops->unreachable)
		v->cfg.ops->unreachable(v->cfg.vmm, err);
	v->told_unreachable = true;
}

static void *session_thread(void *arg)
{
	struct vmferry *v = arg;
	int err, wait_ms;

	be_urgent(true);
	for (;;) {
		err = connect_daemon(v);
		if (!err)
			take_registration(v);
		else if (err != -ECANCELED && !v->refusal[0])
			take_failure(v, err);
		while (!err)
			err = serve_one(v);
		disconnect(v);
		if (err == -ECANCELED)
			return NULL;
		wait_ms = v->refusal[0] ? take_refusal(v) : RETRY_MS;
		do {
			err = message_wait(v, -1, wait_ms);
		} while (err == -EAGAIN);
		if (err == -ECANCELED)
			return NULL;
	}
}

/* As the daemon has it: see vmferry_vmm.h. */
static bool is_name(const char *text, size_t room)
{
	size_t len = strnlen(text, room);

	for (size_t i = 0; i < len; i++)
		if (text[i] <= ' ' || text[i] > '~')
			return false;
	return len && len < room;
}

static bool has_good_names(const struct vmferry_config *cfg)
{
	bool good = is_name(cfg->name, VMFERRY_VMM_NAME_LEN);

	for (unsigned int i = 0; i < cfg->nr_ram; i++)
		good &= is_name(cfg->ram[i].name, VMFERRY_VMM_NAME_LEN);
	for (unsigned int i = 0; i < cfg->nr_devices; i++)
		good &= is_name(cfg->devices[i].name, sizeof(((struct vmferry_msg_device *)0)->name));
	return good && (!cfg->untracked || !cfg->untracked[0] || is_name(cfg->untracked, VMFERRY_VMM_NAME_LEN));
}

static int describe(struct vmferry *v)
{
	const struct vmferry_config *cfg = &v->cfg;
	struct vmferry_region table[VMFERRY_MAX_REGIONS] = { 0 };
	int err;

	if (!cfg->nr_ram || cfg->nr_ram > VMFERRY_MAX_REGIONS || !cfg->nr_vcpus ||
	    cfg->nr_vcpus > VMFERRY_MAX_VCPUS || cfg->nr_devices > VMFERRY_VMM_MAX_DEVICES || !has_good_names(cfg))
		return -EINVAL;
	v->regions = calloc(cfg->nr_ram, sizeof(*v->regions));
	v->fds = calloc(cfg->nr_ram + 2, sizeof(*v->fds));
	if (!v->regions || !v->fds)
		return -ENOMEM;
	for (unsigned int i = 0; i < cfg->nr_ram; i++) {
		const struct vmferry_ram *ram = &cfg->ram[i];

		table[i] = (struct vmferry_region){
			.id = i, .slot = ram->slot, .gpa = ram->gpa, .size = ram->size
		};
		v->regions[i] = (struct vmferry_msg_region){ .gpa = ram->gpa,
							     .size = ram->size,
							     .fd_off = ram->fd_off,
							     .page_size = ram->page_size };
		strncpy(v->regions[i].name, ram->name, VMFERRY_VMM_NAME_LEN - 1);
		v->fds[i + 1] = ram->memfd;
	}
	for (unsigned int i = 0; i < cfg->nr_devices; i++) {
		strncpy(v->devices[i].name, cfg->devices[i].name, sizeof(v->devices[i].name) - 1);
		strncpy(v->devices[i].kind, cfg->devices[i].kind, sizeof(v->devices[i].kind) - 1);
		v->devices[i].state_size = cfg->devices[i].state_size;
	}
	err = area_init(&v->area, table, cfg->nr_ram, cfg->nr_vcpus);
	if (err)
		return err;
	for (unsigned int i = 0; i < cfg->nr_vcpus; i++)
		v->area.vcpus[i].id = i;
	v->area.header->nr_devices = 0;
	v->fds[0] = v->area.fd;
	v->fds[cfg->nr_ram + 1] = cfg->vm_fd;
	strcpy(v->reg.name, cfg->name);
	if (cfg->uuid)
		memcpy(v->reg.uuid, cfg->uuid, 16);
	if (cfg->untracked)
		strncpy(v->reg.untracked, cfg->untracked, VMFERRY_VMM_NAME_LEN - 1);
	v->reg.nr_regions = cfg->nr_ram;
	v->reg.nr_vcpus = cfg->nr_vcpus;
	v->reg.nr_devices = cfg->nr_devices;
	v->reg.pid = getpid();
	v->reg.area_size = v->area.size;
	v->reg.state_size = cfg->state_size;
	return 0;
}

int vmferry_open(const struct vmferry_config *cfg, struct vmferry **out)
{
	struct vmferry *v = calloc(1, sizeof(*v));
	int err;

	if (!v)
		return -ENOMEM;
	v->cfg = *cfg;
	v->area.fd = v->stop_fd = v->sock = -1;
	v->run_state = cfg->incoming ? VMFERRY_RUN_INCOMING : VMFERRY_RUN_RUNNING;
	v->is_fresh = cfg->incoming;
	v->socket = strdup(cfg->socket ? cfg->socket : VMFERRY_VMM_SOCKET);
	v->stop_fd = eventfd(0, EFD_CLOEXEC);
	err = !v->socket ? -ENOMEM : v->stop_fd < 0 ? -errno : describe(v);
	if (!err)
		err = harvester_open(cfg, &v->area, &v->harvester);
	/* Callbacks may come at once: the caller's pointer is set before the thread is. */
	*out = v;
	if (!err)
		err = -pthread_create(&v->thread, NULL, session_thread, v);
	if (err) {
		*out = NULL;
		vmferry_close(v);
		return err;
	}
	v->thread_is_up = true;
	return 0;
}

bool vmferry_is_called_off(struct vmferry *v)
{
	struct vmferry_msg next;
	ssize_t n = recv(v->sock, &next, sizeof(next), MSG_PEEK | MSG_DONTWAIT);

	return n == 0 || (n == sizeof(next) && next.type == VMFERRY_MSG_RESUME);
}

void vmferry_device_took(struct vmferry *v, unsigned int device, uint64_t ns)
{
	if (device < v->cfg.nr_devices)
		v->took_ns[device] = ns;
}

void vmferry_close(struct vmferry *v)
{
	if (!v)
		return;
	if (v->thread_is_up) {
		eventfd_write(v->stop_fd, 1);
		pthread_join(v->thread, NULL);
	}
	harvester_close(v->harvester);
	area_fini(&v->area);
	if (v->stop_fd >= 0)
		close(v->stop_fd);
	free(v->regions);
	free(v->fds);
	free(v->socket);
	free(v);
}
