# SPDX-License-Identifier: GPL-2.0-or-later
# vmferry. "make demo" shows it, "make check" tests it; both install what is missing (as root). "make help" lists all.
#
#: make                     daemon, command line, VMM and guest, into out/bin
#: make demo                installs what building needs, builds, migrates a guest that writes
#: make install             daemon, command line, VMM, library, header, pkg-config file, man pages (PREFIX, DESTDIR)
#: make kmod                the module, for the kernel in KDIR
#: make check               all tests of CI; tests/run --list names the stages
#: make check-all           make check, and all that CI has no time for: the targets below
#: make check-vm            selftests of the module on all kernels, migrations on the newest
#: make check-migrations    whole migrations on the module, on all kernels
#: make check-rt            selftests of the module on the newest of Debian's PREEMPT_RT kernels
#: make check-debug-kernel  all of that under KASAN, lockdep, kmemleak and UBSAN, with faults injected; builds a kernel
#: make check-model         the switchover's protocol, every order of events, by spin: five models, each with one question
#: make check-walks         WALKS=1000000 walks of simulated daemons; tells faults put in, arcs taken, seconds
#: make check-walks-find    defects put into the daemon that such walks must find
#: make check-tsan          whole systems under TSan
#: make check-kills         50 kills of each of the four processes, ROUNDS (500) of SIGKILL and SIGSTOP of any of them at
#:                          random moments, and PROCESS_WALKS (300) of daemons between stand-in VMMs; seeds are printed
#: make check-versions      this commit's daemon and that of the last landed one, both ways; needs git's history
#: make check-teardowns     1,000 VMs that end in every order under load, on KERNEL
#: make check-linux-guest   the module, attached to a Linux guest under stock QEMU
#: make check-trixie        the demo, from a fresh clone in a fresh room of Debian 13; tells seconds and megabytes
#: make check-bookworm      the same of Debian 12
#: make check-includes      folders include only what they may
#: make bench               against stock QEMU, in turns; a table and one line of JSON
#: make bench-contract      SWITCHOVERS at limits from 5 to 300 ms: how many kept them
#: make bench-kmod          the module against the VMM's own harvester, on KERNEL
#: make bench-hot           what it gains to leave hot pages for last
#: make bench-loop-stalls   how long the loops stand with 8 migrations at once and all that may block them
#: make deps                only installs what "make check" needs
#: make clean               removes out
#
# Variables:
#   OUT=DIR       where products go (out)
#   SAN=address,undefined | thread    build with that sanitizer, into OUT
#   WERROR=1      a compiler's warning is an error, as in CI
#   CC=gcc-14 | clang | ...           another compiler
#   DEPS=no       never install packages
#   KDIR=DIR      kernel headers, for "make kmod"

OUT ?= out
SAN ?=
RELEASE := 0.1
PREFIX ?= /usr/local
DESTDIR ?=

CC ?= gcc
CFLAGS ?= -O2 -g
WERROR ?=
WARNINGS_ARE_ERRORS = $(if $(filter 1,$(WERROR)),-Werror)
# $(call cc_takes,OPTION): OPTION if the compiler knows it
cc_takes = $(shell $(CC) -Werror $(1) -x c -c /dev/null -o /dev/null 2>/dev/null && echo $(1))
ALL_CFLAGS = -std=gnu11 -Wall -Wextra -Wshadow -Wvla $(WARNINGS_ARE_ERRORS) -D_GNU_SOURCE -DVMFERRY_RELEASE='"$(RELEASE)"' \
	-fPIC -MMD -MP $(CFLAGS) $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
ALL_LDFLAGS = $(LDFLAGS) $(if $(SAN),-fsanitize=$(SAN))

.PHONY: all help check check-all check-migrations check-tsan check-kills check-versions demo bench deps install clean check-includes kmod check-vm \
	check-debug-kernel check-linux-guest check-teardowns check-model bench-kmod bench-hot bench-contract bench-loop-stalls \
	check-rt check-trixie check-bookworm check-walks check-walks-find need-kvm
.DELETE_ON_ERROR:
all:

include vmm/libvmferry/Makefile
include vmm/ferryvm/Makefile
include vmm/guest/Makefile
include bpf/Makefile
include daemon/Makefile
include tests/unit/Makefile
include tests/sim/Makefile
include tests/bench/Makefile

all: $(PRODUCTS)

# Each folder's objects get that folder's own include paths: see check-includes.
$(OUT)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(INCLUDES_$(firstword $(subst /, ,$*))) -c $< -o $@

INCLUDES_vmm = -Iuapi -Ivmm/libvmferry
INCLUDES_daemon = -Iuapi -Idaemon -Ibpf
INCLUDES_tests = -Iuapi -Idaemon -Ivmm/libvmferry -Ibpf

# What a target needs: deps-demo, deps-check, deps-bench.
deps: deps-check
deps-%:
	@DEPS=$(DEPS) tests/lib/install-packages $*

# Before anything is installed: what only machines with KVM can do.
need-kvm:
	@tests/lib/need-kvm

check: need-kvm deps
	tests/run

# What CI has no time for: the other kernels, the debug kernel, the whole search, whole systems under TSan, long walks.
check-all: deps
	@rc=0; tests/run all || rc=1; for t in check-trixie check-bookworm check-teardowns check-linux-guest; do $(MAKE) --no-print-directory $$t || rc=1; done; exit $$rc

help:
	@sed -n 's/^#: //p' Makefile; echo; echo Variables:; sed -n 's/^#   /  /p' Makefile

demo: need-kvm deps-demo
	@$(MAKE) --no-print-directory -s all
	@tests/lib/demo

bench: need-kvm deps-bench
	@tests/bench/install-peer
	@$(MAKE) --no-print-directory -s all bench-tools
	@tests/bench/migrate.py

KDIR ?= /lib/modules/$(shell uname -r)/build

kmod:
	$(MAKE) -C $(KDIR) M=$(CURDIR)/kmod W=1 modules

check-vm: deps
	tests/run vm moves-newest

# On PREEMPT_RT most locks sleep; the module's tracepoint handlers run where nothing may sleep.
check-rt: deps
	tests/run vm-rt

# A kernel with KASAN, lockdep, kmemleak and UBSAN, built the first time (some ten minutes).
check-debug-kernel: deps
	tests/run debug moves-debug

check-migrations: deps
	tests/run moves

check-tsan: deps
	tests/run tsan-whole

# What failed is repeated alone as its last line says.
ROUNDS ?= 500
PROCESS_WALKS ?= 300
FIRST ?= 0
SEED ?= 4747
check-kills: deps
	VMFERRY_ROUNDS=$(ROUNDS) VMFERRY_WALKS=$(PROCESS_WALKS) VMFERRY_FIRST=$(FIRST) VMFERRY_SEED=$(SEED) tests/run kills

check-versions: deps
	tests/run versions

# 1,000 VMs that end in every order under load, on KERNEL.
KERNEL ?= newest
check-teardowns: deps
	tests/vm/run $(KERNEL) --seconds 3000 --shell 'rc=0; for i in 0 1 2 3 4 5 6 7 8 9; do \
		VMFERRY_SEED=$$((i * 100)) VMFERRY_TIMES=100 ./life_test -t any_order_of_ending || rc=1; done; (exit $$rc)'

check-linux-guest: deps
	@$(MAKE) --no-print-directory -s all
	tests/vm/run 6.12 --linux-guest --processors 1 linux_guest_under_qemu.py

# The module against the VMM's own harvester, in turns, on KERNEL.
bench-kmod: deps
	@tests/vm/run $(KERNEL) --seconds 900 --show --shell './harvest_bench $(TURNS)'

# What it gains to leave hot pages for last, on the module.
bench-hot: deps
	@$(MAKE) --no-print-directory -s all
	@$(MAKE) --no-print-directory -s all OUT=$(OUT)/noheat CFLAGS='-O2 -g -DCHANNEL_HOT=256'
	@$(MAKE) --no-print-directory -s all OUT=$(OUT)/sendsall CFLAGS='-O2 -g -DCHANNEL_LEAVES_OUT=0'
	@tests/vm/run $(KERNEL) --seconds 3000 --daemon --show --shell \
		'python3 /vmferry/tests/bench/hot_pages.py $(or $(TURNS),5) 64M hot:30:40 12000000 60'

check-model: deps
	tests/run model-whole

# Whole daemons on a simulated clock, network and disk, one walk a seed; SEED is the first.
WALKS ?= 1000000
SEED ?= 1
check-walks: deps
	@$(MAKE) --no-print-directory -s sim
	$(OUT)/tests/sim/sim --walks $(WALKS) --seed $(SEED) --known tests/sim/known --arcs

check-walks-find: deps
	tests/sim/find

# The downtime contract: SWITCHOVERS of many workloads at many limits, stock QEMU beside them.
SWITCHOVERS ?= 1000
bench-contract: deps-bench
	@tests/bench/install-peer
	@$(MAKE) --no-print-directory -s all
	@tests/bench/contract.py --switchovers $(SWITCHOVERS)

# "make demo" from a clone of what is committed, in a room with no more than debootstrap's minimum.
check-trixie check-bookworm: deps
	tests/lib/room.py --fresh --committed $(@:check-%=%) make demo

# How long the daemons' loops stand with 8 migrations at once and all that may block them.
bench-loop-stalls: deps-bench
	@$(MAKE) --no-print-directory -s all
	@tests/bench/loop_stalls.py

check-includes:
	tests/lib/check-includes

install: all
	install -d $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/pkgconfig \
		$(DESTDIR)$(PREFIX)/include $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/man/man8
	install $(OUT)/bin/vmferryd $(DESTDIR)$(PREFIX)/sbin
	install $(OUT)/bin/vmferry $(OUT)/bin/ferryvm $(DESTDIR)$(PREFIX)/bin
	install -m 644 $(OUT)/vmm/libvmferry.a $(DESTDIR)$(PREFIX)/lib
	install $(OUT)/vmm/libvmferry.so.1 $(DESTDIR)$(PREFIX)/lib
	ln -sf libvmferry.so.1 $(DESTDIR)$(PREFIX)/lib/libvmferry.so
	install -m 644 vmm/libvmferry/libvmferry.h uapi/vmferry.h uapi/vmferry_vmm.h $(DESTDIR)$(PREFIX)/include
	sed 's|@PREFIX@|$(PREFIX)|; s|@RELEASE@|$(RELEASE)|' vmm/libvmferry/libvmferry.pc.in \
		> $(DESTDIR)$(PREFIX)/lib/pkgconfig/libvmferry.pc
	install -m 644 packaging/man/vmferry.1 packaging/man/ferryvm.1 $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 packaging/man/vmferryd.8 $(DESTDIR)$(PREFIX)/share/man/man8

clean:
	rm -rf $(OUT)

-include $(shell find $(OUT) -name '*.d' 2>/dev/null)
