/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BASE_TIMER_HEAP_H
#define BASE_TIMER_HEAP_H

#include <stddef.h>
#include <stdint.h>

/**
 * struct timer_node - one point in time; embed it in its owner, zero-initialised
 * @at_ns: when it is due
 * @order: of two nodes that are due at once the one that was added first is first; the heap's
 * @place: index in the heap plus one; 0: not in the heap; the heap's
 */
struct timer_node {
	uint64_t at_ns;
	uint64_t order;
	size_t place;
};

/** struct timer_heap - nodes by time, the earliest first; zero-initialised; owned by one thread */
struct timer_heap {
	struct timer_node **nodes;
	size_t nr, room;
	uint64_t order;
};

int timer_heap_reserve(struct timer_heap *h, size_t nr);
void timer_heap_fini(struct timer_heap *h);
void timer_heap_add(struct timer_heap *h, struct timer_node *n, uint64_t at_ns);
void timer_heap_remove(struct timer_heap *h, struct timer_node *n);

/** timer_heap_first() - the node that is due first; NULL: the heap is empty */
static inline struct timer_node *timer_heap_first(const struct timer_heap *h)
{
	return h->nr ? h->nodes[0] : NULL;
}

#endif
