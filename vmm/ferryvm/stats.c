// SPDX-License-Identifier: GPL-2.0-or-later
/* One JSON line about the guest, its own verdict included, to whoever connects. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "../guest/guest_stats.h"
#include "vm.h"

static uint64_t ticks_to_us(const struct vm *vm, uint64_t ticks)
{
	return ticks * 1000 / vm->tsc_khz;
}

static void print_vcpu(const struct vm *vm, FILE *f, const struct guest_stats *s)
{
#define LL(field) ((unsigned long long)__atomic_load_n(&s->field, __ATOMIC_RELAXED))
	fprintf(f,
		"{\"filled\":%s,\"beats\":%llu,\"gap-max-us\":%llu,\"blackouts\":%llu,"
		"\"blackout-last-us\":%llu,\"blackout-max-us\":%llu,\"written\":%llu,"
		"\"verified\":%llu,\"owned\":%llu,\"disk-ops\":%llu,\"errors\":%llu,"
		"\"bad-page\":%llu,\"bad-word\":%llu,\"bad-want\":%llu,\"bad-got\":%llu,"
		"\"blackout-history-us\":[",
		LL(filled) ? "true" : "false", LL(beats),
		(unsigned long long)ticks_to_us(vm, LL(gap_max)), LL(blackouts),
		(unsigned long long)ticks_to_us(vm, LL(blackout_last)),
		(unsigned long long)ticks_to_us(vm, LL(blackout_max)), LL(written), LL(verified),
		LL(owned), LL(disk_ops), LL(errors), LL(bad_page), LL(bad_word), LL(bad_want),
		LL(bad_got));
	for (uint64_t n = s->blackouts < GUEST_HISTORY ? s->blackouts : GUEST_HISTORY; n; n--)
		fprintf(f, "%llu%s", (unsigned long long)ticks_to_us(vm, s->history[(s->blackouts - n + 1) % GUEST_HISTORY]),
			n > 1 ? "," : "");
	fputs("]}", f);
#undef LL
}

static void print_stats(struct vm *vm, FILE *f)
{
	bool guest, running;

	pthread_mutex_lock(&vm->lock);
	guest = vm->has_guest;
	running = vm->run_wanted;
	fprintf(f,
		"{\"name\":\"%s\",\"pid\":%d,\"guest\":%s,\"running\":%s,\"incarnation\":%llu,"
		"\"last-exit-ns\":%llu,\"first-entry-ns\":%llu,\"hash-at-pause\":\"%016llx\","
		"\"hash-at-run\":\"%016llx\",\"vcpus\":[",
		vm->opt.name, getpid(), guest ? "true" : "false", running ? "true" : "false",
		(unsigned long long)vm->incarnation, (unsigned long long)vm->last_exit_ns,
		(unsigned long long)vm->first_entry_ns, (unsigned long long)vm->hash_at_pause,
		(unsigned long long)vm->hash_at_run);
	pthread_mutex_unlock(&vm->lock);
	/* Without a guest the pages may be holes, and looking would allocate them. */
	for (unsigned int i = 0; guest && i < vm->opt.nr_vcpus; i++) {
		const struct guest_stats *s = vm_at(vm, GUEST_STATS_GPA + i * 4096ULL, 4096);

		fputs(i ? "," : "", f);
		print_vcpu(vm, f, s);
	}
	fputs("]}\n", f);
}

/* Made in memory first: no reader holds vm->lock. A client that does not read is left after a second. */
static void answer(struct vm *vm, int fd)
{
	char *text = NULL;
	size_t len = 0, sent = 0;
	FILE *f = open_memstream(&text, &len);
	ssize_t n = 1;

	if (!f)
		return;
	print_stats(vm, f);
	if (fclose(f))
		len = 0;
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &(struct timeval){ .tv_sec = 1 }, sizeof(struct timeval));
	for (; sent < len && n > 0; sent += (size_t)n)
		n = send(fd, text + sent, len - sent, MSG_NOSIGNAL);
	free(text);
}

static void *stats_thread(void *arg)
{
	struct vm *vm = arg;

	for (;;) {
		int fd = accept4(vm->stats_fd, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0)
			continue;
		answer(vm, fd);
		close(fd);
	}
	return NULL;
}

/* A socket that an earlier ferryvm left is replaced; any other file stays, and bind() fails. */
static int listen_at(const char *path)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	struct stat st;
	int sock, err;

	if (strlen(path) >= sizeof(sa.sun_path))
		return -ENAMETOOLONG;
	strcpy(sa.sun_path, path);
	sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (sock < 0)
		return -errno;
	if (!lstat(path, &st) && S_ISSOCK(st.st_mode))
		unlink(path);
	if (!bind(sock, (struct sockaddr *)&sa, sizeof(sa)) && !listen(sock, 8))
		return sock;
	err = -errno;
	close(sock);
	return err;
}

/** stats_start() - serve opt.stats, if asked for; Return: 0, or a negative errno: nothing listens there */
int stats_start(struct vm *vm)
{
	pthread_t thread;

	if (!vm->opt.stats)
		return 0;
	vm->stats_fd = listen_at(vm->opt.stats);
	if (vm->stats_fd < 0)
		return vm->stats_fd;
	if (pthread_create(&thread, NULL, stats_thread, vm))
		return -EAGAIN;
	return -pthread_detach(thread);
}
