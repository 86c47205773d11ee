/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef PROBE_H
#define PROBE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "blackout.h"

struct probe;

/** probe_gap_fn - a vCPU stood still, in user space, for longer than the knob */
typedef void (*probe_gap_fn)(void *arg, const struct blackout_gap *gap);

int probe_open(struct probe **out, char *why, size_t len);
void probe_close(struct probe *p);
int probe_watch(struct probe *p, int pid);
void probe_unwatch(struct probe *p, int slot);
void probe_arm(struct probe *p, int slot);
unsigned int probe_nr_vcpus(const struct probe *p, int slot);
void probe_vcpu(const struct probe *p, int slot, unsigned int index, struct blackout_vcpu *to);
bool probe_sees_entries(const struct probe *p, int slot);
uint64_t probe_last_exit_ns(const struct probe *p, int slot);
uint64_t probe_first_entry_ns(const struct probe *p, int slot);
uint64_t probe_lost(const struct probe *p);
uint64_t probe_missed(const struct probe *p);

int probe_gaps_fd(const struct probe *p);
int probe_follow_gaps(struct probe *p, uint64_t min_ns, probe_gap_fn fn, void *arg);
void probe_take_gaps(struct probe *p);

#endif
