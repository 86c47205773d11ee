#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The downtime contract, measured: switchovers of many workloads at many limits, strict; how long the guest
says it stood still, moved or called off; what was expected; stock QEMU with the same work beside it.

  tests/bench/contract.py [--switchovers N] [--limits MS,...] [--qemu N] [--no-links] [--seed N] [WORKLOAD...]

A switchover is one stop of the guest. Prints a table, then as the last line one JSON object. Exits 0 if it
could measure. Links are made of network namespaces, veth and TBF, as root."""
import argparse, contextlib, json, os, random, statistics, subprocess, sys, tempfile, time
sys.path[:0] = [os.path.dirname(os.path.realpath(__file__)),
                os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib')]
import peer_qemu
from peer_qemu import tsc_khz
from ferry import Failed, Scene, eaters, free_port, wait_for

# name: what the guest does, RAM in MiB, options of the VMMs, link, processes that eat CPU
WORKLOADS = {
    'spin': ('v0=spin verify=0', 256, [], None, 0),
    'idle': ('v0=idle', 256, [], None, 0),
    '100MB/s': ('v0=seq:100:64', 256, [], None, 0),
    '500MB/s': ('v0=seq:500:64', 256, [], None, 0),
    'hot set': ('v0=hot:500:128', 256, [], None, 0),
    'bursts': ('v0=burst:800:96', 256, [], None, 0),
    'dev 10M/10ms': ('v0=seq:50:32', 128, ['--device-state', '10M', '--load-cost', '10'], None, 0),
    'dev 50M/40ms': ('v0=seq:50:32', 128, ['--device-state', '50M', '--load-cost', '40'], None, 0),
    'dev 200M/150ms': ('v0=seq:50:32', 128, ['--device-state', '200M', '--load-cost', '150'], None, 0),
    '1 Gbit/s': ('v0=seq:20:16 fill=32', 64, [], '1gbit', 0),
    '10 Gbit/s': ('v0=seq:100:32', 128, [], '10gbit', 0),
    'CPU eaten': ('v0=seq:100:64', 256, [], None, 2),
}
LIMITS = [5, 20, 50, 100, 300]


def say(text):
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def link(rate):
    """two network namespaces with a veth of that rate between them: a wrap and an address for each side"""
    if not rate:
        yield [([], '127.0.0.1'), ([], '127.0.0.1')]
        return
    names = [f'vmferry-{os.getpid()}-{x}' for x in 'ab']
    run = lambda *c: subprocess.run(c, check=True)
    try:
        for n in names:
            run('ip', 'netns', 'add', n)
        run('ip', '-n', names[0], 'link', 'add', 'v', 'type', 'veth', 'peer', 'name', 'v', 'netns', names[1])
        for i, n in enumerate(names):
            run('ip', '-n', n, 'address', 'add', f'10.47.47.{i + 1}/24', 'dev', 'v')
            run('ip', '-n', n, 'link', 'set', 'v', 'up')
            run('ip', 'netns', 'exec', n, 'tc', 'qdisc', 'add', 'dev', 'v', 'root', 'tbf', 'rate', rate, 'burst', '256k',
                'latency', '50ms')
        yield [(['ip', 'netns', 'exec', n], f'10.47.47.{i + 1}') for i, n in enumerate(names)]
    finally:
        for n in names:
            subprocess.run(['ip', 'netns', 'delete', n], stderr=subprocess.DEVNULL)


def move(here, there, limit):
    """one migration, to its end; a stalled one is cancelled"""
    q = here.qmp()
    try:
        q.ask('migrate', vm='web1', uri=there.listen, timeout=15, **{'downtime-limit': limit, 'multifd-channels': 2})
        q.until(lambda e: e['event'] == 'MIGRATION' and e['data']['status'] in ('completed', 'failed', 'cancelled', 'held'))
        time.sleep(.02)
        return q.ask('query-migrate', vm='web1')
    finally:
        q.close()


def one_workload(name, limits, stops, rng):
    """at least @stops stops, limits drawn at random; yields a record of each migration"""
    append, ram, options, rate, nr_eaters = WORKLOADS[name]
    with link(rate) as sides, Scene() as s:
        daemons = [s.daemon(n, listen=f'tcp:{ip}:{free_port()}', wrap=wrap) for n, (wrap, ip) in zip('ab', sides)]
        vmms = [s.vmm(daemons[0], append=append, ram=f'{ram}M', options=['--stay', '--prealloc', *options])]
        vmms[0].wait_filled()
        vmms.append(s.vmm(daemons[1], incoming=True, ram=f'{ram}M', options=['--stay', '--prealloc', *options]))
        seen, at, done = 0, 0, 0
        with eaters(nr_eaters):
            time.sleep(2)
            natural = vmms[0].stats()['vcpus'][0]['gap-max-us']  # with nobody migrating it
            for _ in range(3 * stops):
                if done >= stops:
                    break
                here, there = daemons[at], daemons[1 - at]
                wait_for('a clean destination', lambda: any(v['status'] == 'inmigrate' and not v['busy'] for v in
                                                            there.ask('query-vms')), 60)
                limit = rng.choice(limits)
                stolen = stolen_ms()
                got = move(here, there, limit)
                moved = got['status'] == 'completed'
                at = 1 - at if moved else at
                count = seen + got['switchover-tries']

                def looked():
                    c = vmms[at].stats()['vcpus'][0]
                    return c if c['blackouts'] >= count else None
                try:
                    c = wait_for('the guest to notice', looked, 5)
                except Failed:
                    c = vmms[at].stats()['vcpus'][0]
                new = c['blackout-history-us'][-(c['blackouts'] - seen):] if c['blackouts'] > seen else []
                seen = c['blackouts']
                done += max(len(new), 1)
                if c['errors']:
                    raise Failed(f'{name}: the guest found {c["errors"]} wrong pages')
                yield {'workload': name, 'limit_ms': limit, 'moved': moved, 'tries': got['switchover-tries'],
                       'guest_us': new, 'natural_gap_us': natural, 'stolen_ms': stolen_ms() - stolen, 'probe_us': got.get('blackout-us'), 'clock_error_us': got.get('clock-error-us', 0),
                       'timed_by': got.get('timed-by'), 'expected_us': got['prediction']['expected-us'],
                       'upper_us': got['prediction']['upper-us'], 'cold': got['prediction']['cold'],
                       'parts': got['blackout-parts'], 'rest_bytes': got['prediction']['rest-bytes'], 'why': got.get('error-desc', ''), 'total_ms': got['total-time']}


def qemu_once(name, limit):
    append, ram, options, rate, nr_eaters = WORKLOADS[name]
    with eaters(nr_eaters), tempfile.TemporaryDirectory(prefix='vmferry-peer-') as folder:
        return peer_qemu.migrate(folder, append, tsc_khz(), ram=ram, limit=limit, port=free_port())['blackout_ms']


def stolen_ms():
    """what the hypervisor under this host has taken, in ticks of 10 ms"""
    with open('/proc/stat') as f:
        return int(f.readline().split()[8]) * 1000 // os.sysconf('SC_CLK_TCK')


def quantile(values, q):
    v = sorted(values)
    return v[min(len(v) - 1, int(q * len(v)))] if v else 0


def table(all_records, qemu):
    print(f"{'workload':16} {'limit':>6} {'stops':>6} {'moved':>6} {'off':>5} {'guest: median':>14} {'p99':>8} {'most':>8}"
          f" {'over':>5} {'gap without':>12}   QEMU: most, over")
    for name in dict.fromkeys(r['workload'] for r in all_records):
        for limit in sorted({r['limit_ms'] for r in all_records}):
            rs = [r for r in all_records if r['workload'] == name and r['limit_ms'] == limit]
            g = [us / 1e3 for r in rs for us in r['guest_us']]
            q = qemu.get((name, limit), [])
            print(f"{name:16} {limit:6} {len(g):6} {sum(r['moved'] for r in rs):6} "
                  f"{sum(r['tries'] - r['moved'] for r in rs):5} {statistics.median(g) if g else 0:14.2f} {quantile(g, .99):8.2f} "
                  f"{max(g, default=0):8.2f} {sum(x > limit for x in g):5} "
                  f"{max((r['natural_gap_us'] for r in rs), default=0) / 1e3:12.2f}   " +
                  (f"{max(q):.2f}, {sum(x > limit for x in q)} of {len(q)}" if q else '-'))


def summary(rs, qemu):
    stops = [(us, r['limit_ms']) for r in rs for us in r['guest_us']]
    moved = [r for r in rs if r['moved'] and r['probe_us']]
    errors = [abs(r['expected_us'] - r['probe_us']) / r['probe_us'] for r in moved]
    spin = [r for r in moved if r['workload'] == 'spin' and len(r['guest_us']) == r['tries']]
    apart = [max(0, abs(r['guest_us'][-1] - r['probe_us']) - r['clock_error_us']) for r in spin if r['guest_us']]
    tries = sum(r['tries'] for r in rs)
    small = [us for us, limit in stops if limit < 20]
    return {
        'stops': len(stops), 'migrations': len(rs), 'moved': sum(r['moved'] for r in rs),
        'violations_at_20_ms_and_above': sum(us > limit * 1000 for us, limit in stops if limit >= 20),
        'stops_at_20_ms_and_above': len(stops) - len(small),
        'violations_at_5_ms': sum(us > 5000 for us in small), 'stops_at_5_ms': len(small),
        'violations_at_5_ms_where_the_host_alone_makes_no_such_gap': sum(
            us > 5000 for r in rs if r['limit_ms'] < 20 and r['natural_gap_us'] < 2500 for us in r['guest_us']),
        'violations_while_the_hypervisor_took_the_processor': sum(
            us > r['limit_ms'] * 1000 for r in rs if r['stolen_ms'] for us in r['guest_us']),
        'prediction_error_median': round(statistics.median(errors), 3) if errors else None,
        'prediction_error_median_warm': round(statistics.median(
            [e for e, r in zip(errors, moved) if not r['cold']] or [0]), 3),
        'covered_by_upper': round(sum(r['probe_us'] <= r['upper_us'] for r in moved) / max(1, len(moved)), 4),
        'called_off_share': round((tries - sum(r['moved'] for r in rs)) / max(1, tries), 4),
        'not_tried': sum(r['tries'] == 0 for r in rs),
        'probe_and_guest_apart_us': {'median': statistics.median(apart), 'p95': quantile(apart, .95)} if apart else None,
        'timed_by': sorted({r['timed_by'] for r in moved}),
        'qemu_violations': sum(x > limit for (_, limit), v in qemu.items() for x in v),
        'qemu_migrations': sum(len(v) for v in qemu.values()),
    }


def main():
    p = argparse.ArgumentParser()
    p.add_argument('--switchovers', type=int, default=1000)
    p.add_argument('--limits', default=','.join(map(str, LIMITS)))
    p.add_argument('--qemu', type=int, default=1)
    p.add_argument('--seed', type=int, default=4747)
    p.add_argument('--save')
    p.add_argument('workloads', nargs='*')
    o = p.parse_args()
    limits = [int(x) for x in o.limits.split(',')]
    names = o.workloads or list(WORKLOADS)
    rng = random.Random(o.seed)
    say(f'seed {o.seed}')
    records, qemu = [], {}
    stops = 0
    # First those that are seldom begun: what they leave of the number the others take over.
    for n, name in enumerate(sorted(names, key=lambda x: not x.startswith('dev'))):
        start, before = time.monotonic(), len(records)
        each = -(-(o.switchovers - stops) // (len(names) - n))
        try:
            for r in one_workload(name, limits, each, rng):
                records.append(r)
        except Failed as e:
            say(f'{name}: {e}')
        g = [us for r in records[before:] for us in r['guest_us']]
        stops += len(g)
        say(f"{name}: {len(g)} stops in {time.monotonic() - start:.0f} s, median {statistics.median(g or [0]) / 1e3:.2f} ms, "
            f"over: {sum(us > r['limit_ms'] * 1000 for r in records[before:] for us in r['guest_us'])}")
    for name in names:
        if WORKLOADS[name][3] or WORKLOADS[name][2]:
            continue  # QEMU has no such device; its link would need its own namespaces
        for limit in limits:
            for _ in range(o.qemu):
                try:
                    qemu.setdefault((name, limit), []).append(qemu_once(name, limit))
                except Failed as e:
                    say(f'QEMU, {name}, {limit} ms: {e}')
    if o.save:
        with open(o.save, 'w') as f:
            json.dump(records, f)
    table(records, qemu)
    print(json.dumps(summary(records, qemu)))


main()
