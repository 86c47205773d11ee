#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Promise: a VMM that finds no daemon says so, once, and says when it has registered; one that the daemon refuses says why,
once, and tries again after seconds; it remembers the migration that it was told of last until the guest has left or nothing has
arrived; daemons of version 1 can use it as before.

The VMM is ferryvm; its daemon is a stand-in (tests/lib/standin_daemon.py), but for the last two tests.

Seen to fail: with RETRY_MS for a refused VMM, too, it registers 19 times a second; without told_refusal the reason is
printed at each attempt; without told_unreachable a line for each attempt; without vm_unreachable() or vm_registered() in
ferryvm nothing is said; without the line in do_discard() or in serve_one() the migration that is over is named again."""
import os, socket, struct, subprocess, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
from ferry import OUT, Scene, expect, main, wait_for
from standin_daemon import StandinDaemon
from standin_vmm import (DESTINATION, DISCARD, FRESH, HARVEST, INCOMING, MIGRATION, NO_MIGRATION, PAUSE, PAUSED, RELEASE, RESUME,
                         RUNNING, SOURCE, StandinVmm)

GUEST = 'v0=seq:20:4'
ID = bytes(range(16))


def tell(d, role):
    return d.request(MIGRATION, struct.pack('<16sII', ID, role, 0))


def again(d):
    """the connection ends; Return: what the VMM says when it registers again"""
    n = len(d.registrations)
    d.close()
    wait_for('it to register again', lambda: len(d.registrations) > n and d.is_registered.is_set())
    return d.registrations[-1][1:]


class Stage:
    """a stand-in daemon and a VMM at it"""

    def __init__(self, version=2, refusals=(), **vmm):
        self.version, self.refusals, self.args, self.scene = version, refusals, vmm, Scene()

    def __enter__(self):
        s = self.scene.__enter__()
        self.d = StandinDaemon(os.path.join(s.dir, 'daemon.sock'), self.version, self.refusals)
        try:
            self.vmm = s.vmm(self.d, ram='32M', **self.args)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *why):
        self.scene.__exit__(*why)
        self.d.stop()


def a_refused_vmm_says_why_and_backs_off():
    why = 'a VM of that name is registered here already, by pid 77'
    with Stage(refusals=[why, why, 'forged\n\x1b[31m']) as x:
        when = [r[0] for r in x.d.registrations]
        gaps = [b - a for a, b in zip(when, when[1:])]
        expect(len(gaps) == 3 and all(gap >= .99 * least for gap, least in zip(gaps, (1, 2, 4))), f'it waited {gaps}')
        said = open(x.vmm.log).read()
        expect(said.count(why) == 1, f'said {said.count(why)} times:\n{said}')
        expect('vm web1: vmferryd does not register it' in said and 'forged??[31m' in said, said)
        expect(said.count('registered with vmferryd') == 1, said)
        # Once it was registered, the same reason is a new one.
        x.d.refusals = [why]
        again(x.d)
        expect(open(x.vmm.log).read().count(why) == 2, 'the second time is not told')


def hang_up(path, times):
    """listens at @path and ends that many connections"""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen(8)
        sock.settimeout(60)
        for _ in range(times):
            sock.accept()[0].close()
    os.unlink(path)


def without_a_daemon_it_says_so_once_and_says_when_it_is_registered():
    with Stage(append=GUEST) as x:
        def said():
            text = open(x.vmm.log).read()
            return text.count('vm web1: no vmferryd answers at ' + path), text.count('vm web1: registered with vmferryd at ' + path)

        def another_daemon():
            x.d = x.vmm.daemon = StandinDaemon(path)
            wait_for('it to register', x.d.is_registered.is_set)
        path = x.d.vmm
        expect(open(x.vmm.log).read() == '', 'a VMM whose daemon is there has nothing to say: ' + open(x.vmm.log).read())
        again(x.d)
        expect(said() == (0, 0), f'a connection that breaks while the daemon is there: {said()}')
        for n in (1, 2):
            os.unlink(path)
            x.d.stop()
            wait_for('it to say so', lambda: said() == (n, n - 1))
            hang_up(path, 5)
            another_daemon()
            wait_for('it to say that it has registered', lambda: said() == (n, n))
        expect(open(x.vmm.log).read().count('\n') == 4, open(x.vmm.log).read())


def a_daemon_of_version_1_refuses_without_words():
    with Stage(version=1, refusals=[None], incoming=True) as x:
        expect('the daemon says why in its log' in open(x.vmm.log).read(), open(x.vmm.log).read())
        expect(all(r[3] is None for r in x.d.registrations), 'version 1 has no last migration')
        expect(x.d.request(HARVEST)[0] == 0, 'it does not answer')


def what_arrives_is_remembered_until_it_is_discarded():
    with Stage(incoming=True) as x:
        expect(x.d.registrations[-1][1:] == (INCOMING, FRESH | 2, NO_MIGRATION), str(x.d.registrations))
        expect(tell(x.d, DESTINATION)[0] == 0, 'refused')
        expect(again(x.d)[2] == (ID, DESTINATION), 'forgotten')
        expect(again(x.d)[2] == (ID, DESTINATION), 'forgotten the second time')
        expect(x.d.request(DISCARD)[0] == 0, 'not discarded')
        expect(again(x.d)[2] == NO_MIGRATION, 'still remembered')
        expect(tell(x.d, 3)[0] < 0 and x.d.request(MIGRATION, b'short')[0] < 0, 'nonsense was taken')


def what_leaves_is_remembered_until_it_is_released():
    with Stage(append=GUEST, options=['--stay']) as x:
        expect(tell(x.d, SOURCE)[0] == 0, 'refused')
        expect(again(x.d) == (RUNNING, 2, (ID, SOURCE)), 'forgotten')
        expect(x.d.request(PAUSE)[0] == 0, 'not paused')
        expect(again(x.d) == (PAUSED, 2, (ID, SOURCE)), 'forgotten while it is paused')
        expect(x.d.request(RESUME)[0] == 0, 'not resumed')
        expect(again(x.d) == (RUNNING, 2, (ID, SOURCE)), 'forgotten when it was resumed')
        expect(x.d.request(PAUSE)[0] == 0 and x.d.request(RELEASE)[0] == 0, 'not released')
        expect(again(x.d) == (INCOMING, FRESH | 2, NO_MIGRATION), 'still remembered')


def two_of_one_name():
    """a real daemon: six attempts in 20 seconds at most, and one line on the VMM's standard error"""
    with Scene() as s:
        a = s.daemon('a')
        first = StandinVmm(a.vmm)
        wait_for('the first', lambda: 'web1' in a.vms())
        log = open(os.path.join(s.dir, 'second.log'), 'w+')
        began = time.monotonic()
        second = subprocess.Popen([os.path.join(OUT, 'bin', 'ferryvm'), '--name', 'web1', '--append', GUEST, '--ram', '32M',
                                   '--kernel', os.path.join(OUT, 'bin', 'guest.elf'), '--daemon', a.vmm, '--quiet'],
                                  stderr=log)
        try:
            words = f'a VM of that name is registered here already, by pid {os.getpid()}'
            wait_for('its message', lambda: words in open(log.name).read())
            wait_for('three attempts', lambda: a.text().count('may not register') >= 3)
            expect(time.monotonic() - began >= 2.9, 'it does not back off')
            expect(open(log.name).read().count('\n') == 1, open(log.name).read())
            first.die()
            wait_for('it to register', lambda: a.vms().get('web1', {}).get('pid') == second.pid)
        finally:
            second.kill()
            second.wait()
            log.close()
            first.stop()


def names_that_are_none_are_refused_at_once():
    for option in ('--name', '--device-name', '--untracked'):
        for name in ('web 1', '', 'x\n', 'x' * 64, 'caf\u00e9'):
            names = {'--name': 'web1', option: name}
            got = subprocess.run([os.path.join(OUT, 'bin', 'ferryvm'), '--incoming', *(w for kv in names.items() for w in kv)],
                                 stderr=subprocess.PIPE, text=True)
            expect(got.returncode == 2 and 'printable ASCII without blanks' in got.stderr, f'{option} {name!r}: {got}')


main([a_refused_vmm_says_why_and_backs_off, without_a_daemon_it_says_so_once_and_says_when_it_is_registered, a_daemon_of_version_1_refuses_without_words,
      what_arrives_is_remembered_until_it_is_discarded, what_leaves_is_remembered_until_it_is_released, two_of_one_name,
      names_that_are_none_are_refused_at_once])
