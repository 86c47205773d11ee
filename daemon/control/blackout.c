// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Blackouts and brownouts: the BPF probe, its readings, and the history of stops.
 *
 * Theory of operation: the probe is loaded when the daemon starts, for that takes tens of
 * milliseconds, and attached while a VM is watched. While a guest stands still it is only
 * read, from mapped memory. Without the right to load it all goes on, timed by the VMMs'
 * own word, and the report says so.
 *
 * The history is a file of one JSON object a line; the last ones are kept in memory. A
 * line that cannot be read is skipped.
 */
#include "blackout.h"

#include <errno.h>
#include <probe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/limited.h"

#define KEPT 1000

/** struct kept_line - one stop as a line of JSON, and the VM it was of */
struct kept_line {
	char *line, *vm;
};

struct blackouts {
	struct probe *probe;
	char why[200]; /* there is none */
	struct limited *limited;
	struct scribe *scribe;
	char *path;
	unsigned int lines; /* in the file */
	struct kept_line kept[KEPT]; /* a ring; as text they take a tenth of the memory */
	unsigned int nr_kept, at;
};

static void free_line(struct kept_line *k)
{
	free(k->line);
	free(k->vm);
}

/* Takes @line over. */
static void keep(struct blackouts *b, char *line, const char *vm)
{
	free_line(&b->kept[b->at]);
	b->kept[b->at] = (struct kept_line){ line, vm ? strdup(vm) : NULL };
	b->at = (b->at + 1) % KEPT;
	if (b->nr_kept < KEPT)
		b->nr_kept++;
}

/* The oldest is 0. */
static const struct kept_line *kept(const struct blackouts *b, unsigned int i)
{
	return &b->kept[(b->at + KEPT - b->nr_kept + i) % KEPT];
}

static void read_history(struct blackouts *b)
{
	FILE *f = fopen(b->path, "re");
	char line[4096];

	if (!f)
		return;
	while (fgets(line, sizeof(line), f)) {
		json_t *j = json_loads(line, 0, NULL);
		char *text = json_is_object(j) ? strdup(line) : NULL;

		b->lines++;
		if (text)
			keep(b, text, json_string_value(json_object_get(j, "vm")));
		json_decref(j);
	}
	fclose(f);
}

/** blackouts_open() - load the probe, read the history; without a probe it works, too */
int blackouts_open(struct scribe *s, struct limited *l, const char *history, struct blackouts **out)
{
	struct blackouts *b = calloc(1, sizeof(*b));

	if (!b)
		return -ENOMEM;
	b->scribe = s;
	b->limited = l;
	b->path = strdup(history);
	if (!b->path) {
		blackouts_close(b);
		return -ENOMEM;
	}
	read_history(b);
	if (probe_open(&b->probe, b->why, sizeof(b->why)))
		notice_report("vmferryd: no blackout probe: %s; blackouts are timed by the VMMs' own word", b->why);
	*out = b;
	return 0;
}

void blackouts_close(struct blackouts *b)
{
	if (!b)
		return;
	probe_close(b->probe);
	for (unsigned int i = 0; i < KEPT; i++)
		free_line(&b->kept[i]);
	free(b->path);
	free(b);
}

static json_int_t us(uint64_t ns)
{
	return (json_int_t)(ns / 1000);
}

static json_t *parts_json(const struct blackout_record *r)
{
	json_t *list = json_object();

	for (int i = 0; i < PART_NR; i++)
		json_object_set_new(list, predictor_part_name((enum predictor_part)i),
				    json_pack("{s:I, s:I, s:I}", "expected-us", us(r->expected.part[i].mean_ns),
					      "upper-us", us(r->expected.part[i].upper_ns), "actual-us",
					      us(r->actual_ns[i])));
	return list;
}

static json_t *record_json(const struct blackout_record *r)
{
	return json_pack("{s:I, s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:b, s:s, s:o}", "time",
			 (json_int_t)r->when_s, "vm", r->vm, "peer", r->peer, "end",
			 r->end == BLACKOUT_MOVED ? "moved" : "called-off", "limit-ms",
			 (json_int_t)(r->limit_ns / 1000000), "blackout-us", us(r->blackout_ns), "clock-error-us",
			 us(r->error_ns), "expected-us", us(r->expected.whole.mean_ns), "upper-us",
			 us(r->expected.whole.upper_ns), "cold", r->expected.is_cold, "timed-by",
			 blackout_by_name(r->by), "parts", parts_json(r));
}

/* The whole file from memory, once it holds twice what is kept. */
static char *all_lines(struct blackouts *b)
{
	size_t len = 1, at = 0;
	char *text;

	for (unsigned int i = 0; i < b->nr_kept; i++)
		len += strlen(kept(b, i)->line);
	text = malloc(len); /* at once: a stream that grows copies it all again and again */
	if (!text)
		return NULL;
	text[0] = '\0';
	for (b->lines = 0; b->lines < b->nr_kept; b->lines++)
		at = (size_t)(stpcpy(text + at, kept(b, b->lines)->line) - text);
	return text;
}

/** blackouts_add() - remember one more; written in the background */
void blackouts_add(struct blackouts *b, const struct blackout_record *r)
{
	json_t *j = record_json(r);
	char *text = json_dumps(j, JSON_COMPACT | JSON_PRESERVE_ORDER), *line = NULL;

	if (!text || asprintf(&line, "%s\n", text) < 0)
		line = NULL;
	free(text);
	json_decref(j);
	if (!line)
		return;
	keep(b, line, r->vm);
	if (++b->lines >= 2 * KEPT)
		scribe_replace(b->scribe, b->path, all_lines(b));
	else
		scribe_append(b->scribe, b->path, strdup(line));
}

static bool is_of(const struct kept_line *k, const char *vm)
{
	return !vm || (k->vm && !strcmp(vm, k->vm));
}

/**
 * blackouts_text() - the last @most, oldest first, as a JSON array; of @vm, or of all if it is NULL
 *
 * The lines are copied as they are: to parse a thousand of them would keep the loop for 10 ms.
 * Return: to be freed; NULL: no memory
 */
char *blackouts_text(const struct blackouts *b, const char *vm, size_t most)
{
	unsigned int first = b->nr_kept;
	size_t room = 3;
	char *text, *at;

	while (first && most) {
		const struct kept_line *k = kept(b, --first);

		if (!is_of(k, vm))
			continue;
		most--;
		room += strlen(k->line) + 1;
	}
	text = at = malloc(room);
	if (!text)
		return NULL;
	*at++ = '[';
	for (unsigned int i = first; i < b->nr_kept; i++) {
		const struct kept_line *k = kept(b, i);
		size_t len = strcspn(k->line, "\n");

		if (!is_of(k, vm))
			continue;
		if (at > text + 1)
			*at++ = ',';
		memcpy(at, k->line, len);
		at += len;
	}
	memcpy(at, "]", 2);
	return text;
}

/** blackouts_why() - why there is no probe; "" if there is one */
const char *blackouts_why(const struct blackouts *b)
{
	return b->why;
}

/**
 * blackout_watch() - have the probe watch the VMM @pid; blackout_say_watched() is due with the result
 *
 * Context: any thread; may block. It says nothing itself: limits of messages are the loop's.
 * Return: a slot, or a negative errno: nobody watches; -ENODEV: there is no probe
 */
int blackout_watch(struct blackouts *b, int pid)
{
	return b->probe ? probe_watch(b->probe, pid) : -ENODEV;
}

/** blackout_say_watched() - on the loop: if @slot, from blackout_watch(), is none, say why */
void blackout_say_watched(struct blackouts *b, int slot, int pid)
{
	if (slot < 0 && slot != -ENODEV)
		limited_notice(b->limited, LIMITED_INCOMING, "the probe cannot watch process %d: %s", pid,
			       strerror(-slot));
}

void blackout_unwatch(struct blackouts *b, int slot)
{
	if (slot >= 0)
		probe_unwatch(b->probe, slot);
}

/** blackout_arm() - all vCPUs stand still: the next entry is the first */
void blackout_arm(struct blackouts *b, int slot)
{
	if (slot >= 0)
		probe_arm(b->probe, slot);
}

/** blackout_last_exit_ns() - 0: the probe has seen none */
uint64_t blackout_last_exit_ns(const struct blackouts *b, int slot)
{
	return slot < 0 ? 0 : probe_last_exit_ns(b->probe, slot);
}

/** blackout_first_entry_ns() - since blackout_arm(); 0: none yet */
uint64_t blackout_first_entry_ns(const struct blackouts *b, int slot)
{
	return slot < 0 ? 0 : probe_first_entry_ns(b->probe, slot);
}

enum blackout_by blackout_by(const struct blackouts *b, int slot)
{
	if (slot < 0)
		return BLACKOUT_BY_VMM;
	return probe_sees_entries(b->probe, slot) ? BLACKOUT_BY_ENTRY : BLACKOUT_BY_KVM_RUN;
}

const char *blackout_by_name(enum blackout_by by)
{
	static const char *const names[] = { "nobody", "vmm", "kvm-run", "kvm-entry" };

	return by <= BLACKOUT_BY_ENTRY ? names[by] : names[0];
}

/** blackout_missed() - events that the kernel kept from the probe so far; system calls: not while a guest stands still */
uint64_t blackout_missed(const struct blackouts *b)
{
	return b->probe ? probe_missed(b->probe) : 0;
}

/** blackout_brownout() - of each vCPU since it is watched; Return: how many, 0 without a probe */
unsigned int blackout_brownout(const struct blackouts *b, int slot, struct brownout *to, unsigned int room)
{
	unsigned int nr = slot < 0 ? 0 : probe_nr_vcpus(b->probe, slot);

	for (unsigned int i = 0; i < nr && i < room; i++) {
		struct blackout_vcpu v;

		probe_vcpu(b->probe, slot, i, &v);
		to[i] = (struct brownout){ v.faults, v.fault_ns, v.pushes, v.fulls, v.full_ns };
	}
	return nr < room ? nr : room;
}
