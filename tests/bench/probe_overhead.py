#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What the blackout probe costs the guest: its throughput with the probe attached and without, in turns of one
second, for a guest that writes flat out and one that leaves the guest 50,000 times a second.

  tests/bench/probe_overhead.py [TURNS]"""
import json, os, statistics, subprocess, sys, time
sys.path[:0] = [os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib')]
from ferry import OUT, Scene

TURNS = int(sys.argv[1]) if len(sys.argv) > 1 else 15
SECONDS = 1.0


def rate(guest, what, seconds):
    a, t = guest.stats()['vcpus'][0][what], time.monotonic()
    time.sleep(seconds)
    b = guest.stats()['vcpus'][0][what]
    return (b - a) / (time.monotonic() - t)


def measure(append, what):
    """medians of the rate without and with, and of the ratios of neighbouring turns"""
    without, with_probe = [], []
    with Scene() as s:
        guest = s.vmm(s.daemon('a'), append=append, ram='256M')
        guest.wait_filled()
        for _ in range(TURNS):
            without.append(rate(guest, what, SECONDS))
            p = subprocess.Popen([os.path.join(OUT, 'bin', 'vmferry'), 'watch', '--pid', str(guest.proc.pid), '--min', '100'],
                                 stdout=subprocess.DEVNULL)
            time.sleep(.3)
            with_probe.append(rate(guest, what, SECONDS))
            p.terminate()
            p.wait()
            time.sleep(.1)
    return statistics.median(without), statistics.median(with_probe), statistics.median(
        b / a for a, b in zip(without, with_probe))


result = {}
print(f"{'guest':28} {'without':>12} {'with':>12} {'share lost':>11}")
for name, append, what in (('writes flat out', 'v0=seq:0:64 verify=0', 'written'),
                           ('exits 50,000 times a second', 'v0=spin verify=0 hb_us=20', 'beats')):
    a, b, ratio = measure(append, what)
    result[name] = round(1 - ratio, 4)
    print(f'{name:28} {a:12.0f} {b:12.0f} {(1 - ratio) * 100:10.2f}%')
print(json.dumps({'bench': 'probe_overhead', **result}))
