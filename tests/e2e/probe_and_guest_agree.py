#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Promise: the probe's blackout is the guest's own, seen from outside: what the VMMs say lies within it, and it
within what the guest saw; it says what it went by; it is there for a try that was called off, too.

Seen to fail: with the epoch not raised at the destination the first entry is an old one; without the programs that
stand in for entries nobody but the VMMs says anything; with a TSC written by value the blackout is longer than the
guest's (in the test VM: PVM gives its guests the host's counter); with a guest that leaves out the time in which it
asks what it is it is longer, too (60 times)."""
import os, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
from ferry import SLOW, Scene, expect, main, migrate, wait_for

TIMES = int(os.environ.get('VMFERRY_TIMES', '10'))


def by(got, daemon):
    """who timed it; a destination on a busy host may have told so before its probe saw the guest enter (arrival.c), and
    then it was the VMM, though there is a probe"""
    why = daemon.ask('query-blackouts')['probe']
    expect(got['timed-by'] == 'vmm' or not why, f"timed by {got['timed-by']}, the probe: {why}")
    expect(not why or 'CAP_BPF' in why or not os.path.exists('/sys/kernel/btf/vmlinux'), f'no probe: {why}')
    return got['timed-by']


def vmms_probe_and_guest_are_nested():
    """VMMs' word <= probe <= what each of two vCPUs saw, in both directions"""
    with Scene() as s:
        a, b, src, dst = s.pair('v0=spin v1=seq:50:8 verify=0', vcpus=2, ram='64M', options=['--stay'])
        seen, went_by = 0, set()
        for n in range(TIMES):
            here, there, at, to = (a, b, src, dst) if n % 2 == 0 else (b, a, dst, src)
            wait_for('a clean destination', lambda: 'web1-in' in there.vms() and not there.vms()['web1-in']['busy'])
            got = migrate(here, there, **{'downtime-limit': 2000})
            expect(got['status'] == 'completed', got.get('error-desc', ''))
            went_by.add(by(got, here))
            seen += got['switchover-tries']
            guest = wait_for('the guest to notice', lambda: (g := to.stats()) and all(v['blackouts'] >= seen for v in g['vcpus']) and g)
            vmm = (guest['first-entry-ns'] - at.stats()['last-exit-ns']) // 1000
            own, most = sorted(v['blackout-last-us'] for v in guest['vcpus'])
            expect(most <= got['total-time'] * 1000, f"{n}: the guest's clock jumped: it stood {most} us of {got['total-time']} ms")
            expect(vmm <= got['blackout-us'] + 1, f"{n}: VMMs say {vmm} us, the probe {got['blackout-us']}")
            expect(got['blackout-us'] <= own + got['clock-error-us'] + 1, f"{n}: the probe says {got['blackout-us']} us, the guest {own}")
        print(f'# timed by {went_by}')
        expect(went_by != {'vmm'} or a.ask('query-blackouts')['probe'], 'none was timed by the probe, though it is loaded')


def a_called_off_try_is_timed():
    limit = int(100 * SLOW)
    with Scene() as s:
        a, b, src, dst = s.pair('v0=spin verify=0', ram='32M', options=['--stay', '--load-cost', str(3 * limit)])
        got = migrate(a, b, **{'downtime-limit': limit})
        expect(got['status'] == 'failed' and got['switchover-tries'] >= 1, got['status'])
        tries = [r for r in a.ask('query-blackouts')['blackouts'] if r['end'] == 'called-off']
        expect(len(tries) == got['switchover-tries'], f"{len(tries)} remembered of {got['switchover-tries']}")
        own = src.stats()['vcpus'][0]['blackout-history-us']
        for r, us in zip(tries, own):
            expect(0 < r['blackout-us'] <= us + 1, f"the probe says {r['blackout-us']} us, the guest {us}")
            expect(r['timed-by'] != 'nobody', str(r))


def dirty_tracking_is_accounted_to_the_vcpu_that_pays():
    """of two vCPUs only one writes: the pages KVM logged are its own"""
    with Scene() as s:
        a, b, src, dst = s.pair('v0=spin v1=seq:0:16 verify=0', vcpus=2, ram='64M', options=['--tracker', 'ring'])
        got = migrate(a, b, **{'downtime-limit': 2000, 'downtime-initial': 1})
        expect(got['status'] == 'completed', got.get('error-desc', ''))
        idle, busy = got['brownout']
        by(got, a)
        # Asked of the source's own account: the destination may time its first arrival by KVM_RUN on any kernel.
        if not any(v.get('faults') for v in (idle, busy)):
            expect(busy['dirty-pages'] > 3 * idle['dirty-pages'], f"{got['brownout']}")
        else:  # an emulated machine: nobody writes much, but faults are seen
            # One fault may have begun before the probe was attached; what the kernel keeps from the probe it counts.
            unseen = 1 + got.get('probe-missed', 0)
            expect(all(v['dirty-pages'] and v['faults-us'] and v['faults'] + unseen >= v['dirty-pages'] for v in (idle, busy)),
                   f"{got['brownout']}, {unseen - 1} events missed")


main([vmms_probe_and_guest_are_nested, a_called_off_try_is_timed, dirty_tracking_is_accounted_to_the_vcpu_that_pays])
