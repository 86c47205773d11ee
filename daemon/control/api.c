// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The control socket, in QMP's manner: greeting, capabilities, one JSON object a line,
 * answers with the id they were asked with, and events.
 *
 * Connections, turns and queues are api_client.c's; here are the commands.
 */
#include "api.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api_client.h"
#include "api_journal.h"
#include "base/deadline.h"
#include "base/error.h"
#include "base/text.h"
#include "held.h"
#include "peer/address.h"
#include "report.h"
#include "report_held.h"

struct api {
	struct ferry *f;
	struct api_clients *clients;
	struct migration_params params;
};

/** struct command - @run answers with an object, or @write, if it is set, with its text, to be freed */
struct command {
	const char *name;
	json_t *(*run)(struct api *a, json_t *args, char *why, size_t len);
	char *(*write)(struct api *a, json_t *args, char *why, size_t len);
};

/* ---- sending ---- */

static const char out_of_memory[] = "{\"error\":{\"class\":\"GenericError\",\"desc\":\"out of memory\"}}";

static void say(struct api_client *c, json_t *j)
{
	char *text = json_dumps(j, JSON_COMPACT | JSON_PRESERVE_ORDER);

	api_client_say(c, text ? text : out_of_memory);
	free(text);
	json_decref(j);
}

static void emit(struct ferry *f, const char *vm, const char *event, const char *detail)
{
	struct api *a = f->api;
	struct timespec ts;
	json_t *d, *j;
	char *text;

	if (!a)
		return;
	clock_gettime(CLOCK_REALTIME, &ts);
	d = json_pack("{s:s}", "vm", vm);
	if (detail)
		json_object_set_new(d, !strcmp(event, "MIGRATION") ? "status" : "detail", json_string(detail));
	j = json_pack("{s:s, s:o, s:{s:I, s:I}}", "event", event, "data", d, "timestamp", "seconds",
		      (json_int_t)ts.tv_sec, "microseconds", (json_int_t)(ts.tv_nsec / 1000));
	text = json_dumps(j, JSON_COMPACT | JSON_PRESERVE_ORDER);
	if (text)
		api_clients_tell(a->clients, text);
	free(text);
	json_decref(j);
}

/* ---- arguments ---- */

static bool take_uint(json_t *v, const char *key, uint64_t max, uint64_t *to, char *why, size_t len)
{
	if (!json_is_integer(v) || json_integer_value(v) < 0 ||
	    (uint64_t)json_integer_value(v) > max) {
		snprintf(why, len, "'%s' must be an integer from 0 to %llu", key, (unsigned long long)max);
		return false;
	}
	*to = (uint64_t)json_integer_value(v);
	return true;
}

static bool take_bool(json_t *v, const char *key, bool *to, char *why, size_t len)
{
	if (!json_is_boolean(v)) {
		snprintf(why, len, "'%s' must be true or false", key);
		return false;
	}
	*to = json_is_true(v);
	return true;
}

static bool take_name(json_t *v, const char *key, const char *const *names, unsigned int nr, unsigned int *to,
		      char *why, size_t len)
{
	const char *s = json_string_value(v);
	int n = snprintf(why, len, "'%s' must be one of", key);

	for (*to = 0; s && *to < nr; (*to)++)
		if (!strcmp(s, names[*to]))
			return true;
	for (unsigned int i = 0; i < nr; i++)
		n += snprintf(why + n, len - (size_t)n, "%s \"%s\"", i ? "," : "", names[i]);
	return false;
}

/* Parameters that are a number or a truth, and where they are kept. */
static const struct param {
	const char *key;
	enum { A_UINT, A_U64, A_BOOL } kind;
	size_t at;
	uint64_t max;
} params[] = {
#define AT(field) offsetof(struct migration_params, field)
	{ "multifd-channels", A_UINT, AT(channels), CHANNEL_MAX },
	{ "downtime-limit", A_UINT, AT(downtime_limit_ms), 2000000 },
	{ "downtime-limit-strict", A_BOOL, AT(strict), 1 },
	{ "switchover-ratio", A_UINT, AT(switchover_ratio), 100 },
	{ "downtime-initial", A_UINT, AT(downtime_initial_ms), 2000000 },
	{ "downtime-steps", A_UINT, AT(downtime_steps), 1000 },
	{ "max-bandwidth", A_U64, AT(max_bandwidth), UINT64_MAX >> 1 },
	{ "timeout", A_UINT, AT(timeout_s), 1000000 },
	{ "progress-timeout", A_UINT, AT(progress_timeout_s), 1000000 },
	{ "throttle", A_BOOL, AT(throttle), 1 },
	{ "switchover-max-tries", A_UINT, AT(max_tries), 1000 },
#undef AT
};

static bool take_plain(struct migration_params *p, const struct param *d, json_t *v, char *why, size_t len)
{
	void *at = (char *)p + d->at;
	uint64_t n;

	if (d->kind == A_BOOL)
		return take_bool(v, d->key, at, why, len);
	if (!take_uint(v, d->key, d->max, &n, why, len))
		return false;
	if (d->kind == A_U64)
		*(uint64_t *)at = n;
	else
		*(unsigned int *)at = (unsigned int)n;
	return true;
}

static bool take_param(struct migration_params *p, const char *key, json_t *v, char *why, size_t len)
{
	static const char *const compressions[] = { "none", "zstd" }, *const actions[] = { "abort", "throttle", "pause" };
	unsigned int n;

	for (size_t i = 0; i < sizeof(params) / sizeof(params[0]); i++)
		if (!strcmp(key, params[i].key))
			return take_plain(p, &params[i], v, why, len);
	if (!strcmp(key, "timeout-action")) {
		if (!take_name(v, key, actions, 3, &n, why, len))
			return false;
		p->timeout_action = (enum migration_timeout_action)n;
	} else if (!strcmp(key, "multifd-compression")) {
		if (!take_name(v, key, compressions, 2, &n, why, len))
			return false;
		p->zstd_level = (int)n;
	} else {
		snprintf(why, len, "unknown parameter '%s'", key);
		return false;
	}
	return true;
}

static bool take_params(struct migration_params *p, json_t *args, char *why, size_t len)
{
	const char *key;
	json_t *v;

	json_object_foreach (args, key, v) {
		if (!strcmp(key, "vm") || !strcmp(key, "uri"))
			continue;
		if (!take_param(p, key, v, why, len))
			return false;
	}
	return true;
}

static const char *name_of(json_t *args, const char *key, char *why, size_t len)
{
	const char *s = json_string_value(json_object_get(args, key));

	if (!s)
		snprintf(why, len, "argument '%s' is missing or not a string", key);
	return s;
}

/* ---- commands ---- */

static json_t *cmd_migrate(struct api *a, json_t *args, char *why, size_t len)
{
	const char *vm = name_of(args, "vm", why, len);
	const char *uri = vm ? name_of(args, "uri", why, len) : NULL;
	struct migration_params p = a->params;

	if (!uri || !take_params(&p, args, why, len) || migration_start(a->f, vm, uri, &p, why, len))
		return NULL;
	return json_object();
}

static json_t *cmd_set_parameters(struct api *a, json_t *args, char *why, size_t len)
{
	struct migration_params p = a->params;

	if (!take_params(&p, args, why, len))
		return NULL;
	a->params = p;
	return json_object();
}

static json_t *cmd_query_parameters(struct api *a, json_t *args, char *why, size_t len)
{
	(void)args;
	(void)why;
	(void)len;
	return report_params(&a->params);
}

/* A live migration first: that of a guest which is held may be over, and its account is of the past. */
static json_t *account_of(struct ferry *f, const char *vm)
{
	struct migration *m = migration_find(f, vm);
	json_t *held = m && !migration_is_over(migration_status(m)) ? NULL : report_held(f, vm);

	if (held)
		return held;
	return m ? report_migration(m) : json_pack("{s:s, s:s}", "vm", vm, "status", "none");
}

static json_t *cmd_query_migrate(struct api *a, json_t *args, char *why, size_t len)
{
	const char *vm = name_of(args, "vm", why, len);
	json_t *account = vm ? account_of(a->f, vm) : NULL;

	return account ? report_journal(account, a->f->journal) : NULL;
}

static json_t *cmd_cancel(struct api *a, json_t *args, char *why, size_t len)
{
	const char *vm = name_of(args, "vm", why, len);

	return vm && !migration_cancel(a->f, vm, why, len) ? json_object() : NULL;
}

static json_t *cmd_resolve(struct api *a, json_t *args, char *why, size_t len)
{
	const char *vm = name_of(args, "vm", why, len);
	json_t *here = json_object_get(args, "run-here");

	if (!vm)
		return NULL;
	if (!json_is_boolean(here)) {
		snprintf(why, len, "argument 'run-here' must be true or false");
		return NULL;
	}
	if (held_resolve(a->f, vm, json_is_true(here), why, len))
		return NULL;
	text_make_printable(why, strlen(why)); /* it has a name, of which an old journal takes any */
	return json_pack("{s:s}", "decided", why);
}

static const char *status_of(struct ferry *f, const struct vm *vm)
{
	const struct migration *m = vm_is_incoming(vm) ? NULL : migration_find(f, vm->name);

	if (!vm_is_incoming(vm) && held_find(f, vm->name))
		return migration_status_name(MIGRATION_HELD);
	/* One that is held is another guest's if that has this name only. */
	if (m && migration_status(m) == MIGRATION_HELD && !migration_has_vmm(m, vm))
		m = NULL;
	return m ? migration_status_name(migration_status(m)) : "none";
}

static json_t *cmd_query_vms(struct api *a, json_t *args, char *why, size_t len)
{
	json_t *list = json_array();

	(void)args;
	(void)why;
	(void)len;
	for (struct vm *vm = a->f->vms.first; vm; vm = vm->next)
		json_array_append_new(
			list, json_pack("{s:s, s:s, s:b, s:i, s:I, s:i, s:s}", "name", vm->name, "status",
					vm_state_name(vm), "busy", vm->is_busy, "vcpus", (int)vm->nr_vcpus, "ram",
					(json_int_t)vm_ram_size(vm), "pid", vm->pid, "migration",
					status_of(a->f, vm)));
	return list;
}

static char *cmd_query_blackouts(struct api *a, json_t *args, char *why, size_t len)
{
	json_t *vm = json_object_get(args, "vm"), *last = json_object_get(args, "last");
	char *quoted, *list, *text = NULL;
	uint64_t most = 100;
	json_t *probe;

	if (last && !take_uint(last, "last", 1000, &most, why, len))
		return NULL;
	if (vm && !json_is_string(vm)) {
		snprintf(why, len, "argument 'vm' must be a string");
		return NULL;
	}
	probe = json_string(blackouts_why(a->f->blackouts));
	quoted = probe ? json_dumps(probe, JSON_ENCODE_ANY) : NULL;
	list = blackouts_text(a->f->blackouts, json_string_value(vm), most);
	if (!quoted || !list || asprintf(&text, "{\"probe\":%s,\"blackouts\":%s}", quoted, list) < 0)
		text = NULL;
	free(quoted);
	free(list);
	json_decref(probe);
	return text;
}

static json_t *cmd_query_held(struct api *a, json_t *args, char *why, size_t len)
{
	json_t *vm = json_object_get(args, "after-vm"), *entry = json_object_get(args, "after-entry");
	uint64_t after_vm = 0, after_entry = 0;

	if ((vm && !take_uint(vm, "after-vm", INT64_MAX, &after_vm, why, len)) ||
	    (entry && !take_uint(entry, "after-entry", INT64_MAX, &after_entry, why, len)))
		return NULL;
	return report_all_held(a->f, after_vm, after_entry);
}

static json_t *cmd_query_journal(struct api *a, json_t *args, char *why, size_t len)
{
	return api_query_journal(a->f, args, why, len);
}

static json_t *cmd_journal_forget(struct api *a, json_t *args, char *why, size_t len)
{
	return api_journal_forget(a->f, args, why, len);
}

static json_t *cmd_query_version(struct api *a, json_t *args, char *why, size_t len)
{
	(void)a;
	(void)args;
	(void)why;
	(void)len;
	return json_pack("{s:s}", "vmferry", VMFERRY_RELEASE);
}

static json_t *cmd_query_loop(struct api *a, json_t *args, char *why, size_t len)
{
	struct loop_times *t = loop_times(a->f->loop);
	json_t *reset = json_object_get(args, "reset"), *j;
	bool is_reset = false;

	if (reset && !take_bool(reset, "reset", &is_reset, why, len))
		return NULL;
	j = report_loop(t, now_ns());
	if (is_reset)
		loop_times_restart(t, now_ns());
	return j;
}

static json_t *cmd_query_commands(struct api *a, json_t *args, char *why, size_t len);

static const struct command commands[] = {
	{ "migrate", .run = cmd_migrate },
	{ "migrate_cancel", .run = cmd_cancel },
	{ "migrate-set-parameters", .run = cmd_set_parameters },
	{ "query-migrate-parameters", .run = cmd_query_parameters },
	{ "query-migrate", .run = cmd_query_migrate },
	{ "query-vms", .run = cmd_query_vms },
	{ "query-blackouts", .write = cmd_query_blackouts },
	{ "query-loop", .run = cmd_query_loop },
	{ "query-held", .run = cmd_query_held },
	{ "query-journal", .run = cmd_query_journal },
	{ "journal-forget", .run = cmd_journal_forget },
	{ "query-version", .run = cmd_query_version },
	{ "query-commands", .run = cmd_query_commands },
	{ "resolve", .run = cmd_resolve },
};

#define NR_COMMANDS (sizeof(commands) / sizeof(commands[0]))

static json_t *cmd_query_commands(struct api *a, json_t *args, char *why, size_t len)
{
	json_t *list = json_array();

	(void)a;
	(void)args;
	(void)why;
	(void)len;
	for (size_t i = 0; i < NR_COMMANDS; i++)
		json_array_append_new(list, json_pack("{s:s}", "name", commands[i].name));
	return list;
}

static void answer(struct api_client *c, json_t *id, json_t *result, const char *class, const char *why)
{
	json_t *j = result ? json_pack("{s:o}", "return", result) :
			     json_pack("{s:{s:s, s:s}}", "error", "class", class, "desc", why);

	if (id)
		json_object_set(j, "id", id);
	say(c, j);
}

/* As answer(), but @text is a value already. */
static void answer_text(struct api_client *c, json_t *id, const char *text)
{
	char *quoted = id ? json_dumps(id, JSON_ENCODE_ANY | JSON_COMPACT) : NULL, *line;

	if (asprintf(&line, quoted ? "{\"return\":%s,\"id\":%s}" : "{\"return\":%s}", text, quoted) < 0)
		line = NULL;
	api_client_say(c, line ? line : out_of_memory);
	free(line);
	free(quoted);
}

static void run_command(struct api *a, struct api_client *c, json_t *id, const char *name, json_t *args)
{
	char why[512] = "it failed"; /* what repeats an argument may be cut within a character: JSON takes none */
	size_t i;

	for (i = 0; i < NR_COMMANDS && strcmp(commands[i].name, name); i++)
		;
	if (i == NR_COMMANDS) {
		snprintf(why, sizeof(why), "The command %.64s has not been found", name);
		text_make_printable(why, strlen(why));
		answer(c, id, NULL, "CommandNotFound", why);
	} else if (commands[i].write) {
		char *text = commands[i].write(a, args, why, sizeof(why));

		if (text)
			answer_text(c, id, text);
		else
			answer(c, id, NULL, "GenericError", why);
		free(text);
	} else {
		json_t *result = commands[i].run(a, args, why, sizeof(why));

		text_make_printable(why, strlen(why));
		answer(c, id, result, "GenericError", why);
	}
}

static void take_line(void *owner, struct api_client *c, const char *line, size_t line_len)
{
	json_t *j = json_loadb(line, line_len, 0, NULL), *id = json_object_get(j, "id");
	const char *name = json_string_value(json_object_get(j, "execute"));
	json_t *args = json_object_get(j, "arguments"), *none = json_object();

	if (!json_is_object(j) || !name || (args && !json_is_object(args))) {
		answer(c, id, NULL, "GenericError", "expected {\"execute\": NAME, \"arguments\": {...}}");
	} else if (!strcmp(name, "qmp_capabilities")) {
		api_client_listens(c);
		answer(c, id, json_object(), NULL, NULL);
	} else if (!api_client_is_listening(c)) {
		answer(c, id, NULL, "CommandNotFound", "say qmp_capabilities first");
	} else {
		run_command(owner, c, id, name, args ? args : none);
	}
	json_decref(none);
	json_decref(j);
}

static void greet(void *owner, struct api_client *c)
{
	(void)owner;
	say(c, json_pack("{s:{s:{s:{s:s}}, s:[]}}", "QMP", "version", "vmferry", "release", VMFERRY_RELEASE,
			 "capabilities"));
}

static const struct api_client_ops client_ops = { greet, take_line };

/** api_listen() - serve the control socket at @path */
int api_listen(struct ferry *f, const char *path)
{
	struct api *a = calloc(1, sizeof(*a));
	char uri[256], why[160];
	int fd, err;

	if (!a)
		return -ENOMEM;
	snprintf(uri, sizeof(uri), "unix:%s", path);
	fd = address_listen(uri, why, sizeof(why));
	if (fd < 0) {
		error_report("cannot listen at the control socket %s: %s", path, why);
		free(a);
		return fd;
	}
	a->f = f;
	a->params = migration_default_params;
	err = api_clients_open(f->loop, f->limited, fd, &client_ops, a, &a->clients);
	if (err) {
		free(a);
		return err;
	}
	f->api = a;
	f->emit = emit;
	return 0;
}

/** api_stop() - serve no more */
void api_stop(struct ferry *f)
{
	struct api *a = f->api;

	if (!a)
		return;
	f->api = NULL;
	api_clients_close(a->clients);
	free(a);
}
