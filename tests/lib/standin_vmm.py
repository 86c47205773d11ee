# SPDX-License-Identifier: GPL-2.0-or-later
"""A stand-in for a VMM: speaks uapi/vmferry_vmm.h to a daemon, has RAM and no guest, and lies, waits, dies or registers
again where a test says so. It keeps the account that a VMM keeps: whether its guest would run.

What a test scripts, also while it runs:
  v.lies['resume'] = 'refuse'     the next RESUME is answered by that lie, once; see lie_...()
  v.always['run'] = 'refuse'      every RUN is
  h = v.hold('save')              the next SAVE is not answered before h.go(); h.is_asked is an Event
  v.delays['load'] = .5           every LOAD is answered so many seconds late
  v.fields['nr_vcpus'] = 0        REGISTER says something else; see FIELDS, 'regions', 'devices', 'last', 'files'
  v.cut()                         the connection breaks, and it registers again
  v.leave() ... v.come_back()     it does so only then
"""
import fcntl, os, socket, struct, threading, time

(HELLO, REGISTER, START_LOG, STOP_LOG, HARVEST, PAUSE, RESUME, SAVE, LOAD, RUN, THROTTLE, RELEASE, QUERY,
 DISCARD, MIGRATION) = range(1, 16)
NAMES = {'start-log': START_LOG, 'stop-log': STOP_LOG, 'harvest': HARVEST, 'pause': PAUSE, 'resume': RESUME, 'save': SAVE,
         'load': LOAD, 'run': RUN, 'throttle': THROTTLE, 'release': RELEASE, 'discard': DISCARD, 'migration': MIGRATION}
RUNNING, PAUSED, INCOMING, LOADED, RELEASED = range(1, 6)
REPLY, FRESH = 1 << 31, 1
NO_ROLE, SOURCE, DESTINATION = range(3)
VMM_MAGIC, VMM_OLDEST, NEWEST_SHIFT = 0x4d4d5646, 1, 48
AREA_MAGIC, AREA_VERSION = 0x797272656676, 1
HEAD = struct.Struct('<IIIi')
F_ADD_SEALS, F_SEAL_SHRINK = 1033, 2
STATE = b'the state of a guest that there is not'
REGISTERED = struct.Struct('<64s16sIIIiQQII64s')
FIELDS = ('name', 'uuid', 'run_state', 'nr_regions', 'nr_vcpus', 'pid', 'area_size', 'state_size', 'flags', 'nr_devices',
          'untracked')
NO_MIGRATION = (bytes(16), NO_ROLE)


class Refused(ConnectionError):
    def __init__(self, kind, status, text):
        super().__init__(f'{kind} was answered with {status}: {text}')
        self.status, self.text = status, text


class Hold:
    """a request that waits for the test; @is_asked: it is there"""

    def __init__(self):
        self.is_asked, self.may_go = threading.Event(), threading.Event()

    def go(self):
        self.may_go.set()


def sealed(name, size):
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK)
    return fd


def region(name=b'ram0', gpa=0, size=8 << 20, fd_off=0, page_size=4096):
    return struct.pack('<64sQQQII', name, gpa, size, fd_off, page_size, 0)


def device(name=b'nic0', kind=b'nic', state_size=4096):
    return struct.pack('<32s32sQ', name, kind, state_size)


class StandinVmm:
    """registers @name at @path, in the @protocol's versions up to that one

    @asked: all requests, the oldest first; @registrations: when it tried to, monotonic seconds; @refusals: what it was
    told when it was refused; @last: the (id, role) of the migration that it was told of last; @retry: seconds between
    two attempts, or a function of the number of refusals since it was registered."""

    def __init__(self, path, name='web1', incoming=False, size=8 << 20, state_size=4096, protocol=2, fields=(), retry=.01):
        self.path, self.name, self.size, self.state_size = path, name, size, state_size
        self.protocol, self.fields, self.retry = protocol, dict(fields), retry
        self.state = INCOMING if incoming else RUNNING
        self.lies, self.always, self.holds, self.delays = {}, {}, {}, {}
        self.asked, self.errors, self.registrations, self.refusals = [], [], [], []
        self.last, self.nr_refused, self.version = NO_MIGRATION, 0, 0
        self.may_come = threading.Event()
        self.may_come.set()
        self.is_fresh, self.is_dead, self.is_registered = True, False, threading.Event()
        self.ram, self.area = sealed('ram', size), self.make_area()
        if not incoming:
            os.pwrite(self.ram, os.urandom(1 << 20), 0)
        self.sock, self.files = socket.socket(socket.AF_UNIX), []
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
        """what REGISTER says, and what @fields say instead"""
        honest = (self.name.encode('latin-1'), b'', self.state, 1, 1, os.getpid(), self.area_size, self.state_size,
                  FRESH if self.is_fresh else 0, 0, b'')
        said = {**dict(zip(FIELDS, honest)), **self.fields}
        body = REGISTERED.pack(*(said[f] for f in FIELDS))
        body += b''.join(said.get('regions', [region(size=self.size)])) + b''.join(said.get('devices', []))
        return body + (struct.pack('<16sII', *said.get('last', self.last), 0) if self.version >= 2 else b'')

    def register_files(self):
        return self.fields.get('files', [self.area, self.ram])

    def runs(self):
        return self.state == RUNNING and not self.is_dead

    # ---- the connection ----

    def exchange(self, kind, body, fds=()):
        socket.send_fds(self.sock, [HEAD.pack(kind, len(body), 0, 0) + body], list(fds))
        got, length, _, status = HEAD.unpack(self.receive(HEAD.size))
        answer = self.receive(length) if length else b''
        if got != kind | REPLY or status:
            raise Refused(kind, status, answer.decode(errors='backslashreplace') if kind == REGISTER else '')
        return answer

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
        # Order: die() and leave() say so first and cut then. If they cut what was not connected yet, it is seen here.
        if self.is_dead or not self.may_come.is_set():
            raise ConnectionError('it is to stay away')
        self.files = []
        newest = self.protocol << NEWEST_SHIFT if self.protocol > 1 else 0  # version 1 names no range
        answer = self.exchange(HELLO, struct.pack('<IIQ', VMM_MAGIC, VMM_OLDEST, newest))
        self.version = struct.unpack_from('<I', answer, 4)[0]
        self.registrations.append(time.monotonic())
        self.exchange(REGISTER, self.register_body(), self.register_files())
        self.nr_refused = 0
        self.is_registered.set()

    def serve(self):
        while not self.is_dead:
            self.may_come.wait()
            try:
                self.connect()
                while True:
                    self.take_request()
            except Refused as e:
                self.nr_refused += 1
                self.refusals.append(e.text)
                self.errors.append(str(e))
            except OSError as e:
                self.errors.append(str(e))
            self.drop()
            self.pause_before_retry()

    def pause_before_retry(self):
        until = time.monotonic() + (self.retry(self.nr_refused) if callable(self.retry) else self.retry)
        while not self.is_dead and time.monotonic() < until:
            time.sleep(.01)

    def drop(self):
        self.is_registered.clear()
        for fd in self.files:
            os.close(fd)
        self.files = []
        self.sock.close()

    def cut(self):
        """the connection breaks; it registers again"""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def leave(self):
        """the connection breaks; it registers again after come_back()"""
        self.may_come.clear()
        self.cut()

    def come_back(self):
        self.may_come.set()

    def die(self):
        """its process is gone, and the guest with it"""
        self.is_dead = True
        self.may_come.set()
        for h in list(self.holds.values()):
            h.go()
        self.cut()

    def hold(self, request):
        """the next @request is carried out and answered after go()"""
        self.holds[request] = Hold()
        return self.holds[request]

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
        self.wait_for_test(name)
        lie = self.lies.pop(name, self.always.get(name))
        if lie:
            getattr(self, 'lie_' + lie)(kind, seq, body)
        else:
            self.answer(kind, seq, 0, self.carry_out(kind, body))

    def wait_for_test(self, name):
        hold = self.holds.get(name)
        if hold:
            hold.is_asked.set()
            hold.may_go.wait()
            if self.holds.get(name) is hold:
                del self.holds[name]
        if self.is_dead:
            raise ConnectionError('dead')
        if name in self.delays:
            time.sleep(self.delays[name])

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
        if kind == MIGRATION:
            self.last = struct.unpack('<16sI4x', body)
        if kind == RELEASE:
            self.state = RELEASED
            self.last = NO_MIGRATION
        if kind == DISCARD:
            self.state = INCOMING
            self.last = NO_MIGRATION
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
        socket.send_fds(self.sock, [HEAD.pack(REGISTER, len(new), 7, 0) + new], self.register_files())


class BigState(StandinVmm):
    """its state is as large as it says, which may be more than sockets' buffers take"""

    def carry_out(self, kind, body):
        if kind != SAVE:
            return super().carry_out(kind, body)
        fd = self.files.pop()
        os.ftruncate(fd, self.state_size)
        os.close(fd)
        return struct.pack('<Q', self.state_size)


LIES = [n.removeprefix('lie_') for n in vars(StandinVmm) if n.startswith('lie_')]
