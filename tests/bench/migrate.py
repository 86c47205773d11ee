#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The benchmark of the main job: our side and stock QEMU in turns in one run, medians.

  tests/bench/migrate.py [--turns N] [--switchovers N] [CASE...]
  cases: total untouched_destination blackout dirtying untouched_ram zeros collect go_note

Prints a table, then as the last line one JSON object. Exits 0 if it could measure."""
import argparse, contextlib, json, math, os, statistics, subprocess, sys, tempfile, time
sys.path[:0] = [os.path.dirname(os.path.realpath(__file__)),
                os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib')]
import peer_qemu
from peer_qemu import tsc_khz
from ferry import OUT, Failed, Scene, free_port, migrate, wait_for

RAM = 2048
SPIN = 'v0=spin verify=0'
raw, targets = {}, []
median = statistics.median


def say(text):
    print(text, file=sys.stderr, flush=True)


def target(name, limit, measured, unit, met):
    targets.append({'name': name, 'target': limit, 'measured': None if measured is None else round(measured, 3),
                    'unit': unit, 'met': bool(met)})


def tcp_pair(scene, append, ram=RAM, prealloc=True, extra=()):
    a, b = (scene.daemon(n, listen=f'tcp:127.0.0.1:{free_port()}') for n in 'ab')
    options = (['--prealloc'] if prealloc else []) + list(extra)
    src = scene.vmm(a, append=append, ram=f'{ram}M', options=options)
    wait_for('the guest to fill its memory', src.is_filled, 120)
    dst = scene.vmm(b, incoming=True, ram=f'{ram}M', options=options)
    return a, b, src, dst


def cpu_of(daemons, vmms):
    return sum(peer_qemu.cpu_seconds(d.proc.pid, ('vcpu',)) for d in daemons) + \
        sum(peer_qemu.cpu_seconds(v.proc.pid, ('vcpu',)) for v in vmms)


def ours(append, limit=5, prealloc=True, ram=RAM, extra=(), settle=.5, **params):
    with Scene() as s:
        a, b, src, dst = tcp_pair(s, append, ram, prealloc, ['--stay', *extra])
        time.sleep(settle)
        before = cpu_of((a, b), (src, dst))
        got = migrate(a, b, **{'downtime-limit': limit, 'multifd-channels': 2, **params})
        after = cpu_of((a, b), (src, dst))
        if got['status'] != 'completed':
            raise Failed(got.get('error-desc'))
        wait_for('the guest to run', lambda: dst.stats()['vcpus'][0]['blackouts'])
        rss = max(rss_mib(d.proc.pid) for d in (a, b))
        return {'total_ms': got['total-time'], 'blackout_ms': dst.stats()['vcpus'][0]['blackout-last-us'] / 1e3,
                'cpu_s': after - before, 'rounds': got['rounds'], 'rss_mib': rss, 'huge': got['huge-pages'],
                'transferred': got['ram']['transferred'], 'memfd_kib': [memfd_kib(v.proc.pid) for v in (src, dst)],
                'zero_pages': got['ram']['duplicate']}


def rss_mib(pid):
    with open(f'/proc/{pid}/status') as f:
        return next(int(line.split()[1]) for line in f if line.startswith('RssAnon')) / 1024


def memfd_kib(pid):
    return sum(os.stat(f'/proc/{pid}/fd/{fd}').st_blocks // 2 for fd in os.listdir(f'/proc/{pid}/fd')
               if 'memfd:ram' in os.readlink(f'/proc/{pid}/fd/{fd}'))


def qemu(append, **kw):
    with tempfile.TemporaryDirectory(prefix='vmferry-peer-') as folder:
        return peer_qemu.migrate(folder, append, tsc_khz(), port=free_port(), **kw)


def beside_guest(scene, what):
    """one of bare_pair's measurements, beside the same running guest: (bytes, ns)"""
    a = scene.daemon('x')
    guest = scene.vmm(a, append=SPIN + ' fill=16', ram='64M')
    wait_for('the guest to run', guest.is_filled)
    out = subprocess.run([os.path.join(OUT, 'bin', 'bare_pair'), what, str(RAM)], stdout=subprocess.PIPE, check=True)
    return tuple(map(int, out.stdout.split()))


def bare_pair(scene):
    n, ns = beside_guest(scene, 'pair')
    return n / ns


def case_total(o):
    mine, peer, bare = [], [], []
    for n in range(o.turns):
        mine.append(ours(SPIN))
        peer.append(qemu(SPIN))
        with Scene() as s:
            bare.append(bare_pair(s))
        say(f"total, turn {n + 1}: ours {mine[-1]['total_ms']} ms, QEMU {peer[-1]['total_ms']} ms; cpu "
            f"{mine[-1]['cpu_s']:.2f}, {peer[-1]['cpu_s']:.2f} s; bare pair {bare[-1]:.2f} GB/s; blackout "
            f"{mine[-1]['blackout_ms']:.2f}, {peer[-1]['blackout_ms']:.2f} ms")
    raw['total'] = {'ours': mine, 'qemu': peer, 'bare_gb_per_s': bare}
    ratio = median(x['total_ms'] for x in mine) / median(x['total_ms'] for x in peer)
    target('total time, tuned, of QEMU multifd', 0.85, ratio, 'ratio', ratio <= .85)
    ratio = median(x['cpu_s'] for x in mine) / median(x['cpu_s'] for x in peer)
    target('CPU seconds, both sides, of QEMU', 0.8, ratio, 'ratio', ratio <= .8)
    good = [x['rounds'][0]['bytes'] / x['rounds'][0]['time-us'] / 1e3 for x in mine]
    ratio = median(good) / median(bare)
    target('goodput of the first round, of a bare pair', 0.9, ratio, 'ratio', ratio >= .9)
    rss = max(x['rss_mib'] for x in mine)
    target('daemon memory', 64, rss, 'MiB', rss < 64)


@contextlib.contextmanager
def huge_pages(mib):
    """Reserves huge pages for both sides' RAM while it lasts; yields the VMM's option, or none if there are none."""
    knob = '/proc/sys/vm/nr_hugepages'
    with open(knob) as f:
        before = f.read()
    want = 2 * (mib // 2) + 16
    try:
        with open(knob, 'w') as f:
            f.write(str(want))
        with open(knob) as f:
            yield ['--hugetlb'] if int(f.read()) >= want else []
    except PermissionError:
        yield []
    finally:
        try:
            with open(knob, 'w') as f:
                f.write(before)
        except PermissionError:
            pass


def case_untouched_destination(o):
    """as a user gets it: ours with huge pages where they can be had, QEMU with its defaults"""
    mine, small, peer = [], [], []
    with huge_pages(RAM) as extra:
        # Not counted: a machine that is itself a guest gets its fresh huge pages from its host only now.
        raw['untouched_destination_warm_up'] = ours(SPIN, prealloc=False, extra=extra) if extra else None
        untouched_turns(o, extra, mine, small, peer)
    raw['untouched_destination'] = {'ours': mine, 'ours_small_pages': small, 'qemu': peer}
    ratio = median(x['total_ms'] for x in small) / median(x['total_ms'] for x in peer)
    target('total time as a user gets it, of QEMU, with 4 KiB pages', 0.25, ratio, 'ratio', ratio <= .25)
    ratio = median(x['total_ms'] for x in mine) / median(x['total_ms'] for x in peer)
    target(f"total time as a user gets it, of QEMU (huge pages: {mine[0]['huge']})", 0.25, ratio, 'ratio', ratio <= .25)


def untouched_turns(o, extra, mine, small, peer):
    for n in range(max(3, o.turns // 2)):
        mine.append(ours(SPIN, prealloc=False, extra=extra))
        small.append(ours(SPIN, prealloc=False))
        peer.append(qemu(SPIN, prealloc=False))
        say(f"untouched destination, turn {n + 1}: ours {mine[-1]['total_ms']} ms ({mine[-1]['huge']}), with small pages "
            f"{small[-1]['total_ms']} ms, QEMU {peer[-1]['total_ms']} ms")


def switchovers(o, append, limit, times, ram=512):
    """back and forth between two VMMs; the guest's own blackouts in ms"""
    got = []
    with Scene() as s:
        a, b, src, dst = tcp_pair(s, append, ram, True, ['--stay'])
        where = [(a, src), (b, dst)]
        for n in range(times):
            (da, _), (db, vb) = where[n % 2], where[1 - n % 2]
            wait_for('a clean destination', lambda: 'web1-in' in db.vms() and not db.vms()['web1-in']['busy'])
            m = migrate(da, db, **{'downtime-limit': limit})
            if m['status'] != 'completed':
                raise Failed(m.get('error-desc'))
            wait_for('the guest to run', lambda: vb.stats()['vcpus'][0]['blackouts'] >= n + 1)
            got.append(vb.stats()['vcpus'][0]['blackout-last-us'] / 1e3)
    return sorted(got)


def case_blackout(o):
    for limit in (5, 300):
        got = switchovers(o, SPIN, limit, o.switchovers)
        peer = [qemu(SPIN, limit=limit, ram=512)['blackout_ms'] for _ in range(3)]
        p99 = got[math.ceil(len(got) * .99) - 1]
        say(f'blackout, idle, limit {limit}: median {median(got):.2f}, p99 {p99:.2f}, max {got[-1]:.2f} ms of '
            f'{len(got)}; QEMU {", ".join(f"{x:.1f}" for x in peer)} ms')
        raw[f'blackout_idle_{limit}'] = {'ours': got, 'qemu': peer}
        target(f'blackout, idle, limit {limit} ms, median', 1, median(got), 'ms', median(got) <= 1)
        target(f'blackout, idle, limit {limit} ms, 99th percentile', 3, p99, 'ms', p99 <= 3)
        target(f'blackout, idle, limit {limit} ms, max', 5, got[-1], 'ms', got[-1] <= 5)


def case_dirtying(o):
    work = 'v0=seq:500:64 verify=0'
    got = switchovers(o, work, 5, max(10, o.switchovers // 5))
    peer = [qemu(work, limit=5, ram=512)['blackout_ms'] for _ in range(3)]
    say(f'blackout, 500 MB/s, limit 5: median {median(got):.2f}, max {got[-1]:.2f} ms; QEMU '
        f'{", ".join(f"{x:.1f}" for x in peer)} ms')
    raw['blackout_dirtying'] = {'ours': got, 'qemu': peer}
    ratio = median(got) / median(peer)
    target('blackout, dirtying 500 MB/s, limit 5 ms, of QEMU', 0.5, ratio, 'ratio', ratio <= .5)
    target('blackout, dirtying 500 MB/s, limit 5 ms, max', 5, got[-1], 'ms', got[-1] <= 5)


def case_untouched_ram(o):
    got = [ours(SPIN + ' fill=0', prealloc=False, ram=8192) for _ in range(3)]
    ms = median(x['total_ms'] for x in got)
    kib = max(max(x['memfd_kib']) for x in got)
    say(f'8 GiB untouched: {ms} ms, {kib} KiB allocated at most')
    raw['untouched_ram'] = got
    target('8 GiB never written', 100, ms, 'ms', ms < 100)
    target('8 GiB never written: allocated (the guest itself and its page tables)', 1024, kib, 'KiB', kib <= 1024)


def case_zeros(o):
    got, bare = [], []
    for _ in range(o.turns):
        # The daemon's own page tables follow the guest's memory within a second or two of its growing.
        got.append(ours(SPIN + ' body=zero', prealloc=False, settle=4))
        with Scene() as s:
            bare.append(beside_guest(s, 'zeros')[1] / 1e6)
    first = median(x['rounds'][0]['time-us'] / 1e3 for x in got)
    whole = median(x['total_ms'] for x in got)
    kib = max(x['memfd_kib'][1] for x in got)
    say(f"2 GiB of zeros: {whole} ms in all, first round {first:.0f} ms, one read with isa-l {median(bare):.0f} ms, {kib} KiB "
        f"allocated at the destination")
    raw['zeros'] = {'ours': got, 'isal_read_ms': bare}
    ratio = first / median(bare)
    target('2 GiB of zeros: the round that sends them, of one read with isa-l', 1.3, ratio, 'ratio', ratio <= 1.3)
    ratio = whole / median(bare)
    target('2 GiB of zeros: the whole migration, of one read with isa-l', 1.3, ratio, 'ratio', ratio <= 1.3)
    target('2 GiB of zeros: allocated at the destination', 1024, kib, 'KiB', kib <= 1024)


def case_collect(o):
    out = subprocess.run([os.path.join(OUT, 'bin', 'bare_pair'), 'collect'], stdout=subprocess.PIPE, check=True)
    ms = int(out.stdout.split()[1]) / 1e6
    target('collecting 1,000 dirty pages of 1 TiB', 1, ms, 'ms', ms <= 1)


def case_go_note(o):
    """what the journal adds to each blackout: the marks on a tmpfs, the journal on a disk"""
    with tempfile.TemporaryDirectory(dir='/dev/shm') as run, tempfile.TemporaryDirectory(dir='/var/tmp') as state:
        out = subprocess.run([os.path.join(OUT, 'bin', 'go_note'), '10000', run, state], stdout=subprocess.PIPE, check=True)
    middle, p99, longest = (int(ns) / 1e3 for ns in out.stdout.split())
    say(f'10,000 notes of GO: median {middle:.1f} us, 99th percentile {p99:.1f} us, longest {longest:.0f} us')
    raw['go_note_us'] = {'median': middle, 'p99': p99, 'max': longest}
    target('a note of GO, 99th percentile of 10,000', 50, round(p99, 1), 'us', p99 < 50)


CASES = {k[5:]: v for k, v in list(globals().items()) if k.startswith('case_')}
p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
p.add_argument('--turns', type=int, default=5)
p.add_argument('--switchovers', type=int, default=100)
p.add_argument('case', nargs='*')
o = p.parse_args()
try:
    for name in o.case or CASES:
        if name not in CASES:
            sys.exit(f'no case {name}; there are {", ".join(CASES)}')
        CASES[name](o)
except (Failed, OSError, subprocess.SubprocessError) as e:
    sys.exit(f'bench: could not measure: {e}')
print(f"{'target':<72} {'at most':>9} {'measured':>9}  unit   met")
for t in targets:
    print(f"{t['name']:<72} {t['target']:>9} {t['measured']:>9}  {t['unit']:<6} {'yes' if t['met'] else 'NO'}")
print(json.dumps({'bench': 'migrate', 'targets': targets, **raw}))
