#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Promise: whatever is wrong gets one clear error that names the object and the remedy, the
guest runs on at the source, and the next migration works."""
import json, os, socket, struct, subprocess, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
from ferry import OUT, Failed, Scene, expect, main, migrate, wait_for

QUIET = 'v0=seq:20:4'


def refused(daemon, words, **args):
    try:
        daemon.ask('migrate', **args)
    except Failed as e:
        for w in words:
            expect(w in str(e), f'"{w}" is not in: {e}')
        return
    raise Failed(f'accepted: {args}')


def fails(daemon, words, **args):
    got = migrate(daemon, args.pop('to'), **args)
    expect(got['status'] == 'failed', got['status'])
    for w in words:
        expect(w in got['error-desc'], f'"{w}" is not in: {got["error-desc"]}')


class Nowhere:
    def __init__(self, uri):
        self.listen = uri


def wrong_names_and_addresses():
    with Scene() as s:
        a, b, src, dst = s.pair(QUIET, ram='32M', options_in=['--stay'])
        refused(a, ['nosuch', 'not known', 'list'], vm='nosuch', uri=b.listen)
        refused(b, ['waits here for a guest'], vm='web1', uri=a.listen)
        refused(a, ['multifd-channels', '16'], vm='web1', uri=b.listen, **{'multifd-channels': 17})
        refused(a, ['unknown parameter'], vm='web1', uri=b.listen, nonsense=1)
        refused(a, ["'uri' is missing"], vm='web1')
        fails(a, ['not an address', 'tcp:HOST:PORT'], to=Nowhere('carrier-pigeon'))
        fails(a, ['Connection refused'], to=Nowhere('tcp:127.0.0.1:1'))
        fails(a, ['No such file'], to=Nowhere(f'unix:{s.dir}/none.sock'))
        expect(src.runs(), 'the guest does not run')
        expect(migrate(a, b)['status'] == 'completed', 'the next migration does not work')
        dst.verdict()


def a_vm_that_does_not_fit():
    with Scene() as s:
        a, b = s.daemon('a'), s.daemon('b')
        src = s.vmm(a, append=QUIET, ram='32M')
        src.wait_filled()
        fails(a, ['no VM named web1', '--incoming'], to=b)
        wrong = s.vmm(b, incoming=True, ram='64M')
        fails(a, ['region ram0', '32 MiB', '16 MiB'], to=b)
        wrong.stop()
        wait_for('it to be gone', lambda: not b.ask('query-vms'))
        wrong = s.vmm(b, incoming=True, ram='32M', vcpus=2)
        fails(a, ['2 vCPUs'], to=b)
        wrong.stop()
        wait_for('it to be gone', lambda: not b.ask('query-vms'))
        odd = s.vmm(b, incoming=True, ram='32M', options=['--device-state', '1M'])
        fails(a, ['cannot load the state'], to=b)
        odd.stop()
        wait_for('it to be gone', lambda: not b.ask('query-vms'))
        right = s.vmm(b, incoming=True, ram='32M')
        expect(migrate(a, b)['status'] == 'completed', 'the next migration does not work')
        right.verdict()


def an_untracked_writer_is_named():
    with Scene() as s:
        a, b, src, dst = s.pair(QUIET, ram='32M', options=['--untracked', 'vhost-user-blk0'])
        refused(a, ['vhost-user-blk0', 'unplug'], vm='web1', uri=b.listen)
        expect(src.runs(), 'the guest does not run')


def a_second_migration_of_the_same_vm():
    with Scene() as s:
        a, b, src, dst = s.pair('v0=seq:20:4', ram='64M')
        a.ask('migrate', vm='web1', uri=b.listen, **{'max-bandwidth': 10 << 20})
        refused(a, ['being migrated already', 'status'], vm='web1', uri=b.listen)
        a.ask('migrate_cancel', vm='web1')
        wait_for('the cancel', lambda: a.ask('query-migrate', vm='web1')['status'] == 'cancelled')
        expect(src.runs() and not dst.runs(), 'not exactly one runs')
        wait_for('the destination to be clean', lambda: not b.ask('query-vms')[0]['busy'])
        expect(migrate(a, b)['status'] == 'completed', 'the next migration does not work')
        dst.verdict()


def garbage_on_every_socket():
    with Scene() as s:
        a, b, src, dst = s.pair(QUIET, ram='32M')
        peer = b.listen[5:]
        hello = struct.pack('<QII', 0x59525245464d56, 1, 1)
        for path in (peer, b.vmm, b.control, a.vmm, a.control):
            for junk in (b'\0' * 4096, os.urandom(4096), b'{' * 70000, b'\xff' * 16, hello + os.urandom(112) +
                         os.urandom(5000)):
                c = socket.socket(socket.AF_UNIX)
                c.settimeout(5)
                c.connect(path)
                try:
                    c.sendall(junk)
                    c.shutdown(socket.SHUT_WR)
                    while c.recv(65536):
                        pass
                except OSError:
                    pass
                c.close()
        c = socket.socket(socket.AF_UNIX)
        c.connect(peer)
        c.sendall(struct.pack('<QII', 0x59525245464d56, 99, 1).ljust(128, b'\0'))
        got = c.recv(4096)
        expect(b'needs version 3 of the wire, yours speaks version 99; update this one' in got, f'no word about the version: {got}')
        c.close()
        expect(src.runs(), 'the guest does not run')
        expect(migrate(a, b)['status'] == 'completed', 'the next migration does not work')
        dst.verdict()


def qmp_manners():
    with Scene() as s:
        a = s.daemon('a')
        c = socket.socket(socket.AF_UNIX)
        c.connect(a.control)
        f = c.makefile('rw')
        expect('QMP' in json.loads(f.readline()), 'no greeting')
        for line, want in (('{"execute": "query-vms"}', 'CommandNotFound'), ('nonsense', 'GenericError'),
                           ('{"execute": 5}', 'GenericError'), ('[]', 'GenericError')):
            f.write(line + '\n')
            f.flush()
            expect(json.loads(f.readline())['error']['class'] == want, line)
        f.write('{"execute": "qmp_capabilities", "id": "x7"}\n{"execute": "query-commands", "id": 8}\n')
        f.flush()
        expect(json.loads(f.readline()) == {'return': {}, 'id': 'x7'}, 'bad answer to qmp_capabilities')
        got = json.loads(f.readline())
        expect(got['id'] == 8 and {'name': 'migrate'} in got['return'], 'bad list of commands')
        a.ask('migrate-set-parameters', **{'downtime-limit': 77})
        expect(a.ask('query-migrate-parameters')['downtime-limit'] == 77, 'the parameter was not kept')


def the_command_line_teaches():
    def vmferry(*args):
        return subprocess.run([os.path.join(OUT, 'bin', 'vmferry'), *args], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
    with Scene() as s:
        a, b, src, dst = s.pair(QUIET, ram='32M')
        for args, code, words in (
                (['--help'], 0, 'exit codes'), ([], 2, 'usage'), (['fly'], 2, 'no such verb'),
                (['migrate', 'web1'], 2, 'arguments'), (['--socket', '/nowhere', 'list'], 3, 'no vmferryd answers'),
                (['--socket', a.control, 'cancel', 'web1'], 4, 'no migration to cancel'),
                (['--socket', a.control, 'resolve', 'web1'], 2, '--gone or --run-here'),
                (['--socket', a.control, 'migrate', 'web1', 'tcp:127.0.0.1:1'], 5, 'refused'),
                (['--socket', a.control, 'migrate', 'web1', b.listen, '--channels', 'x'], 2, 'not a number'),
                (['--socket', a.control, 'migrate', 'web1', b.listen, '--json'], 0, '"status":"completed"'),
                (['--socket', b.control, 'list'], 0, 'running')):
            got = vmferry(*args)
            expect(got.returncode == code, f'{args}: exit code {got.returncode}, wanted {code}: {got.stdout}')
            expect(words in got.stdout, f'{args}: no "{words}" in {got.stdout}')
        dst.verdict()


def sigterm_in_mid_flight():
    """either daemon: the guest runs on at the source, and the next migration works"""
    import signal
    for which in (0, 1):
        with Scene() as s:
            a, b, src, dst = s.pair('v0=seq:20:4', ram='64M')
            a.ask('migrate', vm='web1', uri=b.listen, **{'max-bandwidth': 10 << 20})
            wait_for('pages to move', lambda: a.ask('query-migrate', vm='web1')['ram']['transferred'] > 1 << 20)
            (a, b)[which].kill(signal.SIGTERM)
            expect((a, b)[which].proc.returncode == 0, f'ended with {(a, b)[which].proc.returncode}')
            wait_for('the guest to run', src.runs)
            expect(not dst.runs(), 'two guests run')
            (a, b)[which].start()
            wait_for('both VMMs', lambda: 'web1' in a.vms() and 'web1-in' in b.vms() and not b.vms()['web1-in']['busy'])
            wait_for('the migration to be over', lambda: a.ask('query-migrate', vm='web1')['status'] in ('none', 'failed'))
            got = migrate(a, b)
            expect(got['status'] == 'completed', f"the next migration does not work: {got.get('error-desc')}")
            dst.verdict()


main([wrong_names_and_addresses, a_vm_that_does_not_fit, an_untracked_writer_is_named,
      a_second_migration_of_the_same_vm, garbage_on_every_socket, qmp_manners, the_command_line_teaches,
      sigterm_in_mid_flight])
