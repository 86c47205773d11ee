#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Promise: a guest that writes hard is moved back and forth and loses not one write.

Seen to fail: tests/e2e/reversed_harvest_is_caught.py is this test with the order reversed;
and with place_zero() leaving pages alone, the zero-writing guest reports a wrong page.
With a guest that verifies only while its writer is in time, a_writer_that_is_always_late_verifies waits in vain."""
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
from ferry import Scene, check, expect, main, migrate, wait_for

TIMES = int(os.environ.get('VMFERRY_TIMES', '20'))


def back_and_forth(append, times, options=(), listen=None, ram='96M', vcpus=2, **params):
    with Scene() as s:
        daemons = [s.daemon('a', listen=listen and listen[0]), s.daemon('b', listen=listen and listen[1])]
        opts = ['--stay', '--hash', *options]
        vmms = [s.vmm(daemons[0], append=append, ram=ram, vcpus=vcpus, options=opts),
                s.vmm(daemons[1], incoming=True, ram=ram, vcpus=vcpus, options=opts)]
        vmms[0].wait_filled()
        for n in range(times):
            here, there = n % 2, 1 - n % 2
            wait_for('the other side to wait for a guest', lambda: 'web1-in' in daemons[there].vms())
            got = migrate(daemons[here], daemons[there], **params)
            expect(got['status'] == 'completed', f"migration {n}: {got['status']}: {got.get('error-desc')}")
            at_stop, at_start = vmms[here].stats()['hash-at-pause'], vmms[there].stats()['hash-at-run']
            expect(at_stop == at_start, f'migration {n}: RAM was {at_stop} at the stop, is {at_start} at the start')
            expect(vmms[there].runs() and not vmms[here].runs(), f'migration {n}: not exactly one guest runs')
            vmms[there].verdict()
        stats = vmms[times % 2].stats()
        check(stats['vcpus'])
        expect(stats['incarnation'] >= times + 1, f"{stats['incarnation']} incarnations after {times} migrations")
        return stats


# Hashing RAM stands in the blackout, so these tests ask for no strict limit.
LOOSE = {'downtime-limit': 300, 'downtime-limit-strict': False}


def twenty_times_with_two_writing_vcpus():
    """RAM hashed at stop and at start, guest's verdict after each"""
    back_and_forth('v0=seq:150:24 v1=rand:80:16', TIMES, **LOOSE)


def with_a_hot_set_and_zeros_over_many_channels():
    """pages that turn to zero and back; 16 channels; a tracker without rings"""
    back_and_forth('v0=hot:60:24 v1=zero:60:16', 4, ['--tracker', 'bitmap'], **{**LOOSE, 'multifd-channels': 16})


def with_zstd():
    back_and_forth('body=same v0=seq:40:24 v1=zero:40:8', 4, **{**LOOSE, 'multifd-compression': 'zstd'})


def over_ipv4_and_ipv6():
    import socket
    ports = []
    for _ in range(2):
        with socket.socket(socket.AF_INET6) as p:
            p.bind(('::1', 0))
            ports.append(p.getsockname()[1])
    back_and_forth('v0=seq:100:24', 3, listen=(f'tcp:127.0.0.1:{ports[0]}', f'tcp:[::1]:{ports[1]}'), vcpus=1, **LOOSE)


def with_a_disk_that_writes_guest_memory():
    """what KVM does not log: the VMM marks its own writes"""
    import tempfile
    with tempfile.NamedTemporaryFile(prefix='vmferry-disk-') as disk:
        disk.truncate(1 << 20)
        stats = back_and_forth('disk=1 v0=seq:50:8', 4, ['--disk', disk.name], vcpus=1, **LOOSE)
        expect(stats['vcpus'][0]['disk-ops'] > 100, 'the guest hardly used its disk')


def with_device_state():
    """2 MiB + 3 bytes of device state, checked by the device itself when it is loaded"""
    back_and_forth('v0=seq:50:8', 2, ['--device-state', '2097155'], vcpus=1, **{**LOOSE, 'multifd-channels': 3})


def with_eight_idle_vcpus():
    back_and_forth(' '.join(f'v{i}=idle' for i in range(8)), 2, vcpus=8, **LOOSE)


def a_writer_that_is_always_late_verifies():
    """1 TB/s is more than any guest writes; on a busy emulated machine the other tests' writers are late, too"""
    with Scene() as s:
        vmm = s.vmm(s.daemon('a'), append='v0=seq:1000000:4 v1=rand:1000000:2', ram='32M', vcpus=2)
        vmm.wait_filled()
        vmm.verdict()


main([twenty_times_with_two_writing_vcpus, with_a_hot_set_and_zeros_over_many_channels, with_zstd, over_ipv4_and_ipv6,
      with_a_disk_that_writes_guest_memory, with_device_state, with_eight_idle_vcpus, a_writer_that_is_always_late_verifies])
