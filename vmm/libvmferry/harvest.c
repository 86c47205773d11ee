// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Takes dirty pages from KVM, re-arms them, and publishes them: the order that loses
 * no write. Twin of kmod/harvest.c.
 *
 * Theory of operation
 *
 *   collect (private copy) -> KVM_RESET_DIRTY_RINGS -> publish in the shared area
 *
 * Between collect and reset the guest may still write the page without a new entry.
 * Were the bit visible then, the daemon could take it and copy the page before that
 * write: the write would be lost. After the reset any further write makes a new entry.
 * With KVM's bitmaps the same: KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG, publish.
 * Built with VMFERRY_REVERSED_HARVEST (a test instrument) it publishes first, and
 * tests/e2e/reversed_harvest_is_caught.py sees the guest lose a write.
 *
 * Where the kernel module harvests in our place (kmod/harvest.c), the rings and the slots'
 * logging are its own; only the VMM's own writes are still marked here.
 *
 * @lock covers the rings, the staging room and the KVM calls. A harvest is run by the
 * harvest thread (adaptive period), by a vCPU whose ring is full, and by the daemon.
 */
#include "harvest.h"

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "ring.h"

#define PERIOD_MIN_US 1000
#ifdef VMFERRY_REVERSED_HARVEST
#define PERIOD_MAX_US PERIOD_MIN_US /* somebody collects while it publishes */
#else
#define PERIOD_MAX_US 50000
#endif
#define RESET_TRIES 1000 /* a ring that stays full would keep its vCPU out of the guest */

/*
 * @stage: room for one full ring a vCPU; @pending: bits of pages collected, by region,
 * KVM's bitmap in bitmap mode.
 */
struct harvester {
	struct area *area;
	struct vmferry_ram *ram;
	unsigned int nr_ram;
	int vm_fd;
	struct ring *rings;
	unsigned int nr_vcpus;
	uint32_t ring_entries;
	struct ring_entry *stage;
	uint64_t **bitmap;

	pthread_mutex_t lock;
	pthread_cond_t wake;
	pthread_t thread;
	bool thread_is_up;
	bool quit;   /* @lock */
	bool by_kmod; /* logging, but the module has the rings; written under @lock, atomic */
	uint32_t logging; /* written under @lock, read by harvest_mark() without */
	uint32_t fullest; /* entries of the fullest ring at the last harvest; @lock */
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

static bool is_logging(const struct harvester *h)
{
	return __atomic_load_n(&h->logging, __ATOMIC_RELAXED);
}

static int set_slot_logging(struct harvester *h, unsigned int i, bool on)
{
	const struct vmferry_ram *ram = &h->ram[i];
	struct kvm_userspace_memory_region slot = {
		.slot = ram->slot,
		.flags = on ? KVM_MEM_LOG_DIRTY_PAGES : 0,
		.guest_phys_addr = ram->gpa,
		.memory_size = ram->size,
		.userspace_addr = (uint64_t)(uintptr_t)ram->hva,
	};

	return ioctl(h->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) ? -errno : 0;
}

static int region_of_slot(const struct harvester *h, uint32_t slot)
{
	for (unsigned int i = 0; i < h->nr_ram; i++)
		if (h->ram[i].slot == slot)
			return (int)i;
	return -ENOENT;
}

static uint32_t collect_rings_locked(struct harvester *h)
{
	uint32_t n = 0;

	h->fullest = 0;
	for (unsigned int i = 0; i < h->nr_vcpus; i++) {
		uint32_t got = ring_collect(&h->rings[i], h->stage + n, h->ring_entries);

		area_count(&h->area->vcpus[i].dirtied, got);
		if (got > h->fullest)
			h->fullest = got;
		n += got;
	}
	return n;
}

static void publish_stage_locked(struct harvester *h, uint32_t n)
{
	uint64_t word = 0, bits = 0;
	int region = -1;

	/* Neighbours in one word go out together: sequential writers are the common case. */
	for (uint32_t i = 0; i < n; i++) {
		int r = region_of_slot(h, h->stage[i].slot);
		uint64_t page = h->stage[i].page;

		if (r < 0 || page >= h->ram[r].size >> VMFERRY_PAGE_SHIFT)
			continue;
		if (r != region || page / 64 != word) {
			if (bits)
				area_publish(h->area, (unsigned int)region, word, bits);
			region = r;
			word = page / 64;
			bits = 0;
		}
		bits |= 1ULL << (page % 64);
	}
	if (bits)
		area_publish(h->area, (unsigned int)region, word, bits);
}

static bool rings_are_reset_locked(const struct harvester *h)
{
	for (unsigned int i = 0; i < h->nr_vcpus; i++)
		if (!ring_is_reset(&h->rings[i]))
			return false;
	return true;
}

/*
 * Since Linux 6.16 a signal that waits, such as the kick of a vCPU that harvests, ends the call early. It
 * returns how many entries it took back and not that there are more; and up to 64 of those it may have taken
 * back without protecting their pages, so that further writes make no entry. No signal is let in, therefore.
 * What cannot be kept out (SIGSTOP, a debugger, a freezer) is an error where it shows: entries are left.
 */
static int reset_rings_locked(struct harvester *h)
{
	sigset_t all, before;
	int err = 0, tries = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	while (ioctl(h->vm_fd, KVM_RESET_DIRTY_RINGS, 0) < 0 || !rings_are_reset_locked(h)) {
		err = -EIO;
		if (++tries == RESET_TRIES)
			break;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return err;
}

#ifdef VMFERRY_REVERSED_HARVEST
/* The wrong order, with a window that a test can rely on. */
static int reset_and_publish_locked(struct harvester *h, uint32_t n)
{
	publish_stage_locked(h, n);
	usleep(20000);
	return n ? reset_rings_locked(h) : 0;
}
#else
static int reset_and_publish_locked(struct harvester *h, uint32_t n)
{
	int err = n ? reset_rings_locked(h) : 0;

	/* After an error pages may still be unprotected: the caller ends the migration. */
	if (!err)
		publish_stage_locked(h, n);
	return err;
}
#endif

static int harvest_rings_locked(struct harvester *h)
{
	uint32_t n = collect_rings_locked(h);

	area_count(&h->area->header->harvested, n);
	return reset_and_publish_locked(h, n);
}

static int harvest_bitmap_locked(struct harvester *h, unsigned int i)
{
	const struct vmferry_ram *ram = &h->ram[i];
	uint64_t pages = ram->size >> VMFERRY_PAGE_SHIFT;
	uint64_t words = (pages + 63) / 64;
	struct kvm_dirty_log get = { .slot = ram->slot, .dirty_bitmap = h->bitmap[i] };
	struct kvm_clear_dirty_log clear = {
		.slot = ram->slot,
		.num_pages = (uint32_t)pages,
		.first_page = 0,
		.dirty_bitmap = h->bitmap[i],
	};

	if (ioctl(h->vm_fd, KVM_GET_DIRTY_LOG, &get))
		return -errno;
	if (ioctl(h->vm_fd, KVM_CLEAR_DIRTY_LOG, &clear))
		return -errno;
	for (uint64_t w = 0; w < words; w++) {
		uint64_t bits = h->bitmap[i][w];

		if (!bits)
			continue;
		area_count(&h->area->header->harvested, (uint64_t)__builtin_popcountll(bits));
		area_publish(h->area, i, w, bits);
	}
	return 0;
}

static int harvest_locked(struct harvester *h)
{
	uint64_t start = now_ns();
	int err = 0;

	if (!is_logging(h) || h->by_kmod)
		return 0;
	if (h->ring_entries)
		err = harvest_rings_locked(h);
	else
		for (unsigned int i = 0; i < h->nr_ram && !err; i++)
			err = harvest_bitmap_locked(h, i);
	area_count(&h->area->header->harvests, 1);
	area_count(&h->area->header->harvest_ns, now_ns() - start);
	return err;
}

/**
 * harvest_run() - harvest now; when it returns all that was dirty is published
 * Context: any thread; takes the harvester's lock.
 */
int harvest_run(struct harvester *h)
{
	int err;

	pthread_mutex_lock(&h->lock);
	err = harvest_locked(h);
	pthread_mutex_unlock(&h->lock);
	return err;
}

/* Aims at rings a quarter full: half the period when fuller, twice when nearly empty. */
static uint64_t next_period_us(const struct harvester *h, uint64_t period)
{
	if (h->fullest > h->ring_entries / 4)
		period /= 2;
	else if (h->fullest < h->ring_entries / 16)
		period *= 2;
	if (period < PERIOD_MIN_US)
		return PERIOD_MIN_US;
	return period > PERIOD_MAX_US ? PERIOD_MAX_US : period;
}

static void *harvest_thread(void *arg)
{
	struct harvester *h = arg;
	uint64_t period_us = PERIOD_MAX_US;

	pthread_mutex_lock(&h->lock);
	while (!h->quit) {
		struct timespec until;

		if (!is_logging(h) || !h->ring_entries || h->by_kmod) {
			pthread_cond_wait(&h->wake, &h->lock);
			continue;
		}
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_nsec += (long)period_us * 1000;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		if (pthread_cond_timedwait(&h->wake, &h->lock, &until) == ETIMEDOUT)
			harvest_locked(h); /* an error shows again when the daemon harvests */
		period_us = next_period_us(h, period_us);
	}
	pthread_mutex_unlock(&h->lock);
	return NULL;
}

static int enable_manual_protect(int vm_fd)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		.args = { KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE },
	};

	return ioctl(vm_fd, KVM_ENABLE_CAP, &cap) ? -errno : 0;
}

static int map_rings(struct harvester *h, const struct vmferry_config *cfg)
{
	int err = 0;

	h->rings = calloc(cfg->nr_vcpus, sizeof(*h->rings));
	h->stage = calloc((size_t)cfg->nr_vcpus * cfg->ring_entries, sizeof(*h->stage));
	if (!h->rings || !h->stage)
		return -ENOMEM;
	for (unsigned int i = 0; i < cfg->nr_vcpus && !err; i++) {
		err = ring_init(&h->rings[i], cfg->vcpu_fds[i], cfg->ring_entries);
		h->area->vcpus[i].ring_entries = cfg->ring_entries;
	}
	return err;
}

static int make_bitmaps(struct harvester *h)
{
	h->bitmap = calloc(h->nr_ram, sizeof(*h->bitmap));
	if (!h->bitmap)
		return -ENOMEM;
	for (unsigned int i = 0; i < h->nr_ram; i++) {
		h->bitmap[i] = calloc(((h->ram[i].size >> VMFERRY_PAGE_SHIFT) + 63) / 64, 8);
		if (!h->bitmap[i])
			return -ENOMEM;
	}
	return enable_manual_protect(h->vm_fd);
}

/** harvester_open() - prepare rings or bitmaps of the VM in @cfg; logging is still off */
int harvester_open(const struct vmferry_config *cfg, struct area *area, struct harvester **out)
{
	struct harvester *h = calloc(1, sizeof(*h));
	pthread_condattr_t attr;
	int err;

	if (!h)
		return -ENOMEM;
	h->area = area;
	h->vm_fd = cfg->vm_fd;
	h->nr_vcpus = cfg->nr_vcpus;
	h->ring_entries = cfg->ring_entries;
	pthread_mutex_init(&h->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&h->wake, &attr);
	pthread_condattr_destroy(&attr);
	h->ram = calloc(cfg->nr_ram, sizeof(*h->ram));
	err = h->ram ? 0 : -ENOMEM;
	if (!err) {
		memcpy(h->ram, cfg->ram, cfg->nr_ram * sizeof(*h->ram));
		h->nr_ram = cfg->nr_ram;
		err = cfg->ring_entries ? map_rings(h, cfg) : make_bitmaps(h);
	}
	if (!err)
		err = -pthread_create(&h->thread, NULL, harvest_thread, h);
	if (err) {
		harvester_close(h);
		return err;
	}
	h->thread_is_up = true;
	area_set_flag(area, VMFERRY_AREA_RING, cfg->ring_entries != 0);
	*out = h;
	return 0;
}

/** harvester_close() - logging off, everything given back; NULL is fine */
void harvester_close(struct harvester *h)
{
	if (!h)
		return;
	if (h->thread_is_up) {
		harvest_stop(h);
		pthread_mutex_lock(&h->lock);
		h->quit = true;
		pthread_cond_signal(&h->wake);
		pthread_mutex_unlock(&h->lock);
		pthread_join(h->thread, NULL);
	}
	for (unsigned int i = 0; h->rings && i < h->nr_vcpus; i++)
		ring_fini(&h->rings[i]);
	for (unsigned int i = 0; h->bitmap && i < h->nr_ram; i++)
		free(h->bitmap[i]);
	free(h->rings);
	free(h->stage);
	free(h->bitmap);
	free(h->ram);
	pthread_cond_destroy(&h->wake);
	pthread_mutex_destroy(&h->lock);
	free(h);
}

/**
 * harvest_start() - log from now on; what was dirty before is not reported
 * @marks_only: the kernel module has the rings, or KVM's bitmaps
 */
int harvest_start(struct harvester *h, bool marks_only)
{
	int err = 0;

	pthread_mutex_lock(&h->lock);
	if (is_logging(h)) {
		err = marks_only == h->by_kmod ? 0 : -EBUSY;
	} else {
		__atomic_store_n(&h->by_kmod, marks_only, __ATOMIC_RELAXED);
		for (unsigned int i = 0; i < h->nr_ram && !err && !marks_only; i++)
			err = set_slot_logging(h, i, true);
		/* Pairs with the read in harvest_mark(): who read 0 there wrote before this. */
		__atomic_exchange_n(&h->logging, !err, __ATOMIC_SEQ_CST);
		area_set_flag(h->area, VMFERRY_AREA_LOGGING, !err);
		pthread_cond_signal(&h->wake);
	}
	pthread_mutex_unlock(&h->lock);
	return err;
}

/** harvest_stop() - stop logging; what is still in the rings is dropped */
int harvest_stop(struct harvester *h)
{
	int err = 0;

	pthread_mutex_lock(&h->lock);
	if (is_logging(h)) {
		for (unsigned int i = 0; i < h->nr_ram && !h->by_kmod; i++) {
			int e = set_slot_logging(h, i, false);

			err = err ? err : e;
		}
		for (unsigned int i = 0; i < h->nr_vcpus && h->ring_entries && h->by_kmod; i++)
			ring_lose(&h->rings[i]);
		if (h->ring_entries && !h->by_kmod && collect_rings_locked(h))
			reset_rings_locked(h);
		__atomic_store_n(&h->by_kmod, false, __ATOMIC_RELAXED);
		__atomic_store_n(&h->logging, 0, __ATOMIC_SEQ_CST);
		area_set_flag(h->area, VMFERRY_AREA_LOGGING, 0);
	}
	pthread_mutex_unlock(&h->lock);
	return err;
}

/** harvest_is_by_kmod() - has the kernel module the rings now? Waits for no harvest: any thread may ask */
bool harvest_is_by_kmod(const struct harvester *h)
{
	return __atomic_load_n(&h->by_kmod, __ATOMIC_RELAXED);
}

/**
 * harvest_mark() - publish the VMM's own write to [@gpa, @gpa + @len)
 *
 * The write is done. Either we see logging on and publish, or logging was turned on
 * after our write and the daemon, which reads every page after that, sees the write.
 */
int harvest_mark(struct harvester *h, uint64_t gpa, uint64_t len)
{
	if (!len)
		return 0;
	for (unsigned int i = 0; i < h->nr_ram; i++) {
		const struct vmferry_ram *ram = &h->ram[i];
		uint64_t first, last;

		if (gpa < ram->gpa || gpa - ram->gpa >= ram->size)
			continue;
		if (len > ram->size - (gpa - ram->gpa))
			return -EFAULT;
		/* A read that writes: ordered after the caller's write, before any later start. */
		if (!__atomic_fetch_or(&h->logging, 0, __ATOMIC_SEQ_CST))
			return 0;
		first = (gpa - ram->gpa) >> VMFERRY_PAGE_SHIFT;
		last = (gpa - ram->gpa + len - 1) >> VMFERRY_PAGE_SHIFT;
		for (uint64_t p = first; p <= last; p++)
			area_publish(h->area, i, p / 64, 1ULL << (p % 64));
		area_count(&h->area->header->marked, last - first + 1);
		return 0;
	}
	return -EFAULT;
}
