// SPDX-License-Identifier: GPL-2.0-or-later
/* vmferry: one table of verbs over the daemon's control socket. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client.h"
#include "terminal.h"

#define CONTROL_SOCKET "/run/vmferry/control.sock"

struct cli {
	const char *socket;
	int as_json, detach;
	json_t *params;
	int run_here, gone; /* resolve */
	int vmm_ended; /* forget */
	const char *html; /* report: where to */
	json_int_t last; /* blackouts: that many; -1: as many as the daemon likes */
	int pid; /* watch: whose guest */
	double min_ms, seconds; /* watch: tell of stalls from there; stop after that long, 0: never */
	char given[64]; /* each option once, as take_option() knows it */
};

static const char usage[] =
	"vmferry - move running KVM guests; talks to the vmferryd of this host\n"
	"\n"
	"usage: vmferry [--socket PATH] VERB ...\n"
	"\n"
	"  list                     the VMs known here; also guests that are held while their VMM is away, and\n"
	"                           what to type\n"
	"  migrate VM ADDRESS       move VM to the vmferryd at tcp:HOST:PORT or unix:PATH\n"
	"  status [VM]              the running or last migration of VM, or of all; without VM also how long\n"
	"                           the daemon's loop was ever kept from the next guest, and why\n"
	"                           the journal cannot be written, if so\n"
	"  cancel VM                call its migration off; the guest stays here\n"
	"  events                   follow what happens, one JSON object a line\n"
	"  resolve VM|ID            a guest that is held paused, since nobody says whether it runs elsewhere:\n"
	"                           --gone (it runs there; its memory here is given up) or --run-here\n"
	"                           (it surely never ran there, and never will); ID: of its migration,\n"
	"                           needed where several held guests have one name\n"
	"  journal                  migrations whose outcome is not known, or not acknowledged by the other\n"
	"                           host yet\n"
	"  forget ID                drop one of them: the other host is gone for good; --vmm-ended: so is\n"
	"                           the VMM here that it is kept for\n"
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
	"for all verbs: --socket PATH; for list, status, journal, events, blackouts and watch: --json\n"
	"  --version                the release\n"
	"  --help                   this text\n"
	"\n"
	"exit codes: 0 moved or done; 1 done, but standard output cannot be written; 2 wrong usage;\n"
	"3 no daemon; 4 refused; 5 not moved, the guest runs on here; 6 cancelled; 7 held: GO was sent\n"
	"and the peer is lost, see resolve\n"
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

static void print_vm(const json_t *v)
{
	const char *name = json_string_value(json_object_get(v, "name")), *state = json_string_value(json_object_get(v, "status")),
		   *migration = json_string_value(json_object_get(v, "migration"));

	if (!json_object_get(v, "pid")) { /* its VMM is away */
		printf("%-24s %-12s %6s %10s %8s  %s\n", name, state, "-", "-", "-", migration);
		return;
	}
	printf("%-24s %-12s %6lld %6lld MiB %8lld  %s\n", name, state,
	       (long long)json_integer_value(json_object_get(v, "vcpus")),
	       (long long)json_integer_value(json_object_get(v, "ram")) >> 20,
	       (long long)json_integer_value(json_object_get(v, "pid")), migration);
}

static int do_list(struct client *c, struct cli *o, char **args)
{
	json_t *error, *list = client_ask(c, "query-vms", NULL, &error), *held = list ? held_ask(c) : NULL, *v;
	size_t i;

	(void)args;
	if (!list)
		return refused(error);
	held_add_to_list(list, held);
	if (o->as_json) {
		json_dumpf(list, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER);
		putchar('\n');
	} else {
		printf("%-24s %-12s %6s %10s %8s  %s\n", "NAME", "STATE", "VCPUS", "RAM", "PID", "MIGRATION");
		json_array_foreach (list, i, v)
			print_vm(v);
		held_print(held);
	}
	json_decref(held);
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

static int is_connected(struct client *c, const char *vm)
{
	json_t *error, *list = client_ask(c, "query-vms", NULL, &error), *v;
	int is_here = 0;
	size_t i;

	json_array_foreach (list, i, v)
		is_here = is_here || !strcmp(json_string_value(json_object_get(v, "name")), vm);
	json_decref(list);
	json_decref(error);
	return is_here;
}

static int has_status(const json_t *m, const char *status)
{
	const char *now = json_string_value(json_object_get(m, "status"));

	return now && !strcmp(now, status);
}

static int say_unknown(const char *vm)
{
	fprintf(stderr, "vmferry: vm %s: unknown: no VM of this name is connected here, and no migration of it is known; see "
		"\"vmferry list\" and \"vmferry journal\"\n", vm);
	return EXIT_REFUSED;
}

/* @is_listed: it is known to be connected */
static int print_status(struct client *c, const char *vm, int is_listed, int as_json)
{
	json_t *error, *m = client_ask(c, "query-migrate", json_pack("{s:s}", "vm", vm), &error);
	int code = EXIT_OK;

	if (!m)
		return refused(error);
	if (has_status(m, "none") && !is_listed && !is_connected(c, vm)) {
		code = say_unknown(vm);
	} else {
		json_dumpf(m, stdout, (as_json ? JSON_COMPACT : JSON_INDENT(2)) | JSON_PRESERVE_ORDER);
		putchar('\n');
	}
	json_decref(m);
	return code;
}

/* A verb about the guest of @vm was refused with @error: print that, and the next step if the guest is held or unknown. */
static int refused_of(struct client *c, const char *vm, json_t *error)
{
	int code = refused(error);
	json_t *again = NULL, *m;

	if (code != EXIT_REFUSED)
		return code;
	m = client_ask(c, "query-migrate", json_pack("{s:s}", "vm", vm), &again);
	if (has_status(m, "held"))
		fprintf(stderr, "vmferry: the guest is held paused; see \"vmferry status %s\" for the reason, and \"vmferry "
			"--help\" for resolve\n", vm);
	else if (has_status(m, "none") && !is_connected(c, vm))
		say_unknown(vm);
	json_decref(m);
	json_decref(again);
	return code;
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

/* As long as the journal cannot be written no guest is moved: of no VM alone. */
static void print_journal_error(struct client *c)
{
	json_t *error, *answer = client_ask(c, "query-journal", NULL, &error);
	const char *why = json_string_value(json_object_get(answer, "error"));

	if (why && *why)
		printf("%s; guests run on, or are held, as before, and none is moved until it can be written; make room there, "
		       "or mend the disk, then repeat \"vmferry migrate\"\n", why);
	json_decref(answer);
	json_decref(error);
}

static int do_status(struct client *c, struct cli *o, char **args)
{
	json_t *error, *list, *v, *held;
	int code = EXIT_OK;
	size_t i;

	if (args[0])
		return print_status(c, args[0], 0, o->as_json);
	list = client_ask(c, "query-vms", NULL, &error);
	if (!list)
		return refused(error);
	json_array_foreach (list, i, v)
		if (!code)
			code = print_status(c, json_string_value(json_object_get(v, "name")), 1, o->as_json);
	json_decref(list);
	held = code ? NULL : held_ask(c);
	held_print_away(held, o->as_json);
	json_decref(held);
	if (!code && !o->as_json) {
		print_loop(c);
		print_journal_error(c);
	}
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

static int do_with_vm(struct client *c, const char *command, const char *vm, json_t *args)
{
	json_t *error, *ok = client_ask(c, command, args, &error);

	if (!ok)
		return refused_of(c, vm, error);
	json_decref(ok);
	return EXIT_OK;
}

static int do_cancel(struct client *c, struct cli *o, char **args)
{
	(void)o;
	return do_with_vm(c, "migrate_cancel", args[0], json_pack("{s:s}", "vm", args[0]));
}

static int do_resolve(struct client *c, struct cli *o, char **args)
{
	json_t *error, *ok = client_ask(c, "resolve", json_pack("{s:s, s:b}", "vm", args[0], "run-here", o->run_here), &error);
	const char *decided = json_string_value(json_object_get(ok, "decided"));

	if (!ok)
		return refused_of(c, args[0], error);
	if (decided)
		puts(decided);
	json_decref(ok);
	return EXIT_OK;
}

static int do_journal(struct client *c, struct cli *o, char **args)
{
	json_t *error;

	(void)args;
	return print_journal(c, o->as_json, &error) ? refused(error) : EXIT_OK;
}

static int do_forget(struct client *c, struct cli *o, char **args)
{
	json_t *ask = json_pack("{s:s}", "id", args[0]);

	if (o->vmm_ended) /* a daemon that does not know it is not asked in vain */
		json_object_set_new(ask, "vmm-ended", json_true());
	return do_simple(c, "journal-forget", ask);
}

static int do_events(struct client *c, struct cli *o, char **args)
{
	json_t *e;

	(void)o;
	(void)args;
	while (!ferror(stdout) && (e = client_next_event(c))) {
		json_dumpf(e, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER);
		putchar('\n');
		fflush(stdout);
		json_decref(e);
	}
	if (ferror(stdout))
		return EXIT_OK; /* main() says it */
	fprintf(stderr, "vmferry: the daemon is gone\n");
	return EXIT_NO_DAEMON;
}

static int do_report(struct client *c, struct cli *o, char **args)
{
	json_t *error, *m;
	int err;

	m = client_ask(c, "query-migrate", json_pack("{s:s}", "vm", args[0]), &error);
	if (!m)
		return refused_of(c, args[0], error);
	if (has_status(m, "none") && !is_connected(c, args[0])) {
		json_decref(m);
		return say_unknown(args[0]);
	}
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
	return watch_stalls(o->pid, o->min_ms, o->seconds, o->as_json);
}

/* The options of migrate, as take_option() knows them. */
#define MIGRATE_OPTIONS "dlSNcbztoRITPAM"

/** struct verb - @takes: its arguments, in words; @options: those it knows besides --socket, as take_option() does */
static const struct verb {
	const char *name;
	int least, most;
	const char *takes;
	const char *options;
	int (*run)(struct client *c, struct cli *o, char **args);
	int is_alone; /* needs no daemon */
} verbs[] = {
	{ "list", 0, 0, "no argument", "j", do_list, 0 },
	{ "migrate", 2, 2, "two arguments, VM and ADDRESS", MIGRATE_OPTIONS "j", do_migrate, 0 },
	{ "status", 0, 1, "one argument at most, VM", "j", do_status, 0 },
	{ "cancel", 1, 1, "one argument, VM", "", do_cancel, 0 },
	{ "events", 0, 0, "no argument", "j", do_events, 0 },
	{ "resolve", 1, 1, "one argument, VM or ID", "rg", do_resolve, 0 },
	{ "watch", 0, 0, "no argument", "jpme", do_watch, 1 },
	{ "blackouts", 0, 1, "one argument at most, VM", "jL", do_blackouts, 0 },
	{ "report", 1, 1, "one argument, VM", "H", do_report, 0 },
	{ "journal", 0, 0, "no argument", "j", do_journal, 0 },
	{ "forget", 1, 1, "one argument, ID", "E", do_forget, 0 },
};

static const struct option longs[] = {
	{ "socket", 1, NULL, 's' },	 { "json", 0, NULL, 'j' },	  { "help", 0, NULL, 'h' },
	{ "detach", 0, NULL, 'd' },	 { "downtime-limit", 1, NULL, 'l' }, { "strict", 0, NULL, 'S' },
	{ "no-strict", 0, NULL, 'N' },	 { "channels", 1, NULL, 'c' },	  { "max-bandwidth", 1, NULL, 'b' },
	{ "compress", 1, NULL, 'z' },	 { "throttle", 0, NULL, 't' },	  { "timeout", 1, NULL, 'o' },
	{ "run-here", 0, NULL, 'r' },	 { "gone", 0, NULL, 'g' },	  { "pid", 1, NULL, 'p' },
	{ "html", 1, NULL, 'H' },	 { "version", 0, NULL, 'v' },
	{ "last", 1, NULL, 'L' },	 { "switchover-ratio", 1, NULL, 'R' },
	{ "downtime-initial", 1, NULL, 'I' }, { "downtime-steps", 1, NULL, 'T' },
	{ "progress-timeout", 1, NULL, 'P' }, { "timeout-action", 1, NULL, 'A' }, { "max-tries", 1, NULL, 'M' },
	{ "vmm-ended", 0, NULL, 'E' },	 { "min", 1, NULL, 'm' },	 { "seconds", 1, NULL, 'e' },	  { NULL, 0, NULL, 0 },
};

static const char *name_of(int option)
{
	const struct option *l = longs;

	while (l->name && l->val != option)
		l++;
	return l->name;
}

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

static int is_no_number(int option, const char *text)
{
	fprintf(stderr, "vmferry: --%s: \"%s\" is not a number that it takes\n", name_of(option), text);
	return -EINVAL;
}

static int set_number(struct cli *o, int option, const char *key, const char *text)
{
	json_int_t n = parse_number(text);

	return n < 0 ? is_no_number(option, text) : json_object_set_new(o->params, key, json_integer(n));
}

static int set_last(struct cli *o, int option, const char *text)
{
	o->last = parse_number(text);
	return o->last < 0 ? is_no_number(option, text) : 0;
}

static int set_pid(struct cli *o, int option, const char *text)
{
	json_int_t n = parse_number(text);

	if (n < 1 || n > INT_MAX)
		return is_no_number(option, text);
	o->pid = (int)n;
	return 0;
}

/* The limit is far above each use, and keeps all products of the value within their types. */
static int set_double(int option, const char *text, double *to)
{
	char *end;

	*to = strtod(text, &end);
	return end != text && !*end && *to >= 0 && *to <= 1e8 ? 0 : is_no_number(option, text);
}

static int take_option(struct cli *o, int c)
{
	if (c < CHAR_MAX && !strchr(o->given, c))
		o->given[strlen(o->given)] = (char)c;
	switch (c) {
	case 's': o->socket = optarg; return 0;
	case 'j': o->as_json = 1; return 0;
	case 'd': o->detach = 1; return 0;
	case 'r': o->run_here = 1; return 0;
	case 'g': o->gone = 1; return 0;
	case 'E': o->vmm_ended = 1; return 0;
	case 'p': return set_pid(o, c, optarg);
	case 'm': return set_double(c, optarg, &o->min_ms);
	case 'e': return set_double(c, optarg, &o->seconds);
	case 'l': return set_number(o, c, "downtime-limit", optarg);
	case 'c': return set_number(o, c, "multifd-channels", optarg);
	case 'b': return set_number(o, c, "max-bandwidth", optarg);
	case 'o': return set_number(o, c, "timeout", optarg);
	case 'H': o->html = optarg; return 0;
	case 'L': return set_last(o, c, optarg);
	case 'R': return set_number(o, c, "switchover-ratio", optarg);
	case 'I': return set_number(o, c, "downtime-initial", optarg);
	case 'T': return set_number(o, c, "downtime-steps", optarg);
	case 'P': return set_number(o, c, "progress-timeout", optarg);
	case 'M': return set_number(o, c, "switchover-max-tries", optarg);
	case 'A': return json_object_set_new(o->params, "timeout-action", json_string(optarg));
	case 'S': return json_object_set_new(o->params, "downtime-limit-strict", json_true());
	case 'N': return json_object_set_new(o->params, "downtime-limit-strict", json_false());
	case 't': return json_object_set_new(o->params, "throttle", json_true());
	case 'z': return json_object_set_new(o->params, "multifd-compression", json_string(optarg));
	case 'h': fputs(usage, stdout); exit(terminal_close(EXIT_OK));
	case 'v': puts("vmferry " VMFERRY_RELEASE); exit(terminal_close(EXIT_OK));
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

/* Does @v have each option that it needs, and none of another verb? */
static int check_options(const struct cli *o, const struct verb *v)
{
	for (const char *c = o->given; *c; c++)
		if (*c != 's' && !strchr(v->options, *c)) {
			fprintf(stderr, "vmferry: %s takes no --%s; see vmferry --help\n", v->name, name_of(*c));
			return -EINVAL;
		}
	if (v->run == do_resolve && o->run_here == o->gone) {
		fprintf(stderr, "vmferry: resolve needs %s; be sure: a guest that runs twice destroys its disks\n", o->gone ?
			"one of --gone and --run-here, not both" : "--gone or --run-here");
		return -EINVAL;
	}
	if (v->run == do_report && !o->html) {
		fprintf(stderr, "vmferry: report needs --html FILE\n");
		return -EINVAL;
	}
	if (v->run == do_watch && !o->pid) {
		fprintf(stderr, "vmferry: watch needs --pid, the process of a VMM\n");
		return -EINVAL;
	}
	return 0;
}

static int check_address(const char *uri)
{
	if (!strncmp(uri, "tcp:", 4) || !strncmp(uri, "unix:", 5))
		return 0;
	fprintf(stderr, "vmferry: ADDRESS \"%.200s\" is none: use tcp:HOST:PORT, tcp:[IPV6]:PORT or unix:PATH; see vmferry "
		"--help\n", uri);
	return -EINVAL;
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
		fprintf(stderr, "vmferry: %s takes %s; see vmferry --help\n", v->name, v->takes);
		return EXIT_BAD_USAGE;
	}
	if (v->run == do_migrate && check_address(args[2]))
		return EXIT_BAD_USAGE;
	return check_options(o, v) ? EXIT_BAD_USAGE : run(o, v, args + 1);
}

/* Messages repeat arguments, also getopt_long()'s own ones. */
static int check_arguments(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (!terminal_may_show(argv[i])) {
			fprintf(stderr, "vmferry: argument %d is not UTF-8, or has a control character such as a line's end\n", i);
			return -EINVAL;
		}
	return 0;
}

int main(int argc, char **argv)
{
	struct cli o = { .socket = CONTROL_SOCKET, .params = json_object(), .min_ms = 1, .last = -1 };
	int c, code = EXIT_OK;

	terminal_open();
	if (check_arguments(argc, argv))
		code = EXIT_BAD_USAGE;
	while (!code && (c = getopt_long(argc, argv, "h", longs, NULL)) != -1)
		if (take_option(&o, c)) {
			fputs("see vmferry --help\n", stderr);
			code = EXIT_BAD_USAGE;
		}
	if (!code)
		code = obey(&o, argv + optind, argc - optind);
	json_decref(o.params);
	return terminal_close(code);
}
