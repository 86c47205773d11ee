/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef BASE_TOKEN_BUCKET_H
#define BASE_TOKEN_BUCKET_H

#include <pthread.h>
#include <stdint.h>

/**
 * struct token_bucket - one byte rate shared by many threads; @lock covers the rest
 * @rate: bytes a second, 0: no limit
 * @burst: bytes that may go at once after a pause
 * @tokens: may be negative: a debt that the next takers wait for
 */
struct token_bucket {
	pthread_mutex_t lock;
	uint64_t rate;
	int64_t burst;
	int64_t tokens;
	uint64_t stamp_ns;
};

void token_bucket_init(struct token_bucket *b, uint64_t rate, uint64_t now);
void token_bucket_fini(struct token_bucket *b);
void token_bucket_set_rate(struct token_bucket *b, uint64_t rate, uint64_t now);
uint64_t token_bucket_take(struct token_bucket *b, uint64_t bytes, uint64_t now);

#endif
