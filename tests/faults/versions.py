#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Promise: hosts are upgraded one by one. Between a daemon of this commit and one of the last landed commit a guest moves,
or is refused in words and runs on; a daemon is replaced by the other version with guests registered, and none notices;
replaced in mid-migration by the newer one, it ends in one running guest, without an operator. The older one does not
read the newer one's journal: it may leave a stopped guest as it is, and says so; the newer one takes that up again.

The older programs are those of tests/lib/landed.py.

Seen to fail: with recovery.c resuming no guest of a source that died before GO, none runs after a replacement at "state"
and at "ready"; with a newer journal that the older daemon rewrites, none runs after one in that direction."""
import os, signal, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import landed
from cutter import Cutter
from ferry import OUT, Failed, Scene, expect, main, migrate, wait_for

GUEST = 'v0=seq:60:8'
FOR_EVER = {'downtime-limit': 2000000, 'downtime-limit-strict': False}
STEPS = ('prepared', 'state', 'ready', 'go', 'running')


class Version:
    def __init__(self, name, folder, is_older):
        self.is_older = is_older
        self.name, self.daemon, self.vmm = name, os.path.join(folder, 'vmferryd'), os.path.join(folder, 'ferryvm')


def versions():
    """(this commit's, the landed one's), and in the other order"""
    new = Version('this commit', os.path.join(OUT, 'bin'), False)
    old = Version(f'commit {landed.LANDED}', landed.programs(), True)
    return (old, new), (new, old)


def pair(s, at_a, at_b, vmm_a, vmm_b):
    """a filled guest at daemon a, a VMM that waits at b, each program of a version"""
    a, b = s.daemon('a', binary=at_a.daemon), s.daemon('b', binary=at_b.daemon)
    src = s.vmm(a, append=GUEST, ram='32M', options=['--stay'], binary=vmm_a.vmm)
    dst = s.vmm(b, incoming=True, ram='32M', options=['--stay'], binary=vmm_b.vmm)
    src.wait_filled()
    return a, b, src, dst


def replace(daemon, version, by=None):
    """the service manager stops it and starts the other program; @by: with this signal"""
    daemon.kill(*([by] if by else []))
    daemon.binary = version.daemon
    daemon.start()


def is_refusal(text):
    return 'version' in text and 'update' in text


def a_guest_moves_or_is_refused_in_words():
    for one, other in versions():
        with Scene() as s:
            a, b, src, dst = pair(s, one, other, one, other)
            got = migrate(a, b)
            if got['status'] == 'completed':
                expect(not src.runs(), 'two guests run')
                dst.verdict()
                print(f'# {one.name} to {other.name}: moved')
                continue
            expect(got['status'] == 'failed' and is_refusal(got['error-desc']), f"{one.name} to {other.name}: {got}")
            expect(src.runs() and not dst.runs() and not src.stats()['vcpus'][0]['blackouts'], 'the guest was stopped')
            wait_for('the destination to be free', lambda: not b.vms()['web1-in']['busy'])
            src.verdict()
            lines = [line for line in a.text().splitlines() if is_refusal(line)]
            expect(len(lines) == 1, f'not one clear line: {lines}')
            print(f"# {one.name} to {other.name}: {got['error-desc']}")


def a_daemon_is_replaced_and_no_guest_notices():
    """both ways, with VMMs of both versions; then a guest moves between daemons of one version"""
    for one, other in versions():
        for vmm in (one, other):
            with Scene() as s:
                a, b, src, dst = pair(s, one, one, vmm, vmm)
                pids = [v.proc.pid for v in (src, dst)]
                for d in (a, b):
                    replace(d, other, signal.SIGTERM)
                wait_for('both to register again', lambda: a.ask('query-vms') and b.ask('query-vms'), 40)
                expect([d.ask('query-vms')[0]['pid'] for d in (a, b)] == pids, 'others are registered')
                wait_for('nothing to be busy', lambda: not any(d.ask('query-vms')[0]['busy'] for d in (a, b)))
                expect(src.runs() and not src.stats()['vcpus'][0]['blackouts'], 'the guest noticed')
                src.verdict()
                got = migrate(a, b, **{'downtime-limit': 2000})
                expect(got['status'] == 'completed',
                       f"{one.name} replaced by {other.name}, VMM of {vmm.name}: {got.get('error-desc')}")
                expect(not src.runs(), 'two guests run')
                dst.verdict()


def end_of(a, b, src, dst):
    """waits until nothing is on its way and nothing is held; Return: where the guest runs"""
    def is_quiet():
        vms = [v for d in (a, b) for v in d.ask('query-vms')]
        return {v['pid'] for v in vms} == {src.proc.pid, dst.proc.pid} and not any(v['busy'] for v in vms) and \
            a.ask('query-migrate', vm='web1')['status'] in ('none', 'completed', 'failed', 'cancelled')
    try:
        wait_for('everything to settle', is_quiet, 40)
    except Failed as e:
        vms = [(v['status'], v['busy']) for d in (a, b) for v in d.ask('query-vms')]
        raise Failed(f"{e}: {a.ask('query-migrate', vm='web1')}, {vms}")
    running = [v for v in (src, dst) if v.runs()]
    expect(len(running) == 1, f'{len(running)} guests run')
    running[0].verdict()
    return 'there' if running[0] is dst else 'here'


def left_stopped(a, src, dst):
    """does the daemon at the source say that it does not know what to do with the stopped guest?"""
    if src.runs() or dst.runs() or not any(v['status'] == 'paused' and not v['busy'] for v in a.ask('query-vms')):
        return False
    wait_for('word of it', lambda: 'no journal here says why' in a.text())
    return True


def taken_up_again(a, b, src, dst, version):
    """the newer daemon is back at the source, where the older one left a stopped guest"""
    replace(a, version)
    wait_for('both to be registered', lambda: a.ask('query-vms') and not b.ask('query-vms')[0]['busy'])
    try:
        wait_for('the guest to run', lambda: src.runs() or dst.runs(), 10)
        how = ''
    except Failed:
        expect(b.vms()['web1-in']['status'] == 'inmigrate', 'the destination is not clean')
        a.ask('resolve', vm='web1', **{'run-here': True})  # the operator sees that nothing is loaded there
        how = ', by the operator'
    return f'{end_of(a, b, src, dst)}, when the newer one is back{how}'


def replaced_at(step, side, one, other):
    """daemons of version @one; that of @side is killed at message @step, and version @other takes its place"""
    with Scene() as s:
        a, b, src, dst = pair(s, one, one, one, one)
        who = {'source': a, 'destination': b}[side]
        c = Cutter(os.path.join(s.dir, 'cutter.sock'), b.listen, step, 'call', who.kill)
        try:
            a.ask('migrate', vm='web1', uri=c.uri, **FOR_EVER)
            wait_for(step, c.has_cut.is_set)
            who.binary = other.daemon
            who.start()
            wait_for('its VMM', lambda: who.ask('query-vms'))
            if other.is_older and side == 'source' and left_stopped(a, src, dst):
                end = taken_up_again(a, b, src, dst, one)
            else:
                end = end_of(a, b, src, dst)
        finally:
            c.stop()
        expect(end.startswith('here') or step in ('go', 'running'), f'it moved before {step}')
        expect(end.startswith('there') or step != 'running', 'RUNNING was said, and it runs here')
        return end


def in_mid_migration(side):
    ends, failed = {}, []
    for one, other in versions():
        for step in STEPS:
            what = f'{one.name} replaced by {other.name} at {step}'
            try:
                ends[what] = replaced_at(step, side, one, other)
            except Failed as e:
                failed.append(f'{what}: {e}')
    for what, end in ends.items():
        print(f'# {what}: the guest runs {end}')
    expect(not failed, '; '.join(failed))


def the_source_is_replaced_in_mid_migration():
    in_mid_migration('source')


def the_destination_is_replaced_in_mid_migration():
    in_mid_migration('destination')


main([a_guest_moves_or_is_refused_in_words, a_daemon_is_replaced_and_no_guest_notices, the_source_is_replaced_in_mid_migration,
      the_destination_is_replaced_in_mid_migration])
