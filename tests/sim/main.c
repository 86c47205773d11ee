// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Deterministic simulation of vmferryd: many walks, each from its seed; prints KTAP, and what it found.
 *
 *   sim --walks N [--seed FIRST] [--jobs J] [--known FILE] [--arcs] [--least N]
 *   sim --one SEED [--without BITS] [--trace]
 *
 * Theory of operation
 *
 * Whole daemons run in this process, on a clock, a network, a disk and VMMs that are simulated; a walk makes no call of the
 * kernel. See walk.c for what happens in a walk, judge.c for what it must not come to.
 *
 * A walk that fails is repeated without each of its faults in turn: what is left are the faults that it needs. Findings
 * with one verdict and the same kinds of faults count as one. The file of known findings (tests/sim/known) names those
 * that are not mended yet; they do not fail the run, and those that did not occur are listed: they are mended, or rare.
 *
 * What a walk does not see: the kernel's sockets, threads that overlap, libvmferry's own code, connect.c and peer/dial.c,
 * real pages. For these there are tests over processes.
 */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "arcs.h"
#include "walk.h"
#include "world.h"

#define MAX_FINDINGS 128
#define MAX_KNOWN 64
#define MAX_JOBS 64
#define WALK_LIMIT_S 60
#define REPEAT_EVERY 61 /* walks of which one is repeated, and of which the clock looks after all; a prime: each job has some */

/** struct finding - what walks came to; @faults: kinds that the first one needs, a bit each */
struct finding {
	char kind[JUDGE_KIND_LEN];
	uint32_t faults, left_out;
	uint64_t seed, times;
	char text[JUDGE_TEXT_LEN];
};

/** struct total - of one process; in memory that its parent shares */
struct total {
	uint64_t walks, failed, events, migrations, moved, at;
	uint64_t faults[FAULT_NR];
	struct arcs arcs;
	struct finding findings[MAX_FINDINGS];
	unsigned int nr_findings, nr_more;
};

struct known {
	char item[16], kind[JUDGE_KIND_LEN];
	uint32_t faults;
	uint64_t times;
};

static struct {
	uint64_t walks, first, one, least;
	uint32_t without;
	unsigned int jobs;
	bool is_one, shows_arcs;
	const char *known;
} options = { .walks = 20000, .first = 1, .jobs = 0 };

static struct known known[MAX_KNOWN];
static unsigned int nr_known;
static struct total *mine; /* of this process */

/* ---- findings ---- */

static uint32_t kinds_of(const struct walk *w)
{
	uint32_t kinds = 0;

	for (unsigned int i = 0; i < w->nr_faults; i++)
		if (!(w->left_out >> i & 1))
			kinds |= 1U << w->faults[i].kind;
	return kinds;
}

static const char *kinds_words(uint32_t kinds, char *text, size_t len)
{
	size_t n = 0;

	text[0] = '\0';
	for (int k = 0; k < FAULT_NR; k++)
		if (kinds >> k & 1)
			n += (size_t)snprintf(text + n, len - n, "%s%s", n ? "+" : "", fault_names[k]);
	return n ? text : "-";
}

/* Leaves out each fault without which the verdict is the same. */
static void shrink(struct walk *w)
{
	struct walk best = *w;

	for (unsigned int i = 0; i < w->nr_faults; i++) {
		struct walk try = { .seed = w->seed, .left_out = best.left_out | 1U << i };

		if (best.left_out >> i & 1)
			continue;
		walk_run(&try);
		if (!strcmp(try.verdict.kind, w->verdict.kind))
			best = try;
	}
	*w = best;
}

static void note_finding(struct total *t, const struct walk *w)
{
	uint32_t kinds = kinds_of(w);
	struct finding *f;

	for (unsigned int i = 0; i < t->nr_findings; i++) {
		f = &t->findings[i];
		if (f->faults == kinds && !strcmp(f->kind, w->verdict.kind)) {
			f->times++;
			return;
		}
	}
	if (t->nr_findings == MAX_FINDINGS) {
		t->nr_more++;
		return;
	}
	f = &t->findings[t->nr_findings++];
	*f = (struct finding){ .faults = kinds, .left_out = w->left_out, .seed = w->seed, .times = 1 };
	memcpy(f->kind, w->verdict.kind, sizeof(f->kind));
	memcpy(f->text, w->verdict.text, sizeof(f->text));
}

static void merge(struct total *to, const struct total *from)
{
	to->walks += from->walks;
	to->failed += from->failed;
	to->events += from->events;
	to->migrations += from->migrations;
	to->moved += from->moved;
	to->nr_more += from->nr_more;
	for (int k = 0; k < FAULT_NR; k++)
		to->faults[k] += from->faults[k];
	arcs_add(&to->arcs, &from->arcs);
	for (unsigned int i = 0; i < from->nr_findings; i++) {
		const struct finding *f = &from->findings[i];
		unsigned int k = 0;

		while (k < to->nr_findings && (to->findings[k].faults != f->faults || strcmp(to->findings[k].kind, f->kind)))
			k++;
		if (k < to->nr_findings) {
			uint64_t times = to->findings[k].times + f->times;

			if (f->seed < to->findings[k].seed)
				to->findings[k] = *f;
			to->findings[k].times = times;
		} else if (k < MAX_FINDINGS) {
			to->findings[k] = *f;
			to->nr_findings++;
		} else {
			to->nr_more++;
		}
	}
}

/* ---- what is known ---- */

static bool take_kinds(char *words, uint32_t *kinds)
{
	char *save, *word;

	*kinds = 0;
	if (!strcmp(words, "-"))
		return true;
	for (word = strtok_r(words, "+", &save); word; word = strtok_r(NULL, "+", &save)) {
		int k = 0;

		while (k < FAULT_NR && strcmp(word, fault_names[k]))
			k++;
		if (k == FAULT_NR)
			return false;
		*kinds |= 1U << k;
	}
	return true;
}

static void read_known(const char *path)
{
	FILE *f = fopen(path, "re");
	char line[256], words[128];

	if (!f) {
		perror(path);
		exit(2);
	}
	while (fgets(line, sizeof(line), f)) {
		struct known *k = &known[nr_known];

		if (line[0] == '#' || line[0] == '\n')
			continue;
		if (nr_known == MAX_KNOWN || sscanf(line, "%15s %23s %127s", k->item, k->kind, words) != 3 ||
		    !take_kinds(words, &k->faults)) {
			fprintf(stderr, "%s: bad line: %s", path, line);
			exit(2);
		}
		nr_known++;
	}
	fclose(f);
}

static struct known *find_known(const struct finding *f)
{
	for (unsigned int i = 0; i < nr_known; i++)
		if (!strcmp(known[i].kind, f->kind) && (known[i].faults & f->faults) == known[i].faults)
			return &known[i];
	return NULL;
}

/* ---- running ---- */

static void on_crash(int signal_nr)
{
	char text[100];
	int n = snprintf(text, sizeof(text), "# signal %d in the walk of seed %llu\n", signal_nr,
			 (unsigned long long)(mine ? mine->at : options.one));

	if (write(STDOUT_FILENO, text, (size_t)n) < 0)
		_exit(3);
	signal(signal_nr, SIG_DFL);
	raise(signal_nr);
}

/* A walk that comes to something else when it is repeated depends on more than its seed. */
static void repeat(struct walk *w)
{
	struct walk again = { .seed = w->seed };

	walk_run(&again);
	if (again.nr_events == w->nr_events && !memcmp(&again.verdict, &w->verdict, sizeof(w->verdict)))
		return;
	w->verdict = (struct verdict){ .kind = "differs" };
	snprintf(w->verdict.text, sizeof(w->verdict.text), "%llu events, and %llu the second time",
		 (unsigned long long)w->nr_events, (unsigned long long)again.nr_events);
}

static void run_walk(struct total *t, uint64_t seed)
{
	struct walk w = { .seed = seed };

	t->at = seed;
	if (!(seed % REPEAT_EVERY))
		alarm(WALK_LIMIT_S);
	walk_run(&w);
	t->walks++;
	t->events += w.nr_events;
	t->migrations += w.nr_migrations;
	t->moved += w.nr_moved;
	arcs_add(&t->arcs, &arcs);
	for (int k = 0; k < FAULT_NR; k++)
		t->faults[k] += fault_counts[k];
	if (!(seed % REPEAT_EVERY))
		repeat(&w);
	memset(&arcs, 0, sizeof(arcs));
	if (!w.verdict.kind[0])
		return;
	t->failed++;
	shrink(&w);
	note_finding(t, &w);
	memset(&arcs, 0, sizeof(arcs));
}

static void run_share(struct total *t, unsigned int job)
{
	mine = t;
	for (uint64_t i = job; i < options.walks; i += options.jobs)
		run_walk(t, options.first + i);
}

/* Return: how many processes did not end well. */
static int run_all(struct total *sum)
{
	struct total *totals = mmap(NULL, options.jobs * sizeof(*totals), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pids[MAX_JOBS];
	int bad = 0;

	if (totals == MAP_FAILED)
		abort();
	fflush(stdout);
	for (unsigned int i = 0; i < options.jobs; i++) {
		pids[i] = fork();
		if (pids[i] < 0)
			abort();
		if (!pids[i]) {
			run_share(&totals[i], i);
			_exit(0);
		}
	}
	for (unsigned int i = 0; i < options.jobs; i++) {
		int status;

		if (waitpid(pids[i], &status, 0) < 0 || status) {
			bad++;
			printf("# a process ended with status %#x in the walk of seed %llu\n", (unsigned int)status,
			       (unsigned long long)totals[i].at);
		}
		merge(sum, &totals[i]);
	}
	return bad;
}

static uint64_t seconds_since(const struct timespec *start)
{
	struct timespec end;

	clock_gettime(CLOCK_MONOTONIC, &end);
	return (uint64_t)(end.tv_sec - start->tv_sec);
}

static void print_sums(const struct total *t, uint64_t seconds)
{
	printf("# seeds %llu to %llu: %llu walks in %llu s, %llu events, %llu migrations begun, %llu guests moved\n",
	       (unsigned long long)options.first, (unsigned long long)(options.first + options.walks - 1),
	       (unsigned long long)t->walks, (unsigned long long)seconds, (unsigned long long)t->events,
	       (unsigned long long)t->migrations, (unsigned long long)t->moved);
	printf("# faults put in:");
	for (int k = 0; k < FAULT_NR; k++)
		printf(" %s %llu%s", fault_names[k], (unsigned long long)t->faults[k], k + 1 < FAULT_NR ? "," : "\n");
}

static int compare_seeds(const void *a, const void *b)
{
	uint64_t x = ((const struct finding *)a)->seed, y = ((const struct finding *)b)->seed;

	return x < y ? -1 : x > y;
}

static bool print_findings(struct total *t)
{
	bool is_good = true;
	char words[200];

	qsort(t->findings, t->nr_findings, sizeof(t->findings[0]), compare_seeds);
	for (unsigned int i = 0; i < t->nr_findings; i++) {
		const struct finding *f = &t->findings[i];
		struct known *k = find_known(f);

		if (k)
			k->times += f->times;
		is_good = is_good && k;
		printf("# %s%s: %s, with %s: %llu times; --one %llu --without %#x: %s\n", k ? "known, item " : "FINDING",
		       k ? k->item : "", f->kind, kinds_words(f->faults, words, sizeof(words)), (unsigned long long)f->times,
		       (unsigned long long)f->seed, f->left_out, f->text);
	}
	if (t->nr_more)
		printf("# and %u more findings\n", t->nr_more);
	for (unsigned int i = 0; i < nr_known; i++)
		if (!known[i].times)
			printf("# known finding that no longer occurs: item %s: %s with %s; strike it out of %s\n", known[i].item,
			       known[i].kind, kinds_words(known[i].faults, words, sizeof(words)), options.known);
	return is_good && !t->nr_more;
}

static int run_many(void)
{
	static struct total sum;
	struct timespec start;
	int bad;
	bool is_good, arcs_are_good;

	clock_gettime(CLOCK_MONOTONIC, &start);
	printf("TAP version 13\n1..3\n");
	bad = run_all(&sum);
	print_sums(&sum, seconds_since(&start));
	is_good = print_findings(&sum);
	printf("%sok 1 - no guest runs twice, none is lost, in %llu walks\n", is_good && sum.walks ? "" : "not ",
	       (unsigned long long)sum.walks);
	printf("%sok 2 - no walk crashes or hangs\n", bad ? "not " : "");
	arcs_are_good = arcs_print(&sum.arcs, options.least, options.shows_arcs);
	printf("%sok 3 - each arc that can be taken is taken %llu times, and no other\n", arcs_are_good ? "" : "not ",
	       (unsigned long long)options.least);
	return bad || !arcs_are_good || !is_good || !sum.walks;
}

static int run_one(void)
{
	struct walk w = { .seed = options.one, .left_out = options.without };
	char text[200];

	walk_run(&w);
	for (unsigned int i = 0; i < w.nr_faults; i++) {
		fault_describe(&w.faults[i], text, sizeof(text));
		printf("fault %u: %s%s\n", i, w.left_out >> i & 1 ? "(left out) " : "", text);
	}
	printf("%llu events; %s%s%s\n", (unsigned long long)w.nr_events, w.verdict.kind[0] ? w.verdict.kind : "no verdict",
	       w.verdict.kind[0] ? ": " : "", w.verdict.text);
	return w.verdict.kind[0] != '\0';
}

static void usage(void)
{
	puts("Usage: sim [OPTION...]   deterministic simulation of vmferryd\n"
	     "  --walks N      so many walks (20000)\n"
	     "  --seed N       the first one's seed (1); each next one's is one more\n"
	     "  --jobs N       so many processes (one a processor)\n"
	     "  --known FILE   findings that are known and not mended: lines ITEM VERDICT FAULT+FAULT\n"
	     "  --arcs         print how often each arc was taken\n"
	     "  --least N      fail if an arc that can be taken was taken less often (100 a million walks)\n"
	     "  --one SEED     one walk\n"
	     "  --without BITS leave these of its faults out\n"
	     "  --trace        say what happens");
}

static void take_options(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "walks", required_argument, NULL, 'w' }, { "seed", required_argument, NULL, 's' },
		{ "jobs", required_argument, NULL, 'j' },  { "known", required_argument, NULL, 'k' },
		{ "arcs", no_argument, NULL, 'a' },	   { "least", required_argument, NULL, 'l' },
		{ "one", required_argument, NULL, '1' },   { "without", required_argument, NULL, 'o' },
		{ "trace", no_argument, NULL, 't' },	   { "help", no_argument, NULL, 'h' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		uint64_t n = optarg ? strtoull(optarg, NULL, 0) : 0;

		switch (c) {
		case 'w':
			options.walks = n;
			break;
		case 's':
			options.first = n;
			break;
		case 'j':
			options.jobs = (unsigned int)n;
			break;
		case 'k':
			options.known = optarg;
			break;
		case 'a':
			options.shows_arcs = true;
			break;
		case 'l':
			options.least = n;
			break;
		case '1':
			options.is_one = true;
			options.one = n;
			break;
		case 'o':
			options.without = (uint32_t)n;
			break;
		case 't':
			world_is_traced = true;
			break;
		default:
			usage();
			exit(c == 'h' ? 0 : 2);
		}
	}
	if (!options.least && options.walks >= 1000000)
		options.least = options.walks / 10000;
	if (!options.jobs)
		options.jobs = (unsigned int)sysconf(_SC_NPROCESSORS_ONLN);
	if (options.jobs > MAX_JOBS)
		options.jobs = MAX_JOBS;
}

int main(int argc, char **argv)
{
	take_options(argc, argv);
	signal(SIGALRM, on_crash);
	signal(SIGSEGV, on_crash);
	signal(SIGBUS, on_crash);
	signal(SIGABRT, on_crash);
	if (options.known)
		read_known(options.known);
	return options.is_one ? run_one() : run_many();
}
