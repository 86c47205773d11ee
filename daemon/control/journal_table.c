// SPDX-License-Identifier: GPL-2.0-or-later
/* The journal's entries in memory: found by key, in order of time, and which mark may follow which. */
#include "journal_table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define FIRST_BUCKETS 256

/**
 * journal_table_init() - an empty table
 *
 * Return: 0, or -ENOMEM. journal_table_fini() is owed only after 0.
 */
int journal_table_init(struct journal_table *t)
{
	*t = (struct journal_table){ .nr_buckets = FIRST_BUCKETS };
	TAILQ_INIT(&t->order);
	t->buckets = calloc(t->nr_buckets, sizeof(*t->buckets));
	/* Peers choose ids: without a key of its own, they could choose the bucket, too. */
	if (getrandom(&t->key, sizeof(t->key), GRND_NONBLOCK) != sizeof(t->key))
		t->key = (uint64_t)(uintptr_t)t->buckets;
	return t->buckets ? 0 : -ENOMEM;
}

/** journal_table_fini() - free the table and its entries; no job of them may be out */
void journal_table_fini(struct journal_table *t)
{
	struct journal_kept *k;

	while ((k = TAILQ_FIRST(&t->order))) {
		TAILQ_REMOVE(&t->order, k, order);
		free(k);
	}
	free(t->buckets);
	t->buckets = NULL;
}

/* Each bit of @h changes each bit of the result with even odds. */
static uint64_t mix(uint64_t h)
{
	h = (h ^ h >> 33) * 0xff51afd7ed558ccdULL;
	h = (h ^ h >> 33) * 0xc4ceb9fe1a85ec53ULL;
	return h ^ h >> 33;
}

static struct journal_kept **bucket_of(const struct journal_table *t, const uint8_t id[16])
{
	uint64_t half[2];

	memcpy(half, id, 16);
	return &t->buckets[mix(mix(half[0] ^ t->key) ^ half[1]) & (t->nr_buckets - 1)];
}

/** journal_table_find() - NULL: no such entry */
struct journal_kept *journal_table_find(const struct journal_table *t, const uint8_t id[16], enum journal_role role)
{
	struct journal_kept *k = *bucket_of(t, id);

	while (k && (k->e.role != role || memcmp(k->e.id, id, 16)))
		k = k->same_bucket;
	return k;
}

/* Without memory the buckets become longer, no more. */
static void grow(struct journal_table *t)
{
	struct journal_kept **more, *k;

	if (t->nr < t->nr_buckets)
		return;
	more = calloc(t->nr_buckets * 4, sizeof(*more));
	if (!more)
		return;
	free(t->buckets);
	t->buckets = more;
	t->nr_buckets *= 4;
	TAILQ_FOREACH(k, &t->order, order) {
		struct journal_kept **bucket = bucket_of(t, k->e.id);

		k->same_bucket = *bucket;
		*bucket = k;
	}
}

/** journal_kept_new() - an entry that is in no table yet; NULL: no memory */
struct journal_kept *journal_kept_new(const uint8_t id[16], enum journal_role role)
{
	struct journal_kept *k = calloc(1, sizeof(*k));

	if (!k)
		return NULL;
	memcpy(k->e.id, id, 16);
	k->e.role = role;
	for (int i = 0; i < JOURNAL_LINE_NR; i++)
		k->jobs[i].of = k;
	return k;
}

/** journal_kept_set() - @k, which is in a table, says what a line of a file says; it keeps its number */
void journal_kept_set(struct journal_kept *k, const struct journal_entry *e, enum journal_mark mark)
{
	uint64_t number = k->e.number;

	k->e = *e;
	k->e.mark = mark;
	k->e.number = number;
}

/** journal_table_add() - @k, whose key is not in @t, is the newest; @t frees it */
void journal_table_add(struct journal_table *t, struct journal_kept *k)
{
	struct journal_kept **bucket;

	grow(t);
	bucket = bucket_of(t, k->e.id);
	k->same_bucket = *bucket;
	*bucket = k;
	k->e.number = ++t->nr_added;
	TAILQ_INSERT_TAIL(&t->order, k, order);
	t->nr++;
	t->live_bytes += k->len;
}

/** journal_table_remove() - @k is the caller's from here on */
void journal_table_remove(struct journal_table *t, struct journal_kept *k)
{
	struct journal_kept **p = bucket_of(t, k->e.id);

	while (*p != k)
		p = &(*p)->same_bucket;
	*p = k->same_bucket;
	TAILQ_REMOVE(&t->order, k, order);
	t->nr--;
	t->live_bytes -= k->len;
}

/** journal_table_set_len() - the latest line of @k, which is in @t, has @len bytes */
void journal_table_set_len(struct journal_table *t, struct journal_kept *k, size_t len)
{
	t->live_bytes += len - k->len;
	k->len = len;
}

bool journal_mark_is_open(enum journal_mark mark)
{
	return mark == JOURNAL_BEGUN || mark == JOURNAL_GO;
}

#define M(mark) (1U << JOURNAL_##mark)

/*
 * What may follow a mark, by side; 0 stands for no entry.
 *
 * The source closes "begun" with "done" when the peer or the operator says that the guest runs there, although nothing
 * here proves that GO was sent: the marks may be lost. The destination notes "done" in any open state, and without an
 * entry: a VMM that says that the guest runs is right, whatever was lost. Nothing leads from "done" or "never": the
 * entry is dropped instead, see journal_settled().
 */
static const unsigned int may_follow[][JOURNAL_NEVER + 1] = {
	[JOURNAL_SOURCE] = {
		[0] = M(BEGUN),
		[JOURNAL_BEGUN] = M(BEGUN) | M(GO) | M(DONE) | M(NEVER),
		[JOURNAL_GO] = M(GO) | M(DONE) | M(NEVER),
		[JOURNAL_DONE] = M(DONE),
		[JOURNAL_NEVER] = M(NEVER),
	},
	[JOURNAL_DESTINATION] = {
		[0] = M(BEGUN) | M(DONE),
		[JOURNAL_BEGUN] = M(BEGUN) | M(GO) | M(DONE) | M(NEVER),
		[JOURNAL_GO] = M(GO) | M(DONE),
		[JOURNAL_DONE] = M(DONE),
		[JOURNAL_NEVER] = M(NEVER),
	},
};

#undef M

/**
 * journal_may_note() - may @mark follow what @k says; @k is NULL where there is no entry
 *
 * Return: 1: yes; 0: @k says so already; -ENOENT: there is no entry, and @mark needs one; -EEXIST: it contradicts @k.
 */
int journal_may_note(const struct journal_kept *k, enum journal_role role, enum journal_mark mark)
{
	if (!(may_follow[role][k ? k->e.mark : 0] & 1U << mark))
		return k ? -EEXIST : -ENOENT;
	return !k || k->e.mark != mark;
}
