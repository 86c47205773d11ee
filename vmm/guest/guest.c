// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The workload guest: dirties its memory as it is told, and proves that none of it is
 * lost.
 *
 * Theory of operation
 *
 * Each vCPU owns a share of RAM from 16 MiB on. The content of a page follows from its
 * number and from how often it was written, and how often it was written follows from
 * where the writer stands in its walk: pages before the cursor have one write more than
 * those behind it. So a page that went back in time is found, although it is consistent
 * in itself, and no table of counters has to be believed.
 *
 * A walk (struct walk) covers a range of pages in a fixed order, in turn or scattered
 * (a full-period generator), with one cursor for writing and one for verifying.
 *
 *   page: word 0 page number, 1 writes, 2 check, 3.. body; write n renews word 3 + n % 509
 *
 * Options come on the multiboot command line, e.g.
 *   tsc_khz=2596000 low=1024 high=0 vcpus=1 v0=seq:500:256 body=random fill=900
 * v0=MODE:MB_PER_S:WORKING_SET_MB with spin, idle, seq, rand, hot, zero, burst
 * (in turn, for 100 ms of each 300); rate 0: flat out.
 */
#include <stddef.h>
#include <stdint.h>

#include "guest_stats.h"

#define PAGE 4096ULL
#define WORDS 512
#define BODY 3
#define BODY_WORDS (WORDS - BODY)
#define FIRST_GPA 0x1000000ULL
#define HIGH_GPA 0x100000000ULL
#define DMA_GPA 0x800000ULL /* 64 pages the disk reads into, then one to write from */
#define DMA_PAGES 64
#define MAX_VCPUS 8
#define FILL_WORD 0x4142434445464748ULL

enum mode { MODE_SPIN, MODE_IDLE, MODE_SEQ, MODE_RAND, MODE_HOT, MODE_ZERO, MODE_BURST };
enum body { BODY_RANDOM, BODY_SAME, BODY_ZERO };

struct walk {
	uint64_t first, nr;   /* pages, as indices of all that can be owned */
	uint64_t mask;	      /* scattered: generator modulus - 1, else 0 */
	uint64_t cursor, pass, at;
	uint64_t v_cursor, v_at;
};

struct vcpu {
	struct guest_stats *stats;
	enum mode mode;
	uint64_t ticks_per_page, next_write, next_beat, last, incarnation;
	uint64_t next_late_verify; /* see take_verify_turn() */
	uint64_t owed, ask_again; /* see account_gap() */
	struct walk hot, cold, rest;
	uint64_t writes, v_turn;
	uint64_t dma_count[DMA_PAGES], dma_next, next_disk;
};

static struct {
	uint64_t tsc_khz, low_pages, total_pages, fill_pages, vcpus, hb_ticks;
	enum body body;
	int verify, disk, dots;
} conf;

static struct vcpu vcpus[MAX_VCPUS];
static volatile int conf_is_ready;

static inline uint64_t rdtsc(void)
{
	uint32_t lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (uint64_t)hi << 32 | lo;
}

static inline void outb(uint16_t port, uint8_t v)
{
	__asm__ volatile("outb %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline void outl(uint16_t port, uint32_t v)
{
	__asm__ volatile("outl %0, %1" : : "a"(v), "Nd"(port) : "memory");
}

static inline uint32_t inl(uint16_t port)
{
	uint32_t v;

	__asm__ volatile("inl %1, %0" : "=a"(v) : "Nd"(port) : "memory");
	return v;
}

static inline uint64_t mix(uint64_t x)
{
	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93ULL;
	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93ULL;
	return x ^ x >> 32;
}

static uint64_t *page_at(uint64_t index)
{
	uint64_t gpa = index < conf.low_pages ? FIRST_GPA + index * PAGE :
						HIGH_GPA + (index - conf.low_pages) * PAGE;

	return (uint64_t *)gpa;
}

static uint64_t page_number(const uint64_t *page)
{
	return (uint64_t)page / PAGE;
}

/* ---- content: what a page holds after @count writes ---- */

static int is_all_zero(const struct vcpu *v, uint64_t number, uint64_t count)
{
	if (v->mode == MODE_ZERO && count)
		return (number + count) % 4 != 0;
	return conf.body == BODY_ZERO && !count;
}

static uint64_t check_word(uint64_t number, uint64_t count)
{
	return mix(number * 0x9e3779b97f4a7c15ULL + count);
}

static uint64_t first_body_word(uint64_t number, uint64_t i)
{
	switch (conf.body) {
	case BODY_RANDOM:
		return mix(number * WORDS + i);
	case BODY_SAME:
		return FILL_WORD;
	default:
		return 0;
	}
}

/* Write n renews body word n % BODY_WORDS: find the last such n up to @count. */
static uint64_t body_word(const struct vcpu *v, uint64_t number, uint64_t count, uint64_t i)
{
	uint64_t slot = i - BODY, last;

	if (v->mode == MODE_ZERO && count) /* rewritten whole */
		return mix(number + count * WORDS + i);
	if (slot > count)
		return first_body_word(number, i);
	last = count - (count - slot) % BODY_WORDS;
	return last ? mix(number + last * WORDS) : first_body_word(number, i);
}

static uint64_t word_of(const struct vcpu *v, uint64_t number, uint64_t count, uint64_t i)
{
	if (is_all_zero(v, number, count))
		return 0;
	switch (i) {
	case 0:
		return number;
	case 1:
		return count;
	case 2:
		return check_word(number, count);
	default:
		return body_word(v, number, count, i);
	}
}

static void fill_page(const struct vcpu *v, uint64_t *page)
{
	uint64_t number = page_number(page);

	for (uint64_t i = 0; i < WORDS; i++)
		page[i] = word_of(v, number, 0, i);
}

static void write_page(const struct vcpu *v, uint64_t *page, uint64_t count)
{
	uint64_t number = page_number(page);

	if (v->mode == MODE_ZERO) {
		for (uint64_t i = 0; i < WORDS; i++)
			page[i] = word_of(v, number, count, i);
		return;
	}
	if (conf.body == BODY_ZERO && count == 1)
		page[0] = number;
	page[1] = count;
	page[2] = check_word(number, count);
	page[BODY + count % BODY_WORDS] = mix(number + count * WORDS);
}

static void complain(struct vcpu *v, uint64_t number, uint64_t i, uint64_t want, uint64_t got)
{
	struct guest_stats *s = v->stats;

	if (s->errors++)
		return;
	s->bad_page = number;
	s->bad_word = i;
	s->bad_want = want;
	s->bad_got = got;
}

static void verify_page(struct vcpu *v, const uint64_t *page, uint64_t count)
{
	uint64_t number = page_number(page);

	v->stats->verified++;
	for (uint64_t i = 0; i < WORDS; i++) {
		uint64_t want = word_of(v, number, count, i), got = page[i];

		if (want != got) {
			complain(v, number, i, want, got);
			return;
		}
	}
}

/* ---- walks ---- */

static void walk_init(struct walk *w, uint64_t first, uint64_t nr, int scattered)
{
	*w = (struct walk){ .first = first, .nr = nr };
	if (!scattered)
		return;
	while (w->mask + 1 < nr)
		w->mask = w->mask * 2 + 1;
}

/* The page of the walk after @at; a full-period generator modulo a power of two. */
static uint64_t walk_after(const struct walk *w, uint64_t at)
{
	if (!w->mask)
		return at + 1 == w->nr ? 0 : at + 1;
	do {
		at = (at * 0x5851f42d4c957f2dULL + 0x14057b7ef767814fULL) & w->mask;
	} while (at >= w->nr);
	return at;
}

static void walk_write(struct vcpu *v, struct walk *w)
{
	write_page(v, page_at(w->first + w->at), w->pass + 1);
	w->at = walk_after(w, w->at);
	if (++w->cursor == w->nr) {
		w->cursor = 0;
		w->at = 0;
		w->pass++;
	}
	v->stats->written++;
}

static void walk_verify(struct vcpu *v, struct walk *w)
{
	verify_page(v, page_at(w->first + w->v_at), w->pass + (w->v_cursor < w->cursor));
	w->v_at = walk_after(w, w->v_at);
	if (++w->v_cursor == w->nr) {
		w->v_cursor = 0;
		w->v_at = 0;
	}
}

static void verify_some(struct vcpu *v)
{
	struct walk *w[] = { &v->hot, &v->cold, &v->rest };

	/* One full turn of each in turn: after owned pages everything was seen once. */
	for (int i = 0; i < 3; i++) {
		struct walk *now = w[v->v_turn % 3];

		if (!now->nr) {
			v->v_turn++;
			continue;
		}
		walk_verify(v, now);
		if (!now->v_cursor)
			v->v_turn++;
		return;
	}
}

/* ---- the disk: the VMM writes to our memory ---- */

static void disk_page(struct vcpu *v, uint64_t slot, uint64_t count, int verify)
{
	uint64_t *page = (uint64_t *)(DMA_GPA + slot * PAGE);

	for (uint64_t i = 0; i < WORDS; i++) {
		uint64_t want = mix(slot << 32 ^ count * WORDS ^ i);

		if (!verify)
			((uint64_t *)(DMA_GPA + DMA_PAGES * PAGE))[i] = want;
		else if (page[i] != want) {
			complain(v, page_number(page), i, want, page[i]);
			return;
		}
	}
}

static void disk_turn(struct vcpu *v)
{
	static struct guest_disk_request req __attribute__((aligned(64)));
	uint64_t slot = v->dma_next % DMA_PAGES;
	uint64_t old = (slot + 1) % DMA_PAGES;

	disk_page(v, slot, v->dma_count[slot] + 1, 0);
	req = (struct guest_disk_request){ GUEST_DISK_WRITE, 0, slot * PAGE,
					   DMA_GPA + DMA_PAGES * PAGE };
	outl(GUEST_PORT_DISK, (uint32_t)(uintptr_t)&req);
	req = (struct guest_disk_request){ GUEST_DISK_READ, 0, slot * PAGE, DMA_GPA + slot * PAGE };
	outl(GUEST_PORT_DISK, (uint32_t)(uintptr_t)&req);
	v->dma_count[slot]++;
	disk_page(v, slot, v->dma_count[slot], 1);
	if (v->dma_count[old])
		disk_page(v, old, v->dma_count[old], 1);
	v->dma_next++;
	v->stats->disk_ops += 2;
}

/* ---- the loop ---- */

#define LONG_GAP (conf.tsc_khz / 20) /* 50 us */
#define ASK_TURNS 3
#define LATE_VERIFY_GAP (conf.tsc_khz / 2) /* 500 us */

/*
 * A gap long enough to matter: did the VMM start us anew, or were we just slow? Standing still
 * is one gap: of those found, and of those that come while we ask, the longest holds it.
 * Where each answer takes that long, the last one may be from before the gap it came with: that
 * gap is owed, and it is asked for again a little later.
 */
static uint64_t account_gap(struct vcpu *v, uint64_t gap)
{
	uint64_t inc, asked, now;
	int turns = 0;

	if (v->owed > gap)
		gap = v->owed;
	do {
		asked = rdtsc();
		inc = inl(GUEST_PORT_INCARNATION);
		now = rdtsc();
		if (now - asked > gap)
			gap = now - asked;
	} while (now - asked > LONG_GAP && ++turns < ASK_TURNS);
	if (inc != v->incarnation) {
		v->incarnation = inc;
		v->stats->blackouts++;
		v->stats->blackout_last = gap;
		v->stats->history[v->stats->blackouts % GUEST_HISTORY] = gap;
		if (gap > v->stats->blackout_max)
			v->stats->blackout_max = gap;
	} else if (gap > v->stats->gap_max) {
		v->stats->gap_max = gap;
	}
	v->owed = turns < ASK_TURNS ? 0 : now - asked;
	v->ask_again = now + conf.tsc_khz * 10;
	return now;
}

static void beat(struct vcpu *v, uint64_t now)
{
	uint64_t gap = now - v->last;

	if (gap > LONG_GAP || (v->owed && now > v->ask_again))
		now = account_gap(v, gap);
	v->last = now;
	v->stats->last_tsc = now;
	if (now < v->next_beat)
		return;
	v->next_beat = now + conf.hb_ticks;
	v->stats->beats++;
	if (conf.dots && v == vcpus)
		outb(GUEST_PORT_CONSOLE, '.');
	else /* an exit a beat, so that a VMM sees life without reading memory */
		inl(GUEST_PORT_INCARNATION);
}

static void write_due(struct vcpu *v, uint64_t now)
{
	if (v->mode == MODE_BURST && now / (conf.tsc_khz * 100) % 3) {
		v->next_write = now;
		return;
	}
	if (v->ticks_per_page) {
		if (now < v->next_write)
			return;
		v->next_write += v->ticks_per_page;
		if (now > v->next_write + conf.tsc_khz * 1000) /* a second late: do not catch up */
			v->next_write = now;
	}
	v->writes++;
	if (v->hot.nr && v->writes % 16)
		walk_write(v, &v->hot);
	else if (v->cold.nr)
		walk_write(v, &v->cold);
}

/*
 * A writer that is late verifies a page now and then: on a slow or busy host it may be late for ever. By time and not by
 * turns, so that this costs a writer at full speed some 4 %.
 */
static int take_verify_turn(struct vcpu *v, uint64_t now, uint64_t turn)
{
	if (!v->ticks_per_page)
		return turn % 8 == 0;
	if (now < v->next_write)
		return 1;
	if (now < v->next_late_verify)
		return 0;
	v->next_late_verify = now + LATE_VERIFY_GAP;
	return 1;
}

static void run(struct vcpu *v)
{
	v->last = v->next_write = v->next_beat = v->next_disk = rdtsc();
	v->incarnation = inl(GUEST_PORT_INCARNATION);
	for (uint64_t turn = 0;; turn++) {
		uint64_t now = rdtsc();

		beat(v, now);
		if (v->mode >= MODE_SEQ) {
			write_due(v, now);
			if (conf.verify && take_verify_turn(v, now, turn))
				verify_some(v);
		} else if (conf.verify) {
			for (int i = 0; i < (v->mode == MODE_IDLE ? 8 : 1); i++)
				verify_some(v);
		}
		if (conf.disk && v == vcpus && now >= v->next_disk) {
			v->next_disk = now + conf.tsc_khz;
			disk_turn(v);
		}
		if (v->mode == MODE_IDLE)
			outl(GUEST_PORT_SLEEP, 250);
	}
}

/* ---- options ---- */

static const char *option(const char *line, const char *name)
{
	for (; *line; line++) {
		const char *a = line, *b = name;

		while (*b && *a == *b)
			a++, b++;
		if (!*b && *a == '=')
			return a + 1;
		while (*line && *line != ' ')
			line++;
		if (!*line)
			break;
	}
	return NULL;
}

static uint64_t number(const char **p)
{
	uint64_t n = 0;

	while (**p >= '0' && **p <= '9')
		n = n * 10 + (uint64_t)(*(*p)++ - '0');
	if (**p == ':')
		(*p)++;
	return n;
}

static uint64_t option_number(const char *line, const char *name, uint64_t otherwise)
{
	const char *p = option(line, name);

	return p ? number(&p) : otherwise;
}

static void configure(const char *line)
{
	const char *body = option(line, "body");
	uint64_t low = option_number(line, "low", 64), high = option_number(line, "high", 0);

	conf.tsc_khz = option_number(line, "tsc_khz", 2500000);
	conf.vcpus = option_number(line, "vcpus", 1);
	conf.low_pages = (low << 8) - FIRST_GPA / PAGE;
	conf.total_pages = conf.low_pages + (high << 8);
	conf.fill_pages = option_number(line, "fill", conf.total_pages >> 8) << 8;
	if (conf.fill_pages > conf.total_pages)
		conf.fill_pages = conf.total_pages;
	conf.hb_ticks = conf.tsc_khz * option_number(line, "hb_us", 1000) / 1000;
	conf.verify = (int)option_number(line, "verify", 1);
	conf.disk = (int)option_number(line, "disk", 0);
	conf.dots = (int)option_number(line, "dots", 0);
	conf.body = body && *body == 's' ? BODY_SAME : body && *body == 'z' ? BODY_ZERO : BODY_RANDOM;
}

static void set_work(struct vcpu *v, uint64_t index, const char *line)
{
	static const char *const modes[] = { "spin", "idle", "seq", "rand", "hot", "zero", "burst" };
	char name[] = "v0";
	const char *p;
	uint64_t share = conf.total_pages / conf.vcpus, filled = conf.fill_pages / conf.vcpus;
	uint64_t rate = 0, set = filled, first = index * share;

	name[1] = (char)('0' + index);
	p = option(line, name);
	for (int m = 0; p && m < 7; m++) {
		const char *a = p, *b = modes[m];

		while (*b && *a == *b)
			a++, b++;
		if (*b)
			continue;
		v->mode = (enum mode)m;
		if (*a == ':') {
			a++;
			rate = number(&a);
			set = number(&a) << 8;
		}
		break;
	}
	if (!set || set > filled)
		set = filled;
	if (rate)
		v->ticks_per_page = conf.tsc_khz * 1000 / (rate << 8);
	if (v->mode < MODE_SEQ)
		set = 0;
	if (v->mode == MODE_HOT) {
		walk_init(&v->hot, first, set / 16, 1);
		walk_init(&v->cold, first + set / 16, set - set / 16, 1);
	} else {
		walk_init(&v->cold, first, set, v->mode == MODE_RAND);
	}
	walk_init(&v->rest, first + set, filled - set, 0);
	v->stats->owned = filled;
	for (uint64_t i = 0; i < filled; i++)
		fill_page(v, page_at(first + i));
}

/* guest_main() - entered by every vCPU at CPL 3; @info: multiboot information or 0 */
void guest_main(uint64_t index, uint64_t info)
{
	static const char *cmdline;
	struct vcpu *v = &vcpus[index];

	if (!index) {
		cmdline = (const char *)(uintptr_t)((uint32_t *)info)[4];
		configure(cmdline);
		__atomic_store_n(&conf_is_ready, 1, __ATOMIC_RELEASE);
	}
	while (!__atomic_load_n(&conf_is_ready, __ATOMIC_ACQUIRE))
		;
	v->stats = (struct guest_stats *)(GUEST_STATS_GPA + index * PAGE);
	set_work(v, index, cmdline);
	v->stats->magic = GUEST_STATS_MAGIC;
	v->stats->filled = 1;
	if (!index)
		outb(GUEST_PORT_CONSOLE, 'F');
	run(v);
}

void *memset(void *to, int c, size_t n)
{
	unsigned char *p = to;

	while (n--)
		*p++ = (unsigned char)c;
	return to;
}

void *memcpy(void *to, const void *from, size_t n)
{
	unsigned char *p = to;
	const unsigned char *q = from;

	while (n--)
		*p++ = *q++;
	return to;
}
