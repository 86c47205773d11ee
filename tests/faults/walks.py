#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Promise: whatever is killed, stopped, cut or cancelled, and at whatever step of a migration, no guest runs twice, none
runs on from an old state, and each stopped one is ended by its daemons or by the operator's true verb.

Theory of operation: real daemons, stand-in VMMs on both sides, a tap on the wire between the daemons. A walk is one
migration with one to three strikes. A strike is a fault (SIGKILL, SIGTERM or SIGSTOP of a daemon; death, cut or silence
of a VMM; a cut or a delay of the control connection; the operator's cancel) at a moment: before or after a message on
the wire; before a VMM carries out a request, before it answers, or after its answer; or some time after the start. Then
everything is healed, and the guest must come to one VMM. The judge is what the VMMs were told and did, in the order in
which they did it: no log and no journal.

Moments and faults come from a printed seed: VMFERRY_WALKS walks begin with walk VMFERRY_FIRST of the seed VMFERRY_SEED.
When a fault meets its moment is decided by the kernel's scheduler, too: a walk that failed is repeated, but may pass.

Seen to fail: with recovery.c resuming whatever the peer answers, two run in 4 of 60 walks; with a source that takes its
VMM's loss at RELEASE for its end, a stopped guest stays with a VMM that registers again, and no verb ends it."""
import collections, contextlib, os, random, signal, struct, sys, threading, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
from cutter import HEAD, NAMES as MESSAGES, Cutter, recv_all
from ferry import SLOW, Failed, Scene, expect, main, wait_for
from standin_vmm import DISCARD, INCOMING, LOAD, LOADED, NAMES as REQUESTS, PAUSE, PAUSED, RESUME, RUN, SAVE, StandinVmm

WALKS, FIRST = int(os.environ.get('VMFERRY_WALKS', '60')), int(os.environ.get('VMFERRY_FIRST', '0'))
SEED = int(os.environ.get('VMFERRY_SEED', '4747'))
SIZE = 1 << 20
NAME_OF = {kind: name for name, kind in REQUESTS.items()}
# Each with its weight.
MOMENTS = {'time': 4, 'wire': 5, 'source VMM': 4, 'destination VMM': 4}
WIRE = ('plan', 'plan-ok', 'placed', 'prepare', 'prepared', 'state', 'ready', 'go', 'running', 'abort', 'dropped', 'failed')
ASKED = {'source VMM': ('start-log', 'harvest', 'pause', 'pause', 'save', 'save', 'resume', 'resume', 'release'),
         'destination VMM': ('load', 'load', 'run', 'run', 'discard')}
FAULTS = {'kill source daemon': 4, 'kill destination daemon': 4, 'end source daemon': 2, 'end destination daemon': 2,
          'stop source daemon': 2, 'stop destination daemon': 3, 'kill source VMM': 1, 'kill destination VMM': 2,
          'cut source VMM': 4, 'cut destination VMM': 3, 'stop source VMM': 2, 'stop destination VMM': 2, 'cut wire': 3,
          'hold wire': 4, 'cancel': 2}
LASTING = {f: w for f, w in FAULTS.items() if f.startswith(('stop', 'hold'))}
# A daemon, the wire or a VMM stands for so long, so often; the long ones outlast the patience of who waits for it.
DAEMON_STANDS = ((.92, .02, .3), (.08, 5.2, 5.5))
WIRE_STANDS = ((.98, .02, .15), (.02, 5.2, 5.5))
VMM_STANDS = ((.97, .02, .3), (.03, 10.3, 10.6))


def weighed(rng, table):
    return rng.choices(list(table), list(table.values()))[0]


def stands(rng, table):
    _, least, most = rng.choices(table, [t[0] for t in table])[0]
    return rng.uniform(least, most) * SLOW


class Guest:
    """What the VMMs of one guest were told and did, and whether that was right"""

    def __init__(self):
        self.lock = threading.RLock()
        self.vmms, self.events, self.wrong = [], [], []
        self.stops, self.saved, self.ran_there, self.verb = 0, b'', False, ''
        self.began = time.monotonic()

    def note(self, who, what):
        self.events.append(f'{(time.monotonic() - self.began) * 1000:8.1f} ms  {who}: {what}')

    def check(self, true, text):
        if not true:
            self.wrong.append(text)
            self.note('judge', text.upper())

    def starts(self, vmm):
        """@vmm carries out RUN or RESUME"""
        self.check(not any(v.runs() for v in self.vmms if v is not vmm), 'two run')
        if not vmm.is_source:
            self.ran_there = True
            source = self.vmms[0]
            self.check(vmm.loaded == self.saved, 'runs there from another state than that of the last stop')
            self.check(os.pread(vmm.ram, SIZE, 0) == os.pread(source.ram, SIZE, 0), 'wrong pages')
            self.check(source.stopped_for == self.saved, 'runs there, but ran on here since that stop')
        else:
            self.check(not self.ran_there or self.verb == '--run-here', 'runs on here, after it ran there')


class WalkVmm(StandinVmm):
    """keeps the guest's account, and meets the moments of a walk"""

    def __init__(self, walk, path, name, incoming):
        self.walk, self.guest, self.is_source = walk, walk.guest, not incoming
        self.role = 'destination VMM' if incoming else 'source VMM'
        self.loaded = self.stopped_for = b''
        self.flows = threading.Event()
        self.flows.set()
        self.guest.vmms.append(self)
        super().__init__(path, name, incoming, SIZE, protocol=walk.protocol)

    def carry_out(self, kind, body):
        name = NAME_OF[kind]
        self.walk.at(self.role, name, 'before')
        self.flows.wait()
        self.live()
        with self.guest.lock:
            got = self.act(kind, body)
            self.guest.note(self.role, name)
        self.walk.at(self.role, name, 'done')
        self.flows.wait()
        self.live()
        return got

    def live(self):
        if self.is_dead:
            raise ConnectionError('dead')

    def act(self, kind, body):
        if kind in (RUN, RESUME):
            self.guest.starts(self)
        elif kind == PAUSE:
            self.write_a_page()
        elif kind == SAVE:
            return self.save()
        elif kind == LOAD:
            return self.load(body)
        elif kind == DISCARD:
            self.loaded = b''
        return super().carry_out(kind, body)

    def write_a_page(self):
        """the guest's last write before it stands, with its bit in the dirty bitmap"""
        self.guest.stops += 1
        self.stopped_for = f'{self.name} stop {self.guest.stops}'.encode()
        os.pwrite(self.ram, self.stopped_for, 0)
        bitmap, _, summary = struct.unpack('<QQQ', os.pread(self.area, 24, 128 + 24))
        for word in (bitmap, summary):
            os.pwrite(self.area, b'\1', word)

    def save(self):
        fd = self.files.pop()
        self.guest.saved = self.stopped_for
        os.pwrite(fd, self.guest.saved, 0)
        os.close(fd)
        return struct.pack('<Q', len(self.guest.saved))

    def load(self, body):
        fd = self.files.pop()
        self.loaded = os.pread(fd, struct.unpack('<Q', body)[0], 0)
        os.pwrite(fd, self.loaded, 0)
        os.close(fd)
        self.state = LOADED
        return b''

    def answer(self, kind, seq, status=0, body=b'', fds=()):
        super().answer(kind, seq, status, body, fds)
        self.walk.at(self.role, NAME_OF[kind], 'answered')

    def cut(self):
        self.guest.note(self.role, 'its connection is cut')
        with contextlib.suppress(OSError):
            self.sock.shutdown(2)

    def die(self):
        with self.guest.lock:
            super().die()
            self.flows.set()


class Tap(Cutter):
    """tells the walk that is under way of each message, before and after it passes"""

    walk = None

    def messages(self, a, b):
        walk = self.walk
        try:
            while True:
                head = recv_all(a, HEAD)
                kind, size = struct.unpack('<II', head)
                body = recv_all(a, size) if size else b''
                name = MESSAGES[kind] if kind < len(MESSAGES) else '?'
                if walk:
                    walk.wire = (a, b)
                    walk.at('wire', name, 'before')
                    walk.wire_flows.wait()
                b.sendall(head + body)
                if walk:
                    walk.at('wire', name, 'after')
        except OSError:
            pass
        self.cut(a, b)


class Strike:
    """a fault and its moment"""

    def __init__(self, rng, first=None):
        self.where = weighed(rng, MOMENTS)
        self.what, self.when, self.after = None, None, 0
        if self.where == 'time':
            self.after = rng.random() * .06
        elif self.where == 'wire':
            self.what, self.when = rng.choice(WIRE), rng.choice(('before', 'after'))
        else:
            self.what, self.when = rng.choice(ASKED[self.where]), rng.choice(('before', 'done', 'answered'))
        if first and rng.random() < .5:  # at the same moment; most such pairs make time for the first one's outcome
            self.where, self.what, self.when, self.after = first.where, first.what, first.when, first.after
            self.fault = weighed(rng, LASTING if rng.random() < .6 else FAULTS)
        else:
            self.fault = weighed(rng, FAULTS)
        verb, _, victim = self.fault.partition(' ')
        table = VMM_STANDS if victim.endswith('VMM') else WIRE_STANDS if victim == 'wire' else DAEMON_STANDS
        self.stands = stands(rng, table) if verb in ('stop', 'hold') else 0
        self.has_struck = False

    def __str__(self):
        moment = f'{self.where}, {self.when} {self.what}'
        if self.where == 'time':
            moment = f'{self.after * 1000:.0f} ms after the start'
        return f'{self.fault}{f" for {self.stands:.2f} s" if self.stands else ""} ({moment})'


class Walk:
    def __init__(self, rng, name, here, there, tap):
        self.name, self.here, self.there, self.tap = name, here, there, tap
        self.strikes = [Strike(rng)]
        self.strikes += [Strike(rng, self.strikes[0]) for _ in range(rng.choice((0, 1, 1, 2)))]
        self.params = {'downtime-limit': rng.choice((100, 2000, 2000)), 'downtime-limit-strict': rng.random() < .5}
        self.protocol = rng.choice((1, 2, 2, 2))
        self.restart_after = rng.random() ** 2 * .15
        self.guest, self.wire, self.timers = Guest(), (), []
        self.wire_flows = threading.Event()
        self.wire_flows.set()
        self.is_healed, self.down = False, {}
        self.held_since = None

    # ---- strikes ----

    def at(self, where, what, when):
        """a moment: called by the threads of the VMMs and of the tap"""
        with self.guest.lock:
            if where == 'wire' and what not in ('ping', 'pong'):
                self.guest.note('wire', f'{what} ({when})')
            due = [s for s in self.strikes if not s.has_struck and (s.where, s.what, s.when) == (where, what, when)]
            due = [] if self.is_healed else due
            for s in due:
                s.has_struck = True
                self.guest.note('strike', s)
        for s in due:
            self.strike(s)

    def later(self, seconds, call):
        t = threading.Timer(seconds, call)
        t.daemon = True
        t.start()
        self.timers.append(t)

    def strike(self, s):
        fault, _, victim = s.fault.partition(' ')
        daemon = {'source daemon': self.here, 'destination daemon': self.there}.get(victim)
        vmm = {'source VMM': self.guest.vmms[0], 'destination VMM': self.guest.vmms[1]}.get(victim)
        if s.fault == 'cancel':
            threading.Thread(target=self.cancel, daemon=True).start()
        elif s.fault == 'cut wire':
            self.tap.cut(*self.wire)
        elif s.fault == 'hold wire':
            self.wire_flows.clear()
            self.later(s.stands, self.wire_flows.set)
        elif daemon:
            sign = {'kill': signal.SIGKILL, 'end': signal.SIGTERM, 'stop': signal.SIGSTOP}[fault]
            daemon.proc.send_signal(sign)
            if fault == 'stop':
                self.later(s.stands, lambda: daemon.proc.send_signal(signal.SIGCONT))
        elif fault == 'kill':
            vmm.die()
        elif fault == 'cut':
            vmm.cut()
        else:
            vmm.flows.clear()
            self.later(s.stands, vmm.flows.set)

    def cancel(self):
        with contextlib.suppress(OSError, Failed):
            self.here.ask('migrate_cancel', vm=self.name)

    # ---- the walk ----

    def begin(self):
        WalkVmm(self, self.here.vmm, self.name, False)
        WalkVmm(self, self.there.vmm, self.name, True)
        wait_for('the VMMs', lambda: all(v.is_registered.is_set() for v in self.guest.vmms))
        self.tap.walk = self
        for s in self.strikes:
            if s.where == 'time':
                self.later(s.after, lambda s=s: self.strike_in_time(s))
        with contextlib.suppress(OSError, Failed):  # struck already
            self.here.ask('migrate', vm=self.name, uri=self.tap.uri, **self.params)

    def strike_in_time(self, s):
        with self.guest.lock:
            if self.is_healed:
                return
            s.has_struck = True
            self.guest.note('strike', s)
        self.strike(s)

    def status(self):
        return self.here.ask('query-migrate', vm=self.name)['status']

    def revive(self):
        """a service manager's part: starts daemons that have ended"""
        for d in (self.here, self.there):
            if d.proc.poll() is None:
                continue
            since = self.down.setdefault(d, time.monotonic())
            if self.is_healed or time.monotonic() > since + self.restart_after:
                self.guest.note(d.name, f'starts again, after {d.proc.returncode}')
                del self.down[d]
                d.start()

    def is_over(self):
        """has the migration ended, or is it stuck in what only healing ends?"""
        self.revive()
        if any(d.proc.poll() is not None for d in (self.here, self.there)):
            return False
        with contextlib.suppress(OSError, Failed):
            return self.status() not in ('setup', 'active', 'device', 'cancelling')
        return False

    def is_quiet(self):
        self.revive()
        with contextlib.suppress(OSError):
            vms = [v for d in (self.here, self.there) for v in d.ask('query-vms') if v['name'] == self.name]
            status = self.status()
            up = [v for v in self.guest.vmms if not v.is_dead]
            if len(vms) == len(up) and not any(v['busy'] for v in vms) and \
                    status in ('none', 'completed', 'failed', 'cancelled') and not any(v.state == PAUSED for v in up):
                return True
            self.look_for_hold(status)
        return False

    def true_verb(self):
        """what an operator who looks at both hosts knows of the guest; None: it may still be told to run there"""
        destination = self.guest.vmms[1]
        if self.guest.ran_there:
            return '--gone'
        return '--run-here' if destination.is_dead or destination.state == INCOMING else None

    def look_for_hold(self, status):
        """the operator waits: while the VMM at the destination lives its daemon may say what became of the guest"""
        source, destination = self.guest.vmms
        verb = self.true_verb()
        if source.state != PAUSED and status != 'held' or not verb or self.guest.verb:
            self.held_since = None
            return
        self.held_since = self.held_since or time.monotonic()
        if time.monotonic() < self.held_since + (.5 if destination.is_dead else 8) * SLOW:
            return
        with self.guest.lock:
            self.guest.verb = verb
            self.guest.note('operator', f'resolve {self.guest.verb}')
        try:
            self.here.ask('resolve', vm=self.name, **{'run-here': self.guest.verb == '--run-here'})
        except Failed as e:
            self.guest.check(False, f'no way back: resolve {self.guest.verb} says: {e}')
            raise

    def heal(self):
        with self.guest.lock:
            self.is_healed = True
        for t in self.timers:
            t.join()  # what stands goes on when its time is over

    def judge(self):
        source, destination = self.guest.vmms
        running = [v for v in (source, destination) if v.runs()]
        expect(len(running) < 2, 'two run')
        if running:
            return f'runs {"here" if running[0] is source else "there"}{", " + self.guest.verb if self.guest.verb else ""}'
        owner = destination if self.guest.ran_there else source
        expect(owner.is_dead, f'none runs: {owner.role} has the guest, and lives; the source is {source.state}, '
               f'the destination {destination.state}')
        expect(source.is_dead or source.state != PAUSED, 'the source keeps a stopped guest')
        expect(destination.is_dead or destination.state == INCOMING, f'the destination is not clean: {destination.state}')
        return f'gone with the {owner.role}{", " + self.guest.verb if self.guest.verb else ""}'

    def run(self):
        self.begin()
        wait_for('the migration to end', self.is_over, 40)
        self.heal()
        wait_for('the guest to come to rest', self.is_quiet, 40)
        end = self.judge()
        expect(not self.guest.wrong, '; '.join(self.guest.wrong))
        return end

    def stop(self):
        self.is_healed = True
        self.tap.walk = None
        for t in self.timers:
            t.join()
        for v in self.guest.vmms:
            v.stop()

    def account(self):
        strikes = [f'strike: {s}{"" if s.has_struck else ", whose moment did not come"}' for s in self.strikes]
        return [f'VMM protocol {self.protocol}, {self.params}', *strikes, *self.guest.events]


class Hosts:
    """Two daemons for many walks, and a tap in each direction; new ones after a walk that failed"""

    def __init__(self):
        self.scene = None

    def open(self):
        self.scene = Scene()
        self.scene.__enter__()
        self.daemons = [self.scene.daemon('a'), self.scene.daemon('b')]
        self.taps = [Tap(os.path.join(self.scene.dir, f'tap{i}'), d.listen) for i, d in enumerate(self.daemons)]

    def close(self):
        if self.scene:
            for t in self.taps:
                t.stop()
            for d in self.daemons:
                d.proc.send_signal(signal.SIGCONT)
            scene, self.scene = self.scene, None
            scene.__exit__(None, None, None)

    def walk(self, n):
        """Return: the walk, its end, and what was wrong with it"""
        if not self.scene:
            self.open()
        rng = random.Random(f'{SEED} walk {n}')
        i = rng.randrange(2)
        logs = [os.path.getsize(d.log) for d in self.daemons]
        w = Walk(rng, f'w{n}', self.daemons[i], self.daemons[1 - i], self.taps[1 - i])
        try:
            return w, w.run(), ''
        except (Failed, OSError) as e:
            told = [*dict.fromkeys([*w.guest.wrong, str(e)])]
            for d, at in zip(self.daemons, logs):
                with open(d.log) as f:
                    f.seek(at)
                    w.guest.events += [f'{d.name}: {line.rstrip()}' for line in f]
            return w, 'FAILED', '; '.join(told)
        finally:
            w.stop()


def walks():
    """of SIGKILL, SIGTERM, SIGSTOP, deaths, cuts and cancels, at random steps"""
    ends, faults, failed = collections.Counter(), collections.Counter(), []
    print(f'# seed {SEED}, walks {FIRST} to {FIRST + WALKS - 1}', flush=True)
    hosts, began = Hosts(), time.monotonic()
    try:
        for n in range(FIRST, FIRST + WALKS):
            w, end, wrong = hosts.walk(n)
            ends[end] += 1
            faults.update(s.fault for s in w.strikes if s.has_struck)
            if wrong:
                failed.append(f'walk {n}: {wrong}')
                print(f'# walk {n} FAILED: {wrong}')
                print('\n'.join(f'#    {line}' for line in w.account()), flush=True)
                hosts.close()
    finally:
        hosts.close()
    took = time.monotonic() - began
    print(f'# {WALKS} walks in {took:.0f} s; ends: {dict(ends)}')
    print(f'# {sum(faults.values())} faults: {dict(faults)}')
    expect(sum(faults.values()) > WALKS // 2, 'hardly any fault met its moment')
    expect(not failed, f'{len(failed)} of {WALKS} walks failed (repeat one: VMFERRY_SEED={SEED} VMFERRY_FIRST=N '
           f'VMFERRY_WALKS=1): ' + '; '.join(failed))


main([walks])
