#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""What it gains to leave out pages that are dirty again, and to send hot ones last.

  tests/bench/hot_pages.py [TURNS] [RAM WORK BANDWIDTH LIMIT_MS]

One guest that does WORK (by default 15 of 16 of its writes go to a 16th of 512 MiB); a bandwidth limit makes rounds long.
Three daemons in turns: as it is; without the order by heat; and one that sends all of each round
(make OUT=out/noheat CFLAGS='-O2 -g -DCHANNEL_HOT=256'; OUT=out/sendsall with -DCHANNEL_LEAVES_OUT=0).
Heat is known only where the kernel module harvests: make bench-hot. Prints medians."""
import os, statistics, sys
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'lib'))
import ferry
from ferry import Scene, expect, migrate

turns = int(sys.argv[1]) if len(sys.argv) > 1 else 5
ram, work, bandwidth, limit = sys.argv[2:6] if len(sys.argv) > 5 else ('1G', 'hot:400:512', '500000000', '100')
out = ferry.OUT
VARIANTS = {'as it is': out, 'no order by heat': out + '/noheat', 'sends all': out + '/sendsall'}
got = {v: [] for v in VARIANTS}
for turn in range(turns):
    for name, path in VARIANTS.items():
        ferry.OUT = path
        with Scene() as s:
            a, b, src, dst = s.pair(f'v0={work}', ram=ram)
            r = migrate(a, b, wait=300, **{'downtime-limit': int(limit), 'max-bandwidth': int(bandwidth)})
            expect(r['status'] == 'completed', f"{name}: {r['status']}: {r.get('error-desc')}")
            dst.verdict()
            got[name].append((r['ram']['transferred'] / 1e6, r['ram']['dirty-again'], r['ram']['dirty-sync-count'],
                              r['total-time'], r.get('blackout-us', 0) / 1000, r['tracker']))
print(f'# {turns} turns; RAM {ram}, {work}, {int(bandwidth) // 1000000} MB/s; medians')
print(f"{'':18} {'MB sent':>9} {'left out':>9} {'rounds':>7} {'total ms':>9} {'blackout':>9}  tracker")
first = None
for name, rows in got.items():
    m = [statistics.median(r[i] for r in rows) for i in range(5)]
    print(f'{name:18} {m[0]:9.1f} {m[1]:9.0f} {m[2]:7.0f} {m[3]:9.0f} {m[4]:9.2f}  {rows[0][5]}')
