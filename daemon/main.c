// SPDX-License-Identifier: GPL-2.0-or-later
/* vmferryd: the process around one daemon: options, log, signals, heap, control socket. The daemon is ferry.c's. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-id128.h>
#include <unistd.h>

#include "base/error.h"
#include "control/api.h"
#include "ferry.h"
#include "options.h"
#include "peer/peer.h"

#define HEAP_BYTES (4 << 20) /* the loop uses less than a half; 4,096 outcomes that nobody acknowledges are 2.7 MB more */
#define FEW_FDS 256 /* below that it says that VMs and peers may find no room */
#define MOST_FDS 16384 /* for which the table has room from the beginning: 128 KiB */

/*
 * Whatever a daemon opens gets the lowest free number. If it is started with standard error closed, the journal or an
 * eventfd would be number 2, and messages would go into it.
 */
static void open_standard_files(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

static void on_signal(struct loop_source *s, uint32_t events)
{
	struct ferry *f = s->owner;
	struct signalfd_siginfo si;

	(void)events;
	if (read(s->fd, &si, sizeof(si)) != sizeof(si))
		return;
	notice_report("vmferryd: ending on signal %u; guests stay where they run", si.ssi_signo);
	loop_stop(f->loop);
}

static void signals_to_end(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
}

/* Before any thread is made: it inherits this, and only the loop is told of signals. */
static void block_signals(void)
{
	sigset_t set;

	signals_to_end(&set);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

static int watch_signals(struct ferry *f, struct loop_source *s)
{
	sigset_t set;
	int err;

	signals_to_end(&set);
	*s = (struct loop_source){ .fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK),
				   .ready = on_signal,
				   .owner = f,
				   .name = "signal" };
	if (s->fd < 0) {
		err = -errno;
		error_report("vmferryd: cannot be told of signals: %s", strerror(-err));
		return err;
	}
	return loop_add(f->loop, s, EPOLLIN);
}

/*
 * The channels compete with guests' vCPUs for the processors. A guest that is moved soon
 * is slowed for a shorter time; see "nice" in vmferryd(8). Threads made later inherit it.
 */
static void set_priority(int level)
{
	if (setpriority(PRIO_PROCESS, 0, level))
		notice_report("vmferryd: cannot run at nice %d: %s; migrations beside busy guests take longer",
			      level, strerror(errno));
}

/*
 * What the loop frees stays with the process. Else free() calls munmap() or shrinks the heap,
 * and both wait for threads that fault guest RAM in: they hold the same lock of the kernel,
 * for 8 to 313 ms (measured). 32 MiB is the most that glibc takes for the first one.
 */
static void keep_freed_memory(void)
{
	mallopt(M_MMAP_THRESHOLD, 32 << 20);
	mallopt(M_TRIM_THRESHOLD, INT_MAX);
	mallopt(M_TOP_PAD, 1 << 20);
}

/*
 * Makes the heap as large as the loop needs it, before the first guest registers. To enlarge a heap later, the kernel
 * takes the lock of the address space. A thread that fills page tables holds that lock, and may be preempted meanwhile:
 * the loop then waited for 56 to 260 ms (measured with make bench-loop-stalls).
 */
static int make_heap(void)
{
	void *room = malloc(HEAP_BYTES);

	if (!room) {
		error_report("vmferryd: no memory for a heap of %d MiB", HEAP_BYTES >> 20);
		return -ENOMEM;
	}
	explicit_bzero(room, HEAP_BYTES); /* the compiler leaves out a memset() before a free() */
	free(room);
	return 0;
}

#define RAISE_FD_LIMIT "type \"ulimit -n 1024\" before vmferryd, or set LimitNOFILE=1024 in its systemd unit"

static unsigned long long fd_limit(void)
{
	struct rlimit limit;

	return getrlimit(RLIMIT_NOFILE, &limit) ? RLIM_INFINITY : limit.rlim_cur;
}

/*
 * Makes the process's table of file descriptors as large as it may become. If the table grows later, the kernel waits
 * for an RCU grace period, because threads share it, and open() on the loop waits as long (measured: 4 to 12 ms).
 */
static void make_fd_table(void)
{
	unsigned long long limit = fd_limit();
	int highest, fd;

	if (!limit)
		return;
	highest = (int)(limit < MOST_FDS ? limit : MOST_FDS) - 1;
	fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, highest);
	if (fd >= 0)
		close(fd);
}

/* The process's own, once the daemon's parts are there and before its loop runs: no guest is near yet. */
static int make_room(void)
{
	malloc_trim(0); /* the kernel's types, 10 MiB, were needed to load the probe */
	make_fd_table();
	return make_heap();
}

/* Zeros where it has none: then a copied disk image is not told from its original. */
static void get_machine(uint8_t machine[16])
{
	sd_id128_t id = { 0 };

	sd_id128_get_machine(&id);
	memcpy(machine, id.bytes, 16);
}

static int start(struct ferry *f, const struct options *o, struct loop_source *signals)
{
	struct ferry_config config = { .listen = o->listen,
				       .run_dir = o->run_dir,
				       .state_dir = o->state_dir,
				       .vmm_socket = o->vmm_socket,
				       .tracker = o->tracker_mode };
	int err;

	peer_host_id(config.boot);
	get_machine(config.machine);
	block_signals();
	err = ferry_open(f, &config);
	if (!err)
		err = watch_signals(f, signals);
	if (!err)
		err = make_room();
	if (!err)
		err = api_listen(f, o->control_socket);
	return err;
}

int main(int argc, char **argv)
{
	struct ferry f = { 0 };
	struct options o = { 0 };
	struct loop_source signals = { .fd = -1 };
	int err;

	open_standard_files();
	err = options_parse(&o, argc, argv);
	if (err) {
		options_free(&o);
		return err > 0 ? 0 : err == -EINVAL || err == -ENODATA ? 2 : 1;
	}
	keep_freed_memory();
	set_priority(o.nice_level);
	err = log_open();
	if (err)
		error_report("vmferryd: cannot start the log: %s", strerror(-err));
	else
		err = start(&f, &o, &signals);
	if (err == -EMFILE)
		error_report("vmferryd: the limit of open files, %llu, is too low to start: " RAISE_FD_LIMIT, fd_limit());
	else if (!err && fd_limit() < FEW_FDS)
		notice_report("vmferryd: the limit of open files, %llu, is low; VMs and peers cannot connect once it is "
			      "reached: " RAISE_FD_LIMIT, fd_limit());
	if (!err) {
		notice_report("vmferryd %s: ready; peers at %s, VMMs at %s, control at %s",
			      VMFERRY_RELEASE, o.listen, o.vmm_socket, o.control_socket);
		sd_notify(0, "READY=1");
		err = loop_run(f.loop);
		sd_notify(0, "STOPPING=1");
	}
	ferry_stop(&f, "was told to end");
	api_stop(&f); /* its clients have heard what became of the migrations */
	if (!ferry_close(&f)) {
		error_report("vmferryd: something that was begun does not end: a disk or a file system hangs; "
			     "ending without it; no guest is concerned");
		log_close();
		return 1;
	}
	if (signals.fd >= 0)
		close(signals.fd);
	if (!err || err == -EINTR)
		unlink(o.control_socket), unlink(o.vmm_socket);
	options_free(&o);
	log_close();
	return err ? 1 : 0;
}
