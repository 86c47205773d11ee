// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A binary heap of points in time. Room is reserved when a timer is made, so that setting
 * one never allocates.
 */
#include "timer_heap.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

/** timer_heap_reserve() - make room for @nr nodes in all; Return: 0 or -ENOMEM */
int timer_heap_reserve(struct timer_heap *h, size_t nr)
{
	size_t room = h->room ? h->room : 16;
	struct timer_node **p;

	if (nr <= h->room)
		return 0;
	while (room < nr)
		room *= 2;
	p = reallocarray(h->nodes, room, sizeof(struct timer_node *));
	if (!p)
		return -ENOMEM;
	h->nodes = p;
	h->room = room;
	return 0;
}

void timer_heap_fini(struct timer_heap *h)
{
	free(h->nodes);
	*h = (struct timer_heap){ 0 };
}

static bool is_before(const struct timer_node *a, const struct timer_node *b)
{
	return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

static void put(struct timer_heap *h, size_t i, struct timer_node *n)
{
	h->nodes[i] = n;
	n->place = i + 1;
}

static void move_up(struct timer_heap *h, size_t i, struct timer_node *n)
{
	for (; i && is_before(n, h->nodes[(i - 1) / 2]); i = (i - 1) / 2)
		put(h, i, h->nodes[(i - 1) / 2]);
	put(h, i, n);
}

static void move_down(struct timer_heap *h, size_t i, struct timer_node *n)
{
	for (;;) {
		size_t child = 2 * i + 1;

		if (child + 1 < h->nr && is_before(h->nodes[child + 1], h->nodes[child]))
			child++;
		if (child >= h->nr || !is_before(h->nodes[child], n))
			break;
		put(h, i, h->nodes[child]);
		i = child;
	}
	put(h, i, n);
}

/** timer_heap_add() - @n is due at @at_ns; a node that is in the heap is moved; room must be reserved */
void timer_heap_add(struct timer_heap *h, struct timer_node *n, uint64_t at_ns)
{
	timer_heap_remove(h, n);
	n->at_ns = at_ns;
	n->order = h->order++;
	move_up(h, h->nr++, n);
}

/** timer_heap_remove() - a node that is not in the heap is fine */
void timer_heap_remove(struct timer_heap *h, struct timer_node *n)
{
	size_t i = n->place;
	struct timer_node *last;

	if (!i--)
		return;
	n->place = 0;
	last = h->nodes[--h->nr];
	if (last == n)
		return;
	if (i && is_before(last, h->nodes[(i - 1) / 2]))
		move_up(h, i, last);
	else
		move_down(h, i, last);
}
