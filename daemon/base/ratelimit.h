/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BASE_RATELIMIT_H
#define BASE_RATELIMIT_H

#include <stdbool.h>
#include <stdint.h>

/**
 * struct ratelimit - how many messages of one kind may be said
 * @burst: so many in each period; @period_ns: its length
 * @since_ns: when the period began; 0: none has; @said, @kept: messages in it that may be said, and that may not
 */
struct ratelimit {
	unsigned int burst;
	uint64_t period_ns;
	uint64_t since_ns;
	unsigned int said, kept;
};

bool ratelimit_may_say(struct ratelimit *r, uint64_t now_ns);
uint64_t ratelimit_due_ns(const struct ratelimit *r);
unsigned int ratelimit_sum_up(struct ratelimit *r, uint64_t now_ns);

#endif
