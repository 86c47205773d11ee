#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Promise: after 150 migrations, and as many refused ones, a daemon has the file descriptors and threads that
it had before them, and ten of them take no memory; 50 are for warming up. (That a thread finds a new arena of
malloc's shows as half a MiB, once.)

Seen to fail: without the close of the control socket in finish(); with 8 KiB lost a migration."""
import os, statistics, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
from ferry import Scene, expect, main, migrate, wait_for

TIMES = int(os.environ.get('VMFERRY_TIMES', '200'))


class Nowhere:
    listen = 'tcp:127.0.0.1:1'


def usage(daemon):
    pid = daemon.proc.pid
    with open(f'/proc/{pid}/status') as f:
        status = dict(line.split(':', 1) for line in f)
    return (len(os.listdir(f'/proc/{pid}/fd')), int(status['Threads']), int(status['RssAnon'].split()[0]),
            sum(1 for _ in open(f'/proc/{pid}/maps')))


def leaks(before, after):
    return after[0] > before[0] or after[1] > before[1] or after[3] > before[3] + 4


def a_hundred_migrations_leave_nothing_behind():
    with Scene() as s:
        idle = usage(s.daemon('idle'))[1]
        a, b, src, dst = s.pair('v0=seq:20:4', ram='32M', options=['--stay'])
        where = [(a, src), (b, dst)]
        before, kib = None, []
        for n in range(TIMES):
            (da, va), (db, vb) = where[n % 2], where[1 - n % 2]
            wait_for('a clean destination', lambda: 'web1-in' in db.vms() and not db.vms()['web1-in']['busy'])
            expect(migrate(da, Nowhere)['status'] == 'failed', 'moved to nowhere')
            got = migrate(da, db)
            expect(got['status'] == 'completed', f"migration {n}: {got.get('error-desc')}")
            if n == 49:  # warmed up
                before = settled(a, b, idle)
            if n >= 49 and n % 10 == 9:
                kib.append((usage(a)[2], usage(b)[2]))
        after = settled(a, b, idle)
        for _ in range(20):  # on a busy machine a connection is closing for longer
            if not any(leaks(x, y) for x, y in zip(before, after)):
                break
            time.sleep(.5)
            after = settled(a, b, idle)
        for name, x, y, took in zip('ab', before, after, zip(*kib)):
            ten = statistics.median(n - m for m, n in zip(took, took[1:]))
            print(f'# daemon {name}: fds, threads, KiB, maps: {x} -> {y}; {ten} KiB for ten migrations')
            expect(not leaks(x, y), f'daemon {name} leaks: {x} -> {y}')
            expect(ten <= 64, f'daemon {name} grows by {ten} KiB in ten migrations: {took}')
            expect(y[2] < 8 << 10, f'daemon {name} takes {y[2]} KiB')
        (src if src.runs() else dst).verdict()


def a_guest_that_left_takes_its_memory_along():
    """Seen to fail while the account of the last migration kept the VM, and with it the RAM, at the source."""
    with Scene() as s:
        a, b, src, dst = s.pair('v0=seq:20:4', ram='32M')
        expect(migrate(a, b)['status'] == 'completed', 'not moved')
        src.proc.wait(60)
        wait_for('the source to let go of the RAM', lambda: not holds_ram(a))
        expect(holds_ram(b), 'the destination does not hold it')
        expect(a.ask('query-migrate', vm='web1')['status'] == 'completed', 'the account is gone')


def holds_ram(daemon):
    with open(f'/proc/{daemon.proc.pid}/maps') as f:
        return any('memfd:ram' in line for line in f)


def settled(a, b, idle):
    """once the last incoming has closed, and the one VM there is has registered anew"""
    wait_for('a clean destination', lambda: any('web1-in' in d.vms() and not d.vms()['web1-in']['busy'] for d in (a, b)))
    # those of a daemon without a VM; and where a VM waits its warm.c
    wait_for('threads to end', lambda: sorted(usage(d)[1] for d in (a, b)) == [idle, idle + 1])
    return [min(seen) for seen in zip(*[(usage(a), usage(b)) for _ in range(20)])] # a connection may be closing


main([a_hundred_migrations_leave_nothing_behind, a_guest_that_left_takes_its_memory_along])
