# SPDX-License-Identifier: GPL-2.0-or-later
"""The peer of the benchmarks: stock QEMU migrates the very same guest ELF over loopback."""
import json, os, socket, subprocess, sys, threading, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
from ferry import OUT, Failed, wait_for

TICK = os.sysconf('SC_CLK_TCK')


def cpu_seconds(pid, vcpu_prefixes):
    """CPU time of a process without its vCPU threads."""
    total = 0
    for tid in os.listdir(f'/proc/{pid}/task'):
        try:
            with open(f'/proc/{pid}/task/{tid}/stat') as f:
                name, rest = f.read().split(')', 1)
        except OSError:
            continue
        if not name.split('(', 1)[1].startswith(vcpu_prefixes):
            total += sum(map(int, rest.split()[11:13]))
    # threads that ended are only in the process's own sum
    with open(f'/proc/{pid}/stat') as f:
        whole = sum(map(int, f.read().rsplit(')', 1)[1].split()[11:13]))
    vcpus = 0
    for tid in os.listdir(f'/proc/{pid}/task'):
        with open(f'/proc/{pid}/task/{tid}/stat') as f:
            name, rest = f.read().split(')', 1)
        if name.split('(', 1)[1].startswith(vcpu_prefixes):
            vcpus += sum(map(int, rest.split()[11:13]))
    return max(total, whole - vcpus) / TICK


def tsc_khz():
    with open('/proc/cpuinfo') as f:
        return int(float(next(line for line in f if line.startswith('cpu MHz')).split()[3]) * 1000)


class Beats(threading.Thread):
    """Reads the guest's heartbeats from a fifo and stamps them."""

    def __init__(self, path):
        super().__init__(daemon=True)
        os.mkfifo(path)
        self.path, self.first, self.last, self.filled = path, None, None, False
        self.start()

    def run(self):
        fd = os.open(self.path, os.O_RDONLY)
        while True:
            text = os.read(fd, 4096)
            if not text:
                os.close(fd)
                return
            self.last = time.monotonic()
            self.first = self.first or self.last
            self.filled = self.filled or b'F' in text


class Qemu:
    def __init__(self, folder, name, append, ram, prealloc, incoming):
        self.beats = Beats(f'{folder}/{name}.hb')
        memory = f'memory-backend-memfd,id=m,size={ram}M,share=on'
        if prealloc:
            memory += ',prealloc=on,prealloc-threads=2'
        cmd = ['qemu-system-x86_64', '-accel', 'kvm', '-cpu', 'qemu64', '-machine', 'pc,memory-backend=m,hpet=off',
               '-object', memory, '-m', str(ram), '-kernel', os.path.join(OUT, 'bin', 'guest.elf'), '-append', append,
               '-display', 'none', '-nodefaults', '-no-reboot', '-qmp', f'unix:{folder}/{name}.qmp,server=on,wait=off',
               '-chardev', f'file,id=hb,path={folder}/{name}.hb', '-device', 'isa-debugcon,iobase=0xe9,chardev=hb']
        self.log = f'{folder}/{name}.log'
        with open(self.log, 'w') as log:
            self.proc = subprocess.Popen(cmd + (['-incoming', 'defer'] if incoming else []), stderr=log, stdout=log)
        wait_for('QMP', lambda: self.connect(f'{folder}/{name}.qmp'), 60)

    def connect(self, path):
        if self.proc.poll() is not None:
            raise Failed(f'QEMU ended: {open(self.log).read()}')
        self.sock = socket.socket(socket.AF_UNIX)
        try:
            self.sock.connect(path)
        except OSError:
            return False
        self.file = self.sock.makefile('rb')
        self.file.readline()
        self.ask('qmp_capabilities')
        return True

    def ask(self, command, **args):
        self.sock.sendall(json.dumps({'execute': command, 'arguments': args}).encode() + b'\n')
        while True:
            got = json.loads(self.file.readline())
            if 'error' in got:
                raise Failed(f"QEMU: {command}: {got['error']['desc']}")
            if 'return' in got:
                return got['return']

    def cpu(self):
        return cpu_seconds(self.proc.pid, ('CPU ',))

    def stop(self):
        if self.proc.poll() is None:
            self.proc.kill()
        self.proc.wait()


def migrate(folder, append, tsc_khz, ram=2048, channels=2, limit=5, prealloc=True, port=0, settle=0.5):
    """One migration; returns total_ms, blackout_ms (within a heartbeat), cpu_s."""
    line = f'{append} tsc_khz={tsc_khz} low={ram} vcpus=1 dots=1 hb_us=200'
    src = dst = None
    try:
        src = Qemu(folder, 'src', line, ram, prealloc, False)
        wait_for('the guest to fill its memory', lambda: src.beats.filled, 120)
        dst = Qemu(folder, 'dst', line, ram, prealloc, True)
        time.sleep(settle)
        for q in (src, dst):
            q.ask('migrate-set-capabilities', capabilities=[{'capability': 'multifd', 'state': True}])
            q.ask('migrate-set-parameters', **{'multifd-channels': channels, 'downtime-limit': limit, 'max-bandwidth': 0})
        dst.ask('migrate-incoming', uri=f'tcp:127.0.0.1:{port}')
        before = src.cpu() + dst.cpu()
        src.ask('migrate', uri=f'tcp:127.0.0.1:{port}')

        def over():
            time.sleep(.02)
            m = src.ask('query-migrate')
            return m if m['status'] in ('completed', 'failed') else None
        m = wait_for('QEMU to migrate', over, 120)
        if m['status'] != 'completed':
            raise Failed(f'QEMU: {m}')
        wait_for('a heartbeat at the destination', lambda: dst.beats.first)
        after = src.cpu() + dst.cpu()
        time.sleep(.05)
        return {'total_ms': m['total-time'], 'blackout_ms': (dst.beats.first - src.beats.last) * 1e3,
                'cpu_s': after - before, 'reported_downtime_ms': m['downtime']}
    finally:
        for q in (src, dst):
            if q:
                q.stop()
        for name in ('src.hb', 'dst.hb', 'src.qmp', 'dst.qmp'):
            if os.path.exists(f'{folder}/{name}'):
                os.unlink(f'{folder}/{name}')
