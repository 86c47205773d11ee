// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * One daemon: makes its parts in order, and ends them in order. Whose process it runs in is not its matter.
 *
 * Theory of operation
 *
 *   ferry_open() -> the owner adds what it likes, a control socket for one -> loop_run()
 *                -> ferry_stop() -> the owner ends what it has added -> ferry_close()
 *
 * Peers are listened to before VMMs: a VM that registers may have a question for us to answer. What both ask
 * for is there by then. Nobody is answered before the loop runs.
 *
 * A daemon locks its two folders first and lets them go last. If a work hangs at the end, the process ends, and with it
 * the locks.
 *
 * ferry_stop() decides what becomes of each guest on its way; its owner can still be told of that. ferry_close()
 * disconnects the VMMs, carries out what is out, and frees all. The journal and the loop outlive the works: these
 * note outcomes and finish on the loop's thread.
 */
#include "ferry.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/deadline.h"
#include "base/error.h"
#include "base/limited.h"
#include "base/lock_file.h"
#include "base/urgent.h"
#include "migration.h"
#include "settle.h"

#define DRAIN_NS (10 * NS_PER_S) /* for the works that are out when the daemon ends */

static void emit_nothing(struct ferry *f, const char *vm, const char *event, const char *detail)
{
	(void)f;
	(void)vm;
	(void)event;
	(void)detail;
}

/** ferry_urgent() - the loop goes before all else as long as a guest stands still; @was: of one guest, updated */
void ferry_urgent(struct ferry *f, bool *was, bool is)
{
	unsigned int before = f->urgent;

	f->urgent = f->urgent + is - *was;
	*was = is;
	if (!before && f->urgent)
		urgent_begin();
	else if (before && !f->urgent)
		urgent_end();
}

static int make_dir(const char *path, mode_t mode)
{
	int err = mkdir(path, mode) && errno != EEXIST ? -errno : 0;

	if (err)
		error_report("cannot make directory %s: %s", path, strerror(-err));
	return err;
}

static bool is_same_folder(const char *a, const char *b)
{
	struct stat of_a, of_b;

	return !stat(a, &of_a) && !stat(b, &of_b) && of_a.st_dev == of_b.st_dev && of_a.st_ino == of_b.st_ino;
}

static int lock_folder(const char *folder, struct lock_file **lock)
{
	char who[32] = "";
	pid_t holder;
	int err = lock_folder_take(folder, lock, &holder);

	if (holder)
		snprintf(who, sizeof(who), " (pid %d)", holder);
	if (err == -EWOULDBLOCK)
		error_report("directory %s: another vmferryd%s uses it; this one ends and has changed nothing there",
			     folder, who);
	else if (err)
		error_report("cannot lock directory %s, nor the file \"lock\" there: %s", folder, strerror(-err));
	return err;
}

/* For the parts that do not report why they cannot be made. Return: @err */
static int report_part(const char *what, int err)
{
	if (err)
		error_report("vmferryd: cannot make %s: %s", what, strerror(-err));
	return err;
}

/* Before anything is read or written: two daemons would undo each other's journal. */
static int lock_folders(struct ferry *f, const struct ferry_config *c)
{
	int err = lock_folder(c->run_dir, &f->run_lock);

	if (err || is_same_folder(c->run_dir, c->state_dir))
		return err;
	return lock_folder(c->state_dir, &f->state_lock);
}

static int open_journal(struct ferry *f, const struct ferry_config *c)
{
	char path[300], marks[300];
	struct journal_config config = { .loop = f->loop, .worker = f->worker, .path = path, .marks_path = marks };
	int err;

	snprintf(path, sizeof(path), "%s/journal", c->state_dir);
	snprintf(marks, sizeof(marks), "%s/journal-marks", c->run_dir);
	memcpy(config.boot, c->boot, sizeof(config.boot));
	memcpy(config.machine, c->machine, sizeof(config.machine));
	err = journal_open(&config, &f->journal);
	if (err == -EPROTONOSUPPORT)
		error_report("journal %s or %s: a later vmferryd wrote it; start that one, or move the file away", path, marks);
	else if (err)
		error_report("journal %s: %s; without it no guest is moved", path, strerror(-err));
	return err;
}

/* What is no guest's: figures and history. */
static int open_records(struct ferry *f, const struct ferry_config *c)
{
	char path[300];
	int err;

	snprintf(f->learned_dir, sizeof(f->learned_dir), "%s/learned", c->state_dir);
	make_dir(f->learned_dir, 0700); /* without it predictions begin anew each time */
	err = report_part("the thread that writes files", scribe_open(&f->scribe));
	snprintf(path, sizeof(path), "%s/blackouts", c->state_dir);
	if (!err)
		err = report_part("the list of blackouts", blackouts_open(f->scribe, f->limited, path, &f->blackouts));
	return err;
}

static void init_vms(struct ferry *f, enum tracker_mode tracker)
{
	f->vms.loop = f->loop;
	f->vms.worker = f->worker;
	f->vms.limited = f->limited;
	f->vms.tracker = tracker;
	f->vms.refuses = recovery_refuses;
	f->vms.registered = recovery_registered;
	f->vms.owner = f;
}

/**
 * ferry_open() - make all parts of a daemon, and listen
 * @f: zeroes
 *
 * Context: may block; the loop does not run yet.
 * Return: 0, or a negative errno after it was said what fails. ferry_stop() and ferry_close() are owed in any case.
 */
int ferry_open(struct ferry *f, const struct ferry_config *c)
{
	int err = make_dir(c->run_dir, 0700);

	f->emit = emit_nothing;
	f->started_ns = now_ns();
	if (!err)
		err = make_dir(c->state_dir, 0700);
	if (!err)
		err = lock_folders(f, c);
	if (err)
		return err;
	f->loop = loop_new();
	if (!f->loop)
		return report_part("the event loop", -errno);
	memcpy(f->host, c->boot, sizeof(f->host));
	err = report_part("the limits of messages", limited_open(f->loop, &f->limited));
	if (!err)
		err = report_part("the worker's threads", worker_open(f->loop, &f->worker));
	init_vms(f, c->tracker);
	if (!err)
		err = open_journal(f, c);
	if (!err)
		err = open_records(f, c);
	if (!err)
		err = greeter_listen(f, c->listen);
	if (!err)
		err = vm_socket_listen(&f->vms, c->vmm_socket);
	if (!err)
		err = report_part("the timer of outcomes", settle_start(f));
	return err;
}

/**
 * ferry_stop() - the daemon ends: no more peers, and guests on their way stay where they run
 * @why: of this daemon, "was told to end"; the operator reads it, and so does each peer
 */
void ferry_stop(struct ferry *f, const char *why)
{
	char text[96];

	snprintf(text, sizeof(text), "this daemon %s", why);
	migration_stop_all(f, text);
	greeter_stop(f);
	snprintf(text, sizeof(text), "the daemon there %s", why);
	incoming_stop(f, text);
	settle_stop(f);
}

/**
 * ferry_close() - disconnect the VMMs, carry out what is out, free all; after ferry_stop()
 *
 * Context: the loop's thread, while the loop does not run; may block for DRAIN_NS.
 * Return: false: some work hangs, and may still use @f and all of its parts: the process must end.
 */
bool ferry_close(struct ferry *f)
{
	vm_socket_stop(&f->vms);
	limited_flush(f->limited);
	if (f->worker && !worker_drain(f->worker, now_ns() + DRAIN_NS))
		return false;
	worker_close(f->worker);
	journal_close(f->journal);
	blackouts_close(f->blackouts);
	scribe_close(f->scribe);
	limited_close(f->limited);
	loop_free(f->loop);
	lock_file_release(f->state_lock);
	lock_file_release(f->run_lock);
	return true;
}
