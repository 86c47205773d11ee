#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Promise: --tracker chooses who harvests, "vmferry status" says who it was, and where the module cannot be had
one line says why. Runs with the module (tests/vm) and without.
Seen to fail: with fall_back() going on where --tracker kmod was asked for."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
from ferry import Scene, ended, expect, main, wait_for

HAS_MODULE = os.path.exists('/dev/vmferry')
LINE = 'its VMM harvests dirty pages, not the kernel module'


def move(tracker):
    with Scene() as s:
        a, b = s.daemon('a', tracker=tracker), s.daemon('b', tracker=tracker)
        src, dst = s.vmm(a, append='v0=seq:20:16', ram='64M'), s.vmm(b, incoming=True, ram='64M')
        src.wait_filled()
        a.ask('migrate', vm='web1', uri=b.listen, **{'downtime-limit': 2000})
        got = wait_for('the migration', lambda: ended(a), 120)
        if got['status'] == 'completed':
            dst.verdict()
        else:
            src.verdict()
            expect(src.runs() and not dst.runs(), 'not exactly the source runs')
        return got, a.text()


def auto_takes_the_module_where_it_is():
    got, log = move('auto')
    expect(got['status'] == 'completed', got.get('error-desc'))
    expect(got['tracker'] == ('kmod/ring' if HAS_MODULE else 'vmm/ring'), got['tracker'])
    lines = [x for x in log.splitlines() if LINE in x]
    expect(len(lines) == (0 if HAS_MODULE else 1), log)
    expect(HAS_MODULE or '/dev/vmferry is not there' in lines[0], log)


def kmod_takes_nothing_else():
    got, log = move('kmod')
    expect(LINE not in log, log)
    if HAS_MODULE:
        expect(got['tracker'] == 'kmod/ring', got['tracker'])
    else:
        expect(got['status'] == 'failed' and 'modprobe vmferry' in got['error-desc'], f"{got['status']}: {got.get('error-desc')}")


def vmm_does_not_ask_for_it():
    got, log = move('vmm')
    expect(got['tracker'] == 'vmm/ring' and LINE not in log, log)


main([auto_takes_the_module_where_it_is, kmod_takes_nothing_else, vmm_does_not_ask_for_it])
