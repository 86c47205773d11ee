/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef SIM_VMM_H
#define SIM_VMM_H

#include <stdbool.h>
#include <stdint.h>
#include <vmferry_vmm.h>

#define VMMS_MAX 8
#define VMM_MAX_CHANNELS 16

struct node;
struct end;
struct file;

/**
 * struct guest - what must run exactly once
 * @latest: the stamp of its last stop, or start; what starts must have that
 * @version: counts its starts; @moves: those by RUN
 * @lost: how the walk destroyed it, or NULL
 */
struct guest {
	char name[16];
	uint64_t latest, version, moves;
	const char *lost;
};

/** enum lie - how a VMM treats one request, other than well */
enum lie {
	LIE_NONE,
	LIE_REFUSE,	 /* not done, and says so */
	LIE_DENY,	 /* done, and says that it is not */
	LIE_CUT_BEFORE,	 /* not done, no answer: it connects anew */
	LIE_CUT_AFTER,	 /* done, no answer: it connects anew */
	LIE_FREEZE,	 /* does nothing for longer than the daemon waits, then goes on */
	LIE_DIE_BEFORE,
	LIE_DIE_AFTER,
	LIE_NR,
};

/**
 * struct vmm - a process that plays a VMM with libvmferry: vmm/libvmferry/session.c, without its threads
 * @runs: its guest runs; @was_incoming: it began without one
 * @stamp: of the guest that runs or is paused here; even while it runs
 * @loaded: the stamp of the state that was loaded; @ram: of what each channel has brought
 * @registered_at: since when it is registered; @loaded_at: the last LOAD
 * @asked: what it was asked last
 * @version: of the VMM protocol, the newest that it speaks; @last: the migration that it was told of
 * @load_us: what loading usually takes
 * @nr_refused: how often its registration was, since it was taken last
 * @refused_discard: no migration may use it any more, as its daemon says
 */
struct vmm {
	struct guest *guest;
	struct node *host;
	int pid;
	bool is_alive, runs, is_fresh, was_incoming, refused_discard;
	uint32_t run_state;
	uint64_t stamp, loaded;
	uint64_t ram[VMM_MAX_CHANNELS];
	unsigned int nr_channels;
	struct end *sock;
	enum { VMM_APART, VMM_GREETING, VMM_REGISTERING, VMM_SERVING } step;
	bool is_busy, is_due;
	uint64_t frozen_until, registered_at, loaded_at;
	struct vmferry_msg asked;
	uint8_t body[256];
	struct file *asked_file;
	enum lie lie;
	uint32_t lie_at; /* the request that it is for */
	unsigned int version, nr_refused, load_us;
	struct vmferry_msg_migration last;
};

extern struct vmm vmms[VMMS_MAX];
extern unsigned int nr_vmms;

void vmms_begin(void);
struct vmm *vmm_new(struct guest *g, struct node *host, bool is_incoming, unsigned int version);
void vmm_die(struct vmm *v, const char *how);
void vmm_cut(struct vmm *v);
void vmm_freeze(struct vmm *v, uint64_t ns);
void vmms_lose_power(const struct node *n);
int vmm_pid(const struct vmm *v);
void vmm_write_ram(struct vmm *v, unsigned int channel, uint64_t stamp);

/* Is told of each request before it is carried out, and after. */
extern void (*vmm_spy)(struct vmm *v, uint32_t type, bool is_done);

#endif
