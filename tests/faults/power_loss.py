#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Promise: what a destination's journal cannot hold, or has lost, makes no second guest run.

Seen to fail: with a GO that cannot be written answered by RUN, the guest runs there while the journal says "begun", from
which the next question is answered NEVER."""
import os, subprocess, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
from cutter import Cutter
from ferry import Scene, ended, expect, main, migrate, wait_for

GUEST = 'v0=seq:60:8'
FOR_EVER = {'downtime-limit': 2000000, 'downtime-limit-strict': False}


def fill(folder):
    """no file of this tmpfs can get another page: it counts by processor, and not quite exactly"""
    cpus = os.sched_getaffinity(0)
    for n in range(8):
        os.sched_setaffinity(0, {sorted(cpus)[n % len(cpus)]})
        with open(f'{folder}/ballast{n}', 'wb', buffering=0) as f:
            try:
                while f.write(bytes(512)):
                    pass
            except OSError:
                pass
    os.sched_setaffinity(0, cpus)


def final(daemon):
    """as ended(), but a guest that is held waits for more"""
    got = ended(daemon)
    return got if got and got['status'] != 'held' else None


def a_go_that_cannot_be_written_is_refused():
    """the guest runs on at the source, which is told why; with room again it moves"""
    with Scene() as s:
        a, b = s.daemon('a'), s.daemon('b')
        b.kill()
        b.log = os.path.join(s.dir, 'b.log')
        subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=512k', 'none', b.dir], check=True)
        try:
            b.start()
            src, dst = s.vmm(a, append=GUEST, ram='32M', options=['--stay']), \
                s.vmm(b, incoming=True, ram='32M', options=['--stay'])
            src.wait_filled()

            def no_room():
                os.truncate(b.dir + '/journal-marks', 0)  # what was preallocated
                fill(b.dir)
            c = Cutter(os.path.join(s.dir, 'cutter.sock'), b.listen, 'go', 'call', no_room)
            a.ask('migrate', vm='web1', uri=c.uri, **FOR_EVER)
            wait_for('GO', c.has_cut.is_set, 60)
            got = wait_for('its end', lambda: final(a), 60)
            expect(got['status'] == 'failed' and 'journal' in got['error-desc'], f"{got['status']}: {got.get('error-desc')}")
            wait_for('the guest to run here', src.runs)
            expect(not dst.runs(), 'two guests run')
            for n in range(8):
                os.unlink(f'{b.dir}/ballast{n}')
            wait_for('the destination to be clean', lambda: not b.vms()['web1-in']['busy'], 40)
            src.verdict()
            got = migrate(a, b)
            expect(got['status'] == 'completed', f"{got['status']}: {got.get('error-desc')}")
            dst.verdict()
            c.stop()
        finally:
            for v in s.procs[2:]:
                v.kill()
            b.kill()
            subprocess.run(['umount', b.dir], check=True)


main([a_go_that_cannot_be_written_is_refused])
