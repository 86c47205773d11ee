/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef VMFERRY_WATCH_H
#define VMFERRY_WATCH_H

#include <linux/irq_work.h>
#include <linux/kvm_host.h>
#include <linux/list.h>
#include <linux/rcupdate.h>
#include <vmferry.h>

struct attachment;
struct memslots;

/** struct watch_bits - pages of a region: a bitmap and its summary */
struct watch_bits {
	unsigned long *words;
	unsigned long *summary;
};

/**
 * struct watch_region - pages seen pushed
 * @nr_pages: each use of a page is checked against it
 * @pushed: seen in the tracepoint; @has_pushed: there may be some
 * @waiting: until their reset is over
 */
struct watch_region {
	u64 nr_pages;
	u64 nr_words;
	bool has_pushed;
	struct watch_bits pushed, waiting;
};

/** struct watch_map - KVM slot -> region, for the tracepoint; replaced whole */
struct watch_map {
	struct rcu_head rcu;
	unsigned int nr;
	struct {
		u32 slot;
		int region;
	} slot[];
};

/**
 * struct watch - what is known of pages that somebody else may reset
 * @node: of the watched VMs, by their struct kvm; RCU
 * @kick: wakes the attachment's thread, outside of the tracepoint
 * @is_cut: a signal may have ended a reset of its rings early
 * @ring_full: exits of vCPUs because of a full ring
 * @until: by vcpu_idx, the push index before which all of @waiting was pushed
 * @has_passed: every ring was seen reset up to there; @last_call: the last reset that had begun then
 */
struct watch {
	struct hlist_node node;
	struct attachment *a;
	struct irq_work kick;
	bool is_on;
	bool records;
	bool is_cut;
	struct watch_map __rcu *map;
	struct watch_region *region[VMFERRY_MAX_REGIONS];
	u32 *until;
	unsigned int nr_until;
	bool has_waiting;
	bool has_passed;
	u64 last_call;
	atomic64_t ring_full;
	u64 nr_waiting;
};

int watch_init(void);
void watch_exit(void);
bool watch_sees_pushes(void);

void watch_init_one(struct watch *w, struct attachment *a);
void watch_start(struct watch *w);
void watch_stop(struct watch *w);
int watch_add_region(struct watch *w, int region, u64 nr_pages);
bool watch_remove_region(struct watch *w, int region);
void watch_fill(struct watch *w, int region);
int watch_set_slots(struct watch *w, const struct memslots *m);
void watch_begin(struct watch *w);
void watch_end(struct watch *w);
bool watch_has_more(struct watch *w);
u32 watch_advance(struct watch *w);
u32 watch_publish_tail(struct watch *w);
void watch_check(struct watch *w);

#endif
