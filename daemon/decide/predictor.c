// SPDX-License-Identifier: GPL-2.0-or-later
/* Expected blackout: what is left over measured goodput, plus each measured cost. */
#include "predictor.h"

#define US 1000ULL
#define DEFAULT_GOODPUT 100000000ULL /* 1 Gbit/s less overhead: low until measured */
#define MIN_LEARN_BYTES (1ULL << 20) /* shorter sends measure latency, not goodput */

/* What a part is taken for before the first sample: on the slow side. */
static const uint64_t first_guess_ns[PART_NR] = {
	[PART_STOP] = 500 * US, [PART_PAGES] = 300 * US, [PART_SAVE] = 300 * US,
	[PART_LOAD] = 500 * US, [PART_START] = 500 * US,
};

static const char *const names[PART_NR] = { "stop", "pages", "save", "load", "start" };

void predictor_init(struct predictor *p)
{
	*p = (struct predictor){ .goodput = 0 };
	for (int i = 0; i < PART_NR; i++)
		p->mean_ns[i] = first_guess_ns[i];
}

/** predictor_learn() - PART_PAGES is learned as its fixed cost, without the bytes */
void predictor_learn(struct predictor *p, enum predictor_part part, uint64_t ns)
{
	uint64_t off;

	if (!p->nr[part]++) {
		p->mean_ns[part] = ns;
		p->dev_ns[part] = ns / 2;
		return;
	}
	off = ns > p->mean_ns[part] ? ns - p->mean_ns[part] : p->mean_ns[part] - ns;
	p->mean_ns[part] = (p->mean_ns[part] * 7 + ns) / 8;
	p->dev_ns[part] = (p->dev_ns[part] * 3 + off) / 4;
}

void predictor_learn_goodput(struct predictor *p, uint64_t bytes, uint64_t ns)
{
	uint64_t now;

	if (bytes < MIN_LEARN_BYTES || !ns)
		return;
	now = (uint64_t)((unsigned __int128)bytes * 1000000000ULL / ns);
	/* Falls at once, rises slowly: a bound, not a boast. */
	if (!p->goodput || now < p->goodput)
		p->goodput = p->goodput ? (p->goodput + now) / 2 : now;
	else
		p->goodput = (p->goodput * 3 + now) / 4;
}

uint64_t predictor_upper(const struct predictor *p, enum predictor_part part)
{
	return p->mean_ns[part] + 2 * p->dev_ns[part];
}

void predictor_predict(const struct predictor *p, uint64_t dirty_bytes, uint64_t state_bytes,
		       struct prediction *out)
{
	uint64_t goodput = p->goodput ? p->goodput : DEFAULT_GOODPUT;

	out->upper_ns = 0;
	for (int i = 0; i < PART_NR; i++) {
		out->part_ns[i] = predictor_upper(p, (enum predictor_part)i);
		if (i == PART_PAGES)
			out->part_ns[i] += (uint64_t)((unsigned __int128)(dirty_bytes + state_bytes) *
						      1000000000ULL / goodput);
		out->upper_ns += out->part_ns[i];
	}
}

const char *predictor_part_name(enum predictor_part part)
{
	return names[part];
}
