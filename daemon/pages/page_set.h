/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef PAGES_PAGE_SET_H
#define PAGES_PAGE_SET_H

#include <stdint.h>

/**
 * struct page_bits - pages of one region: a bitmap and its summary (a bit per word)
 */
struct page_bits {
	uint64_t nr_pages, nr_words, nr_summary;
	uint64_t *words, *summary;
};

/** struct page_set - pages of all regions of a VM; one writer or many readers */
struct page_set {
	struct page_bits *regions;
	unsigned int nr_regions;
	uint64_t nr_set;
};

int page_set_init(struct page_set *s, const uint64_t *sizes, unsigned int nr_regions);
void page_set_fini(struct page_set *s);
void page_set_clear(struct page_set *s);
uint64_t page_set_or(struct page_set *s, unsigned int region, uint64_t word, uint64_t bits);
void page_set_add(struct page_set *s, unsigned int region, uint64_t page, uint64_t nr);

#endif
