/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef PAGES_DIRTY_H
#define PAGES_DIRTY_H

#include <stdint.h>
#include <vmferry.h>

#include "page_set.h"

struct dirty;
struct dirty_kmod;

int dirty_open(int area_fd, uint64_t size, const uint64_t *region_sizes, unsigned int nr_regions,
	       struct dirty **out);
void dirty_close(struct dirty *d);
int dirty_map_kmod(const struct dirty *d, int fd, const uint64_t *gpas, struct dirty_kmod **out);
void dirty_use_kmod(struct dirty *d, struct dirty_kmod *k);
struct dirty_kmod *dirty_take_kmod(struct dirty *d);
void dirty_free_kmod(struct dirty_kmod *k);
int dirty_collect(struct dirty *d, struct page_set *to, uint64_t *taken);
int dirty_collect_now(struct dirty *d, struct page_set *to);
int dirty_drop(struct dirty *d);
uint64_t dirty_peek(const struct dirty *d, unsigned int region, uint64_t word);
uint8_t dirty_heat(const struct dirty *d, unsigned int region, uint64_t page);

/** struct dirty_counters - a copy of the figures of whoever harvests */
struct dirty_counters {
	uint64_t flags, harvests, harvested, ring_full, harvest_ns, throttled_ns;
};

uint64_t dirty_throttled_ns(const struct dirty *d, unsigned int vcpu);
void dirty_read_counters(const struct dirty *d, struct dirty_counters *c);

#endif
