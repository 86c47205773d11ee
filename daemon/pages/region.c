// SPDX-License-Identifier: GPL-2.0-or-later
/* Guest RAM mapped into the daemon, and which of it was ever written. */
#include "region.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/**
 * region_map() - map r->fd at a multiple of 2 MiB, so that huge pages stay huge
 * Return: 0, -EINVAL if the file is shorter than the region says, or another errno
 */
int region_map(struct region *r)
{
	off_t end = lseek(r->fd, 0, SEEK_END);
	uint8_t *room, *at;
	uint64_t need, lead;

	if (__builtin_add_overflow(r->fd_off, r->size, &need) || end < 0 || (uint64_t)end < need)
		return -EINVAL;
	room = mmap(NULL, r->size + REGION_BLOCK, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED)
		return -errno;
	at = (uint8_t *)(((uintptr_t)room + REGION_BLOCK - 1) & ~(REGION_BLOCK - 1));
	lead = (uint64_t)(at - room);
	if (mmap(at, r->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, r->fd,
		 (off_t)r->fd_off) == MAP_FAILED) {
		int err = -errno;

		munmap(room, r->size + REGION_BLOCK);
		return err;
	}
	if (lead)
		munmap(room, lead);
	if (REGION_BLOCK - lead)
		munmap(at + r->size, REGION_BLOCK - lead);
	madvise(at, r->size, MADV_HUGEPAGE); /* a wish */
	r->map = at;
	return 0;
}

void region_unmap(struct region *r)
{
	if (r->map)
		munmap(r->map, r->size);
	r->map = NULL;
}

int region_each_data(const struct region *r,
		     void (*found)(void *arg, uint64_t off, uint64_t len), void *arg)
{
	off_t begin = (off_t)r->fd_off, end = (off_t)(r->fd_off + r->size), at = begin;
	struct stat st;

	/* A file without holes is told by its blocks, instead of a walk over all its pages. */
	if (!fstat(r->fd, &st) && st.st_blocks * 512 >= st.st_size && st.st_size >= end) {
		found(arg, 0, r->size);
		return 0;
	}
	while (at < end) {
		off_t data = lseek(r->fd, at, SEEK_DATA), hole;

		if (data < 0 && errno == ENXIO)
			return 0;
		if (data < 0 && errno == EINVAL)
			data = at; /* hugetlbfs knows no holes: all of it is data */
		if (data < 0)
			return -errno;
		if (data >= end)
			return 0;
		hole = lseek(r->fd, data, SEEK_HOLE);
		if (hole < 0 || hole > end)
			hole = end;
		if (hole > data)
			found(arg, (uint64_t)(data - begin), (uint64_t)(hole - data));
		at = hole > at ? hole : end;
	}
	return 0;
}
