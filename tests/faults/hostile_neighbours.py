#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Promise: a stranger who knows the id of a migration, and a VMM that names another one's migration, decide nothing about
that guest, and take the daemon's connections from nobody.

Seen to fail: with NEVER noted by every incoming that is given up, a stranger's hello turns the "begun" of a host that lost
power into NEVER, and two guests run; with an entry taken for a VM's own by its id alone, the VMM of another guest, which says
that it runs, closes the entry of one that is held, and two guests run; with a VMM believed that names a migration of which no
entry is left, the source gives up the only guest there is; with take_hello() that leaves a hello which it could not answer,
that is read twice and called a bad one; with words cut within a character the answer is "out of memory"; with lines about a
registered VMM's guest that are not limited there are thousands of them; with a peer that is asked by each registration it hears 2,461 questions in 2.5 s; with EPIPE taken
for an answer a VMM that is gone "did not" what it was asked."""
import os, signal, socket, struct, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
from cutter import Cutter
from ferry import SLOW, Failed, Scene, expect, main, marks, stop, wait_for
from standin_pair import MovedUnheard
from standin_peer import CONTROL, LATER, RUNNING as RUNNING_THERE, UNKNOWN, StandinDestination, StandinSource, greet, resolve, shut
from standin_vmm import (DESTINATION, HEAD, HELLO, INCOMING, LOADED, NEWEST_SHIFT, PAUSED, REGISTER, RELEASED, RUNNING, SOURCE, VMM_MAGIC,
                         VMM_OLDEST, StandinVmm)


class Held(MovedUnheard):
    """and a's questions reach nobody: it holds the guest"""

    def set_up(self):
        super().set_up()
        wait_for('it to be held', lambda: self.status()['status'] == 'held', 60)

    def at_message(self):
        shut(self.cutter.listener)
        self.cutter.cut(*self.cutter.socks)

    def vmm(self, *args, **fields):
        v = super().vmm(*args, **fields)
        wait_for('the VMM to register', v.is_registered.is_set)
        return v


def who_comes_by_an_id_once_more_makes_no_promise():
    """a stranger connects with the id of a migration whose destination lost power, and hangs up, plans, or plans nonsense"""
    with Held() as x:
        x.lose_power_there()

        def hang_up(source):
            pass

        def question(source):
            expect(resolve(x.b.listen, x.id) == UNKNOWN, 'a promise while the stranger is there')

        def nonsense(source):
            source.control.send('go')
            source.control.expect('failed')

        def plan(source):
            source.plan()
            source.control.expect('failed')
        for act in (hang_up, question, nonsense, plan):
            with StandinSource(x.b.listen, ident=x.id) as source:
                source.connect()
                act(source)
            for _ in range(2):  # turns of the loop in which it sees the end of that connection
                expect(resolve(x.b.listen, x.id) == UNKNOWN and marks(x.b) == {'web1': 'begun'}, f'{act.__name__}: {marks(x.b)}')
        expect(x.src.state == PAUSED and 'resume' not in x.src.asked, 'two guests run')


def a_vmm_that_names_anothers_migration_decides_nothing():
    """in every state and on both sides, at the source, and at the destination that lost power"""
    with Held() as x:
        x.lose_power_there()
        for daemon, before in ((x.a, {'web1': 'go'}), (x.b, {'web1': 'begun'})):
            for role in (SOURCE, DESTINATION):
                for state in (RUNNING, PAUSED, INCOMING, LOADED, RELEASED):
                    liar = x.vmm(daemon, 'evil', fields={'last': (x.id, role), 'run_state': state})
                    wait_for('it to be known', lambda: any(n.startswith('evil') for n in daemon.vms()))
                    expect(marks(daemon) == before, f'role {role}, state {state}: {marks(daemon)}')
                    expect(not {'run', 'resume', 'release'} & set(liar.asked), f'role {role}, state {state}: {liar.asked}')
                    expect(resolve(x.b.listen, x.id) == UNKNOWN, f'role {role}, state {state}: it is believed')
                    if state == PAUSED:
                        daemon.ask('resolve', vm='evil', **{'run-here': True})
                        wait_for('it to run on', lambda: 'resume' in liar.asked)
                        wait_for('that to be over', lambda: not daemon.vms()['evil']['busy'])
                        expect(marks(daemon) == before, f'role {role}: the operator was misled: {marks(daemon)}')
                    liar.die()
                    wait_for('its loss', lambda: not any(n.startswith('evil') for n in daemon.vms()))
        x.src.leave()
        x.a.kill()
        x.a.start()
        x.src.come_back()
        wait_for('it to be held again', lambda: x.a.ask('query-migrate', vm='web1')['status'] == 'held')
        expect(x.src.state == PAUSED and 'resume' not in x.src.asked, 'two guests run')


def a_vmm_that_names_a_migration_of_which_no_entry_is_left_is_not_believed():
    """the guest and its entry are lost at b; another VMM there says that it came by that migration"""
    with Held() as x:
        x.b.ask('journal-forget', id=x.id.hex())
        x.dst.die()
        wait_for('its loss', lambda: not x.b.vms())
        for name in ('evil', 'web1'):
            liar = x.vmm(x.b, name, fields={'last': (x.id, DESTINATION)})
            wait_for('it to be known', lambda: name in x.b.vms())
            expect(resolve(x.b.listen, x.id) == UNKNOWN, f'{name} is believed')
            expect(f'vm {name}: its VMM' in x.b.text(), 'nobody is told')
            if name == 'evil':
                liar.die()
                wait_for('its loss', lambda: not x.b.vms())
        x.cutter.stop()
        x.cutter = Cutter(x.path, x.b.listen)
        got = wait_for('the source to ask', lambda: 'does not know' in x.a.text(), 60)
        expect(got and x.src.state == PAUSED and 'release' not in x.src.asked, f'none runs: {x.src.asked}')
        x.a.ask('resolve', vm='web1', **{'run-here': True})
        wait_for('the guest to run here', x.src.runs)


def a_vmm_that_hangs_up_behind_its_hello_has_said_nothing_wrong():
    """its hello cannot be answered any more"""
    with Scene() as s:
        a = s.daemon('a')
        stop(a.proc)
        with socket.socket(socket.AF_UNIX) as vmm:
            vmm.connect(a.vmm)
            vmm.sendall(struct.pack('<IIIiIIQ', 1, 16, 0, 0, 0x4d4d5646, 1, 2 << 48))
        a.proc.send_signal(signal.SIGCONT)
        v = StandinVmm(a.vmm)
        try:
            wait_for('the next one to register', v.is_registered.is_set)
            expect('bad hello' not in a.text(), a.text())
        finally:
            v.stop()


def words_of_a_refusal_are_cut_between_characters():
    """what repeats an argument is as long as there is room, and JSON"""
    with Scene() as s:
        a = s.daemon('a')
        for odd in ('', 'x'):
            for command, args in (('resolve', {'vm': odd + 400 * '\u00e9', 'run-here': True}), (odd + 60 * '\u20ac', {})):
                try:
                    a.ask(command, **args)
                    raise AssertionError('it is taken')
                except Failed as e:
                    expect('\u00e9\u00e9' in str(e) or '\u20ac\u20ac' in str(e), f'{command}: {e}')


def register_as(vmm, daemon):
    """what @vmm says of itself, on a connection of the test's own, while that of @vmm is away; Return: it, None: refused"""
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(30 * SLOW)
    s.connect(daemon.vmm)
    s.sendall(HEAD.pack(HELLO, 16, 0, 0) + struct.pack('<IIQ', VMM_MAGIC, VMM_OLDEST, 2 << NEWEST_SHIFT))
    s.recv(64)
    body = vmm.register_body()
    socket.send_fds(s, [HEAD.pack(REGISTER, len(body), 0, 0) + body], vmm.register_files())
    if HEAD.unpack_from(s.recv(400))[3] == 0:
        return s
    s.close()


def register_and_hang_up(daemon, vmm):
    """Return: whether it was taken"""
    s = register_as(vmm, daemon)
    if s:
        s.close()
    return bool(s)


def expect_few_lines(daemon, vmm, nr):
    """@nr registrations, and no more lines than 100 of each kind in 10 s, and a summary of each"""
    begun, before, taken = time.monotonic(), len(daemon.text().splitlines()), 0
    while taken < nr:
        taken += register_and_hang_up(daemon, vmm)
    lines = len(daemon.text().splitlines()) - before
    most = int((time.monotonic() - begun) / 10 + 1) * (100 + 100 + 10 + 3)
    expect(lines <= most, f'{lines} lines of {nr} registrations, {most} at most: {daemon.text()[-1000:]}')


def a_vmm_that_registers_and_hangs_up_without_end_fills_no_log():
    """with a guest that is paused, and with one that has arrived, of which nothing is known"""
    with Scene() as s:
        a = s.daemon('a')
        for name, state in (('paused', PAUSED), ('loaded', LOADED)):
            v = StandinVmm(a.vmm, name, size=1 << 20)
            try:
                wait_for('it to register', v.is_registered.is_set)
                v.leave()
                wait_for('it to be gone', lambda: not a.vms())
                v.state = state
                expect_few_lines(a, v, 1000)
            finally:
                v.stop()


def the_peer_of_a_guest_whose_vmm_comes_and_goes_is_asked_once_a_second():
    """and is still asked when it stays"""
    with Held() as x:
        x.src.leave()
        x.a.kill()
        x.cutter.stop()
        peer = StandinDestination('unix:' + x.path)
        try:
            peer.resolved = LATER
            x.a.start()
            begun = time.monotonic()
            while time.monotonic() - begun < 2.5:
                register_and_hang_up(x.a, x.src)
            most = int(time.monotonic() - begun) + 2
            expect(len(peer.questions) <= most, f'{len(peer.questions)} questions, {most} at most')
            peer.resolved = RUNNING_THERE
            x.src.come_back()
            wait_for('its VMM to let it go', lambda: x.src.state == RELEASED)
        finally:
            peer.stop()


def a_vmm_that_cannot_be_told_any_more_has_refused_nothing():
    """it hears nothing any more, and its end is not seen yet, when the operator decides"""
    with Scene() as s:
        a = s.daemon('a')
        v = StandinVmm(a.vmm)
        try:
            wait_for('it to register', v.is_registered.is_set)
            v.leave()
            wait_for('it to be gone', lambda: not a.vms())
            v.state = PAUSED
            with register_as(v, a) as own:
                wait_for('it to be held', lambda: a.ask('query-migrate', vm='web1')['status'] == 'held')
                own.shutdown(socket.SHUT_RD)
                a.ask('resolve', vm='web1', **{'run-here': False})
                wait_for('it to be disconnected', lambda: not a.vms())
            expect('it is asked again' not in a.text(), a.text())
        finally:
            v.stop()


main([a_vmm_that_cannot_be_told_any_more_has_refused_nothing, a_vmm_that_registers_and_hangs_up_without_end_fills_no_log,
      the_peer_of_a_guest_whose_vmm_comes_and_goes_is_asked_once_a_second,
      a_vmm_that_hangs_up_behind_its_hello_has_said_nothing_wrong, words_of_a_refusal_are_cut_between_characters,
      a_vmm_that_names_a_migration_of_which_no_entry_is_left_is_not_believed, a_vmm_that_names_anothers_migration_decides_nothing, who_comes_by_an_id_once_more_makes_no_promise])
