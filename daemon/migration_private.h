/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef MIGRATION_PRIVATE_H
#define MIGRATION_PRIVATE_H
/*
 * What migration.c (its life), rounds.c, account.c, setup.c (its beginning), switchover.c (what
 * happens while the guest stands still) and closing.c (its end) share; nobody else includes it.
 */
#include "connect.h"
#include "decide/clock.h"
#include "decide/convergence.h"
#include "decide/switchover_src.h"
#include "held.h"
#include "migration.h"
#include "pages/precopy.h"
#include "pages/warm.h"
#include "peer/peer.h"
#include "vm/runqueue.h"

#define ONE_CLOCK_NS 1000000LL /* hosts with the same boot id whose clocks are that close have one */

/** struct migration_ahead - blocks of a region that the destination shall fault in ahead, a bit each */
struct migration_ahead {
	uint8_t *blocks;
	uint64_t nr;
};

/** struct try_times - of the last try; 0: not reached. CLOCK_MONOTONIC, this host's */
struct try_times {
	uint64_t stop_asked, last_exit, stopped, harvested;
	uint64_t rest_sent, saved, sent, ready, go;
	uint64_t resume_asked, resumed;
};

/**
 * struct migration - one guest on its way; the loop's
 * @vm: until it is closed; a reference of its own
 * @vm_back: the same guest, after its VMM has registered again; a reference, too, and a watcher
 * @work: what blocks, one at a time: see setup.c, rounds.c, closing.c. While it is out, @precopy, the
 *	dirty areas of @vm and @state_fd are its; the loop looks into none of them
 * @work_err: what @work came to
 * @is_doomed: closing_begin() was here: no event counts any more
 * @is_closed: all is joined, unmapped and closed: what is left is the account
 * @is_dropped: to be freed as soon as it is closed
 * @has_no_ram: its guest is held, its VMM is gone, and the RAM of @vm is let go, or being
 * @may_be_stopped: PAUSE was asked, and no RESUME after it was answered yet
 * @runs_there: RUNNING was heard; @running is valid
 */
struct migration {
	struct ferry *f;
	struct vm *vm, *vm_back;
	struct migration *next;
	struct work work;
	int work_err;
	bool is_doomed, is_closed, is_dropped, has_no_ram, may_be_stopped, runs_there;
	char name[64];
	uint8_t id[16];
	struct migration_params params;
	enum migration_status status;
	char error[512];
	bool cancelled, is_urgent;

	struct connector connector;
	int socks[CHANNEL_MAX], control; /* from the connector, on their way to their owners */
	struct migration_ahead ahead[VMFERRY_MAX_REGIONS];
	struct peer *peer;
	struct precopy precopy;
	struct vm_watcher watcher, back_watcher;

	enum src_state state;
	bool harvesting;
	int state_fd;
	uint64_t state_len;
	uint32_t attempt, dropped; /* the last try begun; the last one that the peer has forgotten */
	uint64_t rest_bytes;
	uint64_t saved_ns[WIRE_MAX_DEVICES];
	struct wire_ready loaded;
	struct wire_running running;

	char pair[256];
	struct predictor predictor, lesson; /* lesson: with what tries taught that were called off */
	bool has_lesson;
	bool is_stale; /* what was learned of this pair is of another hour */
	struct prediction believed, expected; /* when the guest was stopped; since its last pages are known */
	struct clock_pair clock;
	unsigned int pings;
	int probe_slot;
	int new_slot, closing_slot; /* from account_learn(), for account_close() */
	uint64_t learned_age_s;
	uint64_t missed_before, missed_after; /* by the probe, when this began, and ended */
	struct convergence convergence;
	bool is_after_try; /* what it teaches is not yet learned */
	bool is_forced; /* timeout-action pause: the limit is lifted */
	struct loop_timer budget, timeout, progress, pause;
	uint64_t least_left; /* bytes; for the progress timeout */
	struct asker asker; /* of a guest that is held */

	uint64_t started_ns, active_ns, ended_ns;
	bool wants_look;
	uint64_t wait_ns; /* for the report */
	struct runqueue_look look; /* when it began */
	uint64_t collected_ns, collected_before_ns; /* the last harvest, and the one before */
	struct try_times t;
	struct migration_report report;
};

/* migration.c */
void migration_step(struct migration *m, enum src_event event);
void migration_set_status(struct migration *m, enum migration_status s);
void __attribute__((format(printf, 2, 3))) migration_blame(struct migration *m, const char *fmt, ...);
void migration_blame_tracker(struct migration *m, const char *done, int status);
void __attribute__((format(printf, 2, 3))) migration_decided(struct migration *m, const char *fmt, ...);
void migration_note_tracker(struct migration *m);
uint64_t migration_limit_ns(const struct migration *m);
uint64_t migration_margin_ns(const struct migration *m);
void migration_do(struct migration *m, void (*run)(struct work *w), void (*done)(struct work *w));
void migration_free(struct migration *m);
struct vm *migration_vmm(const struct migration *m);
extern const struct peer_ops migration_peer_ops;

/* closing.c */
void closing_begin(struct migration *m);
bool closing_is_due(struct migration *m);
void closing_let_ram_go(struct migration *m);

/* setup.c */
const char *setup_refuses(struct ferry *f, const char *name, const struct migration_params *p,
			  struct vm *vm, char *text, size_t len);
int setup_describe(struct migration *m);
void setup_begin(struct migration *m);
void setup_go_on(struct migration *m);

/* rounds.c */
void rounds_init(struct migration *m);
int rounds_init_timers(struct migration *m);
void rounds_fini_timers(struct migration *m);
int rounds_collect(struct migration *m);
void rounds_send(struct migration *m);
void rounds_throttle(struct migration *m, unsigned int percent);
void rounds_ping(struct migration *m);
void rounds_take_pong(struct migration *m, const struct wire_pong *p);
extern const struct precopy_ops rounds_precopy_ops;

/* account.c */
void account_begin(struct migration *m);
void account_learn(struct migration *m);
void account_learned(struct migration *m);
void account_stopping(struct migration *m);
void account_stopped(struct migration *m, const struct vmferry_msg_paused *p);
void account_expect(struct migration *m);
uint64_t account_budget_ns(const struct migration *m);
bool account_is_hopeless(const struct migration *m, enum predictor_part next);
void account_moved(struct migration *m, const struct wire_running *r);
void account_called_off(struct migration *m);
void account_dropped(struct migration *m, const struct wire_ready *r);
bool account_may_try_again(struct migration *m, struct prediction *best);
void account_read_brownout(struct migration *m);
void account_end(struct migration *m);
void account_close(struct migration *m);
void account_closed(struct migration *m);
const char *account_words(const struct migration *m, const struct prediction *p, char *text, size_t len);

/* switchover.c: actions of the source's machine, and what their answers bring */
void switchover_begin_journal(struct migration *m);
void switchover_stop_vcpus(struct migration *m);
void switchover_send_rest(struct migration *m);
void switchover_rest_is_sent(struct migration *m, uint64_t bytes, uint64_t ns);
void switchover_state_is_sent(struct migration *m);
void switchover_take_ready(struct migration *m, const struct wire_ready *r);
void switchover_send_go(struct migration *m);
void switchover_take_running(struct migration *m, const struct wire_running *r);
void switchover_hold(struct migration *m);
void switchover_on_peer_answered(void *arg, enum wire_resolved answer);
void switchover_release(struct migration *m);
void switchover_resume_guest(struct migration *m);
void switchover_retry(struct migration *m);
bool switchover_may_go_on(struct migration *m);
void switchover_on_budget(void *owner);

#endif
