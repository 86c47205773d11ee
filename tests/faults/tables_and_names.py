#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Promise: what a VMM registers is judged before it is used, and what is wrong is refused in words that its own VMM hears;
what VMMs and peers say in words begins no line of the log, and costs no client of the control socket its connection.

The VMMs are stand-ins (tests/lib/standin_vmm.py).

Seen to fail before the mend: of the wrong tables 28 were registered, and no VMM heard a reason. Without
text_make_printable() in error.c, migration_blame() and incoming_blame(): the texts of CANCEL and FAILED begin lines of the
log, and that of FAILED is not told to any client, since it is no UTF-8."""
import json, os, socket, struct, sys, threading
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
from ferry import Failed, Scene, ended, expect, main, wait_for
from standin_vmm import FRESH, StandinVmm, device, region

SIZE = 8 << 20
TOP = (1 << 64) - 4096
FORGED = b'off\n<3>vm web2: is gone\r\xff\xc3 \xe2\x82\xac'
MAGIC, CONTROL, PLAN, CANCEL, FAILED = 0x59525245464d56, 1, 1, 12, 13

# what REGISTER says -> a part of the words with which it is refused; 'twice': both regions have the same memfd
TABLES = (
    ({'name': b''}, 'its name is not 1 to 63 printable ASCII'),
    ({'name': b'web 1'}, 'its name is not'),
    ({'name': b'x' * 64}, 'its name is not'),
    ({'name': b'x\n<3>vm web2: is gone'}, 'its name is not'),
    ({'untracked': b'v\xff'}, 'untracked device is not'),
    ({'run_state': 0}, 'run state 0'),
    ({'run_state': 6}, 'run state 6'),
    ({'nr_vcpus': 0}, '0 vCPUs'),
    ({'nr_vcpus': 1025}, '1025 vCPUs'),
    ({'nr_regions': 0, 'regions': []}, '0 regions'),
    ({'nr_regions': 65, 'regions': [region()] * 65}, '65 regions'),
    ({'nr_regions': 2}, 'has 400 bytes in version 2, not 304'),
    ({'nr_devices': 17, 'devices': [device()] * 17}, '17 devices'),
    ({'nr_devices': 1}, 'bytes in version 2'),
    ({'nr_devices': 1, 'devices': [device(name=b'nic\n0')]}, 'the name of device 0 is not 1 to 31'),
    ({'nr_devices': 1, 'devices': [device(kind=b'n\xff')]}, 'the kind of device 0'),
    ({'regions': [region(name=b'ram 0')]}, 'the name of region 0'),
    ({'regions': [region(name=b'')]}, 'the name of region 0'),
    ({'regions': [region(size=0)]}, 'region 0: size and addresses'),
    ({'regions': [region(gpa=512)]}, 'region 0: size and addresses'),
    ({'regions': [region(page_size=0)]}, 'region 0: pages of 0 bytes'),
    ({'regions': [region(page_size=3)]}, 'region 0: pages of 3 bytes'),
    ({'regions': [region(page_size=12288)]}, 'region 0: pages of 12288 bytes'),
    ({'regions': [region(page_size=16 << 20)]}, "multiples of its pages' 16777216 bytes"),
    ({'regions': [region(fd_off=4096, page_size=8192)]}, "multiples of its pages' 8192 bytes"),
    ({'regions': [region(gpa=TOP)]}, 'its end is beyond 2^64'),
    ({'regions': [region(fd_off=TOP)]}, 'its end is beyond 2^64'),
    ({'regions': [region(fd_off=SIZE)]}, 'cannot map 8388608 bytes of its memfd'),
    ({'nr_regions': 2, 'regions': [region(), region(name=b'ram1', gpa=SIZE - 4096)], 'files': 'two'}, 'regions 0 and 1 overlap'),
    ({'nr_regions': 2, 'regions': [region(), region(name=b'ram1', gpa=SIZE)], 'files': 'twice'}, 'same part of one memfd'),
    ({'files': 'area'}, 'region 0 is in the memfd of the shared area'),
    ({'files': 'few'}, '1 files came with the registration; 2 belong to it'),
    ({'files': 'many'}, '3 files came with the registration; 2 belong to it'),
    ({'flags': FRESH | 2}, '2 files came with the registration; 3 belong to it'),
    ({'area_size': 128}, 'the shared area contradicts'),
    ({'area_size': 1 << 62}, 'the shared area contradicts'),
    ({'last': (bytes(16), 3)}, 'its last migration has role 3'),
    ({'last': (b'x' * 16, 0)}, 'its last migration has role 0'),
)


def files(v, which):
    return {'two': [v.area, v.ram, v.area], 'twice': [v.area, v.ram, v.ram], 'area': [v.area, v.area], 'few': [v.area],
            'many': [v.area, v.ram, v.ram]}[which]


def wrong_tables_are_refused_in_words():
    with Scene() as s:
        a = s.daemon('a')
        good = StandinVmm(a.vmm, name='good')
        v = StandinVmm(a.vmm, name='bad')
        wrong = []
        try:
            wait_for('both to register', lambda: set(a.vms()) == {'good', 'bad'})
            for i, (fields, words) in enumerate(TABLES):
                v.leave()
                wait_for('it to be gone', lambda: set(a.vms()) == {'good'})
                v.refusals, v.fields = [], dict(fields)
                if 'files' in fields:
                    v.fields['files'] = files(v, fields['files'])
                v.come_back()
                wait_for('its end', lambda: v.refusals or v.is_registered.is_set())
                if not v.refusals or words not in v.refusals[0]:
                    wrong.append(f'table {i}: {v.refusals[0] if v.refusals else "registered"}, wanted: {words}')
                expect('good' in a.vms(), f'table {i}: the other VM is gone')
            expect(not wrong, f'{len(wrong)} of {len(TABLES)}:\n' + '\n'.join(wrong))
            v.fields = {}
            wait_for('it to register as it is', lambda: 'bad' in a.vms())
            expect(not any(line.startswith('<3>vm web2') for line in a.text().splitlines()), a.text())
        finally:
            v.stop()
            good.stop()


def one_memfd_may_have_several_regions():
    """as long as they have no byte in common"""
    with Scene() as s:
        a = s.daemon('a')
        v = StandinVmm(a.vmm, size=SIZE)
        halves = [region(name=b'low', size=SIZE // 2), region(name=b'high', gpa=1 << 32, size=SIZE // 2, fd_off=SIZE // 2)]
        try:
            v.fields = {'nr_regions': 2, 'regions': halves, 'files': [v.area, v.ram, v.ram]}
            v.cut()
            wait_for('an answer', lambda: v.refusals)
            # The area is of one region: all else was right.
            expect('the shared area contradicts' in v.refusals[0], v.refusals[0])
        finally:
            v.stop()


def a_vmm_of_version_1_is_refused_too():
    """it cannot be told why; the log says it"""
    with Scene() as s:
        a = s.daemon('a')
        v = StandinVmm(a.vmm, name='bad', protocol=1, fields={'nr_vcpus': 0})
        try:
            wait_for('it to be refused', lambda: v.refusals)
            expect(v.refusals[0] == '', f'words in version 1: {v.refusals[0]}')
            expect(f'vm bad: its VMM (pid {os.getpid()}) may not register: 0 vCPUs' in a.text(), a.text())
            v.fields = {}
            wait_for('it to register as it is', lambda: 'bad' in a.vms())
        finally:
            v.stop()


def no_line_of_another(daemon):
    lines = daemon.text().splitlines()
    expect(not any(line.startswith('<3>vm web2') for line in lines), f'a forged line:\n{daemon.text()}')
    return '\n'.join(lines)


def a_source_that_cancels_with_a_line_of_its_own():
    with Scene() as s:
        b = s.daemon('b')
        v = StandinVmm(b.vmm, incoming=True)
        try:
            wait_for('it to register', lambda: 'web1-in' in b.vms())
            c = socket.socket(socket.AF_UNIX)
            c.connect(b.listen.removeprefix('unix:'))
            c.sendall(struct.pack('<QIIQ16sII16sI60x', MAGIC, 2, CONTROL, 0, os.urandom(16), 0, 0, b'', 3))
            expect(struct.unpack_from('<i', c.recv(416, socket.MSG_WAITALL), 12)[0] == 0, 'not welcome')
            plan = struct.pack('<64s16sQIIII', b'web1', b'', 4096, 1, 1, 1, 0) + struct.pack('<64sQQ', b'ram0', 0, SIZE)
            c.sendall(struct.pack('<II', PLAN, len(plan)) + plan)
            wait_for('the plan to be taken', lambda: b.vms()['web1-in']['busy'])
            c.sendall(struct.pack('<II384s', CANCEL, 384, FORGED))
            wait_for('its words in the log', lambda: 'off?<3>vm web2: is gone??? \u20ac' in no_line_of_another(b))
            wait_for('the VM to be free', lambda: not b.vms()['web1-in']['busy'])
            c.close()
        finally:
            v.stop()


def a_plan_for_a_name_that_is_none():
    with Scene() as s:
        b = s.daemon('b')
        c = socket.socket(socket.AF_UNIX)
        c.connect(b.listen.removeprefix('unix:'))
        c.sendall(struct.pack('<QIIQ16sII16sI60x', MAGIC, 2, CONTROL, 0, os.urandom(16), 0, 0, b'', 3))
        c.recv(416, socket.MSG_WAITALL)
        plan = struct.pack('<64s16sQIIII', b'x' * 64, b'', 4096, 1, 1, 1, 0) + struct.pack('<64sQQ', b'ram0', 0, SIZE)
        c.sendall(struct.pack('<II', PLAN, len(plan)) + plan)
        kind, length = struct.unpack('<II', c.recv(8, socket.MSG_WAITALL))
        text = c.recv(length, socket.MSG_WAITALL)
        expect(kind == FAILED and b"the plan's name of the VM is not 1 to 63 printable ASCII" in text, f'{kind}: {text}')
        c.close()


class Refuser:
    """a destination that refuses each plan, or each hello, with @text"""

    def __init__(self, path, text, at):
        self.uri, self.text, self.at = f'unix:{path}', text, at
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(path)
        self.sock.listen(4)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            try:
                c = self.sock.accept()[0]
            except OSError:
                return
            with c:
                c.recv(128, socket.MSG_WAITALL)
                status = -16 if self.at == 'hello' else 0
                c.sendall(struct.pack('<QIi16s352sII16s8x', MAGIC, 2, status, b'', self.text, 3, 0, b''))
                if self.at == 'plan':
                    c.recv(struct.unpack('<II', c.recv(8, socket.MSG_WAITALL))[1], socket.MSG_WAITALL)
                    c.sendall(struct.pack('<II384s', FAILED, 384, self.text))

    def stop(self):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.sock.close()


def a_destination_that_refuses_with_a_line_of_its_own():
    for at in ('hello', 'plan'):
        with Scene() as s:
            a = s.daemon('a')
            v, d = StandinVmm(a.vmm), Refuser(os.path.join(s.dir, 'refuser.sock'), FORGED, at)
            try:
                wait_for('it to register', lambda: 'web1' in a.vms())
                a.ask('migrate', vm='web1', uri=d.uri)
                got = wait_for('its end', lambda: ended(a))
                expect('off?<3>vm web2: is gone??? \u20ac' in got['error-desc'], f'{at}: {got}')
                expect('off?<3>vm web2' in no_line_of_another(a), a.text())
                expect(v.runs(), 'the guest does not run')
            finally:
                d.stop()
                v.stop()


def names_in_lists():
    """a client reads all that a VMM may call things"""
    odd = b'!"\\{}~/..%s'
    with Scene() as s:
        a = s.daemon('a')
        v = StandinVmm(a.vmm, name=odd.decode(), fields={'nr_devices': 1, 'devices': [device(name=odd, kind=b'')],
                                                         'untracked': odd, 'regions': [region(name=odd)]})
        try:
            wait_for('it to register', lambda: odd.decode() in a.vms())
            try:
                a.ask('migrate', vm=odd.decode(), uri='unix:/none')
                raise AssertionError('accepted')
            except Failed as e:
                expect(odd.decode() in str(e), str(e))
            json.dumps(a.ask('query-vms'))
        finally:
            v.stop()


main([wrong_tables_are_refused_in_words, one_memfd_may_have_several_regions, a_vmm_of_version_1_is_refused_too,
      a_source_that_cancels_with_a_line_of_its_own, a_plan_for_a_name_that_is_none,
      a_destination_that_refuses_with_a_line_of_its_own, names_in_lists])
