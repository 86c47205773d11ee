#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Promise: a channel that breaks after everything has arrived decides nothing by itself. Before GO the destination
tells the source that the guest will not run there; after GO the guest runs there, and the source hears so. Nobody is
left to guess, no guest stays stopped, and none is held.

Seen to fail: with DEV_PEER_LOST for a channel in DST_READY the destination discards without a word, and the source
waits with a stopped guest until the connection closes 5 s later; with EV_PEER_LOST for a channel in SRC_GO_SENT the
source closes the control connection and holds the guest, though RUNNING is on its way."""
import contextlib, os, struct, sys, threading, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
from cutter import Cutter
from ferry import NO_LIMIT, SLOW, Scene, ended, expect, main, wait_for
from standin_peer import RUNNING, StandinDestination, StandinSource, resolve
from standin_vmm import STATE, BigState, StandinVmm

BIG_STATE = 24 << 20  # more than the sockets' buffers take


class ChannelCutter(Cutter):
    """cuts all channels when it has passed READY on; GO waits until the daemon behind it had time to see that"""

    def __init__(self, path, to, go_waits):
        self.raws, self.go_waits = [], go_waits
        super().__init__(path, to, 'go', 'call', lambda: self.go_waits.wait(20 * SLOW))

    def raw(self, a, b):
        self.raws += [a, b]
        super().raw(a, b)

    def cut_channels(self):
        self.cut(*self.raws)


@contextlib.contextmanager
def in_ready():
    """a stand-in for a source whose guest has arrived at daemon b, which has said READY; b; and b's VMM"""
    with Scene() as s:
        b = s.daemon('b')
        vmm = s.keep(StandinVmm(b.vmm, incoming=True))
        wait_for('the VMM', lambda: 'web1-in' in b.vms())
        with StandinSource(b.listen) as src:
            src.up_to_ready(STATE)
            yield src, b, vmm


def a_channel_that_ends_in_ready_is_told_of():
    """the destination says FAILED at once and discards; GO behind it starts nothing"""
    with in_ready() as (src, b, vmm):
        src.cut_channels()
        src.control.expect('failed', seconds=4)
        src.go()
        src.control.wait_closed()
        wait_for('the VMM to be clean', lambda: 'discard' in vmm.asked and not b.vms()['web1-in']['busy'])
        expect('run' not in vmm.asked, f'told to run after FAILED: {vmm.asked}')


def a_channel_that_ends_while_go_is_under_way():
    """FAILED and a guest that never ran, or RUNNING and one that does: never one of them without the other"""
    ends = []
    for n in range(20):
        with in_ready() as (src, b, vmm):
            acts = [src.go, src.cut_channels]
            for act in reversed(acts) if n % 2 else acts:
                act()
            name, _ = src.control.expect('failed', 'running')
            src.stop()  # what it was told is not changed by its loss
            wait_for('its VM to be free', lambda: not any(v['busy'] for v in b.ask('query-vms')))
            expect(vmm.runs() == (name == 'running'), f'{name} was said, and the VMM was told {vmm.asked}')
            if name == 'running':
                expect(resolve(b.listen, src.id) == RUNNING, 'it does not stand by its word')
            ends.append(name)
    print(f'# {ends}')
    expect('running' in ends, 'GO never came first')


def a_source_whose_channels_end_in_ready_runs_on_soon():
    """it does not wait for a connection to close while its guest stands still"""
    with Scene() as s:
        a, b, src, dst = s.pair('v0=seq:60:8', ram='32M', options=['--stay'])
        seen = threading.Event()
        c = s.keep(ChannelCutter(os.path.join(s.dir, 'cutter.sock'), b.listen, seen))
        a.ask('migrate', vm='web1', uri=c.uri, **NO_LIMIT)
        wait_for('GO', lambda: 'go' in c.seen)
        c.cut_channels()
        wait_for('the destination to see it', lambda: 'did not arrive' in b.text(), 10)
        seen.set()
        got = wait_for('its end', lambda: ended(a), 4)
        expect(got['status'] == 'failed' and 'held' not in a.text(), f"{got['status']}: {a.text()}")
        wait_for('the guest to run here', src.runs)
        wait_for('the destination to be clean', lambda: not b.vms()['web1-in']['busy'], 40)
        expect(not dst.runs(), 'two guests run')
        src.verdict()


def a_channel_of_the_source_that_fails_after_go():
    """READY has overtaken what the channels still send: what breaks there says nothing of the guest"""
    with Scene() as s:
        a = s.daemon('a')
        vmm = s.keep(BigState(a.vmm, state_size=BIG_STATE))
        breaks = threading.Event()

        def all_has_come(d):
            d.attempt = struct.unpack_from('<QI', d.bodies['state'])[1]
            d.freeze_channels()
            d.tell_ready()

        def go(d):
            d.cut_channels()
            breaks.set()
        wait_for('the VMM', lambda: 'web1' in a.vms())
        with StandinDestination(f'unix:{s.dir}/peer.sock', {'state': all_has_come, 'go': go}) as d:
            a.ask('migrate', vm='web1', uri=d.uri, **NO_LIMIT)
            wait_for('GO', breaks.is_set, 30)
            end = time.monotonic() + 1
            while time.monotonic() < end and not d.control.is_closed:
                time.sleep(.01)
            expect(not d.control.is_closed, 'the source has closed the control connection')
            d.answer('go')
            got = wait_for('its end', lambda: ended(a))
            expect(got['status'] == 'completed' and 'held' not in a.text(), f"{got['status']}: {a.text()}")
            wait_for('the VMM to be released', lambda: 'release' in vmm.asked)
            expect('resume' not in vmm.asked, f'{vmm.asked}')


main([a_channel_that_ends_in_ready_is_told_of, a_channel_that_ends_while_go_is_under_way,
      a_source_whose_channels_end_in_ready_runs_on_soon, a_channel_of_the_source_that_fails_after_go])
