#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Promise: a Linux guest under stock QEMU survives the module, and so does the host. KVM marks the guest's
steal-time page dirty when it preempts the vCPU, under the run queue's lock, and the module sees that.
Only in a machine with a Linux guest: tests/vm/run 6.12 --linux-guest --processors 1 linux_guest_under_qemu.py

The machine has one processor: the vCPU, QEMU, the module's thread and a busy process share it, so
the vCPU is preempted all the while. More vCPUs or processors are not possible here: under TCG's
nested SVM a Linux guest on two of them stops during its boot, without the module, too.

A push wakes the module's thread when the ring is half full: with 1,024 entries and a guest that
dirties few pages, the scheduler's own push is often that one.

Seen to fail: with attach_kick() called in the tracepoint instead of irq_work_queue() the machine stands still."""
import ctypes, fcntl, json, mmap, os, shutil, socket, struct, subprocess, sys, tempfile, threading
sys.path.insert(0, '/vmferry/tests/lib')
from ferry import expect, main, wait_for

PAGE = 4096
TRACING = '/sys/kernel/tracing'
PUSH = f'{TRACING}/events/kvm/kvm_dirty_ring_push'
SYS_PIDFD_GETFD = 438
LIBC = ctypes.CDLL(None, use_errno=True)


def ioc(direction, number, size):
    return direction << 30 | size << 16 | 0xDF << 8 | number


# uapi/vmferry.h
ATTACH, START, STOP, HARVEST = ioc(1, 0x00, 32), ioc(0, 0x10, 0), ioc(0, 0x11, 0), ioc(3, 0x12, 32)
AREA_BROKEN = 1 << 5


class Attachment:
    """The module, attached to the VM of another process; that process reaps its rings itself."""

    def __init__(self, pid):
        [vm] = [int(f) for f in os.listdir(f'/proc/{pid}/fd') if os.readlink(f'/proc/{pid}/fd/{f}') == 'anon_inode:kvm-vm']
        pidfd, mem, dev = os.pidfd_open(pid), os.open(f'/proc/{pid}/mem', os.O_RDONLY), os.open('/dev/vmferry', os.O_RDWR)
        vm = LIBC.syscall(SYS_PIDFD_GETFD, pidfd, vm, 0)
        self.fd = LIBC.ioctl(dev, ctypes.c_ulong(ATTACH), struct.pack('=IIii16x', 32, 0, vm, mem))
        expect(vm >= 0 and self.fd >= 0, f'attach: {os.strerror(ctypes.get_errno())}')
        for fd in (pidfd, mem, dev, vm):
            os.close(fd)

    def start(self):
        fcntl.ioctl(self.fd, START)
        with mmap.mmap(self.fd, PAGE, mmap.MAP_SHARED, mmap.PROT_READ) as head:
            size = struct.unpack_from('<Q', head, 16)[0]
        self.area = mmap.mmap(self.fd, size)

    def flags(self):
        return struct.unpack_from('<Q', self.area, 32)[0]

    def take(self):
        """Harvests; Return: {number of a guest page}. Bits are cleared by bytes: one that comes meanwhile may be lost."""
        fcntl.ioctl(self.fd, HARVEST, bytearray(struct.pack('=II24x', 32, 0)), True)
        off, nr, pages = struct.unpack_from('<Q', self.area, 40)[0], struct.unpack_from('<I', self.area, 64)[0], set()
        for i in range(nr):
            gpa, size, bitmap = struct.unpack_from('<QQQ', self.area, off + 64 * i + 8)
            end = bitmap + (size // PAGE + 63) // 64 * 8
            bits, self.area[bitmap:end] = self.area[bitmap:end], bytes(end - bitmap)
            pages |= {gpa // PAGE + 8 * n + k for n, byte in enumerate(bits) if byte for k in range(8) if byte >> k & 1}
        return pages

    def close(self):
        fcntl.ioctl(self.fd, STOP)
        self.area.close()
        os.close(self.fd)


class Guest:
    """A Linux guest under stock QEMU with dirty rings, its console and its QMP."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix='linux-')
        at = [f'{self.folder}/{n}' for n in ('console', 'qmp')]
        # Without pmu=off the guest's kernel hangs at its CPU set-up under TCG.
        self.qemu = subprocess.Popen(
            ['qemu-system-x86_64', '-L', '/linux', '-M', 'pc', '-accel', 'kvm,dirty-ring-size=1024', '-cpu', 'EPYC,pmu=off', '-m', '256M',
             '-nodefaults', '-display', 'none', '-no-reboot', '-kernel', '/linux/vmlinuz', '-initrd', '/linux/initrd',
             '-append', 'console=ttyS0 quiet panic=-1 nokaslr', '-chardev', f'socket,id=c,path={at[0]},server=on,wait=off', '-serial', 'chardev:c',
             '-qmp', f'unix:{at[1]},server=on,wait=off'], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.lines, self.asked = [], 0
        self.console, self.qmp_sock = [self.connect(path) for path in at]
        threading.Thread(target=self.read_console, daemon=True).start()
        self.qmp_file = self.qmp_sock.makefile('r')
        json.loads(self.qmp_file.readline())
        self.qmp('qmp_capabilities')

    def connect(self, path):
        def probe():
            expect(self.qemu.poll() is None, f'QEMU ended with {self.qemu.returncode}')
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(path)
                return sock
            except OSError:
                sock.close()
        return wait_for(path, probe)

    def read_console(self):
        with self.console.makefile('r', errors='replace') as f:
            for line in f:
                self.lines.append(line.strip())

    def qmp(self, command, **arguments):
        self.qmp_sock.sendall(json.dumps({'execute': command, 'arguments': arguments}).encode() + b'\n')
        for line in self.qmp_file:
            message = json.loads(line)
            expect('error' not in message, f'{command}: {message}')
            if 'return' in message:
                return message['return']
        expect(False, f'{command}: QEMU has gone')

    def answer(self, prefix, start=0):
        """Waits for a line of the guest; Return: the rest of it"""
        def probe():
            expect(self.qemu.poll() is None, f'QEMU ended with {self.qemu.returncode}, the guest said: {self.lines[-5:]}')
            return next((x for x in self.lines[start:] if x.startswith(prefix)), None)
        return wait_for(f'"{prefix}" of the guest', probe)[len(prefix):].strip()

    def tell(self, command, prefix):
        start = len(self.lines)
        self.console.sendall(command.encode() + b'\n')
        return self.answer(prefix, start)

    def passes(self):
        """The guest answers, and tells how often its writer has been through."""
        self.asked += 1
        return int(self.tell(f'ask {self.asked}', f'GUEST answers {self.asked} '))

    def writes_on(self):
        now = self.passes()
        wait_for('the guest to write on', lambda: self.passes() > now)

    def close(self):
        self.qemu.kill()
        self.qemu.wait()
        shutil.rmtree(self.folder)


def tell_kernel(path, text):
    with open(path, 'w') as f:
        f.write(text)


def pushes_of_the_scheduler():
    """How many of the traced pushes were made while a vCPU was put aside, that is under the run queue's lock"""
    with open(f'{TRACING}/trace') as f:
        return sum('kvm_sched_out' in stack for stack in f.read().split('<stack trace>')[1:])


def goes_on_when_preempted_and_harvested():
    busy = subprocess.Popen(['sh', '-c', 'while :; do :; done'])
    guest = Guest()
    try:
        guest.answer('GUEST up')
        steal = int(guest.tell('steal', 'GUEST steal'), 16)
        expect(steal & 1, f'the guest has no steal time: {steal:#x}')
        guest.tell('write', 'GUEST writes')
        # QEMU's own migration: it logs, and is slow enough to do so all the while. First without the module.
        guest.qmp('migrate-set-parameters', **{'max-bandwidth': 100000, 'downtime-limit': 1})
        guest.qmp('migrate', uri='exec:cat >/dev/null')
        wait_for('QEMU to migrate', lambda: guest.qmp('query-migrate').get('status') == 'active')
        for _ in range(3):
            guest.writes_on()
        attachment = Attachment(guest.qemu.pid)
        attachment.start()
        attachment.take()
        tell_kernel(f'{PUSH}/trigger', 'stacktrace')
        seen = {'steal': 0, 'pages': 0, 'pushes': 0}

        def harvested():
            guest.writes_on()
            pages = attachment.take()
            seen['steal'] += steal // PAGE in pages
            seen['pages'] += len(pages)
            seen['pushes'] += pushes_of_the_scheduler()
            tell_kernel(f'{TRACING}/trace', '')
            return seen['steal'] >= 10 and seen['pushes'] >= 10
        wait_for('harvests of a preempted guest', harvested)
        print(f'# {seen}', flush=True)
        tell_kernel(f'{PUSH}/trigger', '!stacktrace')
        expect(not attachment.flags() & AREA_BROKEN, 'the attachment is broken')
        attachment.close()
        guest.writes_on()
        expect(guest.qmp('query-migrate').get('status') == 'active', 'QEMU no longer logs')
    finally:
        guest.close()
        busy.kill()
        busy.wait()


main([goes_on_when_preempted_and_harvested])
