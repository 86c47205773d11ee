// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * "vmferry watch": how long the guest of any VMM on this host stands still, by the probe
 * alone. No daemon is asked, and the VMM need not know of it: a stock QEMU will do.
 *
 * A guest stands still while none of its vCPUs is in the guest, and all of them are in
 * user space: the time between the last exit and the first entry.
 */
#include <errno.h>
#include <poll.h>
#include <probe.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "client.h"
#include "histogram.h"

struct watched {
	struct probe *probe;
	int slot, pid;
	uint64_t min_ns;
	struct blackout_gap last[BLACKOUT_VCPUS]; /* of each vCPU; entry_ns 0: none, or told */
	struct histogram stalls;
	int as_json;
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
	(void)sig;
	interrupted = 1;
}

static void tell(struct watched *w, uint64_t from, uint64_t to, unsigned int nr)
{
	histogram_add(&w->stalls, (to - from) / 1000);
	if (w->as_json)
		printf("{\"from-ns\":%llu,\"stood-still-us\":%llu,\"vcpus\":%u}\n",
		       (unsigned long long)from, (unsigned long long)(to - from) / 1000, nr);
	else
		printf("%12.6f s  stood still %9.3f ms  (%u vCPU%s)\n", (double)from / 1e9,
		       (double)(to - from) / 1e6, nr, nr == 1 ? "" : "s");
	fflush(stdout);
}

/* A gap of one vCPU has ended: does it complete one of the whole guest? */
static void on_gap(void *arg, const struct blackout_gap *g)
{
	struct watched *w = arg;
	unsigned int nr = probe_nr_vcpus(w->probe, w->slot);
	uint64_t from = 0, to = UINT64_MAX;

	if (g->index >= BLACKOUT_VCPUS)
		return;
	w->last[g->index] = *g;
	for (unsigned int i = 0; i < nr; i++) {
		if (!w->last[i].entry_ns)
			return;
		from = w->last[i].exit_ns > from ? w->last[i].exit_ns : from;
		to = w->last[i].entry_ns < to ? w->last[i].entry_ns : to;
	}
	if (to <= from || to - from < w->min_ns)
		return;
	tell(w, from, to, nr);
	memset(w->last, 0, sizeof(w->last));
}

static void print_brownout(struct watched *w)
{
	bool by_entry = probe_sees_entries(w->probe, w->slot);

	printf("timed by %s\n", by_entry ? "guest exits and entries" :
	       "KVM_RUN, for this kernel shows no guest entries");
	for (unsigned int i = 0; i < probe_nr_vcpus(w->probe, w->slot); i++) {
		struct blackout_vcpu v;

		probe_vcpu(w->probe, w->slot, i, &v);
		printf("vCPU %u: %llu pages logged dirty; %llu page faults", i, v.pushes, v.faults);
		if (by_entry)
			printf(" in %.3f ms", (double)v.fault_ns / 1e6);
		printf("; %llu full rings in %.3f ms\n", v.fulls, (double)v.full_ns / 1e6);
	}
	if (probe_lost(w->probe))
		printf("lost: %llu records for want of room\n", (unsigned long long)probe_lost(w->probe));
	if (probe_missed(w->probe))
		printf("missed: %llu events, kept from the probe by the kernel: counts may be too low%s\n",
		       (unsigned long long)probe_missed(w->probe), by_entry ? "" : ", times too long");
}

/** watch_stalls() - tell of each stall of @min_ms or more of process @pid's guest; Return: exit code */
int watch_stalls(int pid, double min_ms, double seconds, int as_json)
{
	struct sigaction sa = { .sa_handler = on_interrupt };
	struct watched w = { .pid = pid, .min_ns = (uint64_t)(min_ms * 1e6), .as_json = as_json };
	char why[256] = "";
	int err = probe_open(&w.probe, why, sizeof(why)), left = (int)(seconds * 10);

	if (err) {
		fprintf(stderr, "vmferry: the probe cannot be loaded: %s\n", why);
		return EXIT_REFUSED;
	}
	err = probe_follow_gaps(w.probe, w.min_ns, on_gap, &w);
	w.slot = err ? err : probe_watch(w.probe, pid);
	if (w.slot < 0) {
		fprintf(stderr, "vmferry: process %d cannot be watched: %s\n", pid,
			w.slot == -ENOENT ? "no KVM on this host" : strerror(-w.slot));
		probe_close(w.probe);
		return EXIT_REFUSED;
	}
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	while (!interrupted && (seconds <= 0 || left-- > 0) && !kill(pid, 0)) {
		struct pollfd pfd = { .fd = probe_gaps_fd(w.probe), .events = POLLIN };

		poll(&pfd, 1, 100);
		probe_take_gaps(w.probe);
	}
	if (!as_json) {
		histogram_print(&w.stalls);
		print_brownout(&w);
	}
	probe_unwatch(w.probe, w.slot);
	probe_close(w.probe);
	return EXIT_OK;
}
