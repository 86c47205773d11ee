// SPDX-License-Identifier: GPL-2.0-or-later
/* A set of pages with a summary, so that walking and clearing cost as much as is in it. */
#include "page_set.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

/* Zeroed and untouched: a set over a terabyte costs only what is set in it. */
static uint64_t *map_words(uint64_t nr)
{
	void *p = mmap(NULL, nr * 8, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int page_set_init(struct page_set *s, const uint64_t *sizes, unsigned int nr_regions)
{
	*s = (struct page_set){ .nr_regions = nr_regions };
	s->regions = calloc(nr_regions, sizeof(*s->regions));
	if (!s->regions)
		return -ENOMEM;
	for (unsigned int i = 0; i < nr_regions; i++) {
		struct page_bits *b = &s->regions[i];

		b->nr_pages = sizes[i] >> 12;
		b->nr_words = (b->nr_pages + 63) / 64;
		b->nr_summary = (b->nr_words + 63) / 64;
		b->words = map_words(b->nr_words);
		b->summary = map_words(b->nr_summary);
		if (!b->words || !b->summary) {
			page_set_fini(s);
			return -ENOMEM;
		}
	}
	return 0;
}

void page_set_fini(struct page_set *s)
{
	for (unsigned int i = 0; s->regions && i < s->nr_regions; i++) {
		if (s->regions[i].words)
			munmap(s->regions[i].words, s->regions[i].nr_words * 8);
		if (s->regions[i].summary)
			munmap(s->regions[i].summary, s->regions[i].nr_summary * 8);
	}
	free(s->regions);
	*s = (struct page_set){ 0 };
}

void page_set_clear(struct page_set *s)
{
	for (unsigned int i = 0; i < s->nr_regions; i++) {
		struct page_bits *b = &s->regions[i];

		for (uint64_t u = 0; u < b->nr_summary; u++) {
			uint64_t sum = b->summary[u];

			if (!sum)
				continue;
			b->summary[u] = 0;
			for (; sum; sum &= sum - 1)
				b->words[u * 64 + (uint64_t)__builtin_ctzll(sum)] = 0;
		}
	}
	s->nr_set = 0;
}

/** page_set_or() - add the pages @bits of @word; Return: how many were new */
uint64_t page_set_or(struct page_set *s, unsigned int region, uint64_t word, uint64_t bits)
{
	struct page_bits *b = &s->regions[region];
	uint64_t fresh = bits & ~b->words[word];
	uint64_t n = (uint64_t)__builtin_popcountll(fresh);

	if (!bits)
		return 0;
	b->words[word] |= bits;
	b->summary[word / 64] |= 1ULL << (word % 64);
	s->nr_set += n;
	return n;
}

/** page_set_add() - add @nr pages from @page on */
void page_set_add(struct page_set *s, unsigned int region, uint64_t page, uint64_t nr)
{
	while (nr) {
		uint64_t at = page % 64, n = 64 - at < nr ? 64 - at : nr;
		uint64_t bits = n == 64 ? ~0ULL : ((1ULL << n) - 1) << at;

		page_set_or(s, region, page / 64, bits);
		page += n;
		nr -= n;
	}
}
