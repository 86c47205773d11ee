// SPDX-License-Identifier: GPL-2.0-or-later
/* Guest RAM: memfds, their mappings and memslots; emptied and hashed on demand. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "vm.h"

#define LOW_END (3ULL << 30) /* RAM beyond goes above 4 GiB, as on a PC */
#define HIGH_GPA (4ULL << 30)
#define HUGE (2ULL << 20)

/* A mapping at a multiple of 2 MiB, so that huge pages of the file stay huge in it. */
static void *map_aligned(int fd, uint64_t size)
{
	uint8_t *room = mmap(NULL, size + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *at;

	if (room == MAP_FAILED)
		return NULL;
	at = (uint8_t *)(((uintptr_t)room + HUGE - 1) & ~(HUGE - 1));
	if (mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
		return NULL;
	return at;
}

static int add_region(struct vm *vm, const char *name, uint64_t gpa, uint64_t size)
{
	struct vmferry_ram *r = &vm->ram[vm->nr_ram];
	struct kvm_userspace_memory_region slot;

	*r = (struct vmferry_ram){ .name = name, .slot = vm->nr_ram, .gpa = gpa, .size = size,
				   .page_size = vm->opt.hugetlb ? HUGE : 4096 };
	r->memfd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING |
					     (vm->opt.hugetlb ? MFD_HUGETLB : 0));
	if (r->memfd < 0 || ftruncate(r->memfd, (off_t)size) ||
	    fcntl(r->memfd, F_ADD_SEALS, F_SEAL_SHRINK))
		return -errno;
	r->hva = map_aligned(r->memfd, size);
	if (!r->hva)
		return -errno;
	madvise(r->hva, size, MADV_HUGEPAGE); /* a wish: small pages work too */
	slot = (struct kvm_userspace_memory_region){ .slot = r->slot,
						     .guest_phys_addr = gpa,
						     .memory_size = size,
						     .userspace_addr = (uintptr_t)r->hva };
	if (ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &slot))
		return -errno;
	vm->nr_ram++;
	return 0;
}

static int populate(struct vm *vm)
{
	for (unsigned int i = 0; vm->opt.prealloc && i < vm->nr_ram; i++)
		if (madvise(vm->ram[i].hva, vm->ram[i].size, MADV_POPULATE_WRITE))
			return -errno;
	return 0;
}

/** memory_init() - RAM of opt.ram bytes as two regions, or three beyond 3 GiB */
int memory_init(struct vm *vm)
{
	uint64_t low = vm->opt.ram < LOW_END ? vm->opt.ram : LOW_END;
	uint64_t half = (low / 2 + HUGE - 1) & ~(HUGE - 1);
	int err = add_region(vm, "ram0", 0, half);

	if (!err)
		err = add_region(vm, "ram1", half, low - half);
	if (!err && vm->opt.ram > low)
		err = add_region(vm, "ram2", HIGH_GPA, vm->opt.ram - low);
	return err ? err : populate(vm);
}

/** memory_empty() - give all RAM back to the host: every page reads as zero again */
int memory_empty(struct vm *vm)
{
	for (unsigned int i = 0; i < vm->nr_ram; i++)
		if (fallocate(vm->ram[i].memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			      (off_t)vm->ram[i].size))
			return -errno;
	return populate(vm);
}

/*
 * Hash of all pages that are not zero, each with its number; holes are not looked at. The guest stands still meanwhile,
 * and the daemon waits 5 s for its start: XXH64, because an emulated processor takes 50 times as long for XXH3's vectors.
 */
static uint64_t hash_region(const struct vmferry_ram *r, uint64_t hash)
{
	static const uint8_t zero[4096];
	off_t at = 0;

	for (;;) {
		off_t data = lseek(r->memfd, at, SEEK_DATA), hole;

		if (data < 0 && errno == EINVAL)
			data = at; /* hugetlbfs: all is data */
		else if (data < 0)
			break;
		hole = lseek(r->memfd, data, SEEK_HOLE);
		if (hole < data)
			hole = (off_t)r->size;
		for (at = data; at < hole; at += 4096) {
			const uint8_t *page = (uint8_t *)r->hva + at;

			if (memcmp(page, zero, 4096))
				hash += XXH64(page, 4096, r->gpa + (uint64_t)at);
		}
		if ((uint64_t)at >= r->size)
			break;
	}
	return hash;
}

/** memory_hash() - the same for equal RAM whether zeros are allocated or not */
uint64_t memory_hash(struct vm *vm)
{
	uint64_t hash = 0;

	for (unsigned int i = 0; i < vm->nr_ram; i++)
		hash = hash_region(&vm->ram[i], hash);
	return hash;
}

/** vm_at() - where [@gpa, @gpa + @len) is mapped, NULL if it is not within one region */
void *vm_at(struct vm *vm, uint64_t gpa, uint64_t len)
{
	for (unsigned int i = 0; i < vm->nr_ram; i++) {
		const struct vmferry_ram *r = &vm->ram[i];

		if (gpa >= r->gpa && gpa - r->gpa <= r->size && len <= r->size - (gpa - r->gpa))
			return (uint8_t *)r->hva + (gpa - r->gpa);
	}
	return NULL;
}
