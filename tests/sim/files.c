// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Descriptors of the simulated daemons: connections, listeners, events, timers, epoll, memfds.
 *
 * Theory of operation
 *
 * The daemon's objects are linked with their calls of the C library turned to the functions __wrap_... below (ld --wrap).
 * A descriptor belongs to the daemon that runs at that time (node_now). One table serves all daemons of the world, so a
 * descriptor that one daemon uses after it closed it is found, wherever it is used.
 *
 * A daemon is woken (node_wake()) when something of it becomes ready. Readiness is level-triggered, as in the daemon.
 */
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "judge.h"
#include "net.h"
#include "node.h"
#include "vmm.h"
#include "world.h"

#define NR_FDS 512
#define NR_LISTENERS 16

/* @watched: its epoll has it; @data, @events: what it was added with */
struct descriptor {
	struct file *file;
	struct node *node;
	bool watched;
	uint32_t events;
	void *data;
};

static struct descriptor fds[NR_FDS];
static int nr_fds; /* behind the highest that was ever used */
static struct file *listeners[NR_LISTENERS];

void files_begin(void)
{
	memset(fds, 0, sizeof(fds[0]) * (size_t)nr_fds);
	memset(listeners, 0, sizeof(listeners));
	nr_fds = 0;
}

struct file *file_new(enum file_kind kind)
{
	struct file *f = world_alloc(sizeof(*f));

	f->kind = kind;
	return f;
}

static void forget_listener(const struct file *f)
{
	for (int i = 0; i < NR_LISTENERS; i++)
		if (listeners[i] == f)
			listeners[i] = NULL;
}

void file_put(struct file *f)
{
	if (--f->refs)
		return;
	if (f->kind == FILE_END) {
		net_close(f->end);
		for (unsigned int i = 0; i < f->end->nr_passed; i++)
			file_put(f->end->passed[i].file);
		f->end->nr_passed = 0;
	} else if (f->kind == FILE_LISTENER) {
		forget_listener(f);
		for (unsigned int i = 0; i < f->nr_pending; i++)
			net_close(f->pending[i]);
	}
}

static void wake_owner(struct end *e)
{
	node_wake(e->owner);
}

/** files_open() - a descriptor of @n for @f, which gets a reference; the lowest that is free, as the kernel gives it */
int files_open(struct node *n, struct file *f)
{
	int i = 0;

	while (i < NR_FDS && fds[i].file)
		i++;
	if (i == NR_FDS) {
		judge_fail("leak", "%d descriptors are open", NR_FDS);
		return -1;
	}
	if (i >= nr_fds)
		nr_fds = i + 1;
	fds[i] = (struct descriptor){ .file = f, .node = n };
	f->refs++;
	if (f->kind == FILE_END) {
		f->end->owner = n;
		f->end->changed = wake_owner;
	}
	return FILES_FIRST + i;
}

static struct descriptor *descriptor_of(int fd)
{
	int i = fd - FILES_FIRST;

	return i >= 0 && i < nr_fds && fds[i].file && fds[i].node == node_now ? &fds[i] : NULL;
}

struct file *files_get(int fd)
{
	struct descriptor *d = descriptor_of(fd);

	if (!d)
		judge_fail("bad-descriptor", "descriptor %d is used and not open", fd);
	return d ? d->file : NULL;
}

/** files_adopt() - the loop of its daemon watches that connection from here on */
void files_adopt(int fd)
{
	struct file *f = files_get(fd);

	if (!f || f->kind != FILE_END)
		return;
	f->end->owner = node_now;
	f->end->changed = wake_owner;
	node_wake(node_now);
}

static void close_descriptor(struct descriptor *d)
{
	struct file *f = d->file;

	*d = (struct descriptor){ 0 };
	file_put(f);
}

void files_close(int fd)
{
	struct descriptor *d = descriptor_of(fd);

	if (d)
		close_descriptor(d);
	else
		judge_fail("bad-descriptor", "descriptor %d is closed and not open", fd);
}

/** files_close_all() - its process is gone */
void files_close_all(const struct node *n)
{
	for (int i = 0; i < nr_fds; i++)
		if (fds[i].file && fds[i].node == n)
			close_descriptor(&fds[i]);
}

unsigned int files_nr_open(const struct node *n)
{
	unsigned int nr = 0;

	for (int i = 0; i < nr_fds; i++)
		nr += fds[i].file && fds[i].node == n;
	return nr;
}

/* ---- listeners ---- */

/** files_listen() - a listener of the daemon that runs; Return: a descriptor, or -EADDRINUSE */
int files_listen(const char *uri)
{
	struct file *f = file_new(FILE_LISTENER);
	int at = -1;

	for (int i = NR_LISTENERS - 1; i >= 0; i--)
		if (!listeners[i])
			at = i;
		else if (!strcmp(listeners[i]->uri, uri))
			return -EADDRINUSE;
	if (at < 0)
		return -EMFILE;
	snprintf(f->uri, sizeof(f->uri), "%s", uri);
	listeners[at] = f;
	return files_open(node_now, f);
}

static void wake_listener(const struct file *f)
{
	for (int i = 0; i < nr_fds; i++)
		if (fds[i].file == f)
			node_wake(fds[i].node);
}

/** files_connect() - the near end of a connection to who listens at @uri; NULL: nobody */
struct end *files_connect(const char *uri, bool is_local)
{
	for (int i = 0; i < NR_LISTENERS; i++) {
		struct file *f = listeners[i];
		struct end *near;

		if (!f || strcmp(f->uri, uri) || f->nr_pending == FILES_MAX_PENDING)
			continue;
		near = net_pair(is_local);
		f->pending[f->nr_pending++] = near->other;
		wake_listener(f);
		return near;
	}
	return NULL;
}

/* ---- readiness ---- */

static uint32_t ready(const struct file *f)
{
	switch (f->kind) {
	case FILE_END:
		return (net_readable(f->end) || f->end->has_ended || f->end->is_broken ? EPOLLIN : 0) |
		       (net_room(f->end) || f->end->is_broken ? EPOLLOUT : 0) | (f->end->is_broken ? EPOLLERR : 0);
	case FILE_LISTENER:
		return f->nr_pending ? EPOLLIN : 0;
	case FILE_EVENT:
		return f->count ? EPOLLIN : 0;
	case FILE_TIMER:
		return f->at_ns && f->at_ns <= world_now() ? EPOLLIN : 0;
	default:
		return 0;
	}
}

int __wrap_epoll_create1(int flags);
int __wrap_epoll_ctl(int epfd, int op, int fd, struct epoll_event *ev);
int __wrap_epoll_wait(int epfd, struct epoll_event *to, int room, int timeout);

int __wrap_epoll_create1(int flags)
{
	(void)flags;
	return node_starves() ? -1 : files_open(node_now, file_new(FILE_EPOLL));
}

int __wrap_epoll_ctl(int epfd, int op, int fd, struct epoll_event *ev)
{
	struct descriptor *d = descriptor_of(fd);

	(void)epfd;
	if (!d) {
		judge_fail("bad-descriptor", "descriptor %d is watched and not open", fd);
		errno = EBADF;
		return -1;
	}
	d->watched = op != EPOLL_CTL_DEL;
	if (d->watched) {
		d->events = ev->events | EPOLLERR;
		d->data = ev->data.ptr;
	}
	node_wake(d->node);
	return 0;
}

/* The loop's turn ends after this one: see node.c. */
int __wrap_epoll_wait(int epfd, struct epoll_event *to, int room, int timeout)
{
	int start = nr_fds ? (int)world_below((uint64_t)nr_fds) : 0, n = 0;

	(void)epfd;
	node_call();
	for (int k = 0; k < nr_fds && n < room; k++) {
		struct descriptor *d = &fds[(start + k) % nr_fds];
		uint32_t events = d->file && d->watched && d->node == node_now ? ready(d->file) & d->events : 0;

		if (events)
			to[n++] = (struct epoll_event){ .events = events, .data.ptr = d->data };
	}
	node_turn_begins(n || !timeout);
	return n;
}

/* ---- events, timers, the clock ---- */

int __wrap_eventfd(unsigned int count, int flags);
int __wrap_eventfd_read(int fd, eventfd_t *to);
int __wrap_eventfd_write(int fd, eventfd_t n);
int __wrap_timerfd_create(int clock, int flags);
int __wrap_timerfd_settime(int fd, int flags, const struct itimerspec *its, struct itimerspec *old);
int __wrap_clock_gettime(clockid_t clock, struct timespec *to);
time_t __wrap_time(time_t *to);

/** files_raise() - an eventfd becomes readable, whoever raises it */
void files_raise(struct file *event)
{
	event->count++;
	for (int i = 0; i < nr_fds; i++)
		if (fds[i].file == event)
			node_wake(fds[i].node);
}

int __wrap_eventfd(unsigned int count, int flags)
{
	(void)flags;
	if (node_starves()) {
		errno = EMFILE;
		return -1;
	}
	return files_open(node_now, file_new(FILE_EVENT)) + (int)(count - count);
}

int __wrap_eventfd_read(int fd, eventfd_t *to)
{
	struct file *f = files_get(fd);

	if (!f || !f->count)
		return -1;
	*to = f->count;
	f->count = 0;
	return 0;
}

int __wrap_eventfd_write(int fd, eventfd_t n)
{
	struct file *f = files_get(fd);

	(void)n;
	if (f)
		files_raise(f);
	return 0;
}

int __wrap_timerfd_create(int clock, int flags)
{
	(void)clock;
	(void)flags;
	return files_open(node_now, file_new(FILE_TIMER));
}

int __wrap_timerfd_settime(int fd, int flags, const struct itimerspec *its, struct itimerspec *old)
{
	struct file *f = files_get(fd);

	(void)flags;
	(void)old;
	if (!f)
		return -1;
	f->at_ns = (uint64_t)its->it_value.tv_sec * S + (uint64_t)its->it_value.tv_nsec;
	if (f->at_ns)
		node_wake_at(node_now, f->at_ns);
	return 0;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *to)
{
	uint64_t at = world_tick();

	(void)clock;
	*to = (struct timespec){ (time_t)(at / S), (long)(at % S) };
	return 0;
}

time_t __wrap_time(time_t *to)
{
	time_t at = (time_t)(1700000000 + world_now() / S);

	if (to)
		*to = at;
	return at;
}

/* ---- sockets ---- */

ssize_t __wrap_recv(int fd, void *to, size_t len, int flags);
ssize_t __wrap_send(int fd, const void *from, size_t len, int flags);
int __wrap_accept4(int fd, struct sockaddr *sa, socklen_t *len, int flags);
int __wrap_dup(int fd);
int __wrap_close(int fd);
int __wrap_shutdown(int fd, int how);
int __wrap_getpeername(int fd, struct sockaddr *sa, socklen_t *len);
int __wrap_getsockopt(int fd, int level, int name, void *to, socklen_t *len);
int __wrap_fcntl(int fd, int cmd, ...);
int fdpass_send(int sock, const void *msg, size_t len, int fd);
ssize_t fdpass_recv(int sock, void *buf, size_t len, int *to, unsigned int *nr, unsigned int most);

static struct end *end_of(int fd)
{
	struct file *f = files_get(fd);

	return f && f->kind == FILE_END ? f->end : NULL;
}

ssize_t __wrap_recv(int fd, void *to, size_t len, int flags)
{
	struct end *e = end_of(fd);

	(void)flags;
	node_call();
	if (!e)
		return -1;
	if (net_readable(e))
		return (ssize_t)net_read(e, to, len);
	errno = e->is_broken ? e->is_broken : EAGAIN;
	return e->has_ended && !e->is_broken ? 0 : -1;
}

static int send_some(struct end *e, const void *from, size_t len, struct file *const *files, unsigned int nr)
{
	size_t room = net_room(e);

	if (room && room < len && !nr)
		len = room;
	return net_send(e, from, len, files, nr);
}

ssize_t __wrap_send(int fd, const void *from, size_t len, int flags)
{
	struct end *e = end_of(fd);
	int n;

	(void)flags;
	node_call();
	n = e ? send_some(e, from, len, NULL, 0) : -EBADF;
	if (n >= 0)
		return n;
	errno = -n;
	return -1;
}

int __wrap_accept4(int fd, struct sockaddr *sa, socklen_t *len, int flags)
{
	struct file *f = files_get(fd), *end;

	(void)sa;
	(void)len;
	(void)flags;
	if (!f || !f->nr_pending) {
		errno = EAGAIN;
		return -1;
	}
	if (node_starves()) {
		errno = EMFILE;
		return -1;
	}
	end = file_new(FILE_END);
	end->end = f->pending[0];
	memmove(f->pending, f->pending + 1, --f->nr_pending * sizeof(f->pending[0]));
	return files_open(node_now, end);
}

int __wrap_dup(int fd)
{
	struct file *f = files_get(fd);

	if (f && !node_starves())
		return files_open(node_now, f);
	errno = EMFILE;
	return -1;
}

int __wrap_close(int fd)
{
	node_call();
	files_close(fd);
	return 0;
}

int __wrap_shutdown(int fd, int how)
{
	struct end *e = end_of(fd);

	(void)how;
	if (e) {
		e->has_ended = true;
		e->at = e->len = 0;
		net_close(e);
		node_wake(node_now);
	}
	return 0;
}

int __wrap_getpeername(int fd, struct sockaddr *sa, socklen_t *len)
{
	(void)fd;
	(void)sa;
	(void)len;
	errno = ENOTCONN;
	return -1;
}

/* SO_PEERCRED: the VMM at the far end. */
int __wrap_getsockopt(int fd, int level, int name, void *to, socklen_t *len)
{
	struct end *e = end_of(fd);
	struct ucred cred = { 0 };

	(void)level;
	(void)name;
	if (!e || *len < sizeof(cred))
		return -1;
	cred.pid = e->other->owner ? vmm_pid(e->other->owner) : 0;
	memcpy(to, &cred, sizeof(cred));
	return 0;
}

int __wrap_fcntl(int fd, int cmd, ...)
{
	if (!files_get(fd))
		return -1;
	return cmd == F_GET_SEALS ? F_SEAL_SHRINK : 0;
}

int fdpass_send(int sock, const void *msg, size_t len, int fd)
{
	struct file *f = fd >= 0 ? files_get(fd) : NULL;
	struct end *e = end_of(sock);
	int n;

	node_call();
	if (!e)
		return -EBADF;
	n = net_send(e, msg, len, f ? &f : NULL, !!f);
	if (n > 0 && f)
		f->refs++;
	return n < 0 ? n : 0;
}

/* Files come with the byte that they rode with. */
ssize_t fdpass_recv(int sock, void *buf, size_t len, int *to, unsigned int *nr, unsigned int most)
{
	struct end *e = end_of(sock);
	ssize_t n = __wrap_recv(sock, buf, len, 0);

	if (n < 0)
		return -errno;
	while (e->nr_passed && e->passed[0].at < e->taken) {
		struct file *f = e->passed[0].file;

		memmove(e->passed, e->passed + 1, --e->nr_passed * sizeof(e->passed[0]));
		if (*nr < most)
			to[(*nr)++] = files_open(node_now, f);
		file_put(f);
	}
	return n;
}

/* ---- memfds ---- */

int __wrap_memfd_create(const char *name, unsigned int flags);

int __wrap_memfd_create(const char *name, unsigned int flags)
{
	(void)name;
	(void)flags;
	if (node_starves()) {
		errno = EMFILE;
		return -1;
	}
	return files_open(node_now, file_new(FILE_MEMORY));
}
