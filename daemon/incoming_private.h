/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef INCOMING_PRIVATE_H
#define INCOMING_PRIVATE_H
/*
 * What incoming.c (its life), plan.c (its beginning) and arrival.c (what happens while the guest
 * stands still) share; nobody else includes it.
 */
#include "base/deadline.h"
#include "base/error.h"
#include "decide/switchover_dst.h"
#include "incoming.h"
#include "room.h"

/** enum incoming_phase - how far its life has come; the drawing is in incoming.c */
enum incoming_phase {
	IN_GREETED,   /* a control connection, no plan */
	IN_PLANNING,  /* a work makes room */
	IN_RECEIVING, /* PLAN_OK was said; decide/switchover_dst.c rules */
	IN_GRACE,     /* the guest has just begun to run: nothing disturbs it */
	IN_GIVING_UP, /* it never runs here: a work closes the room, then the VMM discards */
	IN_CLOSING,   /* a work closes the room; the guest is not touched */
	IN_LINGERING, /* nothing is left but its last message on the way to the source */
};

/**
 * struct incoming - one incoming migration; the loop's, but for what @work has
 * @work: makes the room, or closes it; while it is out @room and @probe_slot are its own
 * @room_error: what making the room came to; the work writes it
 * @is_prepared: PREPARED was said
 * @back: its VMM again, which registered anew while the room was being closed; cleaned after that
 * @is_last: the daemon ends: freed as soon as no work is out
 */
struct incoming {
	struct ferry *f;
	struct incoming *next;
	uint8_t id[16];
	enum incoming_phase phase;
	struct peer *peer;
	struct vm *vm; /* NULL until the plan is accepted */
	struct vm *back;
	char name[64];
	struct vm_watcher watcher;
	struct work work;
	struct room room;
	int room_error;
	struct loop_event received;
	struct loop_timer linger;
	uint64_t state_len;
	uint32_t attempt;	/* of the last WIRE_STATE */
	uint32_t taken_attempt; /* the last one passed on as DEV_RECEIVED */
	uint32_t placed_round;	/* the last one told as WIRE_PLACED */
	uint64_t load_asked_ns, load_ns;
	uint64_t device_ns[WIRE_MAX_DEVICES];
	uint64_t first_entry_ns;
	int probe_slot;
	struct loop_timer entry_patience; /* the probe has not seen the first entry yet */
	uint64_t ran_ns;
	bool owes_running; /* it runs here, and the source has not been told */
	bool is_prepared, is_urgent, is_last;
	enum dst_state state;
	char error[WIRE_TEXT_LEN];
};

/** incoming_is_over() - its end is decided, and only carried out: the machine takes no more events */
static inline bool incoming_is_over(const struct incoming *in)
{
	return in->phase > IN_RECEIVING;
}

/* incoming.c */
void incoming_step(struct incoming *in, enum dst_event event);
void incoming_close_room(struct incoming *in);
void incoming_be_urgent(struct incoming *in);
void __attribute__((format(printf, 2, 3))) incoming_blame(struct incoming *in, const char *fmt, ...);
void incoming_watch_vm(struct incoming *in);

/* plan.c */
void plan_take(struct incoming *in, const void *body, uint32_t len);
void plan_take_ahead(struct incoming *in, const uint8_t *body, uint32_t len);

/* arrival.c: actions of the destination's machine, and what their answers bring */
void arrival_prepare(struct incoming *in);
void arrival_take_state(struct incoming *in, const void *body, uint32_t len);
void arrival_look_for_received(struct incoming *in);
void arrival_load(struct incoming *in);
void arrival_tell_ready(struct incoming *in);
void arrival_take_abort(struct incoming *in, const void *body, uint32_t len);
void arrival_take_go(struct incoming *in);
void arrival_run_guest(struct incoming *in);
void arrival_started(struct incoming *in);
void arrival_tell_running(struct incoming *in);
void arrival_look_for_entry(void *owner);

#endif
