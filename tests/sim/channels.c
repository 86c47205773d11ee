// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Channels of a simulated daemon, in place of pages/channel_send.c and channel_recv.c, and where they place pages.
 *
 * A job is one record on its connection: the stamp that the guest's RAM has when it is sent, the mark behind it, and for
 * the job with the device state what the state file has. A receiver writes the stamp into the RAM of its VMM. Senders and
 * receivers act at random times, as their threads would; the owner cannot free them: they live until the walk ends.
 */
#include "pages/channel.h"

#include <errno.h>
#include <string.h>

#include "files.h"
#include "net.h"
#include "node.h"
#include "vmm.h"
#include "world.h"

void *__wrap_calloc(size_t nr, size_t len);
void __wrap_free(void *p);

struct record {
	uint32_t kind, mark_nr;
	uint64_t ram, state;
};

/* @vmm: whose RAM that is; @state: the file */
struct channel_sender {
	struct node *node;
	unsigned int life, index;
	int sock;
	struct channel_share *share;
	struct channel_job job;
	struct vmm *vmm;
	struct file *state;
	bool is_busy, is_closed, is_aborted;
	int err;
	uint64_t sent, waits_until;
};

struct channel_receiver {
	struct node *node;
	unsigned int life;
	int sock;
	struct channel_recv_config cfg;
	struct vmm *vmm;
	struct file *state;
	bool is_due, has_ended, is_closed, is_told_to_end;
	int err;
	uint32_t round, final;
};

struct place {
	struct vmm *vmm;
	int error;
};

/* ---- sending ---- */

int channel_send_open(int sock, unsigned int index, struct channel_share *share, struct channel_sender **out)
{
	struct channel_sender *c = world_alloc(sizeof(*c));

	if (node_starves()) {
		files_close(sock);
		return -ENOMEM;
	}
	*c = (struct channel_sender){ .node = node_now, .life = node_now->life, .index = index, .sock = sock, .share = share };
	c->vmm = files_get(share->regions[0].fd)->ram_of;
	c->state = files_get(share->state_fd);
	*out = c;
	return 0;
}

void channel_send_close(struct channel_sender *c)
{
	if (!c)
		return;
	c->is_closed = true;
	files_close(c->sock);
}

static void send_record(void *arg);

static void on_job(void *arg)
{
	struct channel_sender *c = arg;

	if (c->node->is_up && c->life == c->node->life && !c->is_closed && c->is_busy)
		node_run(c->node, send_record, c);
}

static void finish_job(struct channel_sender *c, int err)
{
	c->err = err;
	c->is_busy = false;
	loop_event_raise(c->share->event);
}

static void send_record(void *arg)
{
	struct channel_sender *c = arg;
	struct record r = { .kind = c->job.kind, .mark_nr = c->job.mark_nr, .ram = c->vmm->stamp, .state = c->state->content };
	int n;

	if (c->is_aborted || c->share->abort) {
		finish_job(c, -ECANCELED);
		return;
	}
	n = net_send(files_get(c->sock)->end, &r, sizeof(r), NULL, 0);
	if (n == -EAGAIN && world_now() < c->waits_until) {
		world_after(10 * MS, on_job, c);
		return;
	}
	c->sent += n > 0 ? 10000 : 0;
	finish_job(c, n == -EAGAIN ? -ETIMEDOUT : n < 0 ? n : 0);
}

void channel_send_start(struct channel_sender *c, const struct channel_job *job)
{
	c->job = *job;
	c->is_busy = true;
	c->waits_until = world_now() + 10 * S;
	world_after(world_delay(job->kind == CHANNEL_STATE ? 50 * US : 200 * US), on_job, c);
}

bool channel_send_is_done(struct channel_sender *c, int *err)
{
	*err = c->is_busy ? 0 : c->err;
	return !c->is_busy;
}

void channel_send_abort(struct channel_sender *c)
{
	c->is_aborted = true;
}

void channel_send_counters(const struct channel_sender *c, struct channel_counters *to)
{
	*to = (struct channel_counters){ .wire = c->sent, .busy_ns = c->sent };
}

/* ---- receiving ---- */

int channel_recv_open(const struct channel_recv_config *cfg, struct channel_receiver **out)
{
	struct channel_receiver *c = world_alloc(sizeof(*c));

	if (node_starves())
		return -ENOMEM;
	*c = (struct channel_receiver){ .node = node_now, .life = node_now->life, .sock = -1, .cfg = *cfg };
	c->vmm = cfg->place->vmm;
	c->vmm->nr_channels = cfg->nr_channels;
	c->vmm->ram[cfg->index] = 0;
	c->state = files_get(cfg->state_fd);
	*out = c;
	return 0;
}

static void end_receiver(struct channel_receiver *c, int err)
{
	c->has_ended = true;
	c->err = err;
	loop_event_raise(c->cfg.event);
}

static void take_record(struct channel_receiver *c, const struct record *r)
{
	if (r->kind == CHANNEL_STATE) {
		c->state->content = r->state;
		c->final = r->mark_nr;
	} else {
		vmm_write_ram(c->vmm, c->cfg.index, r->ram);
		c->round = r->mark_nr ? r->mark_nr : c->round;
	}
	loop_event_raise(c->cfg.event);
}

static void receive(void *arg)
{
	struct channel_receiver *c = arg;
	struct end *e = files_get(c->sock)->end;
	struct record r;

	while (net_readable(e) >= sizeof(r) && !c->has_ended) {
		net_read(e, &r, sizeof(r));
		if (r.kind != CHANNEL_ROUND && r.kind != CHANNEL_STATE)
			end_receiver(c, -EBADMSG);
		else
			take_record(c, &r);
	}
	if (!c->has_ended && (e->is_broken || e->has_ended))
		end_receiver(c, -ECONNRESET);
}

static void on_due(void *arg)
{
	struct channel_receiver *c = arg;

	c->is_due = false;
	if (c->node->is_up && c->life == c->node->life && !c->is_closed && !c->is_told_to_end && !c->has_ended)
		node_run(c->node, receive, c);
}

static void on_changed(struct end *e)
{
	struct channel_receiver *c = e->owner;

	if (c->is_due)
		return;
	c->is_due = true;
	world_after(world_delay(20 * US), on_due, c);
}

void channel_recv_connect(struct channel_receiver *c, int sock)
{
	struct end *e = files_get(sock)->end;

	c->sock = sock;
	e->owner = c;
	e->changed = on_changed;
	on_changed(e);
}

bool channel_recv_is_connected(const struct channel_receiver *c)
{
	return c->sock >= 0;
}

void channel_recv_end(struct channel_receiver *c)
{
	if (c)
		c->is_told_to_end = true;
}

void channel_recv_close(struct channel_receiver *c)
{
	if (!c)
		return;
	c->is_closed = true;
	if (c->sock >= 0)
		files_close(c->sock);
}

uint32_t channel_recv_mark(const struct channel_receiver *c, enum packet_mark mark)
{
	return mark == PACKET_FINAL ? c->final : c->round;
}

bool channel_recv_ended(const struct channel_receiver *c, int *err)
{
	*err = c->err;
	return c->has_ended;
}

/* ---- where pages go ---- */

int place_open(struct region *regions, unsigned int nr_regions, struct place **out)
{
	struct place *p = __wrap_calloc(1, sizeof(*p));

	(void)nr_regions;
	if (!p)
		return -ENOMEM;
	p->vmm = files_get(regions[0].fd)->ram_of;
	*out = p;
	return 0;
}

void place_close(struct place *p)
{
	__wrap_free(p);
}

void place_cease(struct place *p)
{
	(void)p;
}

enum place_huge place_huge_pages(const struct place *p)
{
	(void)p;
	return PLACE_SMALL;
}

int place_ahead(struct place *p, unsigned int region, const uint8_t *blocks, uint64_t nr_blocks)
{
	(void)p;
	(void)blocks;
	(void)nr_blocks;
	return region ? -EBADMSG : 0;
}

int place_error(const struct place *p)
{
	return p->error;
}
