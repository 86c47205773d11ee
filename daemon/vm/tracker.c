// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The kernel module as the harvester of one VM: attached to, started, asked, let go.
 *
 * Theory of operation
 *
 *   loop: request -> queue -> thread: open, ATTACH, START or HARVEST -> done queue -> loop: answer
 *
 * The module's requests wait for KVM, and so for the VMM: one that hangs in a KVM ioctl
 * must not hang the loop. So a thread asks, one request after the other, and one that is
 * not answered in time is answered with -ETIMEDOUT. The thread is made by a work, and never
 * waited for: who closes the tracker leaves it to the thread to stop logging, close the
 * attachment and KVM's VM, and free what both use.
 *
 * @lock covers all fields that both sides use. The thread holds it for a few instructions, and inherits the
 * priority of the loop that waits for it. It wakes the loop when it has let go of the lock: the loop would
 * run before it, and wait for it. So it has a descriptor of its own to wake the loop with, which the loop's
 * end does not close.
 */
#include "tracker.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <vmferry.h>

#include "base/cleanup.h"
#include "base/deadline.h"
#include "base/fault.h"
#include "base/lock.h"

#define DEVICE "/dev/vmferry"
#define MAX_REQUESTS 8
#define PATIENCE_NS (10 * NS_PER_S)

enum what { START, HARVEST, HARVEST_FINAL };

struct request {
	enum what what;
	tracker_fn done;
	void *arg;
	int err;
};

/*
 * @first: the oldest request; those before @nr_done are done, the others are not
 * @fd: the attachment; the thread's until START is answered
 * @wake_fd: @event's eventfd once more; the thread's, or spawn()'s if there is none
 * @is_closed: the loop's side is gone
 */
struct tracker {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct request queue[MAX_REQUESTS];
	unsigned int first, nr_done, nr;
	bool is_closed;
	unsigned int refs;

	int vm_fd, pid, fd, wake_fd;
	char why[160]; /* of the last failure; written before it is answered */
	struct work spawn;
	int spawn_err;

	/* the loop's */
	struct loop_event event;
	struct loop_timer patience;
	bool has_hung;
};

static void put(struct tracker *t)
{
	bool last;

	pthread_mutex_lock(&t->lock);
	last = !--t->refs;
	pthread_mutex_unlock(&t->lock);
	if (!last)
		return;
	pthread_cond_destroy(&t->wake);
	pthread_mutex_destroy(&t->lock);
	free(t);
}

/* ---- the thread ---- */

static int __attribute__((format(printf, 3, 4))) explain(struct tracker *t, int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(t->why, sizeof(t->why), fmt, ap);
	va_end(ap);
	return err;
}

static int explain_attach(struct tracker *t, int err)
{
	switch (err) {
	case -EPERM:
		return explain(t, err, "process %d is not the VMM that made this VM", t->pid);
	case -EBUSY:
		return explain(t, err, "somebody else has attached to its dirty rings (its VMM is process %d)",
			       t->pid);
	case -ESRCH:
		return explain(t, err, "its VMM (process %d) has exited", t->pid);
	case -ENODEV:
		return explain(t, err, "this kernel shows no pushes to dirty rings; module and KVM do not fit");
	default:
		return explain(t, err, "the module cannot attach to its VMM, process %d", t->pid);
	}
}

static int attach(struct tracker *t)
{
	struct vmferry_attach req = { .size = sizeof(req),
				      .flags = VMFERRY_ATTACH_OWN_RING,
				      .vm_fd = t->vm_fd };
	CLEANUP_CLOSE int dev = open(DEVICE, O_RDWR | O_CLOEXEC);
	CLEANUP_CLOSE int mem = -1;
	char path[32];

	if (dev < 0 && errno == ENOENT)
		return explain(t, -ENOENT, DEVICE " is not there: the module is not loaded (modprobe vmferry)");
	if (dev < 0)
		return explain(t, -errno, "cannot open " DEVICE ": %s", strerror(errno));
	snprintf(path, sizeof(path), "/proc/%d/mem", t->pid);
	mem = open(path, O_RDONLY | O_CLOEXEC);
	if (mem < 0)
		return explain(t, -errno, "cannot open %s, which shows the right to trace the VMM: %s", path,
			       strerror(errno));
	req.mem_fd = mem;
	t->fd = ioctl(dev, VMFERRY_ATTACH, &req);
	return t->fd < 0 ? explain_attach(t, -errno) : 0;
}

static int harvest(struct tracker *t, uint32_t flags)
{
	struct vmferry_harvest h = { .size = sizeof(h), .flags = flags };

	if (!ioctl(t->fd, VMFERRY_HARVEST, &h))
		return 0;
	return explain(t, -errno, errno == EIO ? "the module may have missed writes" :
					"the module cannot harvest");
}

static int carry_out(struct tracker *t, enum what what)
{
	int err;

	switch (what) {
	case START:
		err = attach(t);
		if (!err && ioctl(t->fd, VMFERRY_START, 0)) {
			err = -errno;
			explain(t, err, "the module cannot turn dirty logging on");
		}
		return err;
	case HARVEST:
		return harvest(t, 0);
	case HARVEST_FINAL:
		return harvest(t, VMFERRY_HARVEST_FINAL);
	}
	return -EINVAL;
}

static void *tracker_thread(void *arg)
{
	struct tracker *t = arg;

	pthread_mutex_lock(&t->lock);
	while (!t->is_closed) {
		enum what what;
		int err;

		if (t->nr_done == t->nr) {
			pthread_cond_wait(&t->wake, &t->lock);
			continue;
		}
		what = t->queue[(t->first + t->nr_done) % MAX_REQUESTS].what;
		pthread_mutex_unlock(&t->lock);
		err = carry_out(t, what);
		pthread_mutex_lock(&t->lock);
		if (t->is_closed)
			break;
		t->queue[(t->first + t->nr_done) % MAX_REQUESTS].err = err;
		t->nr_done++;
		pthread_mutex_unlock(&t->lock);
		eventfd_write(t->wake_fd, 1);
		pthread_mutex_lock(&t->lock);
	}
	pthread_mutex_unlock(&t->lock);
	/* Whoever closes the last reference waits: we, or dirty_free_kmod(). */
	if (t->fd >= 0)
		ioctl(t->fd, VMFERRY_STOP, 0);
	cleanup_close_fd(&t->fd);
	cleanup_close_fd(&t->vm_fd);
	cleanup_close_fd(&t->wake_fd);
	put(t);
	return NULL;
}

/* ---- the loop ---- */

static void on_done(void *owner)
{
	struct tracker *t = owner;
	struct request r;

	pthread_mutex_lock(&t->lock);
	t->refs++;
	while (!t->is_closed && t->nr_done) {
		r = t->queue[t->first];
		t->first = (t->first + 1) % MAX_REQUESTS;
		t->nr--;
		if (--t->nr_done < t->nr)
			loop_timer_at(&t->patience, now_ns() + PATIENCE_NS);
		else if (!t->nr)
			loop_timer_stop(&t->patience);
		pthread_mutex_unlock(&t->lock);
		r.done(r.arg, r.err);
		pthread_mutex_lock(&t->lock);
	}
	pthread_mutex_unlock(&t->lock);
	put(t);
}

static void answer_all(struct tracker *t, int err)
{
	pthread_mutex_lock(&t->lock);
	while (t->nr) {
		struct request r = t->queue[t->first];

		t->first = (t->first + 1) % MAX_REQUESTS;
		t->nr--;
		t->nr_done = 0; /* the thread does not look any more: is_closed */
		pthread_mutex_unlock(&t->lock);
		r.done(r.arg, err);
		pthread_mutex_lock(&t->lock);
	}
	pthread_mutex_unlock(&t->lock);
}

static void lost_patience(void *owner)
{
	struct tracker *t = owner;

	pthread_mutex_lock(&t->lock);
	t->has_hung = true;
	t->is_closed = true; /* for the thread: whenever it comes back it ends */
	t->refs++;
	pthread_mutex_unlock(&t->lock);
	answer_all(t, -ETIMEDOUT);
	put(t);
}

static void spawn(struct work *w)
{
	struct tracker *t = w->owner;
	pthread_attr_t detached;
	pthread_t thread;
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", t->pid);
	fault_point_of("spawn-tracker", pid);
	pthread_attr_init(&detached);
	pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
	t->spawn_err = -pthread_create(&thread, &detached, tracker_thread, t);
	pthread_attr_destroy(&detached);
	if (t->spawn_err) {
		cleanup_close_fd(&t->vm_fd);
		cleanup_close_fd(&t->wake_fd);
	}
}

static void on_spawned(struct work *w)
{
	struct tracker *t = w->owner;

	if (t->spawn_err) {
		explain(t, t->spawn_err, "no thread can be made for it");
		pthread_mutex_lock(&t->lock);
		t->is_closed = true;
		pthread_mutex_unlock(&t->lock);
		answer_all(t, t->spawn_err);
		put(t); /* the thread's */
	}
	put(t);
}

/**
 * tracker_open() - nothing is asked of the module yet
 * @vm_fd: KVM VM, duplicated
 * @pid: its VMM
 */
int tracker_open(struct loop *loop, struct worker *wk, int vm_fd, int pid, struct tracker **out)
{
	struct tracker *t = calloc(1, sizeof(*t));
	int err;

	if (!t)
		return -ENOMEM;
	t->fd = t->wake_fd = t->event.source.fd = -1;
	t->pid = pid;
	t->refs = 3; /* the loop's, the work's and the thread's */
	lock_init(&t->lock);
	pthread_cond_init(&t->wake, NULL);
	t->vm_fd = fcntl(vm_fd, F_DUPFD_CLOEXEC, 0);
	err = t->vm_fd < 0 ? -errno : loop_event_init(&t->event, loop, on_done, t);
	if (!err) {
		t->wake_fd = fcntl(t->event.source.fd, F_DUPFD_CLOEXEC, 0);
		err = t->wake_fd < 0 ? -errno : 0;
	}
	if (!err)
		err = loop_timer_init(&t->patience, loop, lost_patience, t);
	if (err) {
		loop_timer_fini(&t->patience);
		loop_event_fini(&t->event);
		cleanup_close_fd(&t->wake_fd);
		cleanup_close_fd(&t->vm_fd); /* not the last: the caller has it, too */
		t->refs = 1;
		put(t);
		return err;
	}
	t->spawn = (struct work){ .run = spawn, .done = on_spawned, .owner = t };
	worker_do(wk, &t->spawn);
	*out = t;
	return 0;
}

/**
 * tracker_close() - stop logging, in the background; NULL is fine
 * What is owed is answered with -ECANCELED.
 */
void tracker_close(struct tracker *t)
{
	if (!t)
		return;
	pthread_mutex_lock(&t->lock);
	t->is_closed = true;
	pthread_cond_signal(&t->wake);
	pthread_mutex_unlock(&t->lock);
	answer_all(t, -ECANCELED);
	loop_timer_fini(&t->patience);
	loop_event_fini(&t->event);
	put(t);
}

static void ask(struct tracker *t, enum what what, tracker_fn done, void *arg)
{
	int err = 0;

	pthread_mutex_lock(&t->lock);
	if (t->is_closed) {
		err = -ETIMEDOUT;
	} else if (t->nr == MAX_REQUESTS) {
		err = -EBUSY;
	} else {
		t->queue[(t->first + t->nr) % MAX_REQUESTS] =
			(struct request){ .what = what, .done = done, .arg = arg };
		if (!t->nr++)
			loop_timer_at(&t->patience, now_ns() + PATIENCE_NS);
		pthread_cond_signal(&t->wake);
	}
	pthread_mutex_unlock(&t->lock);
	if (err)
		done(arg, err);
}

/** tracker_start() - attach and log from now on; once, and first */
void tracker_start(struct tracker *t, tracker_fn done, void *arg)
{
	ask(t, START, done, arg);
}

/** tracker_harvest() - publish what is dirty; @final: the vCPUs stand still, publish all */
void tracker_harvest(struct tracker *t, bool final, tracker_fn done, void *arg)
{
	ask(t, final ? HARVEST_FINAL : HARVEST, done, arg);
}

/** tracker_fd() - the attachment, once tracker_start() was answered with 0 */
int tracker_fd(const struct tracker *t)
{
	return t->fd;
}

/** tracker_why() - what failed last, in words; for the answer's callback */
const char *tracker_why(const struct tracker *t)
{
	return t->has_hung ? "the module did not answer within 10 s" : t->why;
}
