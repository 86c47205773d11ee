# SPDX-License-Identifier: GPL-2.0-or-later
"""Shared steps of the end-to-end tests: daemons, VMMs, the control socket, the guest's verdict.

Everything started here is ended by its pid, and everything made lies in one temporary
directory that goes away with the Host. Waits are for events or states, with a deadline.
"""
import contextlib, faulthandler, json, os, shutil, signal, socket, subprocess, sys, tempfile, time

TOP = os.path.realpath(os.path.join(os.path.dirname(__file__), '..', '..'))
OUT = os.environ.get('VMFERRY_OUT', os.path.join(TOP, 'out'))
# Who is to harvest; the same tests run over each. Empty: what the daemon takes by itself.
TRACKER = os.environ.get('VMFERRY_TRACKER', '')
SLOW = float(os.environ.get('VMFERRY_SLOW', '1'))  # sanitizers: deadlines that much longer
STANDS_AFTER = 300  # seconds: a test function that takes longer tells where its threads are
NO_LIMIT = {'downtime-limit': 2000000, 'downtime-limit-strict': False}  # of "migrate": the guest may stand for half an hour


# Whoever ends us with SIGTERM must not leave daemons and guests behind.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


class Failed(Exception):
    pass


class Skipped(Exception):
    """What the test needs is missing; its text says what. In CI a skip counts as a failure."""


def wait_for(what, probe, seconds=20.0, every=0.005):
    """Calls probe, @every so many seconds, until it returns something true, and returns that."""
    end = time.monotonic() + seconds * SLOW
    while True:
        got = probe()
        if got:
            return got
        if time.monotonic() > end:
            raise Failed(f'waited {seconds * SLOW:.0f} s in vain for {what}')
        time.sleep(every)


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


class Qmp:
    """One connection to a daemon's control socket."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self.sock.settimeout(30 * SLOW)
        self.file = self.sock.makefile('rb')  # a text file that is written to as well forgets what it has read ahead
        self.events = []
        self.greeting = json.loads(self.file.readline())
        self.ask('qmp_capabilities')

    def raw(self, text):
        self.sock.sendall(text.encode() + b'\n')
        while True:
            line = self.file.readline()
            if not line:
                raise Failed('the daemon closed the control connection')
            got = json.loads(line)
            if 'event' not in got:
                return got
            self.events.append(got)

    def ask(self, command, **args):
        got = self.raw(json.dumps({'execute': command, 'arguments': args}))
        if 'error' in got:
            raise Failed(got['error']['desc'])
        return got['return']

    def until(self, accept, seconds=120):
        """the first event that accept(event) is true of; polls nothing, so that nothing is disturbed"""
        self.sock.settimeout(seconds * SLOW)
        while True:
            while self.events:
                e = self.events.pop(0)
                if accept(e):
                    return e
            line = self.file.readline()
            if not line:
                raise Failed('the daemon closed the control connection')
            self.events.append(json.loads(line))

    def close(self):
        self.file.close()
        self.sock.close()


class Daemon:
    def __init__(self, scene, name, listen=None, tracker=TRACKER, wrap=(), binary=None):
        self.scene, self.name, self.tracker, self.wrap = scene, name, tracker, list(wrap)
        self.binary = binary or os.path.join(OUT, 'bin', 'vmferryd')  # may be changed before it is started again
        self.dir = os.path.join(scene.dir, name)
        os.makedirs(self.dir)
        self.listen = listen or f'unix:{self.dir}/peer.sock'
        self.log = os.path.join(self.dir, 'log')
        self.proc = None
        self.start()

    def start(self):
        if self.proc:
            has_ended(self)
        with open(self.log, 'a') as log:
            self.proc = subprocess.Popen(
                self.wrap + self.scene.wrap + [self.binary, '--run-dir', self.dir, '--state-dir',
                                   self.dir + '/state', '--listen', self.listen, '--config', '/dev/null'] +
                (['--tracker', self.tracker] if self.tracker else []),
                stderr=log, stdin=subprocess.DEVNULL)
        self.scene.started(self)
        wait_for(f'daemon {self.name} to be ready', self.is_ready)

    def is_ready(self):
        if self.proc.poll() is not None:
            raise Failed(f'daemon {self.name} ended with {self.proc.returncode}: {self.text()}')
        try:
            Qmp(self.control).close()
            return True
        except OSError:
            return False

    @property
    def control(self):
        return self.dir + '/control.sock'

    @property
    def vmm(self):
        return self.dir + '/vmm.sock'

    def is_writing_log(self):
        """a thread of its own writes what the daemon says, and runs when a busy host lets it"""
        try:
            for task in os.listdir(f'/proc/{self.proc.pid}/task'):
                with open(f'/proc/{self.proc.pid}/task/{task}/stat') as f:
                    name, _, rest = f.read().partition('(')[2].rpartition(')')
                if name == 'log':
                    return rest.split()[0] in 'RD'
        except OSError:
            pass  # it has ended
        return False

    def text(self):
        """the log, with all that was said before this call"""
        until = time.monotonic() + 5 * SLOW
        while self.is_writing_log() and time.monotonic() < until:
            time.sleep(.002)
        with open(self.log) as f:
            return f.read()

    def qmp(self):
        return Qmp(self.control)

    def ask(self, command, **args):
        q = self.qmp()
        try:
            return q.ask(command, **args)
        finally:
            q.close()

    def vms(self):
        return {v['name'] + ('-in' if v['status'] in ('inmigrate', 'loaded') else ''): v for v in self.ask('query-vms')}

    def kill(self, sig=signal.SIGKILL):
        if self.proc and not has_ended(self):
            self.proc.send_signal(sig)
        if self.proc:
            self.proc.wait()

    stop = kill


class Vmm:
    def __init__(self, scene, daemon, name='web1', append='', incoming=False, ram='128M', vcpus=1, options=(),
                 binary=None, wrap=()):
        self.scene, self.daemon, self.name = scene, daemon, name
        scene.count += 1
        self.stats_path = os.path.join(scene.dir, f'stats{scene.count}')
        self.log = os.path.join(scene.dir, f'vmm{scene.count}.log')
        what = ['--incoming'] if incoming else ['--kernel', os.path.join(OUT, 'bin', 'guest.elf'), '--append', append]
        with open(self.log, 'w') as log:
            self.proc = subprocess.Popen(
                list(wrap) + scene.wrap + [binary or os.path.join(OUT, 'bin', 'ferryvm'), '--name', name, '--ram', ram, '--vcpus',
                              str(vcpus), '--daemon', daemon.vmm, '--stats', self.stats_path, '--quiet', *what, *options],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        scene.started(self)
        wait_for(f'{name} to register', self.is_registered)

    def is_registered(self):
        if self.proc.poll() is not None:
            raise Failed(f'{self.name} ended with {self.proc.returncode}: {open(self.log).read()}')
        return any(v['pid'] == self.proc.pid for v in self.daemon.ask('query-vms')) and os.path.exists(self.stats_path)

    def stats(self):
        for _ in range(100):
            try:
                s = socket.socket(socket.AF_UNIX)
                s.settimeout(30 * SLOW)
                s.connect(self.stats_path)
                with s.makefile() as f:
                    return json.loads(f.readline())
            except (ConnectionError, FileNotFoundError, ValueError):
                if self.proc.poll() is not None:
                    break
                time.sleep(0.02)
            finally:
                s.close()
        raise Failed(f'{self.name}: no statistics')

    def is_filled(self):
        v = self.stats()['vcpus']
        return bool(v) and all(c['filled'] for c in v)

    def wait_filled(self):
        wait_for(f'{self.name} to fill its memory', self.is_filled, 60)

    def runs(self):
        try:
            return self.proc.poll() is None and self.stats()['running']
        except Failed:
            if self.proc.poll() is None:
                raise
            return False  # it ended just now

    def verdict(self):
        """Waits until every vCPU has looked at all its pages once more; returns pages seen."""
        first = self.stats()['vcpus']

        def whole():
            now = self.stats()['vcpus']
            check(now)
            return now and all(b['verified'] - a['verified'] >= 2 * a['owned'] for a, b in zip(first, now))
        # In an emulated machine a question takes the guest's processor for as long as it verifies many pages.
        wait_for(f'{self.name} to verify its memory', whole, 60, every=0.005 * max(SLOW, 1))
        return sum(c['owned'] for c in first)

    def kill(self, sig=signal.SIGKILL):
        if not has_ended(self):
            self.proc.send_signal(sig)
        self.proc.wait()

    stop = kill


def stop(proc):
    """SIGSTOP, and not back before all of its threads stand: they go on until one of them has taken the signal"""
    def state(task):
        try:
            with open(f'/proc/{proc.pid}/task/{task}/stat') as f:
                return f.read().rpartition(')')[2].split()[0]
        except FileNotFoundError:
            return 'X'  # it ended meanwhile
    proc.send_signal(signal.SIGSTOP)
    wait_for(f'process {proc.pid} to stand', lambda: all(state(t) in 'TXZ' for t in os.listdir(f'/proc/{proc.pid}/task')))


@contextlib.contextmanager
def eaters(nr):
    """so many processes that take all of a processor that they get"""
    procs = [subprocess.Popen([sys.executable, '-c', 'while True: pass']) for _ in range(nr)]
    try:
        yield
    finally:
        for p in procs:
            p.kill()
            p.wait()


def is_about(us, limit_ms):
    """was it the limit that ended it? How exactly it is kept is bench-contract's figure: here others use the host, too.
    A device that a test makes slow takes longer than this"""
    return us <= (3 * limit_ms + 100) * 1000 * SLOW


def check(vcpus):
    for i, c in enumerate(vcpus):
        if c['errors']:
            raise Failed(f"vcpu {i}: {c['errors']} wrong pages, first 0x{c['bad-page']:x} word {c['bad-word']}: "
                         f"wanted 0x{c['bad-want']:x}, found 0x{c['bad-got']:x}")


CRASHES = (-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE, -signal.SIGILL)


def has_ended(who):
    """has this daemon or VMM ended? One that crashed fails its test, whatever else is true"""
    code = who.proc.poll()
    if code in CRASHES:
        who.scene.crashed.add(f'{os.path.basename(who.log)} of {who.name} (pid {who.proc.pid}): {signal.Signals(-code).name}')
    return code is not None


class Scene:
    """All that one test starts; used as a context, ends everything it started."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix='vmferry-')
        self.procs, self.kept, self.count = [], [], 0
        self.crashed = set()
        self.wrap = os.environ.get('VMFERRY_WRAP', '').split()

    def __enter__(self):
        return self

    def started(self, who):
        if who not in self.procs:
            self.procs.append(who)

    def keep(self, what):
        """has @what stopped at the end, before the processes; returns it"""
        self.kept.append(what)
        return what

    def __exit__(self, kind, value, trace):
        for p in reversed(self.procs + self.kept):
            p.stop()
        for text in self.crashed:
            print(f'# crashed: {text}', file=sys.stderr)
        if kind:
            print(f'# {value}', file=sys.stderr)  # first: who shows only a part of this shows its beginning
        if kind or self.crashed:
            for p in self.procs:
                print(f'# --- {p.log}', file=sys.stderr)
                with open(p.log) as f:
                    sys.stderr.writelines('# ' + line for line in f.readlines()[-40:])
        shutil.rmtree(self.dir, ignore_errors=True)
        if self.crashed and not kind:
            raise Failed('a process crashed')

    def daemon(self, name, **kw):
        return Daemon(self, name, **kw)

    def vmm(self, daemon, **kw):
        return Vmm(self, daemon, **kw)

    def pair(self, append, options=(), options_in=(), **kw):
        """Two daemons, a filled guest at the first, a VMM that waits at the second."""
        a, b = self.daemon('a'), self.daemon('b')
        src = self.vmm(a, append=append, options=options, **kw)
        dst = self.vmm(b, incoming=True, options=list(options) + list(options_in), **kw)
        src.wait_filled()
        return a, b, src, dst


def ended(daemon, vm='web1'):
    got = daemon.ask('query-migrate', vm=vm)
    return got if got['status'] in ('completed', 'failed', 'cancelled', 'held') else None


def final(daemon):
    """as ended(), but a guest that is held waits for more"""
    got = ended(daemon)
    return got if got and got['status'] != 'held' else None


def marks(daemon):
    """{VM: mark} of all that the journal keeps"""
    return {e['vm']: e['mark'] for e in daemon.ask('query-journal')['entries']}


def vmferry(daemon, *args):
    """what an operator types"""
    return subprocess.run([os.path.join(OUT, 'bin', 'vmferry'), '--socket', daemon.control, *args], capture_output=True,
                          text=True, timeout=60 * SLOW)


def migrate(daemon, to, vm='web1', wait=120, **params):
    """Migrates and returns the final query-migrate."""
    params.setdefault('downtime-limit', int(300 * SLOW))
    daemon.ask('migrate', vm=vm, uri=to.listen, **params)
    got = wait_for(f'the migration of {vm}', lambda: ended(daemon, vm), wait)
    if TRACKER and got['status'] == 'completed':
        expect(got['tracker'].startswith(TRACKER + '/'), f"harvested by {got['tracker']}, not by {TRACKER}")
    return got


def expect(true, text):
    if not true:
        raise Failed(text)


def main(tests):
    """Runs the functions in order as a KTAP plan; each has a docstring: the promise."""
    wanted = sys.argv[1:]
    unknown = set(wanted) - {t.__name__ for t in tests}
    if unknown:
        sys.exit(f"no such test: {', '.join(sorted(unknown))}; there are: {', '.join(t.__name__ for t in tests)}")
    tests = [t for t in tests if not wanted or t.__name__ in wanted]
    print('KTAP version 1')
    print(f'1..{len(tests)}', flush=True)
    bad = 0
    for n, t in enumerate(tests, 1):
        start = time.monotonic()
        faulthandler.dump_traceback_later(STANDS_AFTER * SLOW)  # so that the log of a test that hangs says where
        try:
            t()
            print(f'ok {n} {t.__name__} # {time.monotonic() - start:.1f} s', flush=True)
        except Skipped as e:
            print(f'ok {n} {t.__name__} # SKIP {e}', flush=True)
        except (Failed, AssertionError, OSError, ValueError, KeyError, subprocess.SubprocessError) as e:
            bad += 1
            print(f'# {type(e).__name__}: {e}')
            print(f'not ok {n} {t.__name__}', flush=True)
        faulthandler.cancel_dump_traceback_later()
    sys.exit(1 if bad else 0)
