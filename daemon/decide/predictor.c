// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * How long will the guest stand still? The sum of what follows one another.
 *
 *   stop -> harvest -> pages ----------------> state -> load + trip -> start
 *                      save (beside the pages; what is longer counts)
 *
 * Bytes cost what as many have cost in earlier blackouts; more than that what a low quantile
 * of recent rounds' goodput says: the last round is short, and a round's mean would promise
 * too much. A part of sending ends when the sockets have the last byte: what they and the
 * link still hold then is waited for in the trip. Devices cost by kind and size. What else a
 * part took is learned of the part. The parts' bounds seldom come true together: so the
 * whole's are taken from whole blackouts, once there are enough of them; until then one part
 * at a time is taken to be late, and to be sure all of them.
 */
#include "predictor.h"

#include <string.h>

#define US 1000ULL
#define DEFAULT_GOODPUT 100000000ULL /* 1 Gbit/s less overhead: low until measured */
#define MIN_LEARN_BYTES (1ULL << 20) /* shorter sends measure latency, not goodput */
#define ENOUGH 8		     /* whole blackouts, to go by them */
#define PERMILLE 1000000ULL	     /* a total of 1.0, in the estimate's unit */

/* What is taken for the cost of what was never measured: on the slow side. */
static const uint64_t first_guess_ns[PART_NR] = {
	[PART_STOP] = 300 * US, [PART_HARVEST] = 300 * US, [PART_PAGES] = 300 * US,
	[PART_SAVE] = 100 * US, [PART_STATE] = 200 * US,   [PART_LOAD] = 100 * US,
	[PART_TRIP] = 200 * US, [PART_START] = 400 * US,
};

#define GUESS_DEVICE_NS (200 * US)
#define GUESS_BYTES_A_SECOND 1000000000ULL /* what a device of unknown kind saves and loads */

static const char *const names[PART_NR] = { "stop",  "harvest", "pages", "save",
					    "state", "load",	"trip",	 "start" };

void predictor_init(struct predictor *p)
{
	memset(p, 0, sizeof(*p));
	for (int i = 0; i < PART_NR; i++)
		estimate_init(&p->part[i], first_guess_ns[i]);
	estimate_init(&p->resume, 1000 * US);
	estimate_init(&p->total, PERMILLE);
}

/** predictor_add_device() - of the guest; nothing is known of its cost yet */
void predictor_add_device(struct predictor *p, const char *name, const char *kind, uint64_t size)
{
	struct predictor_device *d = &p->device[p->nr_devices];
	uint64_t guess = GUESS_DEVICE_NS + size * 1000 / (GUESS_BYTES_A_SECOND / 1000000);

	if (p->nr_devices == PREDICTOR_DEVICES)
		return;
	p->nr_devices++;
	strncpy(d->name, name, sizeof(d->name) - 1);
	strncpy(d->kind, kind, sizeof(d->kind) - 1);
	d->size = size;
	estimate_init(&d->save, guess);
	estimate_init(&d->load, guess);
}

/** predictor_guess_trip() - a round trip as measured, for parts that hold one and were never measured themselves */
void predictor_guess_trip(struct predictor *p, uint64_t trip_ns)
{
	p->part[PART_TRIP].guess_ns = first_guess_ns[PART_TRIP] + trip_ns;
	p->part[PART_START].guess_ns = first_guess_ns[PART_START] + trip_ns / 2;
}

static uint64_t low_quartile(const uint64_t *of, uint32_t n)
{
	uint64_t v[PREDICTOR_ROUNDS];

	for (uint32_t i = 0; i < n; i++) {
		uint32_t k = i;

		for (; k && v[k - 1] > of[i]; k--)
			v[k] = v[k - 1];
		v[k] = of[i];
	}
	return v[n / 4];
}

/** predictor_learn_goodput() - a round sent @bytes in @ns */
void predictor_learn_goodput(struct predictor *p, uint64_t bytes, uint64_t ns)
{
	if (bytes < MIN_LEARN_BYTES || !ns)
		return;
	p->goodput[p->at_goodput] = (uint64_t)((unsigned __int128)bytes * 1000000000ULL / ns);
	p->at_goodput = (p->at_goodput + 1) % PREDICTOR_ROUNDS;
	if (p->nr_goodput < PREDICTOR_ROUNDS)
		p->nr_goodput++;
	p->low = low_quartile(p->goodput, p->nr_goodput); /* now, for it is asked for in blackouts */
}

/** predictor_goodput() - the low quartile of recent rounds, bytes a second; 0: none was measured */
uint64_t predictor_goodput(const struct predictor *p)
{
	return p->low;
}

/** predictor_bytes_ns() - what @bytes take over the channels */
uint64_t predictor_bytes_ns(const struct predictor *p, uint64_t bytes)
{
	uint64_t goodput = predictor_goodput(p);

	return (uint64_t)((unsigned __int128)bytes * 1000000000ULL / (goodput ? goodput : DEFAULT_GOODPUT));
}

/** predictor_learn_part() - @bytes: of PART_PAGES and PART_STATE, of PART_TRIP both; @ns: without what devices took of it */
void predictor_learn_part(struct predictor *p, enum predictor_part part, uint64_t bytes, uint64_t ns)
{
	estimate_learn(&p->part[part], bytes, ns);
}

/** predictor_learn_total() - a whole blackout, and what was expected of it when the guest was stopped */
void predictor_learn_total(struct predictor *p, uint64_t expected_ns, uint64_t ns)
{
	if (expected_ns)
		estimate_learn(&p->total, 0, (uint64_t)((unsigned __int128)ns * PERMILLE / expected_ns));
}

static void add(struct expected *to, const struct expected *e)
{
	to->mean_ns += e->mean_ns;
	to->likely_ns += e->likely_ns;
	to->upper_ns += e->upper_ns;
}

/* Of @bytes those that such a part has seen before. */
static void expect_known(const struct predictor *p, enum predictor_part part, uint64_t bytes, struct expected *to)
{
	uint64_t known = p->part[part].most;

	estimate_expect(&p->part[part], bytes < known ? bytes : known, to);
}

/* As far as such sizes were sent before, as those were; beyond, by goodput. */
static void expect_bytes(const struct predictor *p, enum predictor_part part, uint64_t bytes, struct expected *to)
{
	uint64_t more = predictor_bytes_ns(p, less(bytes, p->part[part].most));

	expect_known(p, part, bytes, to);
	add(to, &(struct expected){ more, more, more });
}

static void add_devices(const struct predictor *p, struct prediction *to, uint64_t *guessed)
{
	to->device = -1;
	for (unsigned int i = 0; i < p->nr_devices; i++) {
		const struct predictor_device *d = &p->device[i];
		struct expected save, load;

		estimate_expect(&d->save, d->size, &save);
		estimate_expect(&d->load, d->size, &load);
		add(&to->part[PART_SAVE], &save);
		add(&to->part[PART_LOAD], &load);
		to->is_cold |= !d->load.nr;
		*guessed += (d->save.nr ? 0 : save.mean_ns) + (d->load.nr ? 0 : load.mean_ns);
		if (to->device < 0 || save.mean_ns + load.mean_ns > to->device_ns) {
			to->device = (int)i;
			to->device_ns = save.mean_ns + load.mean_ns;
		}
	}
}

static uint64_t share(uint64_t ns, uint64_t permille)
{
	return (uint64_t)((unsigned __int128)ns * permille / PERMILLE);
}

static void sum_up(const struct predictor *p, struct prediction *to)
{
	struct expected total;
	uint64_t late = 0;

	to->whole = (struct expected){ 0, 0, 0 };
	for (int i = 0; i < PART_NR; i++) {
		add(&to->whole, &to->part[i]);
		if (less(to->part[i].likely_ns, to->part[i].mean_ns) > late)
			late = to->part[i].likely_ns - to->part[i].mean_ns;
	}
	to->whole.likely_ns = to->whole.mean_ns + late;
	to->sum_ns = to->whole.mean_ns;
	if (p->total.nr < ENOUGH)
		return;
	estimate_expect(&p->total, 0, &total);
	to->whole.mean_ns = share(to->sum_ns, total.mean_ns);
	to->whole.likely_ns = share(to->sum_ns, total.likely_ns);
	to->whole.upper_ns = share(to->sum_ns, total.upper_ns);
}

/**
 * predictor_predict() - a blackout that begins now
 * @rest_bytes: of pages: dirty now, and what is dirtied until the guest has stopped
 * @state_bytes: of devices' state
 */
void predictor_predict(const struct predictor *p, uint64_t rest_bytes, uint64_t state_bytes,
		       struct prediction *to)
{
	uint64_t pages_ns = predictor_bytes_ns(p, rest_bytes), state_ns = predictor_bytes_ns(p, state_bytes);
	struct expected *save = &to->part[PART_SAVE];
	uint64_t guessed = 0;

	*to = (struct prediction){ .rest_bytes = rest_bytes, .state_bytes = state_bytes,
				   .data_ns = pages_ns + state_ns };
	for (int i = 0; i < PART_NR; i++) {
		estimate_expect(&p->part[i], 0, &to->part[i]);
		to->is_cold |= !p->part[i].nr;
		guessed += p->part[i].nr ? 0 : to->part[i].mean_ns;
	}
	guessed += p->nr_goodput ? 0 : to->data_ns;
	add_devices(p, to, &guessed);
	expect_bytes(p, PART_PAGES, rest_bytes, &to->part[PART_PAGES]);
	expect_bytes(p, PART_STATE, state_bytes, &to->part[PART_STATE]);
	/* Buffers hold so much and no more: bytes that were never seen are the parts' that send them. */
	expect_known(p, PART_TRIP, rest_bytes + state_bytes, &to->part[PART_TRIP]);
	/* Saved beside the pages: only what is longer counts. */
	pages_ns = to->part[PART_PAGES].mean_ns;
	save->mean_ns = less(save->mean_ns, pages_ns);
	save->likely_ns = less(save->likely_ns, pages_ns);
	save->upper_ns = less(save->upper_ns, pages_ns);
	sum_up(p, to);
	to->measured_ns = less(to->sum_ns, guessed);
}

/** predictor_from() - the mean of @first and all parts after it */
uint64_t predictor_from(const struct prediction *p, enum predictor_part first)
{
	uint64_t sum = 0;

	for (int i = first; i < PART_NR; i++)
		sum += p->part[i].mean_ns;
	return sum;
}

/** predictor_resume_ns() - nearly the worst that resuming here has taken: so long before the limit it must be asked */
uint64_t predictor_resume_ns(const struct predictor *p)
{
	return estimate_worst(&p->resume);
}

/** predictor_start_ns() - nearly the worst that a start over there has taken: after GO nothing is called off */
uint64_t predictor_start_ns(const struct predictor *p)
{
	return estimate_worst(&p->part[PART_START]);
}

const char *predictor_part_name(enum predictor_part part)
{
	return names[part];
}
