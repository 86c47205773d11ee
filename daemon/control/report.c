// SPDX-License-Identifier: GPL-2.0-or-later
/* The account of one migration as JSON, with QEMU's names where it has one. */
#include "report.h"

#include <stdio.h>
#include <string.h>

#include "base/text.h"

static json_int_t ms(uint64_t ns)
{
	return (json_int_t)(ns / 1000000);
}

static json_int_t us(uint64_t ns)
{
	return (json_int_t)(ns / 1000);
}

static json_t *rounds(const struct migration_report *r)
{
	static const char *const advice[] = { "go-on", "switch", "throttle", "stalled" };
	json_t *list = json_array();

	for (unsigned int i = 0; i < r->nr_rounds; i++) {
		const struct migration_round *o = &r->rounds[i];

		json_array_append_new(list, json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "pages",
						      (json_int_t)o->pages, "bytes", (json_int_t)o->bytes, "time-us",
						      us(o->ns), "end-us", us(o->end_ns), "dirty-pages",
						      (json_int_t)o->dirty, "expected-us", us(o->expected_ns),
						      "upper-us", us(o->upper_ns), "bound-us", us(o->bound_ns),
						      "advice", advice[o->advice & 3]));
	}
	return list;
}

static json_t *parts(const struct migration_report *r, bool is_over)
{
	json_t *list = json_object();

	for (int i = 0; i < PART_NR; i++) {
		const struct expected *e = &r->predicted.part[i];
		json_t *part = json_pack("{s:I, s:I}", "expected-us", us(e->mean_ns), "upper-us", us(e->upper_ns));

		if (is_over)
			json_object_set_new(part, "actual-us", json_integer(us(r->actual_ns[i])));
		json_object_set_new(list, predictor_part_name((enum predictor_part)i), part);
	}
	return list;
}

static json_t *prediction(const struct migration_report *r)
{
	const struct prediction *p = &r->predicted;

	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:b}", "expected-us", us(p->whole.mean_ns), "upper-us",
			 us(p->whole.upper_ns), "data-us", us(p->data_ns), "rest-bytes", (json_int_t)p->rest_bytes,
			 "state-bytes", (json_int_t)p->state_bytes, "cold", p->is_cold);
}

static json_t *decisions(const struct migration_report *r)
{
	json_t *list = json_array();

	for (unsigned int i = 0; i < r->nr_decisions; i++)
		json_array_append_new(list, json_pack("{s:I, s:s}", "at-us", us(r->decisions[i].at_ns), "text",
						      r->decisions[i].text));
	return list;
}

/* Without a probe, or where the kernel does not show it, a figure is left out: not zero. */
static json_t *brownout(const struct migration_report *r)
{
	json_t *list = json_array();

	for (unsigned int i = 0; i < r->nr_vcpus; i++) {
		const struct brownout *b = &r->brownout[i];
		json_t *v = json_pack("{s:i, s:I}", "vcpu", (int)i, "throttled-us", us(r->vcpu_throttled_ns[i]));

		if (i < r->nr_brownouts) {
			json_object_set_new(v, "dirty-pages", json_integer((json_int_t)b->pushes));
			json_object_set_new(v, "rings-full", json_integer((json_int_t)b->fulls));
			json_object_set_new(v, "rings-full-us", json_integer(us(b->full_ns)));
		}
		if (i < r->nr_brownouts && b->fault_ns) {
			json_object_set_new(v, "faults", json_integer((json_int_t)b->faults));
			json_object_set_new(v, "faults-us", json_integer(us(b->fault_ns)));
		}
		json_array_append_new(list, v);
	}
	return list;
}

static json_t *ram(struct migration *m, const struct migration_report *r, uint64_t total)
{
	const struct channel_counters *c = &r->counters;
	uint64_t ns = r->total_ns ? r->total_ns : 1;

	(void)m;
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:I, s:I, s:I}", "total",
			 (json_int_t)total, "remaining", (json_int_t)(r->remaining_pages << 12),
			 "transferred", (json_int_t)c->wire, "duplicate", (json_int_t)c->zero_pages,
			 "normal", (json_int_t)(c->raw_pages + c->packed_pages), "normal-bytes",
			 (json_int_t)((c->raw_pages + c->packed_pages) << 12), "dirty-sync-count",
			 (json_int_t)r->dirty_sync_count, "mbps",
			 (double)c->wire * 8.0 / ((double)ns / 1e9) / 1e6, "page-size",
			 (json_int_t)4096, "compressed-pages", (json_int_t)c->packed_pages,
			 "compressed-bytes", (json_int_t)c->packed_bytes, "dirty-again",
			 (json_int_t)c->again_pages);
}

/** report_migration() - what query-migrate returns */
json_t *report_migration(struct migration *m)
{
	static const char *const huge[] = { "none", "thp", "hugetlb" };
	static const char *const tracker[2][2] = { { "vmm/bitmap", "vmm/ring" },
						   { "kmod/bitmap", "kmod/ring" } };
	struct migration_report r;
	enum migration_status s = migration_status(m);
	bool done = s == MIGRATION_COMPLETED;
	uint64_t total = 0;
	json_t *j;

	migration_read_report(m, &r);
	for (unsigned int i = 0; i < r.nr_rounds && !i; i++)
		total = r.rounds[0].pages << 12;
	j = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:b, s:I, s:I, s:I, s:I, s:s, s:s}",
		      "vm", migration_vm(m), "uri", migration_uri(m), "status",
		      migration_status_name(s), "total-time", ms(r.total_ns), "setup-time",
		      ms(r.setup_ns), "expected-downtime", ms(r.predicted.whole.mean_ns), "ram",
		      ram(m, &r, total), "rounds", rounds(&r), "prediction", prediction(&r), "blackout-parts",
		      parts(&r, done || r.tries), "decisions", decisions(&r), "brownout", brownout(&r),
		      "downtime-limit", (json_int_t)migration_params_of(m)->downtime_limit_ms,
		      "downtime-limit-strict", migration_params_of(m)->strict, "switchover-tries",
		      (json_int_t)r.tries, "cpu-throttle-percentage", (json_int_t)r.throttle_percent,
		      "dirty-ring-full", (json_int_t)r.ring_full, "goodput-bytes-per-second",
		      (json_int_t)r.goodput, "huge-pages", huge[r.huge < 3 ? r.huge : 0], "tracker",
		      tracker[r.tracker_is_kmod][r.tracker_is_ring]);
	if (done) {
		json_object_set_new(j, "downtime", json_integer(ms(r.downtime_ns)));
		json_object_set_new(j, "downtime-us", json_integer(us(r.downtime_ns)));
	}
	if (done) {
		json_object_set_new(j, "timed-by", json_string(blackout_by_name(r.timed_by)));
		json_object_set_new(j, "clock-error-us", json_integer(us(r.clock_error_ns)));
		json_object_set_new(j, "clock-offset-us", json_integer(r.clock_offset_ns / 1000));
	}
	if (done && r.blackout_ns)
		json_object_set_new(j, "blackout-us", json_integer(us(r.blackout_ns)));
	if (r.wait_ns)
		json_object_set_new(j, "processor-wait-us", json_integer(us(r.wait_ns)));
	if (r.probe_missed)
		json_object_set_new(j, "probe-missed", json_integer((json_int_t)r.probe_missed));
	if (r.stall_ns)
		json_object_set_new(j, "aborted-blackout-max-us", json_integer(us(r.stall_ns)));
	if (r.advice[0])
		json_object_set_new(j, "advice", json_string(r.advice));
	if (migration_error(m)[0])
		json_object_set_new(j, "error-desc", json_string(migration_error(m)));
	return j;
}

/** report_journal() - @account, and why the journal cannot be written, if so */
json_t *report_journal(json_t *account, const struct journal *j)
{
	char why[160];

	if (!*journal_why(j))
		return account;
	snprintf(why, sizeof(why), "%s", journal_why(j));
	text_make_printable(why, strlen(why)); /* it has a path */
	json_object_set_new(account, "journal", json_string(why));
	return account;
}

/** report_params() - what query-migrate-parameters returns */
json_t *report_params(const struct migration_params *p)
{
	return json_pack("{s:i, s:i, s:b, s:i, s:i, s:i, s:I, s:s, s:i, s:i, s:s, s:b, s:i}", "multifd-channels",
			 (int)p->channels, "downtime-limit", (int)p->downtime_limit_ms,
			 "downtime-limit-strict", p->strict, "switchover-ratio", (int)p->switchover_ratio,
			 "downtime-initial", (int)p->downtime_initial_ms, "downtime-steps",
			 (int)p->downtime_steps, "max-bandwidth",
			 (json_int_t)p->max_bandwidth, "multifd-compression",
			 p->zstd_level ? "zstd" : "none", "timeout", (int)p->timeout_s, "progress-timeout",
			 (int)p->progress_timeout_s, "timeout-action",
			 migration_timeout_action_name(p->timeout_action), "throttle", p->throttle, "switchover-max-tries", (int)p->max_tries);
}

/* Rounded up: what is not zero does not read as zero. */
static json_int_t us_up(uint64_t ns)
{
	return (json_int_t)((ns + 999) / 1000);
}

static json_t *loop_span(const struct loop_span *s, uint64_t now_ns)
{
	return json_pack("{s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:I}", "seconds",
			 (double)(now_ns - s->since_ns) / 1e9, "callbacks", (json_int_t)s->count, "p50-us",
			 us_up(loop_span_quantile(s, 500)), "p99-us", us_up(loop_span_quantile(s, 990)),
			 "p99.9-us", us_up(loop_span_quantile(s, 999)), "worst-us", us_up(s->worst_ns),
			 "worst-wait-us", us_up(s->worst_waited_ns), "worst", s->worst_name ? s->worst_name : "",
			 "processor-wait-us", us_up(s->waited_ns));
}

/** report_loop() - what query-loop returns */
json_t *report_loop(const struct loop_times *t, uint64_t now_ns)
{
	return json_pack("{s:o, s:o}", "since-start", loop_span(&t->all, now_ns), "since-reset",
			 loop_span(&t->recent, now_ns));
}
