#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Promise: a guest that stands here while nobody can tell where it has to run is held: "status" and "list" say so, the
peer is asked, and "resolve" ends it, also after a restart of the daemon, and also while its VMM is not connected. What is
decided is carried out, however often the VMM refuses or loses its connection. NEVER is noted of a guest that runs.

The VMMs are stand-ins (tests/lib/standin_vmm.py): there is no guest, only the account that a VMM keeps of it.

Seen to fail: on the code before the first of them, where two pass: a_stop_that_is_not_answered_in_time_ends_in_one_running_guest
and a_go_that_cannot_be_noted_is_not_sent. The others fail there (two only for want of "query-journal", and the one of a daemon
that ends because the connection of RUNNING is closed by then), for "status", "list" and "resolve" knew
live migrations only, recovery went by name and asked once, and a channel that broke behind GO was a loss of the peer. With
stop() that knows no RUNNING in the grace after it "go" stays open, and the guest paused; with a journal that is keyed by the
id alone a migration within one daemon ends without a guest; with one VM a name its source is not let in to be told; with GO sent though it could not be noted the guest moves;
with "--gone" taken while RESUME is being answered, the journal says of a guest that runs here that it has left; without the
wait for a VMM that is away, forget drops what the operator decided for it; with "go" dropped once the source has given the guest
up, the guest that is loaded is thrown away; without closing_let_ram_go() its RAM stays mapped until the
operator decides; with forget that asks only settle.c, the entry of a guest that is held is dropped; with the operator's
word noted only for a VMM that is away, or NEVER only after RESUME, forget drops what a VMM that breaks off has not heard,
and its guest is held once more; with the word of a VMM that its guest was not stopped taken for true, it stays
stopped; with a page of VMs that is taken for the last one, 194 of 261 guests are listed; with each VM looked for
by status in a list of its own there are four of them; with the first of several held guests taken for the one that is
meant, a guest runs on here whose operator meant another one."""
import json, os, signal, socket, struct, sys, threading, time
from types import SimpleNamespace
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
from cutter import HELLO, NAMES, Cutter, recv_all
from ferry import NO_LIMIT, Failed, Scene, ended, expect, main, stop, vmferry, wait_for
from full_disk import empty, fill, small_disk
from proxies import Server
from standin_pair import StandinPair
from standin_vmm import INCOMING, PAUSED, RELEASED, BigState, StandinVmm

WIRE_MAGIC, RESOLVE = 0x59525245464d56, 3
RUNNING_THERE, NEVER, LATER, UNKNOWN = 1, 2, 3, 4


def message(name, body=b''):
    return struct.pack('<II', NAMES.index(name), len(body)) + body


class Liar(Cutter):
    """A destination that says READY while most of the state is on its way; then its channels break, and RUNNING is said when
    the test says so. Nothing of it reaches the real one."""

    def __init__(self, path, to):
        self.is_frozen, self.channels, self.near = threading.Event(), [], None
        super().__init__(path, to)

    def raw(self, a, b):
        self.channels.append(a)
        try:
            while not self.is_frozen.is_set() and (data := a.recv(1 << 16)):
                b.sendall(data)
        except OSError:
            pass

    def messages(self, a, b):
        try:
            while True:
                kind, size = struct.unpack('<II', recv_all(a, 8))
                body = recv_all(a, size) if size else b''
                if NAMES[kind] == 'state':
                    self.near = a
                    self.is_frozen.set()
                    a.sendall(message('ready', struct.pack('<II136x', struct.unpack_from('<I', body, 8)[0], 0)))
                elif NAMES[kind] == 'go':
                    self.cut(*self.channels)
                    self.has_cut.set()
                elif not self.is_frozen.is_set():
                    b.sendall(struct.pack('<II', kind, size) + body)
        except OSError:
            pass

    def say_running(self):
        self.near.sendall(message('running', bytes(24)))


class Peer(Server):
    """stands where a destination was, and answers what became of a migration with @answer; @questions: how often"""

    def __init__(self, uri, answer):
        self.answer, self.questions = answer, 0
        super().__init__(uri)

    def handle(self, near, nr):
        hello = recv_all(near, HELLO)
        if struct.unpack_from('<I', hello, 12)[0] == RESOLVE:
            self.questions += 1
            near.sendall(struct.pack('<QIi16s352sII16s8x', WIRE_MAGIC, 2, self.answer, b'', b'', 3, 0, b''))
        near.close()


class Guest(StandinPair):
    """Its destination dies when @message comes."""

    def __init__(self, message='go', protocol=2):
        super().__init__(message, protocol=protocol)
        self.peer = None

    def stop_way(self):
        if self.peer:
            self.peer.__exit__()
        else:
            super().stop_way()

    def wait_held(self):
        return wait_for('it to be held', lambda: (s := self.status())['status'] == 'held' and s)

    def lose_everything(self):
        """GO was sent, the destination is gone, and so is the source's daemon, which starts again"""
        self.begin()
        self.wait_held()
        self.dst.die()
        self.a.kill()
        self.a.start()
        wait_for('it to register again', lambda: 'web1' in self.a.vms())

    def answer_with(self, answer):
        """from now on who asks the destination hears @answer"""
        self.cutter.stop()
        self.peer = Peer(self.cutter.uri, answer)

    def runs_here(self):
        wait_for('the guest to run here', self.src.runs)
        got = wait_for('it to be free', lambda: (v := self.a.vms().get('web1')) and not v['busy'] and v)
        expect(got['status'] == 'running' and got['migration'] != 'held', str(got))

    def has_left(self):
        wait_for('its VMM to let it go', lambda: self.src.state == RELEASED)
        expect('resume' not in self.src.asked, f'it was resumed: {self.src.asked}')


def a_held_guest_is_shown_and_resolved_after_a_restart():
    """a VMM of protocol 1 that is away does not find what was decided by its migration's id"""
    for protocol, where, after in [(p, w, a) for p in (1, 2) for w in ('here', 'gone') for a in ('there', 'cut and back', 'away')
                                   if (p, a) != (1, 'away')]:
        with Guest(protocol=protocol) as x:
            x.lose_everything()
            held = x.wait_held()
            expect('GO was sent to' in held['error-desc'], str(held))
            expect(x.a.vms()['web1']['migration'] == 'held', 'it is not held in the list')
            said = vmferry(x.a, 'list').stdout
            expect('held' in said and 'paused' in said, said)
            refused = vmferry(x.a, 'migrate', 'web1', 'unix:/nowhere')
            expect(refused.returncode == 4 and 'is held paused' in refused.stderr, str(refused))
            if after == 'cut and back':
                n = len(x.src.registrations)
                x.src.cut()
                wait_for('it to register again', lambda: len(x.src.registrations) > n and x.src.is_registered.is_set())
                x.wait_held()
            if after == 'away':
                x.src.leave()
                wait_for('its loss to be seen', lambda: not x.a.vms())
                expect('not connected' in x.wait_held()['error-desc'], str(x.status()))
            expect(x.src.state == PAUSED, 'it was not asked, and is not paused any more')
            got = vmferry(x.a, 'resolve', 'web1', {'here': '--run-here', 'gone': '--gone'}[where])
            expect(got.returncode == 0, str(got))
            x.src.come_back()
            x.runs_here() if where == 'here' else x.has_left()
            again = vmferry(x.a, 'resolve', 'web1', '--gone')
            expect(again.returncode == 4 and 'is not held' in again.stderr, f'what was decided can be decided anew: {again}')


def what_is_decided_is_not_decided_anew_while_the_vmm_is_slow():
    with Guest() as x:
        x.lose_everything()
        x.wait_held()
        slow = x.src.hold('resume')
        x.a.ask('resolve', vm='web1', **{'run-here': True})
        expect(slow.is_asked.wait(30), 'RESUME is not asked')
        again = vmferry(x.a, 'resolve', 'web1', '--gone')
        slow.go()
        expect('is being told to run the guest on here' in again.stderr, f'it does not say what was decided: {again}')
        expect(again.returncode == 4 and 'is not held' in again.stderr, f'what was decided can be decided anew: {again}')
        x.runs_here()


def a_guest_that_is_held_by_a_live_migration_is_resolved_while_its_vmm_is_away():
    for here in (True, False):
        with Guest() as x:
            x.begin()
            x.wait_held()
            x.dst.die()
            x.src.leave()
            wait_for('its loss to be seen', lambda: not x.a.vms())
            x.a.ask('resolve', vm='web1', **{'run-here': here})
            wait_for('its end', lambda: x.status()['status'] in ('failed', 'completed'))
            x.src.come_back()
            x.runs_here() if here else x.has_left()


def the_peer_of_a_held_guest_is_asked_after_a_restart():
    for answer in (RUNNING_THERE, NEVER):
        with Guest() as x:
            x.lose_everything()
            x.wait_held()
            x.answer_with(answer)
            x.runs_here() if answer == NEVER else x.has_left()


def a_peer_that_does_not_know_is_believed_to_know_nothing():
    with Guest() as x:
        x.lose_everything()
        x.answer_with(UNKNOWN)
        got = wait_for('words of it', lambda: 'does not know' in (s := x.status())['error-desc'] and s, 60)
        expect(got['status'] == 'held' and x.src.state == PAUSED, str(got))
        expect('does not know whether the guest ran there' in x.a.text(), 'the log does not say so')
        x.a.ask('resolve', vm='web1', **{'run-here': True})
        x.runs_here()


def a_held_guest_whose_vmm_has_gone_is_let_go():
    """its RAM does not stay mapped, and nobody asks for it any more"""
    def maps():
        with open(f'/proc/{x.a.proc.pid}/maps') as f:
            return 'memfd:ram' in f.read()
    with Guest() as x:
        x.lose_everything()
        x.answer_with(LATER)
        wait_for('a question', lambda: x.peer.questions, 60)
        expect(maps(), 'its RAM is not mapped; the test looks for nothing')
        x.src.die()
        wait_for('its RAM to be let go', lambda: not maps())


def a_paused_guest_of_which_nothing_is_known_is_held_for_the_operator():
    with Scene() as s:
        a = s.daemon('a')
        v = StandinVmm(a.vmm)
        try:
            wait_for('it to register', lambda: 'web1' in a.vms())
            v.state = PAUSED
            v.cut()
            got = wait_for('it to be held', lambda: (g := a.ask('query-migrate', vm='web1'))['status'] == 'held' and g)
            expect('no journal here says why' in got['error-desc'] and a.vms()['web1']['migration'] == 'held', str(got))
            expect(not v.runs(), 'it was resumed, and nobody knows why it is paused')
            a.ask('resolve', vm='web1', **{'run-here': True})
            wait_for('it to run', v.runs)
            wait_for('it to be free', lambda: not a.vms()['web1']['busy'])
        finally:
            v.stop()


def what_recovery_asks_is_asked_again():
    """RESUME and RELEASE after a restart: refused, and cut before and after they are carried out"""
    for answer, request in ((NEVER, 'resume'), (RUNNING_THERE, 'release')):
        for lie in ('refuse', 'refuse_after', 'lose', 'lose_after', 'seq'):
            with Guest() as x:
                x.lose_everything()
                x.wait_held()
                x.src.lies[request] = lie
                x.answer_with(answer)
                try:
                    x.runs_here() if answer == NEVER else x.has_left()
                except Failed as e:
                    raise Failed(f'{request}: {lie}: {x.src.asked}: {e}')
                expect(request not in x.src.lies, f'{request} was not asked')


def a_release_is_asked_until_it_is_done():
    """the guest has moved, and its VMM here is cut or refuses: nothing paused stays behind"""
    for lie in ('refuse', 'lose'):
        with Guest(None) as x:
            x.src.lies['release'] = lie
            x.begin()
            wait_for('it to move', lambda: x.dst.runs())
            x.has_left()
            expect(x.src.asked.count('release') == 2, f'{lie}: {x.src.asked}')


def a_stop_that_is_not_answered_in_time_ends_in_one_running_guest():
    """the VMM is frozen while PAUSE or SAVE is asked; the daemon ends, dies, or gives up after 10 s"""
    for request in ('pause', 'save'):
        for end in (signal.SIGTERM, signal.SIGKILL, 'patience'):
            with Guest(None) as x:
                h = x.src.hold(request)
                x.begin()
                wait_for(f'{request} to be asked', h.is_asked.is_set)
                if end == 'patience':
                    wait_for('the daemon to lose its patience', lambda: 'did not answer request' in x.a.text(), 60)
                else:
                    x.a.kill(end)
                x.src.leave()
                h.go()
                wait_for('it to stand', lambda: x.src.state == PAUSED)
                if end == 'patience':
                    x.a.kill(signal.SIGTERM)
                x.a.start()
                x.src.come_back()
                try:
                    x.runs_here()
                except Failed as e:
                    raise Failed(f'{request}, {end}: {x.src.asked}: {e}')
                expect(not x.dst.runs(), 'two run')


def a_migration_within_one_daemon_that_dies_ends_in_one_running_guest():
    """the two sides have one id, one journal and one name; whichever registers first"""
    for message, end, late in (('prepared', 'here', None), ('go', 'here', None), ('running', 'there', 'src'), ('running', 'there', 'dst')):
        with Scene() as s:
            a = s.daemon('a')
            src, dst = StandinVmm(a.vmm), StandinVmm(a.vmm, incoming=True)
            late = {'src': src, 'dst': dst}.get(late)
            c = Cutter(os.path.join(s.dir, 'cutter.sock'), a.listen, message, 'call',
                       lambda: (late and late.may_come.clear(), a.kill()))
            try:
                wait_for('both to register', lambda: len(a.vms()) == 2)
                a.ask('migrate', vm='web1', uri=c.uri, **NO_LIMIT)
                wait_for(message, c.has_cut.is_set)
                a.proc.wait()
                a.start()
                if late:
                    wait_for('the other one to register', a.vms)
                    late.come_back()
                wait_for(f'{message}: the guest to run {end}', {'here': src, 'there': dst}[end].runs)
                wait_for('the other one to be free', lambda: src.state == RELEASED if end == 'there' else
                         dst.state == INCOMING and a.vms().get('web1-in') and not any(v['busy'] for v in a.vms().values()))
                expect([src, dst][end == 'here'].runs() is False, 'two run')
            finally:
                src.stop()
                dst.stop()
                c.stop()


def a_guest_that_has_arrived_is_started_though_another_of_its_name_registers_first():
    """GO was heard, and the daemon has died before its VMM was told to start: that VMM knows its migration, the other has none"""
    for first in ('other', 'own'):
        with Guest(None) as x:
            h = x.dst.hold('run')
            x.begin()
            wait_for('RUN to be asked', h.is_asked.is_set)
            x.b.kill()
            x.dst.lies['run'] = 'lose'
            x.dst.leave()
            h.go()
            wait_for('its loss to be seen', lambda: not x.dst.is_registered.is_set())
            x.b.start()
            x.cutter.stop()  # it has given up
            x.cutter = Cutter(x.cutter.uri[5:], x.b.listen)
            if first == 'own':
                x.dst.come_back()
                wait_for('it to register', lambda: 'web1-in' in x.b.vms() or 'web1' in x.b.vms())
            other = StandinVmm(x.b.vmm)
            try:
                if first == 'other':
                    wait_for('the other to register', other.is_registered.is_set)
                    x.dst.come_back()
                wait_for('the guest to run there', x.dst.runs)
                x.has_left()
            finally:
                other.stop()


def a_go_that_cannot_be_noted_is_not_sent():
    """the run directory is full when READY comes: the guest goes on here, and can be moved once there is room"""
    with Scene() as s:
        a, b = s.daemon('a'), s.daemon('b')

        def no_room():
            os.truncate(a.dir + '/journal-marks', 0)  # what was preallocated
            fill(a.dir)
        c = s.keep(Cutter(os.path.join(s.dir, 'cutter.sock'), b.listen, 'ready', 'call', no_room))
        with small_disk(a, a.dir, '512k'):
            src, dst = s.keep(StandinVmm(a.vmm)), s.keep(StandinVmm(b.vmm, incoming=True))
            wait_for('both to register', lambda: 'web1' in a.vms() and 'web1-in' in b.vms())
            a.ask('migrate', vm='web1', uri=c.uri, **NO_LIMIT)
            got = wait_for('its end', lambda: ended(a))
            expect(got['status'] == 'failed' and 'journal cannot take GO' in got['error-desc'], str(got))
            expect(src.runs() and 'go' not in c.seen and 'run' not in dst.asked, f'{c.seen}, {dst.asked}')
            empty(a.dir)
            wait_for('the destination to be clean', lambda: dst.state == INCOMING and not b.vms()['web1-in']['busy'])
            wait_for('the source to be free', lambda: not a.vms()['web1']['busy'])
            a.ask('migrate', vm='web1', uri=c.uri, **NO_LIMIT)
            wait_for('it to move', dst.runs)
            wait_for('its VMM to let it go', lambda: src.state == RELEASED)


class LyingPeer(StandinPair):
    """Its destination is a Liar, and GO was sent to that."""

    def __init__(self):
        super().__init__(vmm=BigState, state_size=64 << 20)

    def make_way(self):
        return Liar(self.path, self.b.listen)

    def set_up(self):
        super().set_up()
        self.begin()
        wait_for('GO', self.cutter.has_cut.is_set)


def a_channel_that_breaks_behind_go_is_no_loss_of_the_peer():
    with LyingPeer() as x:
        for _ in range(50):  # turns of the loop in which it learns of its channels
            expect(x.a.ask('query-migrate', vm='web1')['status'] == 'device', 'what is no question any more is asked')
        x.cutter.say_running()
        got = wait_for('the end', lambda: ended(x.a))
        expect(got['status'] == 'completed', str(got))
        wait_for('its VMM to let it go', lambda: x.src.state == RELEASED)


def a_daemon_that_ends_just_after_running_was_heard_lets_the_guest_go():
    with LyingPeer() as x:
        stop(x.a.proc)
        x.cutter.say_running()
        x.a.proc.send_signal(signal.SIGTERM)
        x.a.proc.send_signal(signal.SIGCONT)
        x.a.proc.wait(60)
        wait_for('its VMM to let it go', lambda: x.src.state == RELEASED)


def what_was_decided_for_a_vmm_that_is_away_is_not_forgotten_by_the_way():
    """forget names that VMM and is refused; the VMM comes back and is told; one that has ended for good is said to have"""
    for comes_back in (True, False):
        with Guest() as x:
            x.lose_everything()
            x.wait_held()
            x.src.leave()
            wait_for('its loss to be seen', lambda: not x.a.vms())
            x.a.ask('resolve', vm='web1', **{'run-here': True})
            ident = x.a.ask('query-journal')['entries'][0]['id']
            got = vmferry(x.a, 'forget', ident)
            expect(got.returncode == 4 and 'VMM of vm web1, which is away' in got.stderr, str(got))
            if comes_back:
                x.src.come_back()
                x.runs_here()
            else:
                expect(vmferry(x.a, 'forget', ident, '--vmm-ended').returncode == 0, 'it stays for ever')
                expect(not x.a.ask('query-journal')['entries'], 'it is still there')


def a_loaded_guest_that_its_source_has_given_up_is_run_however_late_its_vmm_is_back():
    """GO was heard, and its VMM is away for longer than anybody waits; the operator of the source says --gone"""
    with Guest(None) as x:
        h = x.dst.hold('run')
        x.begin()
        wait_for('RUN to be asked', h.is_asked.is_set)
        x.dst.lies['run'] = 'lose'
        x.dst.leave()
        h.go()
        wait_for('its loss to be seen', lambda: not x.b.vms())
        x.wait_held()
        x.a.ask('resolve', vm='web1', **{'run-here': False})
        x.has_left()
        ident = x.b.ask('query-journal')['entries'][0]['id']
        wait_for('the source to tell', lambda: 'its source has given the guest up' in x.b.text(), 180)
        got = vmferry(x.b, 'forget', ident)
        expect(got.returncode == 4 and '--vmm-ended' in got.stderr, str(got))
        x.dst.come_back()
        wait_for('the guest to run there', x.dst.runs)
        wait_for('it to be noted', lambda: [e['mark'] for e in x.b.ask('query-journal')['entries']] == ['done'])


class Denier(StandinVmm):
    """says that its guest was not stopped, and that there is nothing to resume"""

    def lie_deny(self, kind, seq, body):
        self.answer(kind, seq, -22)


def a_vmm_that_says_that_its_guest_was_not_stopped_is_asked_where_it_stands():
    """it stops, says that it did not, and that it need not resume"""
    with Scene() as s:
        a, b = s.daemon('a'), s.daemon('b')
        src, dst = Denier(a.vmm), StandinVmm(b.vmm, incoming=True)
        try:
            wait_for('both to register', lambda: 'web1' in a.vms() and 'web1-in' in b.vms())
            src.lies.update(pause='refuse_after', resume='deny')
            a.ask('migrate', vm='web1', uri=b.listen, **NO_LIMIT)
            got = wait_for('its end', lambda: ended(a))
            expect(got['status'] == 'failed', str(got))
            wait_for('the guest to run on', src.runs)
            wait_for('it to be noted', lambda: not any(e['mark'] == 'begun' for e in a.ask('query-journal')['entries']))
        finally:
            src.stop()
            dst.stop()


def a_held_guest_whose_vmm_is_away_is_shown_with_what_to_type():
    """by list and status, of this run of the daemon and of an earlier one; the log says what each word does"""
    for is_live in (True, False):
        with Guest() as x:
            if is_live:
                x.begin()
                x.wait_held()
            else:
                x.lose_everything()
                x.wait_held()
            ident = x.a.ask('query-journal')['entries'][0]['id']
            here = vmferry(x.a, 'list').stdout
            expect('away' not in here and ident in here and 'resolve web1 --gone' in here, here)
            x.src.leave()
            wait_for('its loss to be seen', lambda: not x.a.vms())
            said = vmferry(x.a, 'list').stdout
            row = next((line.split() for line in said.splitlines() if line.startswith('web1 ')), None)
            expect(row == ['web1', 'away', '-', '-', '-', 'held'], said)
            for word in (ident, 'its VMM is away', 'as the source', f'since {time.strftime("%Y-")}', '"vmferry resolve web1 --gone"',
                         'its memory here is given up', '--run-here', 'it goes on here'):
                expect(word in said, f'{word} is missing: {said}')
            got = json.loads(vmferry(x.a, 'list', '--json').stdout)
            expect([(v['name'], v['status'], v['migration'], v['id']) for v in got] == [('web1', 'away', 'held', ident)], str(got))
            for args in ([], ['--json']):
                got, _ = json.JSONDecoder().raw_decode(vmferry(x.a, 'status', *args).stdout)
                expect((got['vm'], got['status'], got['id'], got['role'], got['connected']) ==
                       ('web1', 'held', ident, 'source', False) and got['since'] > 0 and '--gone' in got['resolve'], str(got))
            expect('its memory here is given up' in x.a.text() and 'it goes on here' in x.a.text(), x.a.text())
            x.src.come_back()
            wait_for('it to be back', x.a.vms)
            said = vmferry(x.a, 'list').stdout
            expect('away' not in said and ident in said, said)
            x.a.ask('resolve', vm='web1', **{'run-here': True})
            x.runs_here()
            expect(ident not in vmferry(x.a, 'list').stdout and not x.a.ask('query-held')['held'], 'it is still shown as held')


def the_ram_of_a_held_guest_whose_vmm_has_died_is_let_go_at_once():
    """it is held by a live migration; its VMM dies before GO's answer is lost, or after; then the operator decides"""
    for dies_first in (False, True):
        with Guest() as x:
            def maps():
                with open(f'/proc/{x.a.proc.pid}/maps') as f:
                    return 'memfd:ram' in f.read()

            def lose_source_too():
                x.b.kill()
                x.src.die()
            if dies_first:
                x.cutter.call = lose_source_too
            x.begin()
            x.wait_held()
            if not dies_first:
                expect(maps(), 'its RAM is not mapped; the test looks for nothing')
                x.src.die()
            wait_for('its RAM to be let go', lambda: not maps())
            expect(x.status()['status'] == 'held', str(x.status()))
            x.a.ask('resolve', vm='web1', **{'run-here': False})
            got = wait_for('its end', lambda: (s := x.status())['status'] == 'completed' and s)
            expect(got['ram']['transferred'] > 1 << 19, f'the account is lost: {got}')


def a_guest_that_is_held_is_not_forgotten_while_its_vmm_is_away():
    """nobody has decided; the VMM comes back, and the peer answers; or it has ended for good, as the operator says"""
    for comes_back in (True, False):
        with Guest() as x:
            x.lose_everything()
            x.wait_held()
            ident = x.a.ask('query-journal')['entries'][0]['id']
            x.src.leave()
            wait_for('its loss to be seen', lambda: not x.a.vms())
            got = vmferry(x.a, 'forget', ident)
            expect(got.returncode == 4 and 'held' in got.stderr and '--vmm-ended' in got.stderr, str(got))
            if comes_back:
                x.src.come_back()
                x.answer_with(NEVER)
                x.runs_here()
            else:
                expect(vmferry(x.a, 'forget', ident, '--vmm-ended').returncode == 0, 'it stays for ever')
                expect(not x.a.ask('query-held')['held'], 'it is still shown as held')


def what_the_operator_said_outlasts_a_vmm_that_loses_its_connection():
    """it is away when the operator decides, or breaks off before it has done RESUME or RELEASE, or refuses; the destination is
    gone for good; live, and after a restart of the daemon. Until the VMM has acted, forget is refused."""
    for word, request in (('--gone', 'release'), ('--run-here', 'resume')):
        for is_live in (True, False):
            for when in ('away', 'lose', 'refuse'):
                with Guest() as x:
                    if is_live:
                        x.begin()
                        x.wait_held()
                        x.dst.die()
                    else:
                        x.lose_everything()
                        x.wait_held()
                    ident = x.a.ask('query-journal')['entries'][0]['id']
                    is_done = x.src.hold(request)
                    if when == 'away':
                        is_done.go()
                        x.src.leave()
                        wait_for('its loss to be seen', lambda: not x.a.vms())
                    else:
                        x.src.lies[request] = when
                    expect(vmferry(x.a, 'resolve', 'web1', word).returncode == 0, 'it is not resolved')
                    if when != 'away':
                        expect(is_done.is_asked.wait(60), f'{request} is not asked')
                        x.src.may_come.clear()
                        is_done.go()
                        wait_for('its loss to be seen', lambda: not x.a.vms())
                    if is_live:
                        wait_for('its end', lambda: x.status()['status'] in ('failed', 'completed'))
                    expect(x.src.state == PAUSED, 'it has acted; the test looks for nothing')
                    got = vmferry(x.a, 'forget', ident)
                    expect(got.returncode == 4 and '--vmm-ended' in got.stderr, f'{word}, live {is_live}, {when}: {got}')
                    x.src.come_back()
                    try:
                        x.runs_here() if request == 'resume' else x.has_left()
                    except Failed as e:
                        raise Failed(f'{word}, live {is_live}, {when}: {x.src.asked}: {e}')
                    wait_for('the entry to be needed no more', lambda: vmferry(x.a, 'forget', ident).returncode == 0)


def all_held_guests_are_listed_however_many_they_are():
    """their VMMs connected, without an entry, and away, behind entries of no held guest: in pages, some of them empty"""
    with Scene() as s:
        a = s.daemon('a')
        a.kill(signal.SIGTERM)
        for path in ('state/journal', 'journal-marks'):
            os.unlink(os.path.join(a.dir, path))
        with open(a.dir + '/state/journal', 'w') as f:
            f.writelines(f'begun {n:032x} destination unix:/nowhere arriving{n}\n' for n in range(1, 1101))
            f.writelines(f'go {n:032x} source unix:/nowhere away{n}\n' for n in range(2001, 2131))
        a.start()
        here, away = {f'here{n}' for n in range(131)}, {f'away{n}' for n in range(2001, 2131)}
        vmms = [StandinVmm(a.vmm, name, size=1 << 20) for name in sorted(here)]
        try:
            wait_for('them to register', lambda: len(a.vms()) == len(vmms), 60)
            for v in vmms:
                v.state = PAUSED
                v.cut()
            wait_for('them to be held', lambda: [v['migration'] for v in a.vms().values()] == ['held'] * len(vmms), 60)
            names, args, nr_empty = [], {}, 0
            while args is not None:
                page = a.ask('query-held', **args)
                names += [h['vm'] for h in page['held']]
                nr_empty += not page['held']
                expect(page['more'] == ('next' in page) and len(page['held']) <= 128, f'{page["more"]}, {len(page["held"])}')
                args = page.get('next')
            expect(len(names) == len(set(names)) and set(names) == here | away, f'{len(names)} of {len(here | away)}: {names}')
            expect(nr_empty, 'no page is empty: the test looks for less than it says')
            said = vmferry(a, 'list').stdout
            expect(all(f'\n{name} is held' in said for name in names) and 'There are more' not in said, said[-2000:])
            got = json.loads(vmferry(a, 'list', '--json').stdout)
            expect({vm['name'] for vm in got if vm['status'] == 'away'} == away, 'not all are away')
        finally:
            for v in vmms:
                v.die()
            for v in vmms:
                v.stop()


class Relay(Server):
    """of a control socket, that counts @commands"""

    def __init__(self, uri, to):
        self.to, self.commands = to, []
        super().__init__(uri)

    def handle(self, near, nr):
        with socket.socket(socket.AF_UNIX) as far:
            far.connect(self.to)
            back = threading.Thread(target=self.carry_back, args=(far, near), daemon=True)
            back.start()
            with near.makefile('rb') as lines:
                for line in lines:
                    self.commands.append(json.loads(line)['execute'])
                    far.sendall(line)
            far.shutdown(socket.SHUT_RDWR)
            back.join()
        near.close()

    def carry_back(self, far, near):
        while (got := far.recv(1 << 16)):
            near.sendall(got)


def status_asks_for_the_list_of_vms_once():
    """and not once for each VM that no migration has"""
    with Scene() as s:
        a = s.daemon('a')
        vmms = [StandinVmm(a.vmm, f'vm{n}', size=1 << 20) for n in range(3)]
        path = os.path.join(s.dir, 'relay.sock')
        relay = Relay('unix:' + path, a.control)
        try:
            wait_for('them to register', lambda: len(a.vms()) == len(vmms))
            got = vmferry(SimpleNamespace(control=path), 'status')
            expect(got.returncode == 0 and relay.commands.count('query-migrate') == len(vmms), f'{got}: {relay.commands}')
            expect(relay.commands.count('query-vms') == 1, str(relay.commands))
        finally:
            relay.__exit__()
            for v in vmms:
                v.stop()


def a_word_that_fits_two_held_guests_decides_about_neither():
    """the VMM of a guest that a live migration holds, or one of an earlier run, is away, and another of its name is held here"""
    for is_live in (True, False):
        with Guest() as x:
            x.begin()
            x.wait_held()
            ident, other = x.a.ask('query-journal')['entries'][0]['id'], 'ab' * 16
            x.src.leave()
            wait_for('its loss to be seen', lambda: not x.a.vms())
            if not is_live:
                x.a.kill()
                x.a.start()
            new = x.vmm(x.a)
            new.state, new.last = PAUSED, (bytes.fromhex(other), 1)
            new.cut()
            wait_for('both to be held', lambda: len(x.a.ask('query-held')['held']) == 2)
            got = {h['id']: h for h in x.a.ask('query-held')['held']}
            expect({i: h['connected'] for i, h in got.items()} == {ident: False, other: True}, str(got))
            for i, h in got.items():
                expect(f'resolve {i} --gone' in h['resolve'] and f'resolve {i} --run-here' in h['resolve'], str(h))
            said = vmferry(x.a, 'resolve', 'web1', '--run-here')
            expect(said.returncode == 4 and ident in said.stderr and other in said.stderr, str(said))
            expect(new.state == PAUSED and len(x.a.ask('query-held')['held']) == 2, 'it was decided')
            said = vmferry(x.a, 'resolve', ident, '--gone')
            expect(said.returncode == 0 and ident in said.stdout and 'other host' in said.stdout, str(said))
            said = vmferry(x.a, 'resolve', 'web1', '--run-here')
            expect(said.returncode == 0 and other in said.stdout, str(said))
            wait_for('the newcomer to run', new.runs)
            expect('resume' not in x.src.asked, f'the other was resumed: {x.src.asked}')


def a_name_that_is_the_id_of_another_guest_decides_about_neither():
    with Scene() as s:
        a = s.daemon('a')
        one, two = StandinVmm(a.vmm), StandinVmm(a.vmm, 'ab' * 16)
        try:
            one.last = (b'\xab' * 16, 1)
            for v in (one, two):
                v.state = PAUSED
                v.cut()
            wait_for('both to be held', lambda: len(a.ask('query-held')['held']) == 2)
            got = vmferry(a, 'resolve', 'ab' * 16, '--run-here')
            expect(got.returncode == 4 and 'fits 2 guests' in got.stderr, str(got))
            expect((one.state, two.state) == (PAUSED, PAUSED), 'one was resumed')
        finally:
            one.stop()
            two.stop()


main([a_word_that_fits_two_held_guests_decides_about_neither, a_name_that_is_the_id_of_another_guest_decides_about_neither,
      all_held_guests_are_listed_however_many_they_are, status_asks_for_the_list_of_vms_once,
      the_ram_of_a_held_guest_whose_vmm_has_died_is_let_go_at_once,
      a_held_guest_whose_vmm_is_away_is_shown_with_what_to_type, a_held_guest_is_shown_and_resolved_after_a_restart,
      what_is_decided_is_not_decided_anew_while_the_vmm_is_slow,
      a_guest_that_is_held_by_a_live_migration_is_resolved_while_its_vmm_is_away,
      the_peer_of_a_held_guest_is_asked_after_a_restart, a_peer_that_does_not_know_is_believed_to_know_nothing,
      a_held_guest_whose_vmm_has_gone_is_let_go, a_paused_guest_of_which_nothing_is_known_is_held_for_the_operator,
      what_recovery_asks_is_asked_again, a_release_is_asked_until_it_is_done,
      a_stop_that_is_not_answered_in_time_ends_in_one_running_guest,
      a_migration_within_one_daemon_that_dies_ends_in_one_running_guest,
      a_guest_that_has_arrived_is_started_though_another_of_its_name_registers_first,
      a_go_that_cannot_be_noted_is_not_sent,
      a_channel_that_breaks_behind_go_is_no_loss_of_the_peer,
      a_daemon_that_ends_just_after_running_was_heard_lets_the_guest_go,
      what_was_decided_for_a_vmm_that_is_away_is_not_forgotten_by_the_way,
      a_loaded_guest_that_its_source_has_given_up_is_run_however_late_its_vmm_is_back,
      a_vmm_that_says_that_its_guest_was_not_stopped_is_asked_where_it_stands,
      a_guest_that_is_held_is_not_forgotten_while_its_vmm_is_away,
      what_the_operator_said_outlasts_a_vmm_that_loses_its_connection])
