// SPDX-License-Identifier: GPL-2.0-or-later
/* The account of one migration as JSON, with QEMU's names where it has one. */
#include "report.h"

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
	json_t *list = json_array();

	for (unsigned int i = 0; i < r->nr_rounds; i++)
		json_array_append_new(list,
				      json_pack("{s:I, s:I, s:I}", "pages",
						(json_int_t)r->rounds[i].pages, "bytes",
						(json_int_t)r->rounds[i].bytes, "time-us",
						us(r->rounds[i].ns)));
	return list;
}

static json_t *parts(const struct migration_report *r, bool is_over)
{
	json_t *list = json_object();

	for (int i = 0; i < PART_NR; i++) {
		json_t *part = json_pack("{s:I}", "predicted-us", us(r->predicted.part_ns[i]));

		if (is_over)
			json_object_set_new(part, "actual-us", json_integer(us(r->actual_ns[i])));
		json_object_set_new(list, predictor_part_name((enum predictor_part)i), part);
	}
	json_object_set_new(list, "sum-predicted-us", json_integer(us(r->predicted.upper_ns)));
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
	j = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:o, s:o, s:o, s:I, s:b, s:I, s:I, s:I, s:I, s:s, s:s}",
		      "vm", migration_vm(m), "uri", migration_uri(m), "status",
		      migration_status_name(s), "total-time", ms(r.total_ns), "setup-time",
		      ms(r.setup_ns), "expected-downtime", ms(r.predicted.upper_ns), "ram",
		      ram(m, &r, total), "rounds", rounds(&r), "blackout-parts", parts(&r, done),
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
	if (done && r.blackout_ns)
		json_object_set_new(j, "blackout-us", json_integer(us(r.blackout_ns)));
	if (r.stall_ns)
		json_object_set_new(j, "aborted-blackout-max-us", json_integer(us(r.stall_ns)));
	if (r.advice[0])
		json_object_set_new(j, "advice", json_string(r.advice));
	if (migration_error(m)[0])
		json_object_set_new(j, "error-desc", json_string(migration_error(m)));
	return j;
}

/** report_params() - what query-migrate-parameters returns */
json_t *report_params(const struct migration_params *p)
{
	return json_pack("{s:i, s:i, s:b, s:I, s:s, s:i, s:b, s:i}", "multifd-channels",
			 (int)p->channels, "downtime-limit", (int)p->downtime_limit_ms,
			 "downtime-limit-strict", p->strict, "max-bandwidth",
			 (json_int_t)p->max_bandwidth, "multifd-compression",
			 p->zstd_level ? "zstd" : "none", "timeout", (int)p->timeout_s, "throttle",
			 p->throttle, "switchover-max-tries", (int)p->max_tries);
}
