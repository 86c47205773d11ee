// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A token bucket: takes are granted at once and may leave a debt; the answer is how long
 * the taker must wait before it goes on. The clock is the caller's.
 */
#include "token_bucket.h"

#define BURST_NS 20000000ULL /* 20 ms worth of tokens */

static int64_t worth(uint64_t rate, uint64_t ns)
{
	return (int64_t)((unsigned __int128)rate * ns / 1000000000ULL);
}

void token_bucket_init(struct token_bucket *b, uint64_t rate, uint64_t now)
{
	*b = (struct token_bucket){ .rate = rate, .stamp_ns = now };
	pthread_mutex_init(&b->lock, NULL);
	b->burst = b->tokens = worth(rate, BURST_NS);
}

void token_bucket_fini(struct token_bucket *b)
{
	pthread_mutex_destroy(&b->lock);
}

/** token_bucket_set_rate() - from now on; debts and savings of the old rate are dropped */
void token_bucket_set_rate(struct token_bucket *b, uint64_t rate, uint64_t now)
{
	pthread_mutex_lock(&b->lock);
	b->rate = rate;
	b->stamp_ns = now;
	b->burst = b->tokens = worth(rate, BURST_NS);
	pthread_mutex_unlock(&b->lock);
}

/** token_bucket_take() - take @bytes; Return: nanoseconds to wait before going on */
uint64_t token_bucket_take(struct token_bucket *b, uint64_t bytes, uint64_t now)
{
	uint64_t wait = 0;

	pthread_mutex_lock(&b->lock);
	if (b->rate) {
		if (now > b->stamp_ns) {
			b->tokens += worth(b->rate, now - b->stamp_ns);
			b->stamp_ns = now;
		}
		if (b->tokens > b->burst)
			b->tokens = b->burst;
		b->tokens -= (int64_t)bytes;
		if (b->tokens < 0)
			wait = (uint64_t)((unsigned __int128)-b->tokens * 1000000000ULL / b->rate);
	}
	pthread_mutex_unlock(&b->lock);
	return wait;
}
