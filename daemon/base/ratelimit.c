// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Which messages of a flood are said one by one, and when the others are summed up. Pure:
 * time is passed in.
 *
 * A period begins with the first message after the last one ended. In it the first messages
 * are said, and the rest is counted; at its end the count is due.
 */
#include "ratelimit.h"

/** ratelimit_may_say() - a message comes at @now_ns; false: it is counted instead */
bool ratelimit_may_say(struct ratelimit *r, uint64_t now_ns)
{
	if (!r->since_ns || (!r->kept && now_ns - r->since_ns >= r->period_ns)) {
		r->since_ns = now_ns;
		r->said = 0;
	}
	if (r->said < r->burst) {
		r->said++;
		return true;
	}
	r->kept++;
	return false;
}

/** ratelimit_due_ns() - when ratelimit_sum_up() has something to tell; 0: nothing was kept back */
uint64_t ratelimit_due_ns(const struct ratelimit *r)
{
	return r->kept ? r->since_ns + r->period_ns : 0;
}

/**
 * ratelimit_sum_up() - how many messages were kept back in the period that is over
 *
 * The next period begins at once, and only its summary can be said in it: a flood that goes on
 * costs one line a period.
 * Return: 0: none were, or the period is not over.
 */
unsigned int ratelimit_sum_up(struct ratelimit *r, uint64_t now_ns)
{
	unsigned int kept = r->kept;

	if (!kept || now_ns < ratelimit_due_ns(r))
		return 0;
	r->kept = 0;
	r->since_ns = now_ns;
	r->said = r->burst;
	return kept;
}
