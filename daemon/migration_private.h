/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef MIGRATION_PRIVATE_H
#define MIGRATION_PRIVATE_H
/*
 * What migration.c (its life, its rounds), setup.c (its beginning) and switchover.c (what
 * happens while the guest stands still) share; nobody else includes it.
 */
#include "connect.h"
#include "decide/convergence.h"
#include "decide/switchover_src.h"
#include "migration.h"
#include "pages/precopy.h"
#include "pages/warm.h"
#include "peer/peer.h"

#define MIGRATION_MARGIN_NS 200000ULL /* of the limit kept for what no sample has shown */

struct migration {
	struct ferry *f;
	struct vm *vm;
	struct migration *next;
	char name[64];
	uint8_t id[16];
	struct migration_params params;
	enum migration_status status;
	char error[512];
	bool cancelled;

	struct connector connector;
	struct peer *peer;
	struct precopy precopy;
	struct vm_watcher watcher;

	enum src_state state;
	bool harvesting;
	int state_fd;
	uint64_t state_len;
	bool is_saved;
	uint32_t attempt;

	struct predictor predictor;
	struct convergence convergence;
	struct loop_timer budget, timeout, pause;
	struct recovery *recovery;

	uint64_t started_ns, active_ns, ended_ns;
	uint64_t stop_asked_ns, last_exit_ns, stopped_ns, harvested_ns, rest_sent_ns, saved_ns;
	uint64_t sent_ns, ready_ns, go_ns;
	struct migration_report report;
};

/* migration.c */
void migration_step(struct migration *m, enum src_event event);
void migration_set_status(struct migration *m, enum migration_status s);
void __attribute__((format(printf, 2, 3))) migration_blame(struct migration *m, const char *fmt, ...);
void migration_blame_tracker(struct migration *m, const char *done, int status);
int migration_collect(struct migration *m);
void migration_note_tracker(struct migration *m);
uint64_t migration_limit_ns(const struct migration *m);
void migration_send_round(struct migration *m);
extern const struct peer_ops migration_peer_ops;

/* setup.c */
const char *setup_refuses(struct ferry *f, const char *name, const struct migration_params *p,
			  struct vm *vm, char *text, size_t len);
int setup_describe(struct migration *m);
void setup_on_connected(void *owner);

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
void switchover_release(struct migration *m);
void switchover_resume_guest(struct migration *m);
void switchover_retry(struct migration *m);
void switchover_on_budget(void *owner);

#endif
