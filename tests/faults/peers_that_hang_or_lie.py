#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Promise: a peer that falls silent, or lies, stops no guest for ever, and makes no second one run.

Seen to fail: without LOAD_PATIENCE_NS the guest of a migration that is not strict stays stopped for as long as its
destination hangs; with on_peer_lost() alone judging after RUNNING was heard, a guest that runs there is held here, and
the operator is asked."""
import os, signal, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
from cutter import Cutter
from ferry import Scene, ended, expect, main, stop, wait_for

GUEST = 'v0=seq:60:8'
FOR_EVER = {'downtime-limit': 2000000, 'downtime-limit-strict': False}


def a_destination_that_hangs_while_it_loads():
    """no limit is kept, but the guest does not stay stopped for ever"""
    with Scene() as s:
        a, b, src, dst = s.pair(GUEST, ram='32M', options=['--stay'])
        c = Cutter(os.path.join(s.dir, 'cutter.sock'), b.listen, 'state', 'call', lambda: stop(b.proc))
        try:
            a.ask('migrate', vm='web1', uri=c.uri, **FOR_EVER)
            wait_for('the state', c.has_cut.is_set)
            got = wait_for('its end', lambda: ended(a), 60)
            expect(got['status'] == 'failed' and 'has not loaded' in got['error-desc'], str(got))
            wait_for('the guest to run here', src.runs)
            b.proc.send_signal(signal.SIGCONT)
            wait_for('the destination to be clean', lambda: not b.vms()['web1-in']['busy'], 40)
            expect(src.runs() and not dst.runs(), 'not exactly one guest runs')
            src.verdict()
        finally:
            b.proc.send_signal(signal.SIGCONT)
            c.stop()


def a_destination_that_is_lost_just_after_running_was_heard():
    """the guest runs there, as it has said: nothing is held, nobody is asked"""
    with Scene() as s:
        a, b, src, dst = s.pair(GUEST, ram='32M', options=['--stay'])
        c = Cutter(os.path.join(s.dir, 'cutter.sock'), b.listen, 'running', 'after')
        try:
            a.ask('migrate', vm='web1', uri=c.uri, **FOR_EVER)
            wait_for('RUNNING', c.has_cut.is_set)
            c.listener.close()  # nobody can be asked
            got = wait_for('its end', lambda: ended(a))
            expect(got['status'] == 'completed' and 'held' not in a.text(), f"{got['status']}: {a.text()}")
            expect(not src.runs(), 'two guests run')
            dst.verdict()
        finally:
            c.stop()


main([a_destination_that_hangs_while_it_loads, a_destination_that_is_lost_just_after_running_was_heard])
