// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What a simulated daemon needs and a walk does not test: the log, the probe, learned figures, the guest's RAM as the
 * daemon maps it, names and addresses, times of threads. Each stands at the header that it replaces.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/fault.h"
#include "base/limited.h"
#include "base/scribe.h"
#include "base/thread_times.h"
#include "base/urgent.h"
#include "control/blackout.h"
#include "control/learned.h"
#include "files.h"
#include "judge.h"
#include "node.h"
#include "pages/dirty.h"
#include "pages/page_codec.h"
#include "pages/region.h"
#include "pages/warm.h"
#include "peer/address.h"
#include "vm/runqueue.h"
#include "vm/tracker.h"
#include "walk.h"
#include "world.h"

void *__wrap_calloc(size_t nr, size_t len);
void __wrap_free(void *p);
int __wrap_mkdir(const char *path, mode_t mode);
ssize_t __wrap_getrandom(void *to, size_t len, unsigned int flags);

/* ---- base/error.h, base/limited.h: a message that names a bug fails the walk ---- */

struct limited {
	int none;
};

static void say(const char *fmt, va_list ap)
{
	char text[600];

	if (!world_is_traced && !strstr(fmt, ": bug: "))
		return;
	vsnprintf(text, sizeof(text), fmt, ap);
	world_trace("%s: says: %s", node_now ? node_now->name : "?", text);
	if (strstr(text, ": bug: ") && !walk_has_liars())
		judge_fail("bug", "%s", text);
}

void error_report(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(fmt, ap);
	va_end(ap);
}

void notice_report(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(fmt, ap);
	va_end(ap);
}

void limited_error(struct limited *l, enum limited_kind kind, const char *fmt, ...)
{
	va_list ap;

	(void)l;
	(void)kind;
	va_start(ap, fmt);
	say(fmt, ap);
	va_end(ap);
}

void limited_notice(struct limited *l, enum limited_kind kind, const char *fmt, ...)
{
	va_list ap;

	(void)l;
	(void)kind;
	va_start(ap, fmt);
	say(fmt, ap);
	va_end(ap);
}

int limited_open(struct loop *loop, struct limited **out)
{
	(void)loop;
	*out = __wrap_calloc(1, sizeof(**out));
	return *out ? 0 : -ENOMEM;
}

void limited_flush(struct limited *l)
{
	(void)l;
}

void limited_close(struct limited *l)
{
	__wrap_free(l);
}

/* ---- the rest of base ---- */

void fault_point(const char *name)
{
	(void)name;
}

void fault_point_of(const char *name, const char *of)
{
	(void)name;
	(void)of;
}

int scribe_open(struct scribe **out)
{
	*out = NULL;
	return 0;
}

void scribe_close(struct scribe *s)
{
	(void)s;
}

void urgent_begin(void)
{
}

void urgent_end(void)
{
}

int thread_times_open(void)
{
	return -1;
}

void thread_times_read(int fd, struct thread_times *to)
{
	(void)fd;
	memset(to, 0, sizeof(*to));
}

int __wrap_mkdir(const char *path, mode_t mode)
{
	(void)path;
	(void)mode;
	return 0;
}

ssize_t __wrap_getrandom(void *to, size_t len, unsigned int flags)
{
	uint8_t *at = to;

	(void)flags;
	for (size_t i = 0; i < len; i++)
		at[i] = (uint8_t)world_random();
	return (ssize_t)len;
}

/* ---- peer/address.h ---- */

int address_listen(const char *uri, char *why, size_t len)
{
	int fd = node_starves() ? -ENOMEM : files_listen(uri);

	if (fd < 0)
		snprintf(why, len, "%s", strerror(-fd));
	return fd;
}

void address_tune(int sock)
{
	(void)sock;
}

/* ---- the guest's RAM: one block that nobody reads ---- */

static uint8_t ram[65536];

int region_map(struct region *r)
{
	r->map = ram;
	return node_starves() ? -ENOMEM : 0;
}

void region_unmap(struct region *r)
{
	r->map = NULL;
}

int region_each_data(const struct region *r, void (*found)(void *arg, uint64_t off, uint64_t len), void *arg)
{
	found(arg, 0, r->size);
	return 0;
}

bool page_is_zero(const void *page)
{
	(void)page;
	return false;
}

int warm_start(const struct region *regions, unsigned int nr_regions, struct warm **out)
{
	(void)regions;
	(void)nr_regions;
	*out = NULL;
	return 0;
}

void warm_hold(void)
{
}

void warm_allow(void)
{
}

void warm_cease(struct warm *w)
{
	(void)w;
}

void warm_stop(struct warm *w)
{
	(void)w;
}

/* ---- pages/dirty.h: some pages are dirty, fewer than before ---- */

struct dirty {
	int none;
};

int dirty_open(int area_fd, uint64_t size, const uint64_t *region_sizes, unsigned int nr_regions, struct dirty **out)
{
	(void)area_fd;
	(void)size;
	(void)region_sizes;
	(void)nr_regions;
	*out = __wrap_calloc(1, sizeof(**out));
	return *out ? 0 : -ENOMEM;
}

void dirty_close(struct dirty *d)
{
	__wrap_free(d);
}

int dirty_collect(struct dirty *d, struct page_set *to, uint64_t *taken)
{
	uint64_t nr = world_below(4);

	(void)d;
	if (nr)
		page_set_add(to, 0, world_below(13), nr);
	if (taken)
		*taken = nr;
	return 0;
}

int dirty_collect_now(struct dirty *d, struct page_set *to)
{
	return dirty_collect(d, to, NULL);
}

int dirty_drop(struct dirty *d)
{
	(void)d;
	return 0;
}

void dirty_read_counters(const struct dirty *d, struct dirty_counters *c)
{
	(void)d;
	*c = (struct dirty_counters){ 0 };
}

uint64_t dirty_throttled_ns(const struct dirty *d, unsigned int vcpu)
{
	(void)d;
	(void)vcpu;
	return 0;
}

int dirty_map_kmod(const struct dirty *d, int fd, const uint64_t *gpas, struct dirty_kmod **out)
{
	(void)d;
	(void)fd;
	(void)gpas;
	(void)out;
	return -EOPNOTSUPP;
}

void dirty_use_kmod(struct dirty *d, struct dirty_kmod *k)
{
	(void)d;
	(void)k;
}

struct dirty_kmod *dirty_take_kmod(struct dirty *d)
{
	(void)d;
	return NULL;
}

void dirty_free_kmod(struct dirty_kmod *k)
{
	(void)k;
}

/* ---- vm/tracker.h: no kernel module here; vm/runqueue.h: no processes ---- */

int tracker_open(struct loop *loop, struct worker *wk, int vm_fd, int pid, struct tracker **out)
{
	(void)loop;
	(void)wk;
	(void)vm_fd;
	(void)pid;
	(void)out;
	return -EOPNOTSUPP;
}

void tracker_close(struct tracker *t)
{
	(void)t;
}

void tracker_start(struct tracker *t, tracker_fn done, void *arg)
{
	(void)t;
	done(arg, -EOPNOTSUPP);
}

void tracker_harvest(struct tracker *t, bool final, tracker_fn done, void *arg)
{
	(void)t;
	(void)final;
	done(arg, -EOPNOTSUPP);
}

int tracker_fd(const struct tracker *t)
{
	(void)t;
	return -1;
}

const char *tracker_why(const struct tracker *t)
{
	(void)t;
	return "";
}

void runqueue_look(struct runqueue_look *l, int pid)
{
	(void)pid;
	l->nr = 0;
	l->at_ns = world_now();
}

uint64_t runqueue_wait_ns(const struct runqueue_look *before, const struct runqueue_look *now)
{
	(void)before;
	(void)now;
	return 0;
}

/* ---- control/learned.h, control/blackout.h: nothing was learned, and there is no probe ---- */

uint64_t learned_read(const char *dir, const char *pair, struct predictor *to)
{
	(void)dir;
	(void)pair;
	(void)to;
	return 0;
}

void learned_write(struct scribe *s, const char *dir, const char *pair, const struct predictor *from)
{
	(void)s;
	(void)dir;
	(void)pair;
	(void)from;
}

int blackouts_open(struct scribe *s, struct limited *l, const char *history, struct blackouts **out)
{
	(void)s;
	(void)l;
	(void)history;
	*out = NULL;
	return 0;
}

void blackouts_close(struct blackouts *b)
{
	(void)b;
}

void blackouts_add(struct blackouts *b, const struct blackout_record *r)
{
	(void)b;
	(void)r;
}

int blackout_watch(struct blackouts *b, int pid)
{
	(void)b;
	(void)pid;
	return -1;
}

void blackout_unwatch(struct blackouts *b, int slot)
{
	(void)b;
	(void)slot;
}

void blackout_arm(struct blackouts *b, int slot)
{
	(void)b;
	(void)slot;
}

uint64_t blackout_last_exit_ns(const struct blackouts *b, int slot)
{
	(void)b;
	(void)slot;
	return 0;
}

uint64_t blackout_first_entry_ns(const struct blackouts *b, int slot)
{
	(void)b;
	(void)slot;
	return 0;
}

enum blackout_by blackout_by(const struct blackouts *b, int slot)
{
	(void)b;
	(void)slot;
	return BLACKOUT_BY_NOBODY;
}

uint64_t blackout_missed(const struct blackouts *b)
{
	(void)b;
	return 0;
}

unsigned int blackout_brownout(const struct blackouts *b, int slot, struct brownout *to, unsigned int room)
{
	(void)b;
	(void)slot;
	(void)to;
	(void)room;
	return 0;
}

void blackout_say_watched(struct blackouts *b, int slot, int pid)
{
	(void)b;
	(void)slot;
	(void)pid;
}
