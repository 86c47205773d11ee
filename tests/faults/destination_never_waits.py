#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Promise: what may block at the destination is done by a worker or by a thread of its own. While that does not end,
the daemon answers, other guests arrive within their limits, the source can end the migration, the VMM may die and
the daemon may be told to end; when it ends, the VMM there is free for the next migration.

A work is held at its fault point (daemon/base/fault.c), for one guest, web1, or for all.

Seen to fail: with works run on the loop's thread (worker_do() calling run() itself) every test that holds a work and asks:
the daemon does not answer within 30 s; with on_room_made() going on after the migration ended, and with DISCARD asked
before the room is closed, the first tests; with PREPARED said before the journal is synced, and with a decision that
waits for the journal's thread, those of the disk; with incoming_stop() freeing at once, the one that ends the daemon."""
import os, signal, socket, struct, sys, threading
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
from cutter import Cutter, recv_all
from faults import Faults
from ferry import SLOW, Scene, ended, expect, main, migrate, stop, wait_for

LIMIT = int(1000 * SLOW)  # strict; a loop that waits breaks any
GUEST = 'v0=seq:20:4'
WORKS = ('open-room.web1', 'close-room.web1', 'receiver-ends', 'fault-ahead')
RESOLVE, NEVER, UNKNOWN = 3, 2, 4


class Held:
    """Two guests at daemon a, two VMMs that wait at b, and points of b that can be held."""

    def __init__(self, *points):
        self.points, self.scene, self.faults = points, Scene(), Faults()

    def __enter__(self):
        s = self.scene.__enter__()
        try:
            self.a = s.daemon('a')
            self.b = s.daemon('b', wrap=['env'] + [f'{k}={v}' for k, v in self.faults.env.items()])
            self.src, self.other = [s.vmm(self.a, name=n, append=GUEST, ram='32M', options=['--stay']) for n in ('web1', 'web2')]
            self.dst, self.other_dst = [s.vmm(self.b, name=n, incoming=True, ram='32M', options=['--stay'])
                                        for n in ('web1', 'web2')]
            for v in (self.src, self.other):
                v.wait_filled()
            for p in self.points:
                self.faults.hold(p)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *why):
        self.faults.close()
        self.scene.__exit__(*why)

    def begin(self, uri=None, **params):
        self.a.ask('migrate', vm='web1', uri=uri or self.b.listen, **{'downtime-limit': LIMIT, **params})

    def wait(self, point):
        self.faults.wait_until_held(point, 60 * SLOW)

    def release(self):
        for p in self.points:
            self.faults.release(p)

    def status(self):
        return self.a.ask('query-migrate', vm='web1')['status']

    def wait_ended(self, *statuses):
        got = wait_for('the end of the migration', lambda: ended(self.a), 60)
        expect(got['status'] in statuses, f"{got['status']}: {got.get('error-desc')}")
        return got

    def is_busy(self):
        return self.b.vms()['web1-in']['busy']

    def others_go_on(self):
        """the daemon at b answers, and a strict migration of another guest to it keeps its limit"""
        self.b.ask('query-vms')
        got = migrate(self.a, self.b, vm='web2', **{'downtime-limit': LIMIT})
        expect(got['status'] == 'completed', f"web2, while {self.points} are held: {got['status']}: {got.get('error-desc')}")
        expect(got['downtime-us'] <= LIMIT * 1000, f"web2 stood still for {got['downtime-us']} us")
        self.other_dst.verdict()

    def again(self):
        """the VMM at b is free, and web1 moves there"""
        wait_for('a clean destination', lambda: 'web1-in' in self.b.vms() and not self.is_busy())
        got = migrate(self.a, self.b, **{'downtime-limit': LIMIT})
        expect(got['status'] == 'completed', f"then: {got['status']}: {got.get('error-desc')}")
        self.dst.verdict()
        expect(not self.src.runs(), 'two guests run')

    def no_complaints(self):
        for d in (self.a, self.b):
            expect('bug:' not in d.text(), d.text())


def making_room_held_and_cancelled():
    with Held('open-room.web1') as h:
        h.begin()
        h.wait('open-room.web1')
        expect(h.is_busy(), 'its VMM is not taken')
        h.a.ask('migrate_cancel', vm='web1')  # first: after 5 s the source gives up by itself
        h.wait_ended('cancelled')
        expect(h.src.runs() and h.is_busy(), 'the VMM is given away while room is made in it')
        h.others_go_on()
        expect(h.is_busy(), 'the VMM is given away while room is made in it')
        h.release()
        h.again()
        h.no_complaints()


def making_room_held_until_the_source_gives_up():
    """it waits for the answer to its plan for 5 s; then the guest runs on, and the VMM is free once the work ends"""
    with Held('open-room.web1') as h:
        h.begin()
        h.wait('open-room.web1')
        got = h.wait_ended('failed')
        expect('plan' in got['error-desc'], got['error-desc'])
        expect(h.src.runs() and h.is_busy(), 'not held')
        h.release()
        h.again()
        h.no_complaints()


def a_second_migration_while_the_first_is_being_closed():
    """the VMM is busy until it is clean: the second one is refused in words, the third works"""
    with Held('close-room.web1') as h:
        c = Cutter(os.path.join(h.scene.dir, 'cutter.sock'), h.b.listen, 'prepared', 'before')
        try:
            h.begin(c.uri)
            h.wait('close-room.web1')
            h.wait_ended('failed')
            h.others_go_on()
            for _ in range(2):
                h.begin()
                got = h.wait_ended('failed')
                expect('busy' in got['error-desc'], got['error-desc'])
            expect(h.src.runs() and not h.dst.runs() and h.is_busy(), 'given away before it is clean')
            h.release()
            h.again()
            h.no_complaints()
        finally:
            c.stop()


def threads_that_do_not_end():
    """a thread that receives, or one that faults in ahead: joining it is the worker's, and no DISCARD goes before it"""
    for point in ('receiver-ends', 'fault-ahead'):
        with Held(point) as h:
            c = Cutter(os.path.join(h.scene.dir, 'cutter.sock'), h.b.listen, 'placed', 'before')
            try:
                h.begin(c.uri)
                h.wait_ended('failed')
                h.wait(point)
                h.others_go_on()
                expect(h.is_busy(), f'{point}: the VMM is asked to discard while a thread may write to its RAM')
                h.release()
                h.again()
                h.no_complaints()
            finally:
                c.stop()


def the_room_of_a_guest_that_arrived_is_closed_in_the_background():
    """the guest runs, its source has been told, and it may leave again while that is held"""
    with Held('close-room.web1') as h:
        h.begin()
        h.wait_ended('completed')
        h.wait('close-room.web1')
        h.others_go_on()
        h.dst.verdict()
        wait_for('a clean VMM at a', lambda: 'web1-in' in h.a.vms() and not h.a.vms()['web1-in']['busy'])
        got = migrate(h.b, h.a, **{'downtime-limit': LIMIT})
        expect(got['status'] == 'completed', got.get('error-desc'))
        h.release()
        h.src.verdict()
        wait_for('a clean VMM at b', lambda: 'web1-in' in h.b.vms() and not h.is_busy())
        h.again()
        h.no_complaints()


def the_vmm_dies_while_a_work_is_held():
    for point in WORKS:
        with Held(point) as h:
            c = Cutter(os.path.join(h.scene.dir, 'cutter.sock'), h.b.listen, None if point.startswith('open') else 'placed', 'before')
            try:
                h.begin(c.uri)
                h.wait(point) if point.startswith('open') else h.wait_ended('failed')
                h.wait(point)
                h.dst.kill()
                wait_for('the VMM to be missed', lambda: 'web1-in' not in h.b.vms())
                h.wait_ended('failed')
                h.others_go_on()
                # another VMM of that name, while the work still has the RAM of the old one
                h.dst = h.scene.vmm(h.b, name='web1', incoming=True, ram='32M', options=['--stay'])
                h.release()
                h.again()
                h.no_complaints()
            finally:
                c.stop()


def a_vmm_that_registers_again_while_threads_still_write():
    """its RAM is theirs until they have ended: it stays busy, is cleaned then, and takes the next migration"""
    with Held('receiver-ends') as h:
        c = Cutter(os.path.join(h.scene.dir, 'cutter.sock'), h.b.listen, 'prepared', 'call', lambda: stop(h.dst.proc))
        try:
            h.begin(c.uri)  # LOAD is not answered: the try is called off, and after 10 s the VMM is disconnected
            wait_for('the VMM to be disconnected', lambda: 'web1-in' not in h.b.vms(), 60)
            h.wait('receiver-ends')
            h.dst.proc.send_signal(signal.SIGCONT)
            wait_for('it to register again', lambda: 'web1-in' in h.b.vms(), 60)
            h.wait_ended('failed')
            expect(h.src.runs() and h.is_busy(), 'cleaned while threads of the migration before may write to it')
            h.others_go_on()
            expect(h.is_busy(), 'cleaned while threads of the migration before may write to it')
            h.release()
            h.again()
            h.no_complaints()
        finally:
            h.dst.proc.send_signal(signal.SIGCONT)
            c.stop()


def the_daemon_is_told_to_end_while_a_work_is_held():
    """it waits for the work, and the guest runs at the source; what arrived runs on"""
    for point in WORKS + ('arrived',):
        with Held('close-room.web1' if point == 'arrived' else point) as h:
            at = {'open-room.web1': None, 'arrived': None}.get(point, 'placed')
            c = Cutter(os.path.join(h.scene.dir, 'cutter.sock'), h.b.listen, at, 'before')
            try:
                h.begin(c.uri)
                h.wait(h.points[0])
                h.b.proc.send_signal(signal.SIGTERM)
                threading.Timer(1, h.release).start()
                expect(h.b.proc.wait(60 * SLOW) == 0, f'{point}: ended with {h.b.proc.returncode}')
                h.wait_ended('completed' if point == 'arrived' else 'failed')
                h.b.start()
                if point == 'arrived':
                    wait_for('the guest to register', lambda: 'web1' in h.b.vms())
                    h.dst.verdict()
                else:
                    wait_for('the VMM to register', lambda: 'web1-in' in h.b.vms())
                    expect(h.src.runs(), f'{point}: the guest does not run')
                    h.again()
            finally:
                c.stop()


def prepared_waits_for_the_disk():
    """a destination that loses power after GO must know of the switchover: PREPARED is said once "begun" is on its
    disk. The guest runs on, and rounds go on, meanwhile."""
    with Held('journal-sync') as h:
        c = Cutter(os.path.join(h.scene.dir, 'cutter.sock'), h.b.listen)
        try:
            h.begin(c.uri)
            h.wait('journal-sync')
            rounds = lambda: h.a.ask('query-migrate', vm='web1')['ram']['dirty-sync-count']
            now = rounds()
            wait_for('three more rounds', lambda: rounds() >= now + 3, 60)
            h.b.ask('query-vms')
            expect('prepare' in c.seen and 'prepared' not in c.seen, f'{c.seen}')
            expect(h.src.runs() and h.status() == 'active' and not h.src.stats()['vcpus'][0]['blackouts'], 'it was stopped')
            h.release()
            got = h.wait_ended('completed')
            expect(got['downtime-us'] <= LIMIT * 1000, f"it stood still for {got['downtime-us']} us")
            h.dst.verdict()
        finally:
            c.stop()


def a_disk_that_hangs_before_prepared_and_a_cancel():
    with Held('journal-sync') as h:
        h.begin()
        h.wait('journal-sync')
        h.a.ask('migrate_cancel', vm='web1')
        h.wait_ended('cancelled')
        wait_for('a clean destination', lambda: not h.is_busy())
        h.release()
        h.again()
        h.no_complaints()


def a_disk_that_hangs_after_prepared_costs_the_guest_nothing():
    with Held() as h:
        h.points = ('journal-sync',)
        c = Cutter(os.path.join(h.scene.dir, 'cutter.sock'), h.b.listen, 'prepared', 'call', lambda: h.faults.hold('journal-sync'))
        try:
            h.begin(c.uri)
            got = h.wait_ended('completed')
            h.wait('journal-sync')
            expect(got['downtime-us'] <= LIMIT * 1000, f"it stood still for {got['downtime-us']} us")
            h.b.ask('query-vms')
            h.dst.verdict()
            h.release()
        finally:
            c.stop()


def resolve(uri, ident, journal):
    """what the daemon at @uri says of migration @ident, which it welcomed with @journal: a hello of the role that asks"""
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(30 * SLOW)
        s.connect(uri.removeprefix('unix:'))
        s.sendall(struct.pack('<QIIQ16sII16sII16s40x', 0x59525245464d56, 2, RESOLVE, 0, ident, 0, 0, bytes(16), 3, 0, journal))
        return struct.unpack_from('<Ii', recv_all(s, 416), 8)[1]


def never_is_a_promise_also_while_the_room_is_held():
    """asked while the work is out, the daemon says never, and keeps it: neither the work's end nor a late GO runs the guest"""
    for point in ('open-room.web1', 'close-room.web1'):
        with Held(point) as h:
            hellos, journals = [], []

            class Listening(Cutter):
                def greet(self, near, far):
                    hello = recv_all(near, 128)
                    hellos.append(hello[24:40])
                    far.sendall(hello)
                    welcome = recv_all(far, 416)
                    journals.append(welcome[392:408])
                    near.sendall(welcome)
                    control = struct.unpack_from('<I', hello, 12)[0] == 1
                    for x, y in ((near, far), (far, near)):
                        threading.Thread(target=self.messages if control else self.raw, args=(x, y), daemon=True).start()
            c = Listening(os.path.join(h.scene.dir, 'cutter.sock'), h.b.listen, None if point.startswith('open') else 'prepared', 'before')
            try:
                h.begin(c.uri)
                h.wait(point)
                expect(resolve(h.b.listen, hellos[0], journals[0]) == NEVER, 'another answer')
                h.others_go_on()
                h.release()
                h.wait_ended('failed')
                wait_for('a clean destination', lambda: not h.is_busy())
                # Once the source has acknowledged it, nothing is left that proves it.
                expect(resolve(h.b.listen, hellos[0], journals[0]) in (NEVER, UNKNOWN), 'another answer than before')
                expect(h.src.runs() and not h.dst.runs(), 'not where it was promised')
                h.again()
                h.no_complaints()
            finally:
                c.stop()


main([making_room_held_and_cancelled, making_room_held_until_the_source_gives_up,
      a_second_migration_while_the_first_is_being_closed, threads_that_do_not_end,
      the_room_of_a_guest_that_arrived_is_closed_in_the_background, the_vmm_dies_while_a_work_is_held,
      a_vmm_that_registers_again_while_threads_still_write,
      the_daemon_is_told_to_end_while_a_work_is_held, prepared_waits_for_the_disk,
      a_disk_that_hangs_before_prepared_and_a_cancel, a_disk_that_hangs_after_prepared_costs_the_guest_nothing,
      never_is_a_promise_also_while_the_room_is_held])
