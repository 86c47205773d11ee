#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Promise: nothing is decided by the wall clock: it may jump by a year, to and fro, all through a migration.
Only in a machine of its own, for it sets the clock: tests/vm/run newest wall_clock_jumps.py"""
import os, sys, threading, time
sys.path.insert(0, '/vmferry/tests/lib')
from ferry import Scene, expect, main, migrate, wait_for

YEAR = 365 * 86400


def it_jumps_all_the_while():
    with Scene() as s:
        a, b, src, dst = s.pair('v0=seq:5:2 fill=4', ram='48M', options=['--stay'])
        over = threading.Event()

        def jump():
            ahead = 0
            while not over.wait(.05):
                ahead = 0 if ahead else YEAR
                time.clock_settime(time.CLOCK_REALTIME, time.time() + (YEAR if ahead else -YEAR))
        jumper = threading.Thread(target=jump)
        jumper.start()
        try:
            for here, there, to in ((a, b, dst), (b, a, src)):
                wait_for('a clean destination', lambda: 'web1-in' in there.vms() and not there.vms()['web1-in']['busy'])
                got = migrate(here, there, **{'downtime-limit': 10000, 'timeout': 600})
                expect(got['status'] == 'completed', got.get('error-desc', ''))
                expect(got['blackout-us'] <= 10000000 and got['switchover-tries'] == 1, f"{got['blackout-us']} us")
        finally:
            over.set()
            jumper.join()
        src.verdict()


main([it_jumps_all_the_while])
