/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef VMM_AREA_H
#define VMM_AREA_H

#include <stdint.h>
#include <vmferry.h>

/**
 * struct area - the producer's view of the shared area
 * @fd: the memfd that the daemon gets too
 * @map: its mapping, @size bytes
 */
struct area {
	int fd;
	uint64_t size;
	uint8_t *map;
	struct vmferry_area_header *header;
	struct vmferry_region *regions;
	struct vmferry_vcpu *vcpus;
};

int area_init(struct area *a, const struct vmferry_region *regions, unsigned int nr_regions,
	      unsigned int nr_vcpus);
void area_fini(struct area *a);
void area_publish(struct area *a, unsigned int region, uint64_t word, uint64_t bits);
void area_count(__u64 *counter, uint64_t n);
void area_set_flag(struct area *a, uint64_t flag, int on);

#endif
