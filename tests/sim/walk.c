// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * One walk: hosts, guests, migrations and faults from a seed; then peace, the operator's true word, and the judge.
 *
 * Theory of operation
 *
 *   plan      from the seed alone: hosts, guests, migrations, faults. To leave a fault out changes nothing else of the plan
 *   trouble   migrations and faults for TROUBLE_NS
 *   peace     all faults are mended, daemons that are down are started; migrations that go on for PATIENCE_NS more are called
 *             off; PEACE_NS pass
 *   the word  of each guest that is held the operator says what is true: it runs there, or nobody has it any more
 *   rest      some more time; then the judge looks at what is left. Where no fault was put in, a guest must have moved
 */
#include "walk.h"

#include <stdio.h>
#include <string.h>

#include "files.h"
#include "held.h"
#include "migration_private.h"
#include "net.h"
#include "node.h"
#include "stranger.h"
#include "world.h"

#define TROUBLE_NS (20 * S)
#define PATIENCE_NS (10 * S) /* then the operator calls off what goes on still */
#define PEACE_NS (120 * S)
#define REST_NS (40 * S)
#define MAX_MOVES 4

/** struct move - the operator asks for a migration of @guest at @at_ns, and again later if it is refused */
struct move {
	struct guest *guest;
	uint64_t at_ns;
	struct migration_params params;
	unsigned int tries;
	struct vmm *from, *to;
};

struct guest walk_guests[WALK_MAX_GUESTS];
unsigned int walk_nr_guests, walk_nr_moving; /* namesakes, which come last, do not move */

static struct move moves[MAX_MOVES];
static unsigned int nr_moves;
static struct walk *now;

bool walk_has_liars(void)
{
	for (unsigned int i = 0; i < now->nr_faults; i++)
		if (now->faults[i].kind == FAULT_MESSAGE && !now->faults[i].is_left_out)
			return true;
	return false;
}

/* ---- migrations ---- */

static void ask_for_move(void *arg);

static bool find_ends(struct move *m)
{
	m->from = m->to = NULL;
	for (unsigned int i = 0; i < nr_vmms; i++) {
		struct vmm *v = &vmms[i];

		if (v->guest != m->guest || !v->is_alive)
			continue;
		if (v->runs)
			m->from = v;
		else if (v->run_state == VMFERRY_RUN_INCOMING)
			m->to = v;
	}
	return m->from && m->to && m->to->step == VMM_SERVING && m->from->host->is_up;
}

static void start_move(void *arg)
{
	struct move *m = arg;
	struct node *n = m->from->host;
	struct vm *vm = vm_find(&n->f.vms, m->guest->name, false);
	char why[512] = "";

	if (vm && vm->peer_pid != m->from->pid)
		return; /* its namesake is registered: the operator sees that it is not the one he means */
	if (migration_start(&n->f, m->guest->name, m->to->host->peers, &m->params, why, sizeof(why))) {
		world_trace("%s: no migration of %s: %s", n->name, m->guest->name, why);
		return;
	}
	world_trace("%s: migrates %s to %s", n->name, m->guest->name, m->to->host->name);
	stranger_knows(migration_find(&n->f, m->guest->name)->id);
	m->tries = 100;
	now->nr_migrations++;
}

static void ask_for_move(void *arg)
{
	struct move *m = arg;

	if (find_ends(m)) {
		node_run(m->from->host, start_move, m);
		node_wake(m->from->host);
	}
	if (++m->tries < 4)
		world_after(200 * MS, ask_for_move, m);
}

/* ---- the plan ---- */

static void plan_params(struct migration_params *p, uint64_t r)
{
	static const unsigned int limits[] = { 300, 300, 100, 30, 5 };

	*p = migration_default_params;
	p->channels = 1 + (r & 1);
	p->strict = r >> 1 & 1;
	p->downtime_limit_ms = limits[(r >> 8) % 5];
	p->throttle = r >> 3 & 1;
	p->timeout_s = r >> 4 & 7 ? 0 : 3;
	p->timeout_action = (enum migration_timeout_action)((r >> 16) % 3);
}

static void plan_moves(uint64_t *stream)
{
	uint64_t r = splitmix64(stream);

	nr_moves = 1 + (unsigned int)(r & 3) % 3 + walk_nr_moving - 1;
	for (unsigned int i = 0; i < nr_moves; i++) {
		r = splitmix64(stream);
		moves[i] = (struct move){ .guest = &walk_guests[i % walk_nr_moving],
					  .at_ns = 4 * MS + (r >> 32) % (10 * MS) + (i / walk_nr_moving) * ((r >> 8) % (4 * S)) };
		plan_params(&moves[i].params, splitmix64(stream));
	}
}

static void namesake_comes(void *arg)
{
	(void)arg;
	vmm_new(&walk_guests[walk_nr_guests - 1], &nodes[1], false, 2);
}

/* Another guest of the first one's name runs where that shall go, from the beginning or from some time on. */
static void add_namesake(uint64_t r)
{
	struct guest *g = &walk_guests[walk_nr_guests++];

	memcpy(g->name, walk_guests[0].name, sizeof(g->name));
	world_after(r & 1 ? 0 : r % (300 * MS), namesake_comes, NULL);
}

static void make_world(uint64_t *stream)
{
	uint64_t r = splitmix64(stream);
	bool is_alone = !(r & 7); /* one daemon is both sides */

	walk_nr_guests = walk_nr_moving = 1 + !(r >> 3 & 3);
	nodes_begin(is_alone ? 1 : 2);
	vmms_begin();
	memset(walk_guests, 0, sizeof(walk_guests));
	for (unsigned int i = 0; i < walk_nr_guests; i++) {
		struct node *home = &nodes[is_alone ? 0 : i & (r >> 5)], *away = &nodes[is_alone ? 0 : home == &nodes[0]];

		snprintf(walk_guests[i].name, sizeof(walk_guests[i].name), "web%u", i + 1);
		vmm_new(&walk_guests[i], home, false, r >> 8 & 3 ? 2 : 1);
		vmm_new(&walk_guests[i], away, true, r >> 10 & 3 ? 2 : 1)->load_us = r >> 48 & 7 ? 500 : 20000;
	}
	if (!is_alone && !(r >> 12 & 15))
		add_namesake(r >> 16);
}

/* ---- the operator's true word ---- */

struct word {
	struct node *node;
	const char *name;
	bool run_here;
};

static void speak(void *arg)
{
	struct word *w = arg;
	char why[512] = "";
	int err = held_resolve(&w->node->f, w->name, w->run_here, why, sizeof(why));

	world_trace("%s: the operator says of %s: %s: %s", w->node->name, w->name, w->run_here ? "run it here" : "it is gone",
		    err ? why : "ok");
}

static void say(struct word w)
{
	if (!w.node->is_up)
		return;
	node_run(w.node, speak, &w);
	node_wake(w.node);
}

/* What has it or may start it, other than @v? */
static bool is_elsewhere(const struct vmm *v)
{
	for (unsigned int i = 0; i < nr_vmms; i++)
		if (&vmms[i] != v && vmms[i].guest == v->guest && vmms[i].is_alive &&
		    (vmms[i].runs || vmms[i].run_state == VMFERRY_RUN_LOADED))
			return true;
	return false;
}

static bool is_paused_at(const struct guest *g, const struct node *n)
{
	for (unsigned int i = 0; i < nr_vmms; i++)
		if (vmms[i].guest == g && vmms[i].host == n && vmms[i].is_alive && vmms[i].run_state == VMFERRY_RUN_PAUSED)
			return true;
	return false;
}

static void resolve_held(void)
{
	for (unsigned int i = 0; i < nr_vmms; i++) {
		const struct vmm *v = &vmms[i];

		/* It ran elsewhere after it stood still here? Then that is lost, and what is here is old. */
		if (v->is_alive && v->run_state == VMFERRY_RUN_PAUSED)
			say((struct word){ v->host, v->guest->name, !is_elsewhere(v) && v->stamp / 2 == v->guest->version });
	}
	/* A migration whose VMM has died while it was held is over, too. */
	for (unsigned int i = 0; i < nr_nodes; i++)
		for (const struct migration *m = nodes[i].is_up ? nodes[i].f.outgoing : NULL; m; m = m->next)
			for (unsigned int k = 0; k < walk_nr_moving; k++)
				if (m->status == MIGRATION_HELD && !strcmp(m->name, walk_guests[k].name) &&
				    !is_paused_at(&walk_guests[k], &nodes[i])) {
					say((struct word){ &nodes[i], walk_guests[k].name, false });
					return;
				}
}

/* ---- the walk ---- */

static void call_off(void *arg)
{
	struct node *n = arg;
	char why[512];

	for (unsigned int i = 0; i < walk_nr_guests; i++)
		if (!migration_cancel(&n->f, walk_guests[i].name, why, sizeof(why)))
			world_trace("%s: the operator gives up on %s", n->name, walk_guests[i].name);
}

/* Of two guests with one name at one host the operator stops the one that did not come from elsewhere. */
static void end_namesakes(void)
{
	for (unsigned int i = 0; i < nr_vmms; i++)
		if (vmms[i].is_alive && vmms[i].guest == &walk_guests[walk_nr_guests - 1] && walk_nr_guests > walk_nr_moving &&
		    judge_name_is_taken(&vmms[i]))
			vmm_die(&vmms[i], "the operator stops it");
}

/* A migration may go on for ever where the guest writes too much for its limit. */
static void end_migrations(void)
{
	for (unsigned int i = 0; i < nr_nodes; i++)
		if (nodes[i].is_up) {
			node_run(&nodes[i], call_off, &nodes[i]);
			node_wake(&nodes[i]);
		}
}

static void stop_all(void)
{
	for (unsigned int i = 0; i < nr_nodes; i++)
		node_term(&nodes[i]);
}

/* Both sides are one daemon, and one of the VMMs cannot say which side it is: that is refused. */
static bool is_refused(const struct guest *g)
{
	for (unsigned int i = 0; nr_nodes == 1 && i < nr_vmms; i++)
		if (vmms[i].guest == g && vmms[i].version < 2)
			return true;
	return false;
}

/* Another migration of its guest, which has a limit to keep, may stand in the way of @m, or have been the one that began. */
static bool has_limit(const struct move *m)
{
	for (unsigned int i = 0; i < nr_moves; i++)
		if (moves[i].guest == m->guest && (moves[i].params.strict || moves[i].params.timeout_s))
			return true;
	return false;
}

/* Where nothing goes wrong and no limit has to be kept, a migration ends over there. */
static void judge_quiet_walk(void)
{
	const struct move *m = &moves[0];

	for (unsigned int i = 0; i < walk_nr_moving; i++)
		if (is_refused(&walk_guests[i]) && walk_guests[i].moves)
			judge_fail("unrefused", "%s was moved within one daemon, with a VMM of protocol 1", walk_guests[i].name);
	for (int k = 0; k < FAULT_NR; k++)
		if (fault_counts[k])
			return;
	if (walk_nr_guests == walk_nr_moving && !has_limit(m) && !m->guest->moves && !is_refused(m->guest))
		judge_fail("stays", "%s was not moved, and nothing went wrong", m->guest->name);
}

static void count_moved(void)
{
	for (unsigned int i = 0; i < walk_nr_guests; i++)
		for (unsigned int k = 0; k < nr_vmms; k++)
			if (vmms[k].guest == &walk_guests[i] && vmms[k].runs && vmms[k].was_incoming)
				now->nr_moved++;
}

/** walk_run() - @w->seed and @w->left_out say which */
void walk_run(struct walk *w)
{
	uint64_t stream = w->seed * 2 + 1;

	now = w;
	memset(fault_counts, 0, sizeof(fault_counts));
	world_begin(w->seed);
	judge_begin();
	files_begin();
	net_begin();
	strangers_begin();
	make_world(&stream);
	plan_moves(&stream);
	w->nr_faults = faults_plan(w->faults, &stream);
	w->nr_migrations = w->nr_moved = 0;
	for (unsigned int i = 0; i < w->nr_faults; i++)
		w->faults[i].is_left_out = w->left_out >> i & 1;
	for (unsigned int i = 0; i < nr_nodes; i++)
		node_start(&nodes[i]);
	for (unsigned int i = 0; i < nr_moves; i++)
		world_after(moves[i].at_ns, ask_for_move, &moves[i]);
	faults_begin(w->faults, w->nr_faults);
	world_run_until(S + TROUBLE_NS);
	world_trace("peace");
	if (!world_is_over())
		faults_heal();
	world_run_until(S + TROUBLE_NS + PATIENCE_NS);
	if (!world_is_over()) {
		end_migrations();
		end_namesakes();
	}
	world_run_until(S + TROUBLE_NS + PEACE_NS);
	if (!world_is_over())
		resolve_held();
	world_run_until(S + TROUBLE_NS + PEACE_NS + REST_NS);
	count_moved();
	if (!world_is_over())
		judge_rest();
	judge_quiet_walk();
	if (!world_is_over())
		stop_all();
	w->verdict = judge_verdict;
	w->nr_events = world_nr_events();
}
