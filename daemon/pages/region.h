/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef PAGES_REGION_H
#define PAGES_REGION_H

#include <stdint.h>
#include <vmferry.h>

#define REGION_PAGE VMFERRY_PAGE_SIZE
#define REGION_NAME_LEN 64
#define REGION_BLOCK (2ULL << 20) /* unit of faulting ahead: a huge page */

/**
 * struct region - one contiguous piece of guest RAM as the daemon holds it
 * @fd: memfd, owned; @fd_off: where the region begins in it
 * @map: the daemon's own mapping, aligned to 2 MiB
 * @page_size: bytes of the memfd's pages
 */
struct region {
	char name[REGION_NAME_LEN];
	uint64_t gpa;
	uint64_t size;
	int fd;
	uint64_t fd_off;
	uint32_t page_size;
	uint8_t *map;
};

int region_map(struct region *r);
void region_unmap(struct region *r);

/* Calls @found for each run of pages that has data; holes are not touched. */
int region_each_data(const struct region *r,
		     void (*found)(void *arg, uint64_t off, uint64_t len), void *arg);

#endif
