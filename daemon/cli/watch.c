// SPDX-License-Identifier: GPL-2.0-or-later
/* The live view of a migration: a bar on a terminal, JSON lines otherwise, then a report. */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "client.h"

#define POLL_MS 100
#define BAR 32

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
	(void)sig;
	interrupted = 1;
}

static long long num(json_t *j, const char *key)
{
	return (long long)json_integer_value(json_object_get(j, key));
}

static const char *str(json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));

	return s ? s : "";
}

static int is_over(const char *status)
{
	return !strcmp(status, "completed") || !strcmp(status, "failed") ||
	       !strcmp(status, "cancelled") || !strcmp(status, "held");
}

static void human(char *to, size_t len, double bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	int u = 0;

	for (; bytes >= 1024 && u < 4; u++)
		bytes /= 1024;
	snprintf(to, len, u ? "%.1f %s" : "%.0f %s", bytes, units[u]);
}

static void draw_bar(json_t *m)
{
	json_t *ram = json_object_get(m, "ram");
	double total = (double)num(ram, "total"), left = (double)num(ram, "remaining");
	long long round = num(ram, "dirty-sync-count") + 1;
	char sent[32], rest[32], bar[BAR + 1];
	int filled;

	if (total <= 0) /* round 1 is under way: its size is what remains */
		total = left > 0 ? left : 1;
	if (round == 1)
		left = total - (double)num(ram, "transferred");
	if (left < 0)
		left = 0;
	filled = (int)(BAR * (total - left) / total);
	if (filled > BAR)
		filled = BAR;
	if (filled < 0)
		filled = 0;
	memset(bar, '=', (size_t)filled);
	memset(bar + filled, ' ', (size_t)(BAR - filled));
	bar[BAR] = '\0';
	human(sent, sizeof(sent), (double)num(ram, "transferred"));
	human(rest, sizeof(rest), left);
	printf("\r\033[K%s [%s] round %lld  sent %s  left %s  would stand still %lld ms (limit %lld)",
	       str(m, "status"), bar, round, sent, rest, num(m, "expected-downtime"),
	       num(m, "downtime-limit"));
	fflush(stdout);
}

static void print_rounds(json_t *m)
{
	json_t *list = json_object_get(m, "rounds"), *r;
	size_t i, n = json_array_size(list);

	printf("  round      pages        bytes       time        rate\n");
	json_array_foreach (list, i, r) {
		double s = (double)num(r, "time-us") / 1e6;
		char bytes[32], rate[32];

		if (n > 12 && i >= 6 && i < n - 5) {
			if (i == 6)
				printf("    ...\n");
			continue;
		}
		human(bytes, sizeof(bytes), (double)num(r, "bytes"));
		human(rate, sizeof(rate), s > 0 ? (double)num(r, "bytes") / s : 0);
		printf("  %5zu %10lld %12s %7.1f ms %9s/s\n", i + 1, num(r, "pages"), bytes, s * 1e3, rate);
	}
}

static void print_parts(json_t *m)
{
	json_t *parts = json_object_get(m, "blackout-parts"), *p, *whole = json_object_get(m, "prediction");
	const char *name;

	printf("  blackout    expected  at most      actual\n");
	json_object_foreach (parts, name, p)
		printf("  %-8s %8.2f  %8.2f  %8.2f ms\n", name, (double)num(p, "expected-us") / 1e3,
		       (double)num(p, "upper-us") / 1e3, (double)num(p, "actual-us") / 1e3);
	printf("  %-8s %8.2f  %8.2f  %8.2f ms   limit %lld ms%s\n", "whole", (double)num(whole, "expected-us") / 1e3,
	       (double)num(whole, "upper-us") / 1e3,
	       (double)(num(m, "blackout-us") ? num(m, "blackout-us") : num(m, "downtime-us")) / 1e3,
	       num(m, "downtime-limit"),
	       json_is_true(json_object_get(m, "downtime-limit-strict")) ? ", strict" : "");
	printf("  timed by %s, wrong by %.3f ms at most%s\n", str(m, "timed-by"), (double)num(m, "clock-error-us") / 1e3,
	       json_is_true(json_object_get(whole, "cold")) ? "; partly guessed: nothing was measured between these "
							      "hosts yet" : "");
}

static void print_brownout(json_t *m)
{
	json_t *list = json_object_get(m, "brownout"), *v;
	size_t i;

	json_array_foreach (list, i, v) {
		printf("  vCPU %lld  lost %.2f ms to throttling", num(v, "vcpu"), (double)num(v, "throttled-us") / 1e3);
		if (json_object_get(v, "rings-full-us"))
			printf(", %.2f to %lld full rings", (double)num(v, "rings-full-us") / 1e3,
			       num(v, "rings-full"));
		if (json_object_get(v, "faults-us"))
			printf(", %.2f to %lld faults", (double)num(v, "faults-us") / 1e3, num(v, "faults"));
		if (json_object_get(v, "dirty-pages"))
			printf("; %lld pages logged", num(v, "dirty-pages"));
		printf("\n");
	}
	if (num(m, "probe-missed"))
		printf("  the kernel kept %lld events of this host's VMs from the probe: counts may be too low%s\n",
		       num(m, "probe-missed"), strcmp(str(m, "timed-by"), "kvm-run") ? "" : ", the blackout too long");
}

static void print_decisions(json_t *m)
{
	json_t *list = json_object_get(m, "decisions"), *d;
	size_t i;

	json_array_foreach (list, i, d)
		printf("  %9.3f s  %s\n", (double)num(d, "at-us") / 1e6, str(d, "text"));
}

static void print_report(json_t *m)
{
	json_t *ram = json_object_get(m, "ram");
	const char *huge = str(m, "huge-pages");
	char bytes[32];

	human(bytes, sizeof(bytes), (double)num(ram, "transferred"));
	if (strcmp(str(m, "status"), "completed")) {
		printf("%s: %s: %s\n", str(m, "vm"), str(m, "status"), str(m, "error-desc"));
		if (!strcmp(str(m, "status"), "held"))
			printf("The guest is held paused here, and the destination is asked whether it runs there. If you "
			       "know, say one of:\n"
			       "  vmferry resolve %s --gone      it runs there; its memory here is given up\n"
			       "  vmferry resolve %s --run-here  it surely never ran there, and never will\n",
			       str(m, "vm"), str(m, "vm"));
		else
			printf("The guest was not moved; \"vmferry list\" shows it.\n");
		print_decisions(m);
		return;
	}
	printf("%s moved to %s in %.2f s: %s sent in %lld rounds, %lld zero pages not sent\n",
	       str(m, "vm"), str(m, "uri"), (double)num(m, "total-time") / 1e3, bytes,
	       num(ram, "dirty-sync-count"), num(ram, "duplicate"));
	print_rounds(m);
	print_parts(m);
	print_brownout(m);
	print_decisions(m);
	printf("  tracker %s; destination's huge pages: %s", str(m, "tracker"), huge);
	if (!strcmp(huge, "none"))
		printf(" (slower first touch; reserve hugetlb pages or set shmem_enabled to advise)");
	printf("\n");
}

static int exit_code(const char *status)
{
	if (!strcmp(status, "completed"))
		return EXIT_OK;
	if (!strcmp(status, "cancelled"))
		return EXIT_CANCELLED;
	return strcmp(status, "held") ? EXIT_NOT_MOVED : EXIT_HELD;
}

/* Ctrl-C asks for a cancel once; the guest then stays where it is. */
static void ask_cancel(struct client *c, const char *vm)
{
	json_t *error = NULL, *ok = client_ask(c, "migrate_cancel", json_pack("{s:s}", "vm", vm), &error);

	fprintf(stderr, "\n%s\n", ok ? "cancelling; the guest stays here" :
				       error ? json_string_value(error) : "the daemon is gone");
	json_decref(ok);
	json_decref(error);
}

/** watch_migration() - follow @vm until it is over; Return: exit code */
int watch_migration(struct client *c, const char *vm, int as_json)
{
	struct sigaction sa = { .sa_handler = on_interrupt };
	int tty = isatty(STDOUT_FILENO) && !as_json, code = -1;

	sigaction(SIGINT, &sa, NULL);
	while (code < 0) {
		json_t *error = NULL;
		json_t *m = client_ask(c, "query-migrate", json_pack("{s:s}", "vm", vm), &error);

		json_decref(error);
		if (!m) {
			fprintf(stderr, "vmferry: the daemon is gone; the guest is not: start vmferryd again, it "
					"finds out where the guest is\n");
			return EXIT_NO_DAEMON;
		}
		if (is_over(str(m, "status"))) {
			code = exit_code(str(m, "status"));
			if (tty)
				printf("\r\033[K");
			if (tty || !as_json)
				print_report(m);
		} else if (tty) {
			draw_bar(m);
		}
		if (as_json && (code >= 0 || !tty)) {
			json_dumpf(m, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER);
			putchar('\n');
			fflush(stdout);
		}
		json_decref(m);
		if (interrupted == 1) {
			interrupted = 2;
			ask_cancel(c, vm);
		}
		if (code < 0)
			poll(NULL, 0, POLL_MS);
	}
	return code;
}
