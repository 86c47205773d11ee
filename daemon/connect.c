// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Connects to a peer: control connection, hello, plan, then all channels; on a thread, never on the loop.
 *
 * Theory of operation
 *
 *   loop:     connector_start() -> work -> ...                      on_ended(): takes sockets, done()
 *   worker:                        makes the thread                 ^
 *   thread:                        look-up -> dial_first() -> plan -> dial_channels()
 *
 * A look-up can hang for longer than anybody wants to wait, and the C library offers no way to end it.
 * So nobody ever waits for the thread. It is detached, and it works on an object of its own, struct
 * attempt, which holds copies of all that it needs. References to the attempt: the connector's, the
 * work's, and the thread's; whoever drops the last one frees it. The sockets of an attempt that was abandoned
 * are closed by the thread, or by the loop if the thread has ended before: the state says which.
 *
 * connector_fini() abandons an attempt: it makes cancel_fd readable, drops the connector's reference
 * and returns. A thread that is in poll() then ends at once and closes its sockets; a thread that is in a
 * look-up ends with the look-up, and connects to nothing. The number of abandoned threads is bounded: with
 * too many of them no name is looked up any more; numeric addresses, which recovery has, work on.
 *
 * The loop makes no thread itself: pthread_create() maps a stack, and the lock of the address space may
 * be held for long by threads that populate guest RAM (see base/worker.c).
 *
 * The thread writes the outcome before it stores ENDED (release) and raises ended_fd; the loop reads the
 * state (acquire) before it takes the outcome. Without the pair the loop might take sockets that are not
 * yet written.
 */
#include "connect.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/deadline.h"
#include "base/fault.h"
#include "peer/address.h"
#include "peer/dial.h"

#define STAGGER_NS (250 * NS_PER_MS) /* RFC 8305, section 8 */
#define STEP_NS (5 * NS_PER_S)
#define STACK_BYTES (1 << 20) /* name service modules are not ours: they may need much */

_Static_assert(CHANNEL_MAX <= DIAL_MAX && ADDRESS_MAX <= DIAL_MAX, "one call dials them all");

enum attempt_state { ATTEMPT_RUNNING, ATTEMPT_ABANDONED, ATTEMPT_ENDED };
enum attempt_step { STEP_LOOK_UP, STEP_CONTROL, STEP_PLAN, STEP_CHANNELS };

/**
 * struct attempt - what the thread works on
 * @owner: the connector; NULL: abandoned. The loop's alone
 * @step: for the words when the time is over
 * @ended: its fd is an eventfd that the thread raises at its end
 * @cancel_fd: an eventfd that nobody reads: raised once, it stays readable
 * @nr_channels ... @regions: written before the thread begins
 * @error ... @welcome: written by the thread before ATTEMPT_ENDED, read by the loop after it
 */
struct attempt {
	struct work work;
	atomic_uint refs;
	_Atomic(enum attempt_state) state;
	_Atomic(enum attempt_step) step;
	struct connector *owner;
	struct loop_source ended;
	int cancel_fd;

	char uri[256];
	struct wire_hello hello;
	struct wire_plan plan;
	unsigned int nr_channels;

	int error;
	char text[WIRE_TEXT_LEN + 64];
	char peer[256];
	int control;
	int channels[CHANNEL_MAX];
	struct wire_plan_ok plan_ok;
	uint32_t version;
	struct wire_welcome welcome;

	struct wire_region regions[];
};

/* Of the process, not of one daemon: it counts threads, and these outlive the daemon that made them. */
static atomic_uint nr_abandoned;

/* ---- the attempt: any thread ---- */

static void close_sockets(struct attempt *a)
{
	cleanup_close_fd(&a->control);
	for (unsigned int i = 0; i < CHANNEL_MAX; i++)
		cleanup_close_fd(&a->channels[i]);
}

static void attempt_put(struct attempt *a)
{
	/* acq_rel: all that others did with the attempt comes before its end. */
	if (atomic_fetch_sub_explicit(&a->refs, 1, memory_order_acq_rel) > 1)
		return;
	cleanup_close_fd(&a->cancel_fd);
	cleanup_close_fd(&a->ended.fd);
	free(a);
}

static void attempt_end(struct attempt *a)
{
	/* Pairs with the acquire in on_ended(), see above. */
	if (atomic_exchange_explicit(&a->state, ATTEMPT_ENDED, memory_order_acq_rel) == ATTEMPT_ABANDONED) {
		atomic_fetch_sub(&nr_abandoned, 1);
		close_sockets(a);
	}
	eventfd_write(a->ended.fd, 1);
	attempt_put(a);
}

/* ---- the thread ---- */

static int agree_on_plan(struct attempt *a, const struct dial_limits *limits)
{
	uint8_t body[sizeof(struct wire_plan) + VMFERRY_MAX_REGIONS * sizeof(struct wire_region)];
	size_t regions_len = a->plan.nr_regions * sizeof(*a->regions);
	struct wire_failed failed;
	uint32_t type, len;
	int err;

	memcpy(body, &a->plan, sizeof(a->plan));
	memcpy(body + sizeof(a->plan), a->regions, regions_len);
	err = dial_ask(a->control, WIRE_PLAN, body, (uint32_t)(sizeof(a->plan) + regions_len), limits, &type,
		       body, sizeof(body), &len);
	if (err) {
		snprintf(a->text, sizeof(a->text), "no answer to the plan: %s", strerror(-err));
		return err;
	}
	if (type == WIRE_FAILED && len == sizeof(failed)) {
		memcpy(&failed, body, sizeof(failed));
		failed.text[WIRE_TEXT_LEN - 1] = '\0';
		snprintf(a->text, sizeof(a->text), "%s", failed.text);
		return -EREMOTEIO;
	}
	if (type != WIRE_PLAN_OK || len != sizeof(a->plan_ok)) {
		snprintf(a->text, sizeof(a->text), "strange answer to the plan (type %u)", type);
		return -EBADMSG;
	}
	memcpy(&a->plan_ok, body, sizeof(a->plan_ok));
	return 0;
}

static int connect_all(struct attempt *a)
{
	struct dial_limits limits = { STAGGER_NS, STEP_NS, a->cancel_fd };
	struct address list[ADDRESS_MAX];
	struct dial_found found;
	int n, err;

	fault_point("connect");
	n = address_resolve(a->uri, list, a->text, sizeof(a->text));
	if (n < 0)
		return n;
	atomic_store(&a->step, STEP_CONTROL);
	err = dial_first(a->uri, list, (unsigned int)n, &a->hello, &limits, &found, a->text, sizeof(a->text));
	if (err)
		return err;
	a->control = found.sock;
	a->version = found.version;
	a->welcome = found.welcome;
	strcpy(a->peer, found.at.uri);
	if (a->hello.role != WIRE_CONTROL)
		return 0;
	atomic_store(&a->step, STEP_PLAN);
	err = agree_on_plan(a, &limits);
	if (err)
		return err;
	atomic_store(&a->step, STEP_CHANNELS);
	return dial_channels(&found, &a->hello, a->nr_channels, &limits, a->channels, a->text, sizeof(a->text));
}

static void *attempt_thread(void *arg)
{
	struct attempt *a = arg;

	a->error = connect_all(a);
	fault_point("connected");
	attempt_end(a);
	return NULL;
}

/* ---- the worker: makes the thread, which inherits that all signals are blocked ---- */

static void make_thread(struct work *w)
{
	struct attempt *a = w->owner;
	pthread_attr_t attr;
	pthread_t thread;
	int err;

	if (atomic_load(&a->state) == ATTEMPT_ABANDONED) {
		attempt_end(a);
		return;
	}
	err = -pthread_attr_init(&attr);
	if (!err) {
		pthread_attr_setstacksize(&attr, STACK_BYTES);
		pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
		err = -pthread_create(&thread, &attr, attempt_thread, a);
		pthread_attr_destroy(&attr);
	}
	if (err) {
		a->error = err;
		snprintf(a->text, sizeof(a->text), "no thread to connect with: %s", strerror(-err));
		attempt_end(a);
	}
}

static void thread_is_made(struct work *w)
{
	attempt_put(w->owner);
}

/* ---- the loop ---- */

static void drop_attempt(struct connector *c)
{
	enum attempt_state running = ATTEMPT_RUNNING;
	struct attempt *a = c->attempt;

	if (!a)
		return;
	c->attempt = NULL;
	a->owner = NULL;
	loop_remove(c->loop, &a->ended);
	loop_timer_fini(&c->patience);
	/* Counted before the thread can see it: the thread takes itself off the count. */
	atomic_fetch_add(&nr_abandoned, 1);
	if (!atomic_compare_exchange_strong(&a->state, &running, ATTEMPT_ABANDONED)) {
		atomic_fetch_sub(&nr_abandoned, 1);
		close_sockets(a); /* the thread has ended; what on_ended() took is not there any more */
	}
	eventfd_write(a->cancel_fd, 1);
	attempt_put(a);
}

static void on_ended(struct loop_source *s, uint32_t events)
{
	struct attempt *a = s->owner;
	struct connector *c = a->owner;

	(void)events;
	/* Pairs with the release in attempt_end(). */
	if (atomic_load_explicit(&a->state, memory_order_acquire) != ATTEMPT_ENDED)
		return;
	c->error = a->error;
	memcpy(c->text, a->text, sizeof(c->text));
	if (a->peer[0])
		memcpy(c->peer, a->peer, sizeof(c->peer));
	c->plan_ok = a->plan_ok;
	c->version = a->version;
	c->welcome = a->welcome;
	c->control = take_fd(&a->control);
	for (unsigned int i = 0; i < CHANNEL_MAX; i++)
		c->channels[i] = take_fd(&a->channels[i]);
	drop_attempt(c);
	c->done(c->owner);
}

static void on_patience_over(void *owner)
{
	static const char *const words[] = {
		[STEP_LOOK_UP] = "the look-up of its name has not ended; see the name servers in /etc/resolv.conf",
		[STEP_CONTROL] = "none of its addresses has answered",
		[STEP_PLAN] = "it has not answered to the plan",
		[STEP_CHANNELS] = "its channels are not connected",
	};
	struct connector *c = owner;

	c->error = -ETIMEDOUT;
	snprintf(c->text, sizeof(c->text), "not connected within %d s: %s", CONNECT_LIMIT_S,
		 words[atomic_load(&c->attempt->step)]);
	drop_attempt(c);
	c->done(c->owner);
}

static struct attempt *attempt_new(struct connector *c)
{
	size_t regions_len = c->plan.nr_regions * sizeof(*c->regions);
	struct attempt *a = calloc(1, sizeof(*a) + regions_len);

	if (!a)
		return NULL;
	atomic_init(&a->refs, 1);
	a->owner = c;
	a->work = (struct work){ .run = make_thread, .done = thread_is_made, .owner = a };
	a->control = -1;
	for (unsigned int i = 0; i < CHANNEL_MAX; i++)
		a->channels[i] = -1;
	memcpy(a->uri, c->uri, sizeof(a->uri));
	a->hello = c->hello;
	a->hello.nr_channels = c->nr_channels;
	a->plan = c->plan;
	a->nr_channels = c->nr_channels;
	if (regions_len)
		memcpy(a->regions, c->regions, regions_len);
	a->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	a->ended = (struct loop_source){ .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .ready = on_ended,
					 .owner = a };
	return a;
}

/** connector_init() - for a peer at @uri, which fits; nothing open yet; connector_fini() is fine from here on */
void connector_init(struct connector *c, const char *uri)
{
	*c = (struct connector){ .control = -1 };
	for (unsigned int i = 0; i < CHANNEL_MAX; i++)
		c->channels[i] = -1;
	snprintf(c->uri, sizeof(c->uri), "%s", uri);
	memcpy(c->peer, c->uri, sizeof(c->peer));
}

/**
 * connector_start() - begin an attempt; @c->done is called on the loop when it has ended
 *
 * An attempt ends within CONNECT_LIMIT_S, whatever hangs.
 *
 * Context: the loop's thread; does not block.
 * Return: 0, or a negative errno with @c->text; -EBUSY: CONNECT_MAX_ABANDONED attempts hang in look-ups,
 * and this one would be another.
 */
int connector_start(struct connector *c, struct loop *l, struct worker *wk)
{
	unsigned int hanging = atomic_load(&nr_abandoned);
	struct attempt *a;
	int err;

	if (hanging >= CONNECT_MAX_ABANDONED && address_needs_look_up(c->uri)) {
		snprintf(c->text, sizeof(c->text), "%u earlier attempts to connect still wait for a name server; "
			 "see /etc/resolv.conf, or give a numeric address", hanging);
		return -EBUSY;
	}
	a = attempt_new(c);
	err = !a ? -ENOMEM : a->cancel_fd < 0 || a->ended.fd < 0 ? -EMFILE : 0;
	if (!err)
		err = loop_timer_init(&c->patience, l, on_patience_over, c);
	if (!err)
		err = loop_add(l, &a->ended, EPOLLIN);
	if (err) {
		snprintf(c->text, sizeof(c->text), "%s", strerror(-err));
		loop_timer_fini(&c->patience);
		if (a)
			attempt_put(a);
		return err;
	}
	loop_timer_at(&c->patience, now_ns() + CONNECT_LIMIT_S * NS_PER_S);
	c->loop = l;
	c->attempt = a;
	atomic_fetch_add(&a->refs, 2); /* the work's and the thread's */
	worker_do(wk, &a->work);
	return 0;
}

/**
 * connector_fini() - abandons an attempt that is under way, and closes what is left
 * May be called again: what is closed is forgotten. @done is not called any more.
 *
 * Context: the loop's thread; waits for nothing.
 */
void connector_fini(struct connector *c)
{
	drop_attempt(c);
	cleanup_close_fd(&c->control);
	for (unsigned int i = 0; i < CHANNEL_MAX; i++)
		cleanup_close_fd(&c->channels[i]);
}
