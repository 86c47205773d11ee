# SPDX-License-Identifier: GPL-2.0-or-later
# vmferry. "make demo" shows it, "make check" tests it; both install what is missing (as root).
#
#   OUT=DIR       where products go (out)
#   SAN=address,undefined | thread    build with that sanitizer, into OUT
#   DEPS=no       never install packages
#   KDIR=DIR      kernel headers, for "make kmod"

OUT ?= out
SAN ?=
RELEASE := 0.1
PREFIX ?= /usr/local
DESTDIR ?=

CC ?= gcc
CFLAGS ?= -O2 -g
ALL_CFLAGS = -std=gnu11 -Wall -Wextra -Wshadow -Wvla -Werror -D_GNU_SOURCE -DVMFERRY_RELEASE='"$(RELEASE)"' \
	-fPIC -MMD -MP $(CFLAGS) $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
ALL_LDFLAGS = $(LDFLAGS) $(if $(SAN),-fsanitize=$(SAN))

.PHONY: all check demo bench deps install clean check-includes kmod check-vm check-debug-kernel check-teardowns check-model bench-kmod bench-hot bench-contract bench-loop-stalls
.DELETE_ON_ERROR:
all:

include vmm/libvmferry/Makefile
include vmm/ferryvm/Makefile
include vmm/guest/Makefile
include bpf/Makefile
include daemon/Makefile
include tests/unit/Makefile
include tests/bench/Makefile

all: $(PRODUCTS)

# Each folder's objects get that folder's own include paths: see check-includes.
$(OUT)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(INCLUDES_$(firstword $(subst /, ,$*))) -c $< -o $@

INCLUDES_vmm = -Iuapi -Ivmm/libvmferry
INCLUDES_daemon = -Iuapi -Idaemon -Ibpf
INCLUDES_tests = -Iuapi -Idaemon -Ivmm/libvmferry -Ibpf

deps:
	@DEPS=$(DEPS) tests/lib/install-packages

check: deps
	tests/run

demo: deps
	@$(MAKE) --no-print-directory -s all
	@tests/lib/demo

bench: deps
	@tests/bench/install-peer
	@$(MAKE) --no-print-directory -s all bench-tools
	@tests/bench/migrate.py

KDIR ?= /lib/modules/$(shell uname -r)/build

kmod:
	$(MAKE) -C $(KDIR) M=$(CURDIR)/kmod W=1 modules

check-vm: deps
	tests/run vm

# Not in "make check": a kernel with KASAN, lockdep, kmemleak and UBSAN, built the first time (some ten minutes).
check-debug-kernel: deps
	tests/run debug

# Not in "make check": 1,000 VMs that end in every order under load, on KERNEL.
KERNEL ?= 7.2
check-teardowns: deps
	tests/vm/run $(KERNEL) --seconds 3000 --shell 'rc=0; for i in 0 1 2 3 4 5 6 7 8 9; do \
		VMFERRY_SEED=$$((i * 100)) VMFERRY_TIMES=100 ./life_test -t any_order_of_ending || rc=1; done; (exit $$rc)'

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

# The switchover's protocol, searched whole by spin.
check-model: deps
	tests/run model

# The downtime contract: SWITCHOVERS of many workloads at many limits, stock QEMU beside them.
SWITCHOVERS ?= 1000
bench-contract: deps
	@tests/bench/install-peer
	@$(MAKE) --no-print-directory -s all
	@tests/bench/contract.py --switchovers $(SWITCHOVERS)

# How long the daemons' loops stand with 8 migrations at once and all that may block them.
bench-loop-stalls: deps all
	@tests/bench/loop_stalls.py

check-includes:
	tests/lib/check-includes

install: all
	install -d $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/pkgconfig \
		$(DESTDIR)$(PREFIX)/include $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/man/man8
	install $(OUT)/bin/vmferryd $(DESTDIR)$(PREFIX)/sbin
	install $(OUT)/bin/vmferry $(OUT)/bin/ferryvm $(DESTDIR)$(PREFIX)/bin
	install -m 644 $(OUT)/vmm/libvmferry.a $(DESTDIR)$(PREFIX)/lib
	install $(OUT)/vmm/libvmferry.so.0 $(DESTDIR)$(PREFIX)/lib
	ln -sf libvmferry.so.0 $(DESTDIR)$(PREFIX)/lib/libvmferry.so
	install -m 644 vmm/libvmferry/libvmferry.h uapi/vmferry.h uapi/vmferry_vmm.h $(DESTDIR)$(PREFIX)/include
	sed 's|@PREFIX@|$(PREFIX)|; s|@RELEASE@|$(RELEASE)|' vmm/libvmferry/libvmferry.pc.in \
		> $(DESTDIR)$(PREFIX)/lib/pkgconfig/libvmferry.pc
	install -m 644 packaging/man/vmferry.1 packaging/man/ferryvm.1 $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 packaging/man/vmferryd.8 $(DESTDIR)$(PREFIX)/share/man/man8

clean:
	rm -rf $(OUT)

-include $(shell find $(OUT) -name '*.d' 2>/dev/null)
