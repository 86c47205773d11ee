# SPDX-License-Identifier: GPL-2.0-or-later
"""A stand-in for a VMM: speaks uapi/vmferry_vmm.h to a daemon, has RAM and no guest, and lies, dies or registers again
where a test says so. It keeps the account that a VMM keeps: whether its guest would run."""
import fcntl, os, socket, struct, threading, time

(HELLO, REGISTER, START_LOG, STOP_LOG, HARVEST, PAUSE, RESUME, SAVE, LOAD, RUN, THROTTLE, RELEASE, QUERY,
 DISCARD) = range(1, 15)
NAMES = {'start-log': START_LOG, 'stop-log': STOP_LOG, 'harvest': HARVEST, 'pause': PAUSE, 'resume': RESUME, 'save': SAVE,
         'load': LOAD, 'run': RUN, 'throttle': THROTTLE, 'release': RELEASE, 'discard': DISCARD}
RUNNING, PAUSED, INCOMING, LOADED, RELEASED = range(1, 6)
REPLY, FRESH = 1 << 31, 1
VMM_MAGIC, VMM_VERSION = 0x4d4d5646, 1
AREA_MAGIC, AREA_VERSION = 0x797272656676, 1
HEAD = struct.Struct('<IIIi')
F_ADD_SEALS, F_SEAL_SHRINK = 1033, 2
STATE = b'the state of a guest that there is not'


def sealed(name, size):
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK)
    return fd


class StandinVmm:
    """registers @name at @path; @lies: {name of a request: a lie}, taken out when it is told; see lie()"""

    def __init__(self, path, name='web1', incoming=False, size=8 << 20, state_size=4096):
        self.path, self.name, self.size, self.state_size = path, name, size, state_size
        self.state = INCOMING if incoming else RUNNING
        self.lies, self.asked, self.errors = {}, [], []
        self.is_fresh, self.is_dead, self.is_registered = True, False, threading.Event()
        self.ram, self.area = sealed('ram', size), self.make_area()
        if not incoming:
            os.pwrite(self.ram, os.urandom(1 << 20), 0)
        self.sock = None
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def make_area(self):
        words = self.size // 4096 // 64
        regions, bitmap, summary = 128, 256, 256 + words * 8
        self.area_size = (summary + (words + 63) // 64 * 8 + 4095) // 4096 * 4096
        fd = sealed('area', self.area_size)
        os.pwrite(fd, struct.pack('<QIIQQQQQQIIII48x', AREA_MAGIC, AREA_VERSION, 128, self.area_size, 0, 0, regions, 192, 192,
                                  1, 0, 0, 0), 0)
        os.pwrite(fd, struct.pack('<IIQQQQQQQ', 0, 0, 0, self.size, bitmap, words, summary, (words + 63) // 64, 0), regions)
        return fd

    def register_body(self):
        return struct.pack('<64s16sIIIiQQII64s', self.name.encode('latin-1'), b'', self.state, 1, 1, os.getpid(), self.area_size,
                           self.state_size, FRESH if self.is_fresh else 0, 0, b'') + \
            struct.pack('<64sQQQII', b'ram0', 0, self.size, 0, 4096, 0)

    def runs(self):
        return self.state == RUNNING and not self.is_dead

    # ---- the connection ----

    def exchange(self, kind, body, fds=()):
        socket.send_fds(self.sock, [HEAD.pack(kind, len(body), 0, 0) + body], list(fds))
        got, length, _, status = HEAD.unpack(self.receive(HEAD.size))
        if length:
            self.receive(length)
        if got != kind | REPLY or status:
            raise ConnectionError(f'{kind} was answered with {status}')

    def receive(self, n):
        data = b''
        while len(data) < n:
            got, fds, _, _ = socket.recv_fds(self.sock, n - len(data), 4)
            self.files += fds
            if not got:
                raise ConnectionError('closed')
            data += got
        return data

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)
        self.files = []
        self.exchange(HELLO, struct.pack('<IIQ', VMM_MAGIC, VMM_VERSION, 0))
        self.exchange(REGISTER, self.register_body(), [self.area, self.ram])
        self.is_registered.set()

    def serve(self):
        while not self.is_dead:
            try:
                self.connect()
                while True:
                    self.take_request()
            except OSError as e:
                self.errors.append(str(e))
            self.drop()
            time.sleep(.01)  # between two attempts to connect, as libvmferry does

    def drop(self):
        self.is_registered.clear()
        for fd in self.files:
            os.close(fd)
        self.files = []
        self.sock.close()

    def die(self):
        """its process is gone, and the guest with it"""
        self.is_dead = True
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def stop(self):
        self.die()
        self.thread.join()
        os.close(self.ram)
        os.close(self.area)

    # ---- requests ----

    def take_request(self):
        kind, length, seq, _ = HEAD.unpack(self.receive(HEAD.size))
        body = self.receive(length) if length else b''
        if kind & REPLY:
            raise ConnectionError('answered in the middle of it')
        name = next(n for n, k in NAMES.items() if k == kind)
        self.asked.append(name)
        lie = self.lies.pop(name, None)
        if lie:
            getattr(self, 'lie_' + lie)(kind, seq, body)
        else:
            self.answer(kind, seq, 0, self.carry_out(kind, body))

    def answer(self, kind, seq, status=0, body=b'', fds=()):
        socket.send_fds(self.sock, [HEAD.pack(kind | REPLY, len(body), seq, status) + body], list(fds))

    def carry_out(self, kind, body):
        """what an honest VMM does; Return: the body of its answer"""
        now = time.monotonic_ns()
        fd = self.files.pop() if self.files else None
        if kind == PAUSE:
            self.state = PAUSED
            return struct.pack('<QQQ', now, now, now)
        if kind in (RESUME, RUN):
            self.state = RUNNING
            self.is_fresh = False
            return struct.pack('<Q', now)
        if kind == SAVE:
            os.pwrite(fd, STATE, 0)
            os.close(fd)
            return struct.pack('<Q', len(STATE))
        if kind == LOAD:
            got = os.pread(fd, struct.unpack('<Q', body)[0], 0)
            os.close(fd)
            if got != STATE:
                self.errors.append('another state arrived')
            self.state = LOADED
        if kind == RELEASE:
            self.state = RELEASED
        if kind == DISCARD:
            self.state = INCOMING
            os.pwrite(self.ram, bytes(self.size), 0)
        return b''

    # ---- lies: each is told once ----

    def lie_lose(self, kind, seq, body):
        """the connection breaks before it is done; the VMM lives on, and registers again"""
        raise ConnectionError('broken before')

    def lie_lose_after(self, kind, seq, body):
        """it is done, and the connection breaks before the answer"""
        self.carry_out(kind, body)
        raise ConnectionError('broken after')

    def lie_answer_and_lose(self, kind, seq, body):
        self.answer(kind, seq, 0, self.carry_out(kind, body))
        raise ConnectionError('broken behind the answer')

    def lie_exit(self, kind, seq, body):
        self.die()
        raise ConnectionError('dead')

    def lie_twice(self, kind, seq, body):
        got = self.carry_out(kind, body)
        self.answer(kind, seq, 0, got)
        self.answer(kind, seq, 0, got)

    def lie_seq(self, kind, seq, body):
        self.answer(kind, seq + 1, 0, self.carry_out(kind, body))

    def lie_type(self, kind, seq, body):
        self.answer(QUERY, seq, 0, self.carry_out(kind, body))

    def lie_refuse(self, kind, seq, body):
        """it does nothing, and says so"""
        self.answer(kind, seq, -5)

    def lie_refuse_after(self, kind, seq, body):
        """it does it, and says that it did not"""
        self.carry_out(kind, body)
        self.answer(kind, seq, -5)

    def lie_positive(self, kind, seq, body):
        self.carry_out(kind, body)
        self.answer(kind, seq, 2147483647)

    def lie_long(self, kind, seq, body):
        """a body that fits nothing, as long as may be"""
        self.carry_out(kind, body)
        self.answer(kind, seq, 0, os.urandom(65536))

    def lie_odd(self, kind, seq, body):
        self.carry_out(kind, body)
        self.answer(kind, seq, 0, os.urandom(77))

    def lie_endless(self, kind, seq, body):
        """a length that no message has"""
        self.carry_out(kind, body)
        self.sock.sendall(HEAD.pack(kind | REPLY, 0xffffffff, seq, 0))

    def lie_random(self, kind, seq, body):
        """the right length, and nothing of it true"""
        self.answer(kind, seq, 0, os.urandom(len(self.carry_out(kind, body))))

    def lie_files(self, kind, seq, body):
        """files that nobody asked for"""
        self.answer(kind, seq, 0, self.carry_out(kind, body), [self.ram] * 100)

    def lie_shrink(self, kind, seq, body):
        """the file of the state is cut off behind the daemon's back"""
        fd = os.dup(self.files[-1]) if self.files else -1
        got = self.carry_out(kind, body)
        if fd >= 0:
            try:
                os.ftruncate(fd, 0)
            except OSError:
                pass
            os.close(fd)
        self.answer(kind, seq, 0, got)

    def lie_register(self, kind, seq, body):
        """it registers once more on the same connection instead of answering"""
        self.carry_out(kind, body)
        new = self.register_body()
        socket.send_fds(self.sock, [HEAD.pack(REGISTER, len(new), 7, 0) + new], [self.area, self.ram])


LIES = [n.removeprefix('lie_') for n in vars(StandinVmm) if n.startswith('lie_')]
