/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef PAGES_PLACE_H
#define PAGES_PLACE_H

#include <stdint.h>

#include "region.h"

/**
 * enum place_huge - how destination RAM is had
 * @PLACE_SMALL: only small pages are to be had; said in the report
 */
enum place_huge { PLACE_SMALL, PLACE_THP, PLACE_HUGETLB };

struct place;

int place_open(struct region *regions, unsigned int nr_regions, struct place **out);
void place_cease(struct place *p);
void place_close(struct place *p);
enum place_huge place_huge_pages(const struct place *p);
int place_ahead(struct place *p, unsigned int region, const uint8_t *blocks, uint64_t nr_blocks);
uint8_t *place_at(struct place *p, unsigned int region, uint64_t off, uint32_t len);
void place_zero(struct place *p, unsigned int region, uint64_t off, uint32_t len);
int place_error(const struct place *p);

#endif
