#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""How long the daemons' loops stand, and how many limits are kept, with everything at once that may block a loop.

  tests/bench/loop_stalls.py [--guests N] [--ram SIZE] [--limit MS] [--turns N] [WORKLOAD]

N guests (8 of 1 GiB) move together, strictly, to the other host and back; one that is not moved is a result, and is
sent again the next turn. Meanwhile one guest more is sent to a host that accepts connections and says nothing, and
another to a name whose server never answers; both are cancelled and sent again, all the time. Nobody reads what the
daemon they start from logs: its pipe is full from the beginning.

Prints the loops' own account (query-loop) of both daemons, each blackout by the probe (last exit to first entry, which
the limit is about), and how long each guest says that it stood still: after its first entry a vCPU that shares its
processor with others waits again. The last line is one JSON object. Nothing is asserted: times are this machine's. Needs root (a mount namespace for
resolv.conf, port 53 of a loopback address) and, by default, 17 GiB of memory."""
import argparse, contextlib, json, os, socket, sys, tempfile, threading, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
from ferry import Failed, Scene, wait_for

NAME_SERVER = '127.47.47.53'
OVER = ('completed', 'failed', 'cancelled', 'held')


def say(text):
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def a_server_that_says_nothing():
    """accepts, and keeps what it accepted; yields the address"""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        s.listen(64)
        kept = []

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    kept.append(s.accept()[0])
        threading.Thread(target=accept, daemon=True).start()
        yield f'tcp:127.0.0.1:{s.getsockname()[1]}'
        s.shutdown(socket.SHUT_RDWR)
        for c in kept:
            c.close()


@contextlib.contextmanager
def a_name_that_is_slow(folder):
    """a name server that takes questions and answers none; yields (wrap of the daemon that shall use it, address)"""
    conf = os.path.join(folder, 'resolv.conf')
    with open(conf, 'w') as f:
        f.write(f'nameserver {NAME_SERVER}\noptions timeout:10 attempts:2\n')
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind((NAME_SERVER, 53))
        yield (['unshare', '--mount', 'sh', '-c', 'mount --bind "$0" "$(readlink -f /etc/resolv.conf)" && exec "$@"', conf],
               'tcp:slow.vmferry.test:4747')


@contextlib.contextmanager
def a_log_that_nobody_reads(folder):
    """a full pipe; yields the wrap of the daemon whose standard error it shall be"""
    path = os.path.join(folder, 'full')
    os.mkfifo(path)
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    for size in (4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(fd, b'x' * size)
    yield ['sh', '-c', 'exec "$@" 2>"$0"', path]
    os.close(fd)


class Nuisance(threading.Thread):
    """sends @vm to @uri, cancels, waits for the end, and again, until told to end"""

    def __init__(self, daemon, vm, uri):
        super().__init__(daemon=True)
        self.host, self.vm, self.uri, self.quit, self.times, self.error = daemon, vm, uri, threading.Event(), 0, None
        self.start()

    def run(self):
        try:
            q = self.host.qmp()
            while not self.quit.is_set():
                q.ask('migrate', vm=self.vm, uri=self.uri, timeout=1)
                self.times += 1
                self.quit.wait(.2)
                with contextlib.suppress(Failed):
                    q.ask('migrate_cancel', vm=self.vm)
                wait_for(f'the end of {self.vm}', lambda: q.ask('query-migrate', vm=self.vm)['status'] in OVER, 60)
            q.close()
        except (Failed, OSError) as e:
            self.error = e

    def end(self):
        self.quit.set()
        self.join()
        if self.error:
            raise Failed(f'{self.vm}: {self.error}')


def move_all(daemons, at, limit):
    """each guest to the other host, all at once; @at: daemon by guest; returns the last word on each"""
    for d in daemons:
        coming = [n for n, host in at.items() if host is not d]
        wait_for('clean destinations', lambda: {v['name'] for v in d.ask('query-vms') if v['status'] == 'inmigrate' and
                                                not v['busy']} >= set(coming), 120)
    for n, here in at.items():
        here.ask('migrate', vm=n, uri=next(d for d in daemons if d is not here).listen,
                 **{'downtime-limit': limit, 'timeout': 120})
    asked = {d: d.qmp() for d in daemons}
    try:
        return {n: wait_for(f'the end of {n}', lambda: (lambda r: r if r['status'] in OVER else None)(
            asked[here].ask('query-migrate', vm=n)), 200) for n, here in at.items()}
    finally:
        for q in asked.values():
            q.close()


def measure(o, folder):
    names = [f'web{i}' for i in range(o.guests)]
    limit_us = o.limit * 1000
    with Scene() as s, a_server_that_says_nothing() as mute, a_name_that_is_slow(folder) as (resolver, slow), \
            a_log_that_nobody_reads(folder) as log:
        a, b = s.daemon('a', wrap=resolver + log), s.daemon('b')
        if 'query-loop' not in [c['name'] for c in a.ask('query-commands')]:
            raise Failed('this vmferryd does not time its loop: it has no query-loop')
        vmms = {a: {n: s.vmm(a, name=n, append=o.workload, ram=o.ram, options=['--stay']) for n in names}}
        for v in vmms[a].values():
            v.wait_filled()
        vmms[b] = {n: s.vmm(b, name=n, incoming=True, ram=o.ram, options=['--stay']) for n in names}
        for n in ('mute', 'slow'):
            s.vmm(a, name=n, append='v0=idle', ram='32M').wait_filled()
        say(f'{o.guests} guests of {o.ram} are up')
        for d in (a, b):
            d.ask('query-loop', reset=True)
        nuisances = [Nuisance(a, 'mute', mute), Nuisance(a, 'slow', slow)]
        at = {n: a for n in names}
        stops, blackouts, moved, not_moved = [], [], 0, {}
        for turn in range(o.turns):
            came = []
            for n, got in move_all((a, b), at, o.limit).items():
                if got.get('aborted-blackout-max-us'):
                    stops.append(got['aborted-blackout-max-us'])
                    blackouts.append(got['aborted-blackout-max-us'])
                if got['status'] == 'held':
                    raise Failed(f"turn {turn + 1}: {n} is held: {got.get('error-desc')}")
                if got['status'] == 'completed':
                    at[n] = b if at[n] is a else a
                    came.append(n)
                    blackouts.append(got.get('blackout-us', 0))
                else:
                    why = got.get('error-desc', got['status']).split(':')[0]
                    not_moved[why] = not_moved.get(why, 0) + 1
            moved += len(came)
            time.sleep(.05)  # a guest sees its gap when it looks at its clock again
            for n in came:
                stops.append(vmms[at[n]][n].stats()['vcpus'][0]['blackout-history-us'][-1])
            say(f'turn {turn + 1} of {o.turns}: {moved} moved')
        loops = {d.name: d.ask('query-loop')['since-reset'] for d in (a, b)}
        for x in nuisances:
            x.end()
        return {'guests': o.guests, 'ram': o.ram, 'limit-ms': o.limit, 'turns': o.turns, 'workload': o.workload,
                'moved': moved, 'not-moved': not_moved, 'stops': len(stops), 'kept': sum(us <= limit_us for us in blackouts),
                'kept-as-the-guest-saw-it': sum(us <= limit_us for us in stops),
                'longest-stop-us': max(stops, default=0), 'longest-blackout-us': max(blackouts, default=0), 'stops-us': sorted(stops), 'blackouts-us': sorted(blackouts),
                'nuisances': {x.vm: x.times for x in nuisances}, 'loops': loops}


def table(got):
    print(f"{'loop':8}{'callbacks':>10}{'p50':>8}{'p99':>8}{'p99.9':>8}{'worst':>9}  us, of")
    for name, l in got['loops'].items():
        print(f"{name:8}{l['callbacks']:>10}{l['p50-us']:>8}{l['p99-us']:>8}{l['p99.9-us']:>8}{l['worst-us']:>9}  {l['worst']}"
              f" (waited for a processor: {l['worst-wait-us']})")
    print(f"\n{got['moved']} guests moved, {got['guests']} at a time; limit {got['limit-ms']} ms kept by {got['kept']} of "
          f"{len(got['blackouts-us'])} blackouts, longest {got['longest-blackout-us']} us; as the guests saw it by "
          f"{got['kept-as-the-guest-saw-it']} of {got['stops']} stops, longest {got['longest-stop-us']} us")
    for why, n in got['not-moved'].items():
        print(f'{n} not moved: {why}')
    print('meanwhile ' + ', '.join(f'{n} migrations to the {vm} peer' for vm, n in got['nuisances'].items()))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--guests', type=int, default=8)
    p.add_argument('--ram', default='1G')
    p.add_argument('--limit', type=int, default=300, help='ms')
    p.add_argument('--turns', type=int, default=4)
    p.add_argument('workload', nargs='?', default='v0=seq:20:16 verify=0', help='what the guests do; see ferryvm(1)')
    o = p.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix='vmferry-stalls-') as folder:
            got = measure(o, folder)
    except (Failed, OSError) as e:
        sys.exit(f'loop_stalls: {e}')
    table(got)
    print(json.dumps(got))


main()
