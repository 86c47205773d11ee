// SPDX-License-Identifier: GPL-2.0-or-later
/* ferryvm: options, start-up in order, and the callbacks that libvmferry asks for. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/un.h>
#include <unistd.h>

#include "output.h"
#include "vm.h"

#define RING_ENTRIES 65536
#define MOST_NAME 63
#define MOST_DEVICE_NAME 31
#define MOST_MS 1000000

static const char usage[] =
	"ferryvm - a small KVM virtual machine that vmferryd can migrate\n"
	"\n"
	"usage: ferryvm --name NAME --kernel GUEST.ELF [options]\n"
	"       ferryvm --name NAME --incoming [options]\n"
	"\n"
	"  --name NAME          VM's name, as vmferry list shows it: printable ASCII\n"
	"                       without blanks, 63 characters at most\n"
	"  --kernel FILE        multiboot ELF file to boot\n"
	"  --append TEXT        its command line\n"
	"  --incoming           start without a guest and wait for one\n"
	"  --ram SIZE           RAM, e.g. 512M or 2G (default 256M); 32M or more, a multiple of 4M\n"
	"  --vcpus N            1 to 8 (default 1)\n"
	"  --daemon SOCKET      vmferryd's VMM socket (default " VMFERRY_VMM_SOCKET ")\n"
	"  --stats SOCKET       answer each connection with a JSON line about the guest\n"
	"  --disk FILE          raw file behind the block device\n"
	"  --stay               when the guest has left, wait for another one\n"
	"  --prealloc           fault all RAM in at the start\n"
	"  --hugetlb            RAM from hugetlbfs pages of 2 MiB\n"
	"  --tracker KIND       ring (default) or bitmap\n"
	"  --quiet              no guest console on standard output\n"
	"  --version            the release\n"
	"  --help               this text\n"
	"test instruments:\n"
	"  --device-state SIZE --save-cost MS --load-cost MS\n"
	"                       a device with that much state, that slow to save and load\n"
	"  --device-name NAME   what to call it, its kind with a number (nic0)\n"
	"  --untracked NAME     claim a device NAME whose writes no tracker sees\n"
	"  --die-after-run MS   be killed so long after the guest was let go\n"
	"  --hash               hash RAM whenever the guest is stopped and before it starts\n"
	"\n"
	"exit codes: 0 ended by a signal, or the guest has left; 1 cannot start; 2 wrong usage\n"
	"\n"
	"See also: ferryvm(1), vmferry(1), vmferryd(8)\n";

static void note_hash(struct vm *vm, uint64_t *where)
{
	uint64_t hash = memory_hash(vm);

	pthread_mutex_lock(&vm->lock);
	*where = hash;
	pthread_mutex_unlock(&vm->lock);
}

static int vm_pause(void *arg, uint64_t *last_exit_ns)
{
	struct vm *vm = arg;
	int err = vcpus_pause(vm, last_exit_ns);

	if (!err && vm->opt.hash)
		note_hash(vm, &vm->hash_at_pause);
	return err;
}

static void die_in(unsigned int ms)
{
	struct sigevent how = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL };
	struct itimerspec when = { .it_value = { ms / 1000, ms % 1000 * 1000000L } };
	timer_t timer;

	if (timer_create(CLOCK_MONOTONIC, &how, &timer) || timer_settime(timer, 0, &when, NULL))
		output_say("ferryvm: --die-after-run: %s\n", strerror(errno));
}

static int vm_resume(void *arg, uint64_t *first_entry_ns)
{
	struct vm *vm = arg;
	int err;

	if (vm->opt.hash)
		note_hash(vm, &vm->hash_at_run);
	pthread_mutex_lock(&vm->lock);
	vm->has_guest = true;
	pthread_mutex_unlock(&vm->lock);
	err = vcpus_resume(vm, first_entry_ns);
	if (!err && vm->opt.die_after_run_ms)
		die_in(vm->opt.die_after_run_ms);
	return err;
}

static int vm_save(void *arg, int fd, uint64_t *len)
{
	return state_save(arg, fd, len);
}

static int vm_load(void *arg, int fd, uint64_t len)
{
	return state_load(arg, fd, len);
}

static int vm_set_throttle(void *arg, unsigned int percent)
{
	return vcpus_set_throttle(arg, percent);
}

static void empty_ram(struct vm *vm)
{
	int err;

	pthread_mutex_lock(&vm->lock);
	vm->has_guest = false;
	pthread_mutex_unlock(&vm->lock);
	err = memory_empty(vm);
	if (err) {
		output_say("ferryvm: vm %s: cannot empty its RAM: %s\n", vm->opt.name, strerror(-err));
		output_flush();
		_exit(1);
	}
}

static void vm_release(void *arg)
{
	struct vm *vm = arg;

	if (!vm->opt.stay) {
		output_say("ferryvm: vm %s: the guest now runs elsewhere; bye\n", vm->opt.name);
		output_flush();
		_exit(0);
	}
	empty_ram(vm);
}

static void vm_discard(void *arg)
{
	empty_ram(arg);
}

static const char *daemon_socket(const struct vm *vm)
{
	return vm->opt.daemon ? vm->opt.daemon : VMFERRY_VMM_SOCKET;
}

static void vm_unreachable(void *arg, int err)
{
	struct vm *vm = arg;

	vm->awaits_daemon = true;
	output_say("ferryvm: vm %s: no vmferryd answers at %s: %s; looking for it all the while; the guest is not touched by this\n",
		   vm->opt.name, daemon_socket(vm), strerror(-err));
}

static void vm_registered(void *arg)
{
	struct vm *vm = arg;

	if (vm->awaits_daemon)
		output_say("ferryvm: vm %s: registered with vmferryd at %s\n", vm->opt.name, daemon_socket(vm));
	vm->awaits_daemon = false;
}

static void vm_refused(void *arg, const char *why)
{
	struct vm *vm = arg;

	vm->awaits_daemon = true;
	output_say("ferryvm: vm %s: vmferryd does not register it: %s; trying again every few seconds\n", vm->opt.name, why);
}

static const struct vmferry_ops ops = {
	.pause = vm_pause,
	.resume = vm_resume,
	.save = vm_save,
	.load = vm_load,
	.set_throttle = vm_set_throttle,
	.release = vm_release,
	.discard = vm_discard,
	.refused = vm_refused,
	.unreachable = vm_unreachable,
	.registered = vm_registered,
};

static int parse_size(const char *text, uint64_t *out)
{
	char *end;
	unsigned long long n = strtoull(text, &end, 10);
	unsigned int shift = 0;

	switch (*end) {
	case 'G':
		shift = 30;
		break;
	case 'M':
		shift = 20;
		break;
	case 'K':
		shift = 10;
		break;
	}
	if (end == text || (shift && end[1]) || (!shift && *end) || n > UINT64_MAX >> shift)
		return -EINVAL;
	*out = (uint64_t)n << shift;
	return 0;
}

static int parse_number(const char *text, unsigned int least, unsigned int most, unsigned int *out)
{
	char *end;
	long n;

	errno = 0;
	n = strtol(text, &end, 10);
	if (end == text || *end || errno || n < (long)least || n > (long)most)
		return -EINVAL;
	*out = (unsigned int)n;
	return 0;
}

static int die(const char *what, const char *object, int err)
{
	output_say("ferryvm: %s%s%s: %s\n", what, object ? " " : "", object ? object : "", strerror(-err));
	output_flush();
	return 1;
}

enum { OPT_NAME = 256, OPT_KERNEL, OPT_APPEND, OPT_INCOMING, OPT_RAM, OPT_VCPUS, OPT_DAEMON,
       OPT_STATS, OPT_DISK, OPT_STAY, OPT_PREALLOC, OPT_HUGETLB, OPT_TRACKER, OPT_QUIET,
       OPT_STATE, OPT_DEVICE, OPT_SAVE, OPT_LOAD, OPT_UNTRACKED, OPT_HASH, OPT_DIE,
       OPT_VERSION, OPT_HELP };

static const struct option longs[] = {
	{ "name", 1, NULL, OPT_NAME },	       { "kernel", 1, NULL, OPT_KERNEL },
	{ "append", 1, NULL, OPT_APPEND },     { "incoming", 0, NULL, OPT_INCOMING },
	{ "ram", 1, NULL, OPT_RAM },	       { "vcpus", 1, NULL, OPT_VCPUS },
	{ "daemon", 1, NULL, OPT_DAEMON },     { "stats", 1, NULL, OPT_STATS },
	{ "disk", 1, NULL, OPT_DISK },	       { "stay", 0, NULL, OPT_STAY },
	{ "prealloc", 0, NULL, OPT_PREALLOC }, { "hugetlb", 0, NULL, OPT_HUGETLB },
	{ "tracker", 1, NULL, OPT_TRACKER },   { "quiet", 0, NULL, OPT_QUIET },
	{ "device-name", 1, NULL, OPT_DEVICE },
	{ "device-state", 1, NULL, OPT_STATE },{ "save-cost", 1, NULL, OPT_SAVE },
	{ "load-cost", 1, NULL, OPT_LOAD },    { "untracked", 1, NULL, OPT_UNTRACKED },
	{ "die-after-run", 1, NULL, OPT_DIE },
	{ "hash", 0, NULL, OPT_HASH },	       { "version", 0, NULL, OPT_VERSION },
	{ "help", 0, NULL, OPT_HELP },
	{ NULL, 0, NULL, 0 },
};

static int take_text(const char **out)
{
	*out = optarg;
	return *optarg ? 0 : -EINVAL;
}

static int take_socket(const char **out)
{
	*out = optarg;
	return *optarg && strlen(optarg) < sizeof(((struct sockaddr_un *)0)->sun_path) ? 0 : -EINVAL;
}

static bool is_name(const char *text, size_t longest)
{
	size_t len = strlen(text);

	for (size_t i = 0; i < len; i++)
		if (text[i] <= ' ' || text[i] > '~')
			return false;
	return len && len <= longest;
}

static int take_name(const char **out, size_t longest)
{
	*out = optarg;
	return is_name(optarg, longest) ? 0 : -EINVAL;
}

static int take_ram(struct options *o)
{
	int err = parse_size(optarg, &o->ram);

	return err ? err : o->ram < (32 << 20) || o->ram % (4 << 20) ? -EINVAL : 0;
}

static int take_tracker(struct options *o)
{
	o->ring = strcmp(optarg, "ring") ? 0 : RING_ENTRIES;
	return o->ring || !strcmp(optarg, "bitmap") ? 0 : -EINVAL;
}

static int take_option(struct options *o, int c)
{
	switch (c) {
	case OPT_NAME: return take_name(&o->name, MOST_NAME);
	case OPT_KERNEL: return take_text(&o->kernel);
	case OPT_APPEND: o->append = optarg; return strlen(optarg) <= VM_MAX_APPEND ? 0 : -EINVAL;
	case OPT_INCOMING: o->incoming = true; return 0;
	case OPT_RAM: return take_ram(o);
	case OPT_VCPUS: return parse_number(optarg, 1, VM_MAX_VCPUS, &o->nr_vcpus);
	case OPT_DAEMON: return take_socket(&o->daemon);
	case OPT_STATS: return take_text(&o->stats);
	case OPT_DISK: return take_text(&o->disk);
	case OPT_STAY: o->stay = true; return 0;
	case OPT_PREALLOC: o->prealloc = true; return 0;
	case OPT_HUGETLB: o->hugetlb = true; return 0;
	case OPT_TRACKER: return take_tracker(o);
	case OPT_QUIET: o->quiet = true; return 0;
	case OPT_STATE: return parse_size(optarg, &o->device_state);
	case OPT_DEVICE: return take_name(&o->device_name, MOST_DEVICE_NAME);
	case OPT_SAVE: return parse_number(optarg, 0, MOST_MS, &o->save_cost_ms);
	case OPT_LOAD: return parse_number(optarg, 0, MOST_MS, &o->load_cost_ms);
	case OPT_UNTRACKED: return take_name(&o->untracked, MOST_NAME);
	case OPT_DIE: return parse_number(optarg, 0, MOST_MS, &o->die_after_run_ms);
	case OPT_HASH: o->hash = true; return 0;
	default: return -EINVAL;
	}
}

/* What a value of option @c must be. */
static const char *expected(int c)
{
	switch (c) {
	case OPT_RAM: return "a size such as 512M or 2G, 32M or more and a multiple of 4M";
	case OPT_STATE: return "a size such as 512K, 4M or 1G";
	case OPT_VCPUS: return "a number from 1 to 8";
	case OPT_APPEND: return "a command line of at most 3700 bytes";
	case OPT_DAEMON: return "the path of a socket, 1 to 107 bytes";
	case OPT_TRACKER: return "ring or bitmap";
	case OPT_SAVE:
	case OPT_LOAD:
	case OPT_DIE: return "a number of milliseconds from 0 to 1000000";
	case OPT_NAME:
	case OPT_UNTRACKED: return "a name: printable ASCII without blanks, 1 to 63 characters";
	case OPT_DEVICE: return "a name: printable ASCII without blanks, 1 to 31 characters";
	default: return "a path: it is empty";
	}
}

static int wrong_usage(const char *fmt, ...)
{
	va_list args;

	fputs("ferryvm: ", stderr);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputs("; see ferryvm --help\n", stderr);
	return -EINVAL;
}

static void say_and_exit(const char *text)
{
	fputs(text, stdout);
	if (!fflush(stdout) && !ferror(stdout))
		exit(0);
	fprintf(stderr, "ferryvm: cannot write to standard output: %s\n", strerror(errno));
	exit(1);
}

static int check(const struct options *o, int nr_more, char **more)
{
	if (nr_more)
		return wrong_usage("takes no argument \"%.100s\"", more[0]);
	if (!o->name)
		return wrong_usage("--name is missing");
	if (!o->kernel && !o->incoming)
		return wrong_usage("needs --kernel for a new guest, or --incoming to wait for one");
	if (o->kernel && o->incoming)
		return wrong_usage("takes one of --kernel and --incoming: the guest that arrives brings its kernel");
	return 0;
}

static int parse(struct options *o, int argc, char **argv)
{
	int c, index = 0;

	*o = (struct options){ .ram = 256 << 20, .nr_vcpus = 1, .ring = RING_ENTRIES, .device_name = "nic0" };
	while ((c = getopt_long(argc, argv, "h", longs, &index)) != -1) {
		if (c == OPT_HELP || c == 'h')
			say_and_exit(usage);
		if (c == OPT_VERSION)
			say_and_exit("ferryvm " VMFERRY_RELEASE "\n");
		if (c == '?') {
			fputs("see ferryvm --help\n", stderr); /* after getopt_long()'s own line */
			return -EINVAL;
		}
		if (take_option(o, c))
			return wrong_usage("--%s: \"%.100s\" is not %s", longs[index].name, optarg, expected(c));
	}
	return check(o, argc - optind, argv + optind);
}

static int make_vm(struct vm *vm)
{
	int ring;

	vm->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vm->kvm < 0)
		return die("cannot open", "/dev/kvm (is KVM there, and may you use it?)", -errno);
	vm->fd = ioctl(vm->kvm, KVM_CREATE_VM, 0);
	if (vm->fd < 0)
		return die("cannot make a VM", NULL, -errno);
	ring = vm->opt.ring ? vmferry_enable_ring(vm->fd, vm->opt.ring) : 0;
	if (ring < 0)
		return die("cannot turn on dirty rings", NULL, ring);
	vm->opt.ring = (uint32_t)ring;
	if (ioctl(vm->fd, KVM_CREATE_IRQCHIP, 0))
		return die("cannot make an interrupt controller", NULL, -errno);
	return 0;
}

static int init_sync(struct vm *vm)
{
	pthread_condattr_t attr;

	pthread_mutex_init(&vm->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&vm->go, &attr);
	pthread_cond_init(&vm->changed, &attr);
	return pthread_condattr_destroy(&attr);
}

static int open_session(struct vm *vm)
{
	int fds[VM_MAX_VCPUS];
	char kind[32] = "";
	struct vmferry_vmm_device device = { vm->opt.device_name, kind, vm->opt.device_state };
	struct vmferry_config cfg = {
		.socket = vm->opt.daemon,
		.name = vm->opt.name,
		.uuid = vm->opt.uuid,
		.vm_fd = vm->fd,
		.vcpu_fds = fds,
		.nr_vcpus = vm->opt.nr_vcpus,
		.ring_entries = vm->opt.ring,
		.ram = vm->ram,
		.nr_ram = vm->nr_ram,
		.incoming = vm->opt.incoming,
		.state_size = vm->state_len,
		.devices = &device,
		.nr_devices = vm->opt.device_state || vm->opt.save_cost_ms || vm->opt.load_cost_ms,
		.untracked = vm->opt.untracked,
		.ops = &ops,
		.vmm = vm,
	};

	/* nic0, nic1: both are nics */
	snprintf(kind, sizeof(kind), "%.*s", (int)strcspn(vm->opt.device_name, "0123456789"), vm->opt.device_name);
	for (unsigned int i = 0; i < vm->opt.nr_vcpus; i++)
		fds[i] = vm->vcpus[i].fd;
	return vmferry_open(&cfg, &vm->ferry);
}

/* What opened the devices wrongly: the file behind the disk, or the memory of the settable device. */
static int die_of_devices(struct vm *vm, int err)
{
	if (vm->opt.disk && vm->disk_fd < 0)
		return die("cannot open the disk", vm->opt.disk, err);
	return die("cannot make the state of device", vm->opt.device_name, err);
}

static int die_of_memory(struct vm *vm, int err)
{
	if (vm->opt.hugetlb)
		return die("cannot make RAM of huge pages (see HugePages_Free in /proc/meminfo) for", vm->opt.name, err);
	return die("cannot make RAM for", vm->opt.name, err);
}

/*
 * Whatever is opened gets the lowest free number. If ferryvm is started with its standard files closed, a memfd of guest
 * RAM would be number 2, and messages would go into it.
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

static int wait_for_signal(void)
{
	sigset_t set;
	int sig;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigwait(&set, &sig);
	return 0;
}

static void block_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

int main(int argc, char **argv)
{
	static struct vm vm;
	uint64_t entry;
	int err;

	open_standard_files();
	if (parse(&vm.opt, argc, argv))
		return 2;
	block_signals();
	init_sync(&vm);
	if (make_vm(&vm))
		return 1;
	if ((err = memory_init(&vm)))
		return die_of_memory(&vm, err);
	if ((err = vcpus_create(&vm)))
		return die("cannot make vCPUs for", vm.opt.name, err);
	if ((err = devices_init(&vm)))
		return die_of_devices(&vm, err);
	if ((err = state_init(&vm)))
		return die("cannot learn this host's vCPU state", NULL, err);
	if (!vm.opt.incoming && (err = boot_load(&vm)))
		return die("cannot boot", vm.opt.kernel, err);
	if ((err = output_open()))
		return die("cannot start threads", NULL, err);
	/* Before the guest's first exit, which may already speak of dirty pages. */
	if ((err = open_session(&vm)))
		return die("cannot describe the VM", vm.opt.name, err);
	if ((err = stats_start(&vm)))
		return die("cannot listen at the stats socket", vm.opt.stats, err);
	if ((err = vcpus_start(&vm)))
		return die("cannot start threads", NULL, err);
	if (!vm.opt.incoming)
		vm_resume(&vm, &entry);
	wait_for_signal();
	vcpus_quit(&vm);
	vmferry_close(vm.ferry);
	if (vm.opt.stats)
		unlink(vm.opt.stats);
	output_flush();
	return 0;
}
