// SPDX-License-Identifier: GPL-2.0-or-later
/* vmferry: one table of verbs over the daemon's control socket. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client.h"

#define CONTROL_SOCKET "/run/vmferry/control.sock"

struct cli {
	const char *socket;
	int as_json, detach;
	json_t *params;
	int run_here; /* resolve: 1 here, 0 gone, -1 not said */
	const char *html; /* report: where to */
	json_int_t last; /* blackouts: that many; -1: as many as the daemon likes */
	int pid; /* watch: whose guest */
	double min_ms, seconds; /* watch: tell of stalls from there; stop after that long, 0: never */
};

static const char usage[] =
	"vmferry - move running KVM guests; talks to the vmferryd of this host\n"
	"\n"
	"usage: vmferry [--socket PATH] VERB ...\n"
	"\n"
	"  list                     the VMs known here\n"
	"  migrate VM ADDRESS       move VM to the vmferryd at tcp:HOST:PORT or unix:PATH\n"
	"  status [VM]              the running or last migration of VM, or of all; without VM also how long\n"
	"                           the daemon's loop was ever kept from the next guest\n"
	"  cancel VM                call its migration off; the guest stays here\n"
	"  events                   follow what happens, one JSON object a line\n"
	"  resolve VM|ID            a guest that is held paused, since nobody says whether it runs elsewhere:\n"
	"                           --gone (it runs there; never here again) or --run-here (it surely\n"
	"                           does not run there); ID: of its migration\n"
	"  journal                  migrations whose outcome is not known, or not acknowledged by the other\n"
	"                           host yet\n"
	"  forget ID                drop one of them: the other host is gone for good\n"
	"  blackouts [VM]           how long guests stood still, as a histogram and part by part;\n"
	"                           --last N (100)\n"
	"  report VM --html FILE    the running or last migration as a page: rounds, blackout,\n"
	"                           decisions\n"
	"  watch --pid PID          how long the guest of any VMM here stands still, stock QEMU's\n"
	"                           too; needs no daemon; --min MS (1), --seconds S\n"
	"\n"
	"options of migrate:\n"
	"  --downtime-limit MS      longest time the guest may stand still, all included (300)\n"
	"  --strict, --no-strict    call a switchover off that would take longer (strict)\n"
	"  --downtime-initial MS    begin with less and go up to the limit, so that a guest that writes\n"
	"                           little pays little (a tenth of it)\n"
	"  --downtime-steps N       in so many rounds (5); 1: the limit at once\n"
	"  --switchover-ratio PCT   for experts: share of the limit that data may take (what is left)\n"
	"  --max-tries N            switchovers that may be called off (5)\n"
	"  --channels N             connections that carry pages, 1 to 16 (2)\n"
	"  --max-bandwidth RATE     bytes a second, e.g. 500M; not held while the guest stands still\n"
	"  --compress none|zstd     (none)\n"
	"  --throttle               slow the guest's writers down if it does not converge\n"
	"  --timeout S              of the whole migration (none)\n"
	"  --progress-timeout S     with less and less left to send (none)\n"
	"  --timeout-action WHAT    abort, throttle: the guest may be slowed from then on, or\n"
	"                           pause: it is stopped for as long as it takes (abort)\n"
	"  --detach                 do not wait for the end\n"
	"  --json                   JSON lines instead of a bar and a report\n"
	"\n"
	"exit codes: 0 moved; 2 wrong usage; 3 no daemon; 4 refused; 5 not moved, the guest runs on\n"
	"here; 6 cancelled; 7 held: GO was sent and the peer is lost, see resolve\n"
	"\n"
	"examples:\n"
	"  vmferry migrate web1 tcp:host2:4747 --downtime-limit 20 --channels 4\n"
	"  vmferry migrate web1 tcp:[2001:db8::2]:4747 --compress zstd --timeout 600\n";

static int refused(json_t *error)
{
	int code = error ? EXIT_REFUSED : EXIT_NO_DAEMON;

	fprintf(stderr, "vmferry: %s\n", error ? json_string_value(error) : "the daemon is gone");
	json_decref(error);
	return code;
}

static int do_list(struct client *c, struct cli *o, char **args)
{
	json_t *error, *list = client_ask(c, "query-vms", NULL, &error), *v;
	size_t i;

	(void)args;
	if (!list)
		return refused(error);
	if (o->as_json) {
		json_dumpf(list, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER);
		putchar('\n');
	} else {
		printf("%-24s %-12s %6s %10s %8s  %s\n", "NAME", "STATE", "VCPUS", "RAM", "PID", "MIGRATION");
		json_array_foreach (list, i, v)
			printf("%-24s %-12s %6lld %6lld MiB %8lld  %s\n",
			       json_string_value(json_object_get(v, "name")),
			       json_string_value(json_object_get(v, "status")),
			       (long long)json_integer_value(json_object_get(v, "vcpus")),
			       (long long)json_integer_value(json_object_get(v, "ram")) >> 20,
			       (long long)json_integer_value(json_object_get(v, "pid")),
			       json_string_value(json_object_get(v, "migration")));
	}
	json_decref(list);
	return EXIT_OK;
}

static int do_migrate(struct client *c, struct cli *o, char **args)
{
	json_t *error, *ok;

	json_object_set_new(o->params, "vm", json_string(args[0]));
	json_object_set_new(o->params, "uri", json_string(args[1]));
	ok = client_ask(c, "migrate", json_incref(o->params), &error);
	if (!ok)
		return refused(error);
	json_decref(ok);
	return o->detach ? EXIT_OK : watch_migration(c, args[0], o->as_json);
}

static int print_status(struct client *c, const char *vm)
{
	json_t *error, *m = client_ask(c, "query-migrate", json_pack("{s:s}", "vm", vm), &error);

	if (!m)
		return refused(error);
	json_dumpf(m, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
	putchar('\n');
	json_decref(m);
	return EXIT_OK;
}

static double ms(const json_t *span, const char *key)
{
	return (double)json_integer_value(json_object_get(span, key)) / 1e3;
}

/* A daemon without query-loop has nothing to print. */
static void print_loop(struct client *c)
{
	json_t *error, *answer = client_ask(c, "query-loop", NULL, &error);
	const json_t *span = json_object_get(answer, "since-start");

	if (span)
		printf("loop: 99.9th percentile %.1f ms, worst %.1f ms (%s)\n", ms(span, "p99.9-us"),
		       ms(span, "worst-us"), json_string_value(json_object_get(span, "worst")));
	json_decref(answer);
	json_decref(error);
}

static int do_status(struct client *c, struct cli *o, char **args)
{
	json_t *error, *list, *v;
	int code = EXIT_OK;
	size_t i;

	if (args[0])
		return print_status(c, args[0]);
	list = client_ask(c, "query-vms", NULL, &error);
	if (!list)
		return refused(error);
	json_array_foreach (list, i, v)
		if (!code)
			code = print_status(c, json_string_value(json_object_get(v, "name")));
	json_decref(list);
	if (!code && !o->as_json)
		print_loop(c);
	return code;
}

static int do_simple(struct client *c, const char *command, json_t *args)
{
	json_t *error, *ok = client_ask(c, command, args, &error);

	if (!ok)
		return refused(error);
	json_decref(ok);
	return EXIT_OK;
}

static int do_cancel(struct client *c, struct cli *o, char **args)
{
	(void)o;
	return do_simple(c, "migrate_cancel", json_pack("{s:s}", "vm", args[0]));
}

static int do_resolve(struct client *c, struct cli *o, char **args)
{
	if (o->run_here < 0) {
		fprintf(stderr, "vmferry: resolve needs --gone or --run-here; be sure: a guest that runs twice "
				"destroys its disks\n");
		return EXIT_BAD_USAGE;
	}
	return do_simple(c, "resolve", json_pack("{s:s, s:b}", "vm", args[0], "run-here", o->run_here));
}

static int do_journal(struct client *c, struct cli *o, char **args)
{
	json_t *error;

	(void)args;
	return print_journal(c, o->as_json, &error) ? refused(error) : EXIT_OK;
}

static int do_forget(struct client *c, struct cli *o, char **args)
{
	(void)o;
	return do_simple(c, "journal-forget", json_pack("{s:s}", "id", args[0]));
}

static int do_events(struct client *c, struct cli *o, char **args)
{
	json_t *e;

	(void)o;
	(void)args;
	while ((e = client_next_event(c))) {
		json_dumpf(e, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER);
		putchar('\n');
		fflush(stdout);
		json_decref(e);
	}
	fprintf(stderr, "vmferry: the daemon is gone\n");
	return EXIT_NO_DAEMON;
}

static int do_report(struct client *c, struct cli *o, char **args)
{
	json_t *error, *m;
	int err;

	if (!o->html) {
		fprintf(stderr, "vmferry: report needs --html FILE\n");
		return EXIT_BAD_USAGE;
	}
	m = client_ask(c, "query-migrate", json_pack("{s:s}", "vm", args[0]), &error);
	if (!m)
		return refused(error);
	if (!json_object_get(m, "rounds")) {
		fprintf(stderr, "vmferry: vm %s: no migration to report on\n", args[0]);
		json_decref(m);
		return EXIT_REFUSED;
	}
	err = write_report(m, o->html);
	json_decref(m);
	if (err) {
		fprintf(stderr, "vmferry: %s: %s\n", o->html, strerror(-err));
		return EXIT_REFUSED;
	}
	return EXIT_OK;
}

static int do_blackouts(struct client *c, struct cli *o, char **args)
{
	json_t *error, *ask = json_object(), *answer;

	if (args[0])
		json_object_set_new(ask, "vm", json_string(args[0]));
	if (o->last >= 0)
		json_object_set_new(ask, "last", json_integer(o->last));
	answer = client_ask(c, "query-blackouts", ask, &error);
	if (!answer)
		return refused(error);
	if (o->as_json) {
		json_dumpf(answer, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER);
		putchar('\n');
	} else {
		print_blackouts(answer);
	}
	json_decref(answer);
	return EXIT_OK;
}

static int do_watch(struct client *c, struct cli *o, char **args)
{
	(void)c;
	(void)args;
	if (o->pid <= 0) {
		fprintf(stderr, "vmferry: watch needs --pid, the process of a VMM\n");
		return EXIT_BAD_USAGE;
	}
	return watch_stalls(o->pid, o->min_ms, o->seconds, o->as_json);
}

static const struct verb {
	const char *name;
	int least, most;
	int (*run)(struct client *c, struct cli *o, char **args);
	int is_alone; /* needs no daemon */
} verbs[] = {
	{ "list", 0, 0, do_list, 0 },     { "migrate", 2, 2, do_migrate, 0 }, { "status", 0, 1, do_status, 0 },
	{ "cancel", 1, 1, do_cancel, 0 }, { "events", 0, 0, do_events, 0 },   { "resolve", 1, 1, do_resolve, 0 },
	{ "watch", 0, 0, do_watch, 1 },   { "blackouts", 0, 1, do_blackouts, 0 },
	{ "report", 1, 1, do_report, 0 },
	{ "journal", 0, 0, do_journal, 0 }, { "forget", 1, 1, do_forget, 0 },
};

static const struct option longs[] = {
	{ "socket", 1, NULL, 's' },	 { "json", 0, NULL, 'j' },	  { "help", 0, NULL, 'h' },
	{ "detach", 0, NULL, 'd' },	 { "downtime-limit", 1, NULL, 'l' }, { "strict", 0, NULL, 'S' },
	{ "no-strict", 0, NULL, 'N' },	 { "channels", 1, NULL, 'c' },	  { "max-bandwidth", 1, NULL, 'b' },
	{ "compress", 1, NULL, 'z' },	 { "throttle", 0, NULL, 't' },	  { "timeout", 1, NULL, 'o' },
	{ "run-here", 0, NULL, 'r' },	 { "gone", 0, NULL, 'g' },	  { "pid", 1, NULL, 'p' },
	{ "html", 1, NULL, 'H' },
	{ "last", 1, NULL, 'L' },	 { "switchover-ratio", 1, NULL, 'R' },
	{ "downtime-initial", 1, NULL, 'I' }, { "downtime-steps", 1, NULL, 'T' },
	{ "progress-timeout", 1, NULL, 'P' }, { "timeout-action", 1, NULL, 'A' }, { "max-tries", 1, NULL, 'M' },
	{ "min", 1, NULL, 'm' },	 { "seconds", 1, NULL, 'e' },	  { NULL, 0, NULL, 0 },
};

/* A number with K, M, G, T (powers of 1024); -1: none. */
static json_int_t parse_number(const char *text)
{
	static const char suffixes[] = "KMGT";
	char *end;
	long long n = strtoll(text, &end, 10);
	const char *s = *end ? strchr(suffixes, *end) : NULL;

	if (end == text || n < 0 || (*end && (!s || end[1])))
		return -1;
	if (s && __builtin_mul_overflow(n, 1LL << (10 * (s - suffixes + 1)), &n))
		return -1;
	return n;
}

static int set_number(struct cli *o, const char *key, const char *text)
{
	json_int_t n = parse_number(text);

	if (n < 0) {
		fprintf(stderr, "vmferry: \"%s\" is not a number\n", text);
		return -EINVAL;
	}
	return json_object_set_new(o->params, key, json_integer(n));
}

static int set_double(const char *text, double *to)
{
	char *end;

	*to = strtod(text, &end);
	if (end != text && !*end && *to >= 0)
		return 0;
	fprintf(stderr, "vmferry: \"%s\" is not a number\n", text);
	return -EINVAL;
}

static int take_option(struct cli *o, int c)
{
	double number;

	switch (c) {
	case 's': o->socket = optarg; return 0;
	case 'j': o->as_json = 1; return 0;
	case 'd': o->detach = 1; return 0;
	case 'r': o->run_here = 1; return 0;
	case 'g': o->run_here = 0; return 0;
	case 'p': return set_double(optarg, &number) ? -EINVAL : (o->pid = (int)number, 0);
	case 'm': return set_double(optarg, &o->min_ms);
	case 'e': return set_double(optarg, &o->seconds);
	case 'l': return set_number(o, "downtime-limit", optarg);
	case 'c': return set_number(o, "multifd-channels", optarg);
	case 'b': return set_number(o, "max-bandwidth", optarg);
	case 'o': return set_number(o, "timeout", optarg);
	case 'H': o->html = optarg; return 0;
	case 'L': return (o->last = parse_number(optarg)) < 0 ? -EINVAL : 0;
	case 'R': return set_number(o, "switchover-ratio", optarg);
	case 'I': return set_number(o, "downtime-initial", optarg);
	case 'T': return set_number(o, "downtime-steps", optarg);
	case 'P': return set_number(o, "progress-timeout", optarg);
	case 'M': return set_number(o, "switchover-max-tries", optarg);
	case 'A': return json_object_set_new(o->params, "timeout-action", json_string(optarg));
	case 'S': return json_object_set_new(o->params, "downtime-limit-strict", json_true());
	case 'N': return json_object_set_new(o->params, "downtime-limit-strict", json_false());
	case 't': return json_object_set_new(o->params, "throttle", json_true());
	case 'z': return json_object_set_new(o->params, "multifd-compression", json_string(optarg));
	case 'h': fputs(usage, stdout); exit(EXIT_OK);
	default: return -EINVAL;
	}
}

static int run(struct cli *o, const struct verb *v, char **args)
{
	struct client *c = NULL;
	int err = v->is_alone ? 0 : client_open(o->socket, &c), code;

	if (err) {
		fprintf(stderr, "vmferry: no vmferryd answers at %s: %s; is it running, and may you use it?\n",
			o->socket, strerror(-err));
		return EXIT_NO_DAEMON;
	}
	code = v->run(c, o, args);
	client_close(c);
	return code;
}

static const struct verb *find_verb(const char *name)
{
	for (size_t i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
		if (!strcmp(verbs[i].name, name))
			return &verbs[i];
	fprintf(stderr, "vmferry: no such verb: %s; see vmferry --help\n", name);
	return NULL;
}

/* @args: the verb and its arguments, NULL behind the last */
static int obey(struct cli *o, char **args, int nr)
{
	const struct verb *v;

	if (!nr) {
		fputs(usage, stderr);
		return EXIT_BAD_USAGE;
	}
	v = find_verb(args[0]);
	if (!v)
		return EXIT_BAD_USAGE;
	if (nr - 1 < v->least || nr - 1 > v->most) {
		fprintf(stderr, "vmferry: %s takes %d to %d arguments; see vmferry --help\n", v->name, v->least, v->most);
		return EXIT_BAD_USAGE;
	}
	return run(o, v, args + 1);
}

int main(int argc, char **argv)
{
	struct cli o = { .socket = CONTROL_SOCKET, .params = json_object(), .run_here = -1, .min_ms = 1, .last = -1 };
	int c, code = EXIT_OK;

	while (!code && (c = getopt_long(argc, argv, "h", longs, NULL)) != -1)
		if (take_option(&o, c)) {
			fputs("see vmferry --help\n", stderr);
			code = EXIT_BAD_USAGE;
		}
	if (!code)
		code = obey(&o, argv + optind, argc - optind);
	json_decref(o.params);
	return code;
}
