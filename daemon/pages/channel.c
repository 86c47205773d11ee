// SPDX-License-Identifier: GPL-2.0-or-later
/* What sending and receiving channels share: their counters. */
#include "channel.h"

void channel_count(uint64_t *counter, uint64_t n)
{
	__atomic_fetch_add(counter, n, __ATOMIC_RELAXED);
}

void channel_copy_counters(const struct channel_counters *from, struct channel_counters *to)
{
	to->wire = __atomic_load_n(&from->wire, __ATOMIC_RELAXED);
	to->raw_pages = __atomic_load_n(&from->raw_pages, __ATOMIC_RELAXED);
	to->zero_pages = __atomic_load_n(&from->zero_pages, __ATOMIC_RELAXED);
	to->packed_pages = __atomic_load_n(&from->packed_pages, __ATOMIC_RELAXED);
	to->packed_bytes = __atomic_load_n(&from->packed_bytes, __ATOMIC_RELAXED);
	to->busy_ns = __atomic_load_n(&from->busy_ns, __ATOMIC_RELAXED);
	to->zero_ns = __atomic_load_n(&from->zero_ns, __ATOMIC_RELAXED);
	to->again_pages = __atomic_load_n(&from->again_pages, __ATOMIC_RELAXED);
}
