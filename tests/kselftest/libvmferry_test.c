// SPDX-License-Identifier: GPL-2.0-only
/* Promise: what the VMM's own harvester (libvmferry) publishes has been reset, whatever signals come. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kselftest_harness.h"

#include "harvest.h"
#include "vm.h"

#define SIZE (4 << 20)
#define RING 1024

void vm_harvest_full_ring(void *harvester)
{
	harvest_run(harvester);
}

/*
 * Since Linux 6.16 a signal ends KVM_RESET_DIRTY_RINGS early, with pages that are neither in a ring nor
 * protected; a vCPU that harvests may be kicked at any time.
 */
TEST(signals_lose_no_write)
{
	static const struct vmferry_region region = { .size = SIZE };
	time_t enough = time(NULL) + 60;
	struct storm s;
	struct harvester *h;
	struct area area;
	struct vm vm;

	ASSERT_EQ(0, vm_make(&vm, SIZE, 1, RING));
	vm_set_share(&vm, 0, 16, 144); /* few pages, so that each is written again within the window */
	{
		struct vmferry_ram ram = { .size = SIZE, .hva = vm.ram, .page_size = VM_PAGE };
		struct vmferry_config cfg = { .vm_fd = vm.vm_fd, .vcpu_fds = vm.vcpu_fd, .nr_vcpus = 1,
					      .ring_entries = RING, .ram = &ram, .nr_ram = 1 };

		ASSERT_EQ(0, area_init(&area, &region, 1, 1));
		ASSERT_EQ(0, harvester_open(&cfg, &area, &h));
	}
	vm.full_hook = h;
	ASSERT_EQ(0, storm_begin(&s, pthread_self()));
	/* The harness gives a test 150 s: a slow machine does less. */
	for (int tries = 0; tries < 10 && (!tries || time(NULL) < enough); tries++) {
		struct consumer c = { .area = (uint8_t *)area.header, .ram = vm.ram, .size = SIZE,
				      .copy = malloc(SIZE) };

		uint32_t before = vm_passes(&vm, 0);

		ASSERT_EQ(0, harvest_start(h, false));
		consumer_copy_all(&c);
		ASSERT_EQ(0, vm_run(&vm, REAP_NEVER));
		for (int i = 0; i < 100 || vm_passes(&vm, 0) == before; i++) {
			EXPECT_EQ(0, harvest_run(h));
			consumer_collect(&c);
			usleep(1000); /* or until a signal comes */
		}
		vm_pause(&vm);
		EXPECT_EQ(0, vm.failed);
		EXPECT_EQ(0, harvest_run(h));
		consumer_collect(&c);
		EXPECT_EQ(-1, consumer_first_difference(&c)) TH_LOG("try %d", tries);
		EXPECT_LT(0, c.taken);
		free(c.copy);
		ASSERT_EQ(0, harvest_stop(h));
	}
	storm_end(&s);
	harvester_close(h);
	area_fini(&area);
	vm_free(&vm);
}

TEST_HARNESS_MAIN
