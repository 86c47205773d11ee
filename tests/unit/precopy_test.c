// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Promise: a round is over when the peer has placed it, not when it has left for a buffer.
 * And a page that is dirty again before its turn is left to the next round, not lost.
 * Seen to fail: with on_sent() not asking for the placed round, the first test; with REST leaving
 * pages out like a round, the last; with precopy_start() not asking for is_aborted, nothing_begins_after_the_end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "area.h"
#include "base/deadline.h"
#include "pages/packet.h"
#include "pages/precopy.h"

#define PAGES 16
#define PATIENCE_MS 60000

static struct loop *loop;
static struct precopy precopy;
static struct region region;
static uint64_t size = PAGES * REGION_PAGE;
static int peer = -1, nr_done, failed;
static struct loop_timer give_up;

static void on_done(void *owner, enum precopy_job job, uint64_t bytes, uint64_t ns, uint64_t sending_ns)
{
	(void)owner;
	assert_int_equal(job, PRECOPY_ROUND);
	assert_true(bytes > PAGES * REGION_PAGE && sending_ns && sending_ns <= ns);
	nr_done++;
	loop_stop(loop);
}

static void on_failed(void *owner, unsigned int channel, int err)
{
	(void)owner;
	(void)channel;
	failed = err;
	loop_stop(loop);
}

static void on_give_up(void *owner)
{
	(void)owner;
	loop_stop(loop);
}

static const struct precopy_ops ops = { on_done, on_failed };

static int setup(void **state)
{
	struct precopy_config cfg = { .regions = &region, .sizes = &size, .nr_regions = 1 };
	int pair[2];

	(void)state;
	loop = loop_new();
	region = (struct region){ .size = size, .fd = memfd_create("ram", 0), .page_size = REGION_PAGE };
	memset(&precopy, 0, sizeof(precopy));
	nr_done = failed = 0;
	if (ftruncate(region.fd, (off_t)size) || region_map(&region) ||
	    socketpair(AF_UNIX, SOCK_STREAM, 0, pair) || loop_timer_init(&give_up, loop, on_give_up, NULL) ||
	    precopy_init(&precopy, loop, &cfg, &ops, NULL) || precopy_make_room(&precopy))
		return -1;
	memset(region.map, 0x5a, size);
	peer = pair[1];
	return precopy_open(&precopy, &pair[0], 1);
}

static int teardown(void **state)
{
	(void)state;
	precopy_fini(&precopy);
	loop_timer_fini(&give_up);
	region_unmap(&region);
	close(region.fd);
	close(peer);
	loop_free(loop);
	return 0;
}

/* Reads what one job sends; returns its mark. */
static struct packet read_pages(unsigned int pages)
{
	static uint8_t buf[PACKET_MAX_HEAD + PAGES * REGION_PAGE];
	struct packet p;

	assert_int_equal(recv(peer, buf, PACKET_HEADER_LEN, MSG_WAITALL), PACKET_HEADER_LEN);
	assert_int_equal(packet_decode_header(&p, buf), 0);
	assert_int_equal(p.payload, pages * REGION_PAGE);
	assert_int_equal(recv(peer, buf, p.nr_descs * PACKET_DESC_LEN + p.payload, MSG_WAITALL),
			 p.nr_descs * PACKET_DESC_LEN + p.payload);
	return p;
}

static struct packet read_round(void)
{
	return read_pages(PAGES);
}

static void run_for_ms(uint64_t ms)
{
	loop_timer_at(&give_up, now_ns() + ms * NS_PER_MS);
	assert_int_equal(loop_run(loop), 0);
	loop_timer_stop(&give_up);
}

static void a_round_ends_when_it_is_placed(void **state)
{
	struct packet p;

	(void)state;
	page_set_add(&precopy.set, 0, 0, PAGES);
	precopy_start(&precopy, PRECOPY_ROUND, 0, 0);
	p = read_round();
	assert_int_equal(p.mark, PACKET_ROUND_END);
	assert_int_equal(p.mark_nr, 1);
	run_for_ms(50); /* most often the channel reports meanwhile that it is done */
	assert_int_equal(nr_done, 0);
	precopy_placed(&precopy, 1);
	if (!nr_done)
		run_for_ms(PATIENCE_MS);
	assert_int_equal(nr_done, 1);
	assert_true(precopy.set_is_sent);
}

static void placed_may_be_heard_first(void **state)
{
	(void)state;
	page_set_add(&precopy.set, 0, 0, PAGES);
	precopy_start(&precopy, PRECOPY_ROUND, 0, 0);
	precopy_placed(&precopy, 1);
	read_round();
	if (!nr_done)
		run_for_ms(PATIENCE_MS);
	assert_int_equal(nr_done, 1);
}

static void a_dead_peer_is_said(void **state)
{
	(void)state;
	shutdown(peer, SHUT_RDWR);
	page_set_add(&precopy.set, 0, 0, PAGES);
	precopy_start(&precopy, PRECOPY_ROUND, 0, 0);
	run_for_ms(PATIENCE_MS);
	assert_int_not_equal(failed, 0);
	assert_int_equal(nr_done, 0);
}

static void on_any_done(void *owner, enum precopy_job job, uint64_t bytes, uint64_t ns, uint64_t sending_ns)
{
	(void)owner;
	(void)job;
	(void)bytes;
	(void)ns;
	(void)sending_ns;
	nr_done++;
}

static void wait_until_done(int nr)
{
	for (int i = 0; i < PATIENCE_MS / 10 && nr_done < nr; i++)
		run_for_ms(10);
	assert_int_equal(nr_done, nr);
}

static void what_is_dirty_again_is_left_to_the_next_round(void **state)
{
	static const struct precopy_ops any = { on_any_done, on_failed };
	struct vmferry_region table = { .size = PAGES * REGION_PAGE };
	struct channel_counters sum;
	struct area area;

	(void)state;
	precopy.ops = &any;
	assert_int_equal(area_init(&area, &table, 1, 1), 0);
	assert_int_equal(dirty_open(area.fd, area.size, &size, 1, &precopy.dirty), 0);
	precopy.share.dirty = precopy.dirty;
	page_set_add(&precopy.set, 0, 0, PAGES);
	area_publish(&area, 0, 0, 1 << 3 | 1 << 9);
	precopy_start(&precopy, PRECOPY_ROUND, 0, 0);
	precopy_placed(&precopy, 1);
	read_pages(PAGES - 2);
	wait_until_done(1);
	precopy_counters(&precopy, &sum);
	assert_int_equal(sum.raw_pages, PAGES - 2);
	assert_int_equal(sum.again_pages, 2);
	assert_int_equal(precopy_collect(&precopy, true), 0);
	assert_int_equal(precopy.set.nr_set, 2);
	/* The guest stands still: all there is goes, whatever a bit says. */
	area_publish(&area, 0, 0, 1 << 3);
	precopy_start(&precopy, PRECOPY_REST, 0, 0);
	read_pages(2);
	wait_until_done(2);
	precopy_close(&precopy);
	dirty_close(precopy.dirty);
	area_fini(&area);
}

/* The VMM is found dead by a request: the end has begun when that call returns to who starts the next round. */
static void nothing_begins_after_the_end(void **state)
{
	(void)state;
	page_set_add(&precopy.set, 0, 0, PAGES);
	precopy_abort(&precopy);
	precopy_close(&precopy);
	precopy_start(&precopy, PRECOPY_ROUND, 0, 0);
	precopy_placed(&precopy, 1);
	assert_int_equal(precopy.job, PRECOPY_NONE);
	assert_int_equal(nr_done, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_round_ends_when_it_is_placed, setup, teardown),
		cmocka_unit_test_setup_teardown(placed_may_be_heard_first, setup, teardown),
		cmocka_unit_test_setup_teardown(a_dead_peer_is_said, setup, teardown),
		cmocka_unit_test_setup_teardown(nothing_begins_after_the_end, setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_dirty_again_is_left_to_the_next_round, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
