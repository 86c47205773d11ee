#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Promise: what a destination's journal cannot hold, or has lost, makes no second guest run; what it has is kept until
the source has acknowledged it, whatever else happens meanwhile, and no longer.

Seen to fail: with a GO that cannot be written answered by RUN, the guest runs there while the journal says "begun", from
which the next question is answered NEVER; with NEVER answered from any "begun", the source of a host that lost power runs
its guest on; with NEVER noted for any VMM of protocol 1 that waits, too. What settle.c may do wrong is seen to fail in
tests/unit/settle_test.c."""
import os, signal, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
from cutter import Cutter
from ferry import NO_LIMIT, Failed, Scene, ended, expect, final, main, marks, migrate, stop, vmferry, wait_for
from full_disk import empty, fill, small_disk
from standin_pair import MovedUnheard
from standin_peer import UNKNOWN, resolve
from standin_vmm import DESTINATION, INCOMING, PAUSED, RELEASED, StandinVmm

GUEST = 'v0=seq:60:8'


class LostRunning(MovedUnheard):
    """a stands since just before it would have heard of it, until go_on(), and its connections are cut"""

    def at_message(self):
        stop(self.a.proc)
        self.cutter.cut(*self.cutter.socks)

    def go_on(self):
        self.a.proc.send_signal(signal.SIGCONT)


def forget(daemon, ident):
    return vmferry(daemon, 'forget', ident)


def a_go_that_cannot_be_written_is_refused():
    """the guest runs on at the source, which is told why; with room again it moves"""
    with Scene() as s:
        a, b = s.daemon('a'), s.daemon('b')
        with small_disk(b, b.dir, '512k'):
            src, dst = s.vmm(a, append=GUEST, ram='32M', options=['--stay']), \
                s.vmm(b, incoming=True, ram='32M', options=['--stay'])
            src.wait_filled()

            def no_room():
                os.truncate(b.dir + '/journal-marks', 0)  # what was preallocated
                fill(b.dir)
            c = s.keep(Cutter(os.path.join(s.dir, 'cutter.sock'), b.listen, 'go', 'call', no_room))
            a.ask('migrate', vm='web1', uri=c.uri, **NO_LIMIT)
            wait_for('GO', c.has_cut.is_set, 60)
            got = wait_for('its end', lambda: final(a), 60)
            expect(got['status'] == 'failed' and 'journal' in got['error-desc'], f"{got['status']}: {got.get('error-desc')}")
            wait_for('the guest to run here', src.runs)
            expect(not dst.runs(), 'two guests run')
            empty(b.dir)
            wait_for('the destination to be clean', lambda: not b.vms()['web1-in']['busy'], 40)
            src.verdict()
            got = migrate(a, b)
            expect(got['status'] == 'completed', f"{got['status']}: {got.get('error-desc')}")
            dst.verdict()


def a_destination_that_lost_power_promises_nothing():
    """its disk has "begun", and what followed is lost: the guest may have run, and its disk has moved on"""
    with LostRunning() as x:
        expect(x.dst.last == (x.id, DESTINATION), f'its VMM was told of {x.dst.last}')
        x.lose_power_there()
        expect(resolve(x.b.listen, x.id) == UNKNOWN, f'it answered {resolve(x.b.listen, x.id)}')
        x.go_on()
        wait_for('the source to have heard so', lambda: 'does not know whether the guest ran there' in x.a.text(), 60)
        expect(x.status()['status'] == 'held' and x.src.state == PAUSED and 'resume' not in x.src.asked, 'two guests run')
        x.a.ask('resolve', vm='web1', **{'run-here': True})
        wait_for('the guest to run here', x.src.runs)
        wait_for('both to agree', lambda: marks(x.a) == {} == marks(x.b), 60)
        expect(resolve(x.b.listen, x.id) == UNKNOWN, 'an absent entry is taken for proof')


def a_vmm_that_waits_is_no_proof_that_none_ran():
    """after that loss, a VMM of protocol 1 waits there, as to receive the guest again: it goes by its name"""
    for protocol in (1, 2):
        with LostRunning(protocol=protocol) as x:
            x.lose_power_there()
            x.vmm(x.b, incoming=True, protocol=1)
            wait_for('the VMM that waits', lambda: 'web1-in' in x.b.vms())
            expect(resolve(x.b.listen, x.id) == UNKNOWN and marks(x.b) == {'web1': 'begun'},
                   f'protocol {protocol}: it answered {resolve(x.b.listen, x.id)}, {marks(x.b)}')
            x.go_on()
            wait_for('the source to have heard so', lambda: 'does not know whether the guest ran there' in x.a.text(), 60)
            expect(x.src.state == PAUSED and 'resume' not in x.src.asked, 'two guests run')


def outcomes_of_others_push_no_outcome_out():
    """262 migrations of another guest come to nothing at b; then the source of the first one asks"""
    with LostRunning() as x:
        c = x.scene.daemon('c')
        other, there = x.vmm(c, 'web2'), x.vmm(x.b, 'web2', incoming=True)
        wait_for('the other VMs', lambda: other.is_registered.is_set() and there.is_registered.is_set())
        for _ in range(262):
            wait_for('a VMM that waits', lambda: there.state == INCOMING and not x.b.vms()['web2-in']['busy'])
            there.lies['load'] = 'refuse'
            got = migrate(c, x.b, vm='web2', **NO_LIMIT)
            expect(got['status'] == 'failed', got['status'])
            wait_for('it to run on', other.runs)
        x.go_on()
        wait_for('its end', lambda: x.status()['status'] == 'completed', 60)
        wait_for('it to be where it was', lambda: x.src.state == RELEASED and x.dst.runs())
        wait_for('all to agree', lambda: marks(x.a) == marks(x.b) == marks(c) == {}, 60)


def both_sides_say_that_they_contradict():
    """the operator at a was wrong: each says so once, and keeps what it knows until it is told to forget"""
    with LostRunning() as x:
        x.cutter.stop()
        x.go_on()
        wait_for('it to be held', lambda: x.status()['status'] == 'held', 60)
        x.a.ask('resolve', vm='web1', **{'run-here': True})
        wait_for('the guest to run there, too', x.src.runs)
        expect(x.dst.runs(), 'it does not run there')
        x.cutter = Cutter(x.path, x.b.listen)
        wait_for('words', lambda: 'may run twice' in x.a.text() and 'may run twice' in x.b.text(), 60)
        expect(x.b.text().count('may run twice') == x.a.text().count('may run twice') == 1, 'said more than once')
        expect(marks(x.a) == {'web1': 'never'} and marks(x.b) == {'web1': 'done'}, f'{marks(x.a)} {marks(x.b)}')
        for d in (x.a, x.b):
            expect(forget(d, x.id.hex()).returncode == 0 and marks(d) == {}, 'not forgotten')
        got = forget(x.b, x.id.hex())
        expect(got.returncode == 4 and 'no migration of this id' in got.stderr, got.stderr)
        expect(forget(x.b, 'web1').returncode == 4, 'a name is no id')
        expect(resolve(x.b.listen, x.id) == UNKNOWN, 'its VMM names the migration, and that alone is believed')
        x.dst.leave()
        wait_for('its loss to be seen', lambda: not x.b.vms())
        expect(resolve(x.b.listen, x.id) == UNKNOWN, 'what was forgotten is taken for proof')


def an_outcome_waits_for_a_peer_that_is_away():
    """also over a restart of the source's daemon"""
    with Scene() as s:
        a, b = s.daemon('a'), s.daemon('b')
        vmms = StandinVmm(a.vmm, 'web1'), StandinVmm(b.vmm, 'web1', incoming=True)
        path = os.path.join(s.dir, 'cutter.sock')
        c = Cutter(path, b.listen, 'failed', 'call', lambda: os.unlink(path))  # nobody reaches b under this address
        try:
            wait_for('the VMs', lambda: all(v.is_registered.is_set() for v in vmms))
            vmms[1].lies['load'] = 'refuse'
            a.ask('migrate', vm='web1', uri=c.uri, **NO_LIMIT)
            wait_for('its end', lambda: ended(a), 60)
            wait_for('its outcome', lambda: marks(a) == marks(b) == {'web1': 'never'})
            a.kill(signal.SIGTERM)
            a.start()
            expect(marks(a) == marks(b) == {'web1': 'never'}, f'{marks(a)} {marks(b)}')
            c.listener.close()
            c = Cutter(path, b.listen)
            wait_for('both to agree', lambda: marks(a) == {} == marks(b), 60)
            expect(vmms[0].runs() and not vmms[1].runs(), 'not where it was')
        finally:
            c.stop()
            for v in vmms:
                v.stop()


def a_journal_full_of_what_nobody_acknowledges_lets_no_guest_in():
    with Scene() as s:
        a, b = s.daemon('a'), s.daemon('b')
        b.kill(signal.SIGTERM)
        with open(b.dir + '/state/journal', 'w') as f:  # of the format before: without ids and sums
            f.writelines(f'begun {n:032x} destination - vm{n}\n' for n in range(1, 4097))
        b.start()
        src, dst = s.vmm(a, append=GUEST, ram='32M', options=['--stay']), \
            s.vmm(b, incoming=True, ram='32M', options=['--stay'])
        src.wait_filled()
        got = migrate(a, b)
        expect(got['status'] == 'failed' and 'vmferry forget' in got['error-desc'], f"{got['status']}: {got.get('error-desc')}")
        listed = vmferry(b, 'journal', '--json').stdout.splitlines()
        expect(len(listed) == 4096 and '"vm":"vm4096"' in listed[-1], f'{len(listed)} lines')
        for bad in ({'after': 'vm7'}, {'after': f'{7:032x}', 'after-role': 'peer'}):
            try:
                b.ask('query-journal', **bad)
                raise AssertionError(f'it takes {bad}')
            except Failed as e:
                expect('after' in str(e), str(e))
        expect(forget(b, f'{7:032x}').returncode == 0, 'not forgotten')
        got = migrate(a, b)
        expect(got['status'] == 'completed', f"with room: {got.get('error-desc')}")
        dst.verdict()


main([a_go_that_cannot_be_written_is_refused, a_destination_that_lost_power_promises_nothing,
      a_vmm_that_waits_is_no_proof_that_none_ran, outcomes_of_others_push_no_outcome_out,
      both_sides_say_that_they_contradict, an_outcome_waits_for_a_peer_that_is_away,
      a_journal_full_of_what_nobody_acknowledges_lets_no_guest_in])
