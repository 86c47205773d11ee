// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * User space's half of the blackout probe: loaded, attached, read. Knows of processes and
 * vCPUs, nothing of migrations.
 *
 * Theory of operation: the programs are loaded once, and attached only while some process
 * is watched: nobody else pays for them. Records are read where the programs write them;
 * each has one writer, its fields are read one by one and may be of different moments
 * unless the vCPU stands still.
 *
 * Attaching and detaching takes milliseconds and is for threads that may wait: @lock makes them take turns.
 * Reading takes no lock: a slot's records stay where they are, and one slot is of no concern to another.
 */
#include "probe.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <bpf/bpf.h>

#include "blackout.skel.h"

#define NR_PROGS 8
#define NR_ALWAYS 6 /* the others stand in where no entries are shown */

struct probe {
	struct blackout_bpf *skel;
	struct ring_buffer *gaps;
	pthread_mutex_t lock;
	struct bpf_link *links[NR_PROGS];   /* @lock */
	int pid[BLACKOUT_SLOTS];	    /* @lock; 0: free */
	unsigned int users[BLACKOUT_SLOTS]; /* @lock */
	unsigned int watched;		    /* @lock */
	bool entries_fire; /* somewhere on this host they were seen; atomic, relaxed */
	probe_gap_fn gap;
	void *gap_arg;
	int64_t clock_shift_ns; /* our clock less the host's: a time namespace */
};

static char last_words[160];

static int keep_words(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	if (level == LIBBPF_WARN && !last_words[0])
		vsnprintf(last_words, sizeof(last_words), fmt, ap);
	return 0;
}

/* BPF's clock is the host's; ours is our time namespace's. */
static int64_t clock_shift(void)
{
	FILE *f = fopen("/proc/self/timens_offsets", "re");
	long long s = 0, ns = 0, shift = 0;
	char name[32];

	if (!f)
		return 0;
	while (fscanf(f, "%31s %lld %lld", name, &s, &ns) == 3)
		if (!strcmp(name, "monotonic"))
			shift = s * 1000000000LL + ns;
	fclose(f);
	return shift;
}

static uint64_t ours(const struct probe *p, unsigned long long ns)
{
	return ns ? ns + (uint64_t)p->clock_shift_ns : 0;
}

/**
 * probe_open() - load the programs; none is attached yet
 * @why: words on failure: no right to, no BTF, a kernel that is too old
 */
int probe_open(struct probe **out, char *why, size_t len)
{
	struct probe *p = calloc(1, sizeof(*p));
	int err;

	if (!p)
		return -ENOMEM;
	pthread_mutex_init(&p->lock, NULL);
	last_words[0] = '\0';
	libbpf_set_print(keep_words);
	p->clock_shift_ns = clock_shift();
	p->skel = blackout_bpf__open();
	err = p->skel ? blackout_bpf__load(p->skel) : -errno;
	if (err) {
		snprintf(why, len, "%s%s%.*s", err == -EPERM ? "needs CAP_BPF and CAP_PERFMON (root)" : strerror(-err),
			 last_words[0] ? ": " : "", (int)strcspn(last_words, "\n"), last_words);
		probe_close(p);
		return err;
	}
	*out = p;
	return 0;
}

static void detach(struct probe *p)
{
	for (int i = 0; i < NR_PROGS; i++) {
		bpf_link__destroy(p->links[i]);
		p->links[i] = NULL;
	}
}

void probe_close(struct probe *p)
{
	if (!p)
		return;
	detach(p);
	ring_buffer__free(p->gaps);
	blackout_bpf__destroy(p->skel);
	pthread_mutex_destroy(&p->lock);
	free(p);
}

/* A tracepoint that this kernel lacks is done without; too few to see anything is an error. */
static int attach(struct probe *p)
{
	struct bpf_program *const progs[NR_PROGS] = {
		p->skel->progs.on_return, p->skel->progs.on_entry, p->skel->progs.on_exit,
		p->skel->progs.on_wakeup, p->skel->progs.on_fault, p->skel->progs.on_push,
		p->skel->progs.on_run, p->skel->progs.on_switch,
	};

	for (int i = 0; i < (__atomic_load_n(&p->entries_fire, __ATOMIC_RELAXED) ? NR_ALWAYS : NR_PROGS); i++) {
		if (p->links[i])
			continue;
		p->links[i] = bpf_program__attach(progs[i]);
		if (!p->links[i] && i == 0)
			return -errno;
	}
	return 0;
}

static struct blackout_vcpu *record(const struct probe *p, int slot, unsigned int index)
{
	return &p->skel->bss->vcpus[(unsigned int)slot * BLACKOUT_VCPUS + index];
}

static int watch_locked(struct probe *p, int pid)
{
	uint32_t key = (uint32_t)pid, value;
	int slot = 0, err;

	for (int i = 0; i < BLACKOUT_SLOTS; i++)
		if (p->pid[i] == pid) {
			p->users[i]++;
			return i;
		}
	while (slot < BLACKOUT_SLOTS && p->pid[slot])
		slot++;
	if (slot == BLACKOUT_SLOTS)
		return -EBUSY;
	memset(record(p, slot, 0), 0, BLACKOUT_VCPUS * sizeof(struct blackout_vcpu));
	value = (uint32_t)slot;
	if (bpf_map_update_elem(bpf_map__fd(p->skel->maps.targets), &key, &value, BPF_NOEXIST))
		return -errno;
	err = attach(p);
	if (err) {
		bpf_map_delete_elem(bpf_map__fd(p->skel->maps.targets), &key);
		return err;
	}
	p->pid[slot] = pid;
	p->users[slot] = 1;
	p->watched++;
	return slot;
}

/**
 * probe_watch() - note the vCPUs of process @pid from now on
 *
 * Context: any thread that may wait for milliseconds: the first one attaches the programs.
 * Return: a slot; -EBUSY: all are taken; -ENOENT: no KVM here
 */
int probe_watch(struct probe *p, int pid)
{
	int slot;

	pthread_mutex_lock(&p->lock);
	slot = watch_locked(p, pid);
	pthread_mutex_unlock(&p->lock);
	return slot;
}

static void unwatch_locked(struct probe *p, int slot)
{
	uint32_t key;

	if (!p->pid[slot] || --p->users[slot])
		return;
	if (probe_sees_entries(p, slot))
		__atomic_store_n(&p->entries_fire, true, __ATOMIC_RELAXED);
	key = (uint32_t)p->pid[slot];
	bpf_map_delete_elem(bpf_map__fd(p->skel->maps.targets), &key);
	for (unsigned int i = 0; i < BLACKOUT_VCPUS; i++) {
		key = record(p, slot, i)->tid;
		if (key)
			bpf_map_delete_elem(bpf_map__fd(p->skel->maps.threads), &key);
	}
	p->pid[slot] = 0;
	if (!--p->watched)
		detach(p);
}

/** probe_unwatch() - give the slot back; the last one detaches the programs; -1 is fine. Context: as probe_watch() */
void probe_unwatch(struct probe *p, int slot)
{
	if (!p || slot < 0)
		return;
	pthread_mutex_lock(&p->lock);
	unwatch_locked(p, slot);
	pthread_mutex_unlock(&p->lock);
}

/** probe_arm() - all vCPUs stand still: the next entry of each is its first */
void probe_arm(struct probe *p, int slot)
{
	if (p && slot >= 0)
		__atomic_add_fetch(&p->skel->bss->epoch[slot], 1, __ATOMIC_SEQ_CST);
}

/** probe_nr_vcpus() - one more than the highest index seen */
unsigned int probe_nr_vcpus(const struct probe *p, int slot)
{
	unsigned int n = BLACKOUT_VCPUS;

	while (n && !record(p, slot, n - 1)->tid)
		n--;
	return n;
}

/** probe_vcpu() - the record of one vCPU as it is now, on our clock */
void probe_vcpu(const struct probe *p, int slot, unsigned int index, struct blackout_vcpu *to)
{
	*to = *(volatile struct blackout_vcpu *)record(p, slot, index);
	to->exit_ns = ours(p, to->exit_ns);
	to->entry_ns = ours(p, to->entry_ns);
	to->return_ns = ours(p, to->return_ns);
	to->run_ns = ours(p, to->run_ns);
	to->blocked_ns = ours(p, to->blocked_ns);
	to->first_entry_ns = ours(p, to->first_entry_ns);
	to->first_run_ns = ours(p, to->first_run_ns);
}

/** probe_sees_entries() - does this kernel show guest entries? Else it is KVM_RUN that is timed */
bool probe_sees_entries(const struct probe *p, int slot)
{
	for (unsigned int i = 0; i < BLACKOUT_VCPUS; i++)
		if (record(p, slot, i)->entries)
			return true;
	return false;
}

/** probe_last_exit_ns() - when the last vCPU left the guest, or its halt; 0: none was seen */
uint64_t probe_last_exit_ns(const struct probe *p, int slot)
{
	bool by_entry = probe_sees_entries(p, slot);
	uint64_t last = 0;

	for (unsigned int i = 0; i < BLACKOUT_VCPUS; i++) {
		struct blackout_vcpu v;
		uint64_t at;

		probe_vcpu(p, slot, i, &v);
		at = !by_entry ? v.return_ns : v.exit_ns > v.blocked_ns ? v.exit_ns : v.blocked_ns;
		if (v.tid && at > last)
			last = at;
	}
	return last;
}

/** probe_first_entry_ns() - the first entry of any vCPU since probe_arm(); 0: none yet */
uint64_t probe_first_entry_ns(const struct probe *p, int slot)
{
	uint32_t epoch = p->skel->bss->epoch[slot];
	bool by_entry = __atomic_load_n(&p->entries_fire, __ATOMIC_RELAXED) || probe_sees_entries(p, slot);
	uint64_t first = 0;

	for (unsigned int i = 0; i < BLACKOUT_VCPUS; i++) {
		struct blackout_vcpu v;
		uint64_t at = 0;

		probe_vcpu(p, slot, i, &v);
		if (by_entry ? v.entry_epoch == epoch : v.run_epoch == epoch)
			at = by_entry ? v.first_entry_ns : v.first_run_ns;
		if (v.tid && at && (!first || at < first))
			first = at;
	}
	return first;
}

/** probe_lost() - gaps and vCPUs for which there was no room */
uint64_t probe_lost(const struct probe *p)
{
	return p->skel->bss->lost;
}

/**
 * probe_missed() - events that the kernel kept from the programs since they were loaded, of all processes
 *
 * For the same program was put aside on that processor, for another thread: see blackout.bpf.c. A system call a
 * program: not for while a guest stands still.
 */
uint64_t probe_missed(const struct probe *p)
{
	struct bpf_program *prog;
	uint64_t sum = 0;

	bpf_object__for_each_program(prog, p->skel->obj) {
		struct bpf_prog_info info = { 0 };
		uint32_t len = sizeof(info);

		if (!bpf_obj_get_info_by_fd(bpf_program__fd(prog), &info, &len))
			sum += info.recursion_misses;
	}
	return sum;
}

static int on_gap(void *ctx, void *at, size_t len)
{
	struct probe *p = ctx;
	struct blackout_gap g;

	if (len != sizeof(g))
		return 0;
	memcpy(&g, at, sizeof(g));
	g.exit_ns = ours(p, g.exit_ns);
	g.entry_ns = ours(p, g.entry_ns);
	p->gap(p->gap_arg, &g);
	return 0;
}

/** probe_follow_gaps() - @fn is told, by probe_take_gaps(), of each gap of @min_ns or more */
int probe_follow_gaps(struct probe *p, uint64_t min_ns, probe_gap_fn fn, void *arg)
{
	p->gap = fn;
	p->gap_arg = arg;
	p->skel->data->min_gap_ns = min_ns;
	if (!p->gaps)
		p->gaps = ring_buffer__new(bpf_map__fd(p->skel->maps.gaps), on_gap, p, NULL);
	return p->gaps ? 0 : -errno;
}

/** probe_gaps_fd() - readable when there are gaps to take */
int probe_gaps_fd(const struct probe *p)
{
	return ring_buffer__epoll_fd(p->gaps);
}

void probe_take_gaps(struct probe *p)
{
	ring_buffer__consume(p->gaps);
}
