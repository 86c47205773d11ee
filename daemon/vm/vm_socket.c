// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * VMMs that link libvmferry: their registration, our requests, their answers.
 *
 * Theory of operation: one connection a VM, requests answered in order. A VMM that says
 * something impossible is disconnected; what it owed is answered with -ECONNRESET, then
 * the VM's watcher is told. A request without an answer for REQUEST_TIMEOUT is taken
 * for a VMM that hangs; it is disconnected likewise. Its guest, and all others, go on.
 *
 *   REGISTER -> judged -> vm_map(), a work: maps RAM and areas -> on_mapped(): judged, answered, listed
 *
 * A connection that is lost meanwhile leaves the registration to its work: on_mapped() undoes it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/deadline.h"
#include "base/error.h"
#include "base/fdpass.h"
#include "base/limited.h"
#include "base/text.h"
#include "peer/address.h"
#include "register.h"
#include "vm.h"

#define MAX_OWED 32
#define REQUEST_TIMEOUT_MS 10000
#define MAX_REASON 256 /* bytes of the words with which a registration is refused */
#define ROOM (sizeof(struct vmferry_msg) + VMFERRY_VMM_MAX_BODY)

struct owed {
	uint32_t type, seq;
	vm_answer_fn answer;
	void *arg;
};

/* A VM that is being mapped; @s: NULL once that connection is lost */
struct registration {
	struct work work;
	struct vm_socket *s;
	struct vm *vm;
	uint32_t seq;
	int err;
	char why[MAX_REASON];
};

struct vm_socket {
	struct loop_source source;
	struct vm_list *list;
	struct vm *vm; /* NULL until registered */
	struct registration *registration; /* while it is under way */
	struct vm_socket *next;
	uint8_t buf[ROOM];
	size_t len;
	int fds[VMFERRY_VMM_MAX_FDS];
	unsigned int nr_fds;
	unsigned int version; /* of the protocol; 0: no hello yet */
	uint32_t seq;
	struct owed owed[MAX_OWED];
	unsigned int first_owed, nr_owed;
	struct loop_timer patience;
};

/** struct vm_socket_set - where the VMMs of one daemon connect, and all their connections, registered or not */
struct vm_socket_set {
	struct loop_source listener;
	struct vm_socket *first;
};

/* Files that nobody took; the last reference to a memfd frees all of its memory. */
struct refused {
	struct work work;
	int fds[VMFERRY_VMM_MAX_FDS];
	unsigned int nr;
};

static void close_refused(struct work *w)
{
	struct refused *r = w->owner;

	for (unsigned int i = 0; i < r->nr; i++)
		cleanup_close_fd(&r->fds[i]);
}

static void free_refused(struct work *w)
{
	free(w->owner);
}

static void drop_fds(struct vm_socket *s)
{
	struct refused *r = NULL;

	for (unsigned int i = 0; i < s->nr_fds; i++) {
		if (s->fds[i] < 0)
			continue;
		if (!r)
			r = calloc(1, sizeof(*r));
		if (r)
			r->fds[r->nr++] = take_fd(&s->fds[i]);
		else
			cleanup_close_fd(&s->fds[i]);
	}
	s->nr_fds = 0;
	if (r) {
		r->work = (struct work){ .run = close_refused, .done = free_refused, .owner = r };
		worker_do(s->list->worker, &r->work);
	}
}

static void unlink_vm(struct vm_list *l, struct vm *vm)
{
	for (struct vm **p = &l->first; *p; p = &(*p)->next)
		if (*p == vm) {
			*p = vm->next;
			return;
		}
}

static void disconnect(struct vm_socket *s)
{
	struct vm *vm = s->vm;

	for (struct vm_socket **p = &s->list->sockets->first; *p; p = &(*p)->next)
		if (*p == s) {
			*p = s->next;
			break;
		}
	loop_remove(s->list->loop, &s->source);
	loop_timer_fini(&s->patience);
	close(s->source.fd);
	drop_fds(s);
	if (s->registration)
		s->registration->s = NULL;
	if (vm) {
		vm->sock = NULL;
		unlink_vm(s->list, vm);
		while (s->nr_owed) {
			struct owed o = s->owed[s->first_owed];

			s->first_owed = (s->first_owed + 1) % MAX_OWED;
			s->nr_owed--;
			if (o.answer)
				o.answer(o.arg, -ECONNRESET, NULL, 0);
		}
		vm_gone(vm);
		if (vm->watcher)
			vm->watcher->lost(vm->watcher->owner);
		vm_put(vm);
	}
	free(s);
}

static void reject(struct vm_socket *s, const char *why)
{
	limited_error(s->list->limited, LIMITED_VMM, "vmm socket: %s%s: %s; its guest is not touched; connection closed",
		      s->vm ? "vm " : "a VMM", s->vm ? s->vm->name : "", why);
	disconnect(s);
}

static void lost_patience(void *owner)
{
	struct vm_socket *s = owner;
	char why[96];

	snprintf(why, sizeof(why), "pid %d did not answer request %u within %d s",
		 s->vm ? s->vm->pid : 0, s->nr_owed ? s->owed[s->first_owed].type : 0,
		 REQUEST_TIMEOUT_MS / 1000);
	reject(s, why);
}

static int reply(struct vm_socket *s, uint32_t type, uint32_t seq, int status, const void *body,
		 uint32_t len)
{
	uint8_t out[sizeof(struct vmferry_msg) + MAX_REASON];
	struct vmferry_msg m = { type | VMFERRY_MSG_REPLY, len, seq, status };

	memcpy(out, &m, sizeof(m));
	if (len)
		memcpy(out + sizeof(m), body, len);
	return fdpass_send(s->source.fd, out, sizeof(m) + len, -1);
}

/* The newest version that both speak; 0: none. A VMM of version 1 names no range. */
static unsigned int common_version(const struct vmferry_msg_hello *h)
{
	unsigned int newest = (unsigned int)(h->features >> VMFERRY_FEATURES_NEWEST_SHIFT);

	if (!newest)
		newest = h->version;
	if (newest > VMFERRY_VMM_VERSION)
		newest = VMFERRY_VMM_VERSION;
	return newest >= h->version && newest >= VMFERRY_VMM_OLDEST ? newest : 0;
}

/* 0, or negative after the connection was closed */
static int take_hello(struct vm_socket *s, const struct vmferry_msg *m, const void *body)
{
	struct vmferry_msg_hello h;
	struct vmferry_msg_hello mine = { VMFERRY_VMM_MAGIC, VMFERRY_VMM_VERSION, 0 };

	if (s->version || m->len != sizeof(h)) {
		reject(s, "bad hello");
		return -1;
	}
	memcpy(&h, body, sizeof(h));
	s->version = h.magic == VMFERRY_VMM_MAGIC ? common_version(&h) : 0;
	if (!s->version) {
		reply(s, m->type, m->seq, -EPROTONOSUPPORT, &mine, sizeof(mine));
		reject(s, "speaks another version of the VMM protocol; update libvmferry");
		return -1;
	}
	mine.version = s->version;
	if (!reply(s, m->type, m->seq, 0, &mine, sizeof(mine)))
		return 0;
	disconnect(s);
	return -1;
}

static int peer_pid(int sock)
{
	struct ucred cred = { 0 };
	socklen_t len = sizeof(cred);

	return getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &len) ? 0 : cred.pid;
}

/* This daemon was both sides of one migration, and its guest has arrived: the source is here to be told so. */
static bool is_other_side(const struct vm *vm, const struct register_request *r)
{
	return vm->last.role && r->last.role && vm->last.role != r->last.role &&
	       !memcmp(vm->last.id, r->last.id, sizeof(vm->last.id));
}

static bool is_in_the_way(const struct vm *vm, const struct register_request *r)
{
	bool incoming = r->reg.run_state == VMFERRY_RUN_INCOMING || r->reg.run_state == VMFERRY_RUN_LOADED;

	return !strcmp(vm->name, r->reg.name) && vm_is_incoming(vm) == incoming && !is_other_side(vm, r);
}

/* The VM of that name and direction that is registered already, or is about to be; NULL: none */
static const struct vm *find_known(struct vm_list *l, const struct register_request *r)
{
	for (struct vm_socket *o = l->sockets->first; o; o = o->next)
		if (o->registration && is_in_the_way(o->registration->vm, r))
			return o->registration->vm;
	for (const struct vm *vm = l->first; vm; vm = vm->next)
		if (is_in_the_way(vm, r))
			return vm;
	return NULL;
}

static void map(struct work *w)
{
	struct registration *r = w->owner;

	r->err = vm_map(r->vm, r->why, sizeof(r->why));
}

static void enlist(struct vm_socket *s, struct vm *vm)
{
	s->vm = vm;
	vm->sock = s;
	vm->number = ++s->list->nr_listed;
	vm->next = s->list->first;
	s->list->first = vm;
	limited_notice(s->list->limited, LIMITED_REGISTERED, "vm %s: registered by pid %d: %s, %llu MiB, %u vCPUs",
		       vm->name, vm->pid, vm_state_name(vm), (unsigned long long)vm_ram_size(vm) >> 20, vm->nr_vcpus);
	s->list->registered(s->list->owner, vm);
}

/* Its VMM is told why, if it speaks a version in which it can be. The connection ends. */
static void refuse_registration(struct vm_socket *s, uint32_t seq, const char *name, const char *why)
{
	char text[MAX_REASON];
	size_t len;

	snprintf(text, sizeof(text), "%s", why);
	len = strlen(text);
	text_make_printable(text, len);
	reply(s, VMFERRY_MSG_REGISTER, seq, -EINVAL, text, s->version >= 2 ? (uint32_t)len : 0);
	limited_error(s->list->limited, LIMITED_VMM, "vm %.63s: its VMM (pid %d) may not register: %s; its guest is not touched; "
		      "connection closed", name[0] ? name : "without a name", peer_pid(s->source.fd), text);
	disconnect(s);
}

static void on_mapped(struct work *w)
{
	struct registration *r = w->owner;
	struct vm_socket *s = r->s;
	struct vm_list *l = s ? s->list : NULL;
	const char *why = r->err ? r->why : NULL;

	if (s)
		s->registration = NULL;
	if (s && !why && l->refuses)
		why = l->refuses(l->owner, r->vm, r->why, sizeof(r->why));
	if (s && why) {
		refuse_registration(s, r->seq, r->vm->name, why);
		vm_put(r->vm);
	} else if (!s) {
		vm_put(r->vm);
	} else if (reply(s, VMFERRY_MSG_REGISTER, r->seq, 0, NULL, 0)) {
		vm_put(r->vm);
		disconnect(s);
	} else {
		enlist(s, r->vm);
	}
	free(r);
}

/* Takes @s's fds over. NULL: out of memory */
static struct registration *registration_new(struct vm_socket *s, const struct register_request *from, uint32_t seq)
{
	struct registration *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->vm = vm_new(s->list->worker, from, s->fds);
	if (!r->vm) {
		free(r);
		return NULL;
	}
	r->work = (struct work){ .run = map, .done = on_mapped, .owner = r };
	r->s = s;
	r->seq = seq;
	r->vm->loop = s->list->loop;
	r->vm->limited = s->list->limited;
	r->vm->tracker_mode = s->list->tracker;
	r->vm->peer_pid = peer_pid(s->source.fd);
	return r;
}

/* @name: gets the name, or something that is none; Return: NULL, or the reason why it is refused */
static const char *begin_registration(struct vm_socket *s, const struct vmferry_msg *m, const uint8_t *body, char *name,
				      char text[MAX_REASON])
{
	struct register_request r;
	const struct vm *known;
	const char *why;

	if (!s->version || s->vm || s->registration)
		return s->version ? "it is registered already on this connection" : "it has not said hello";
	why = register_read(&r, s->version, body, m->len, s->nr_fds, text, MAX_REASON);
	memcpy(name, r.reg.name, VMFERRY_VMM_NAME_LEN - 1);
	if (why)
		return why;
	known = find_known(s->list, &r);
	if (known) {
		snprintf(text, MAX_REASON, "a VM of that name is registered here already, by pid %d", known->pid);
		return text;
	}
	s->registration = registration_new(s, &r, m->seq);
	return s->registration ? NULL : "out of memory";
}

static int take_register(struct vm_socket *s, const struct vmferry_msg *m, const uint8_t *body)
{
	char name[VMFERRY_VMM_NAME_LEN] = "", text[MAX_REASON];
	const char *why = begin_registration(s, m, body, name, text);

	drop_fds(s);
	if (why) {
		refuse_registration(s, m->seq, s->vm ? s->vm->name : name, why);
		return -1;
	}
	worker_do(s->list->worker, &s->registration->work);
	return 0;
}

static void note_run_state(struct vm *vm, uint32_t type)
{
	switch (type) {
	case VM_PAUSE:
		vm->run_state = VMFERRY_RUN_PAUSED;
		break;
	case VM_RESUME:
	case VM_RUN:
		vm->run_state = VMFERRY_RUN_RUNNING;
		break;
	case VM_LOAD:
		vm->run_state = VMFERRY_RUN_LOADED;
		break;
	case VM_DISCARD:
		vm->run_state = VMFERRY_RUN_INCOMING;
		vm->last = (struct vmferry_msg_migration){ 0 };
		break;
	case VM_RELEASE:
		vm->run_state = VMFERRY_RUN_RELEASED;
		vm->last = (struct vmferry_msg_migration){ 0 };
		break;
	}
}

static int take_answer(struct vm_socket *s, const struct vmferry_msg *m, const void *body)
{
	struct owed o;
	struct vm *vm = s->vm;

	if (!s->nr_owed) {
		reject(s, "answers what was not asked");
		return -1;
	}
	o = s->owed[s->first_owed];
	if (m->type != (o.type | VMFERRY_MSG_REPLY) || m->seq != o.seq) {
		reject(s, "answers out of order");
		return -1;
	}
	s->first_owed = (s->first_owed + 1) % MAX_OWED;
	if (--s->nr_owed)
		loop_timer_at(&s->patience, now_ns() + REQUEST_TIMEOUT_MS * NS_PER_MS);
	else
		loop_timer_stop(&s->patience);
	if (!m->status)
		note_run_state(vm, o.type);
	if (o.answer)
		o.answer(o.arg, m->status > 0 ? -EPROTO : m->status, body, m->len);
	return 0;
}

static int take_message(struct vm_socket *s, const struct vmferry_msg *m, const uint8_t *body)
{
	if (m->type & VMFERRY_MSG_REPLY)
		return take_answer(s, m, body);
	switch (m->type) {
	case VMFERRY_MSG_HELLO:
		return take_hello(s, m, body);
	case VMFERRY_MSG_REGISTER:
		return take_register(s, m, body);
	default:
		reject(s, "sends a message that only the daemon may send");
		return -1;
	}
}

/* Return: 0, or negative: the connection is gone, and @s with it */
static int receive(struct vm_socket *s)
{
	ssize_t n = fdpass_recv(s->source.fd, s->buf + s->len, sizeof(s->buf) - s->len, s->fds, &s->nr_fds,
				VMFERRY_VMM_MAX_FDS);

	if (n == -EAGAIN || n == -EINTR)
		return 0;
	if (n > 0) {
		s->len += (size_t)n;
		return 0;
	}
	if (s->vm)
		limited_notice(s->list->limited, LIMITED_REGISTERED, "vm %s: its VMM (pid %d) closed the connection",
			       s->vm->name, s->vm->pid);
	disconnect(s);
	return -ECONNRESET;
}

/* The next message, its length included; NULL: it is not whole, or *too_long. */
static const struct vmferry_msg *next_message(const struct vm_socket *s, struct vmferry_msg *m, bool *too_long)
{
	if (s->len < sizeof(*m))
		return NULL;
	memcpy(m, s->buf, sizeof(*m));
	*too_long = m->len > VMFERRY_VMM_MAX_BODY;
	return *too_long || s->len - sizeof(*m) < m->len ? NULL : m;
}

/* As many messages as one turn of the loop may have; nothing is received as long as a whole one is kept. */
static void socket_ready(struct loop_source *src, uint32_t events)
{
	struct vm_socket *s = src->owner;
	const struct vmferry_msg *more;
	struct vmferry_msg m;
	bool too_long = false;

	(void)events;
	if (!next_message(s, &m, &too_long) && receive(s))
		return;
	for (int i = 0; i < LOOP_TURN_MESSAGES && next_message(s, &m, &too_long); i++) {
		if (take_message(s, &m, s->buf + sizeof(m)))
			return;
		s->len -= sizeof(m) + m.len;
		memmove(s->buf, s->buf + sizeof(m) + m.len, s->len);
	}
	more = next_message(s, &m, &too_long);
	if (too_long)
		reject(s, "sends a message that is too long");
	else if (more)
		loop_again(s->list->loop, src);
}

int vm_socket_send(struct vm_socket *s, enum vm_request type, const void *body, uint32_t len,
		   int fd, vm_answer_fn answer, void *arg)
{
	uint8_t out[256];
	struct vmferry_msg m = { type, len, ++s->seq, 0 };
	int err;

	if (s->nr_owed == MAX_OWED || sizeof(m) + len > sizeof(out))
		return -EBUSY;
	memcpy(out, &m, sizeof(m));
	if (len)
		memcpy(out + sizeof(m), body, len);
	err = fdpass_send(s->source.fd, out, sizeof(m) + len, fd);
	if (err)
		return err == -EPIPE ? -ECONNRESET : err; /* it has hung up, and socket_ready() will see so */
	s->owed[(s->first_owed + s->nr_owed) % MAX_OWED] =
		(struct owed){ type, m.seq, answer, arg };
	if (!s->nr_owed++)
		loop_timer_at(&s->patience, now_ns() + REQUEST_TIMEOUT_MS * NS_PER_MS);
	return 0;
}

/** vm_socket_forget() - what @arg asked is done, but nobody waits for the answer any more */
void vm_socket_forget(struct vm_socket *s, const void *arg)
{
	for (unsigned int i = 0; i < s->nr_owed; i++) {
		struct owed *o = &s->owed[(s->first_owed + i) % MAX_OWED];

		if (o->arg == arg)
			o->answer = NULL;
	}
}

/** vm_socket_shut() - nothing more is sent or received; socket_ready() then takes the connection for lost */
void vm_socket_shut(struct vm_socket *s)
{
	shutdown(s->source.fd, SHUT_RDWR);
}

static void accept_ready(struct loop_source *src, uint32_t events)
{
	struct vm_list *l = src->owner;
	int fd = accept4(src->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct vm_socket *s;

	(void)events;
	if (fd < 0)
		return;
	s = calloc(1, sizeof(*s));
	if (!s) {
		close(fd);
		return;
	}
	s->list = l;
	s->source = (struct loop_source){ .fd = fd, .ready = socket_ready, .owner = s, .name = "VMM" };
	if (loop_timer_init(&s->patience, l->loop, lost_patience, s) ||
	    loop_add(l->loop, &s->source, EPOLLIN)) {
		loop_timer_fini(&s->patience);
		close(fd);
		free(s);
		return;
	}
	s->next = l->sockets->first;
	l->sockets->first = s;
}

/** vm_socket_listen() - let VMMs register at @path */
int vm_socket_listen(struct vm_list *l, const char *path)
{
	struct vm_socket_set *set = calloc(1, sizeof(*set));
	char uri[256], why[160];
	int fd;

	if (!set)
		return -ENOMEM;
	snprintf(uri, sizeof(uri), "unix:%s", path);
	fd = address_listen(uri, why, sizeof(why));
	if (fd < 0) {
		error_report("cannot listen for VMMs at %s: %s", path, why);
		free(set);
		return fd;
	}
	set->listener = (struct loop_source){ .fd = fd, .ready = accept_ready, .owner = l, .name = "VMMs" };
	l->sockets = set;
	return loop_add(l->loop, &set->listener, EPOLLIN);
}

/** vm_socket_stop() - disconnect all VMMs; their guests are not touched. Nothing to do if nobody listens */
void vm_socket_stop(struct vm_list *l)
{
	struct vm_socket_set *set = l->sockets;

	if (!set)
		return;
	loop_remove(l->loop, &set->listener);
	close(set->listener.fd);
	while (set->first)
		disconnect(set->first);
	l->sockets = NULL;
	free(set);
}
