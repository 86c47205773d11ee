# SPDX-License-Identifier: GPL-2.0-or-later
"""Stand-ins for a peer: a source and a destination that speak daemon/peer/wire.h and daemon/pages/packet.h to a daemon.
They are honest where a test says nothing; a test sends any message at any moment, withholds, delays or changes an
answer, and cuts any connection.

Theory of operation: every connection has a thread that reads it. Messages of the control connection go into an inbox,
in order. A destination then calls the test's function of that message, or answers as an honest destination does. A
source answers nothing by itself: the test calls its steps.

Both sides offer the wire's versions OLDEST to NEWEST; a daemon of version 2 sees zeros and version 2 in such a hello."""
import os, socket, struct, threading

from cutter import HEAD, HELLO, NAMES, WELCOME, connect_to, listen_at, recv_all
from ferry import SLOW, Failed, wait_for

MAGIC, OLDEST, NEWEST = 0x59525245464d56, 2, 3
CONTROL, CHANNEL, RESOLVE, SETTLE = 1, 2, 3, 4
RUNNING, NEVER, LATER, UNKNOWN = 1, 2, 3, 4  # enum wire_resolved
THERE, HERE = 1, 2  # enum wire_outcome
SETTLED, CONTRADICTS, SETTLED_LATER = 1, 2, 3  # enum wire_settled
TEXT = 384
PACKET_MAGIC, PACKET_VERSION = 0x4b505646, 1
UNMARKED, FINAL, ROUND_END = range(3)
RAW, REGION_STATE, STRIPE, PAGE = 2, 0xffff, 1 << 16, 4096
PACKET, DESC = struct.Struct('<IHHIIQI36x'), struct.Struct('<HHIQI4x')
HELLO_S, WELCOME_S = struct.Struct('<QIIQ16sII16sII16s40x'), struct.Struct('<QIi16s352sII16s8x')
READY_S = struct.Struct('<IIQ16Q')
assert HELLO_S.size == HELLO and WELCOME_S.size == WELCOME and PACKET.size == 64 and DESC.size == 24


def shut(*socks):
    """both ends see it, and whatever waits in one of them"""
    for s in socks:
        try:
            s.shutdown(socket.SHUT_RDWR)
        except (OSError, AttributeError):
            pass


def greet(uri, role, ident, channel=0, nr_channels=0, version=OLDEST, newest=NEWEST, outcome=0, journal=bytes(16), magic=MAGIC,
          host=bytes(16)):
    """says hello at @uri; Return: the connection, and the welcome as a dictionary"""
    s = connect_to(uri)
    s.settimeout(60 * SLOW)
    s.sendall(HELLO_S.pack(magic, version, role, 0, ident, channel, nr_channels, host, newest, outcome, journal))
    got = WELCOME_S.unpack(recv_all(s, WELCOME))
    text = got[4].split(b'\0')[0].decode(errors='replace')
    return s, {'magic': got[0], 'version': got[1], 'status': got[2], 'host': got[3], 'text': text, 'newest': got[5],
               'journal': got[7]}


def resolve(uri, ident, **hello):
    """asks at @uri what became of migration @ident; Return: enum wire_resolved"""
    s, welcome = greet(uri, RESOLVE, ident, **hello)
    s.close()
    return welcome['status']


def settle(uri, ident, outcome, **hello):
    """tells @uri the @outcome of migration @ident; Return: enum wire_settled"""
    s, welcome = greet(uri, SETTLE, ident, outcome=outcome, **hello)
    s.close()
    return welcome['status']


class Control:
    """A control connection: messages of the peer by name, in order, and those that are sent to it"""

    def __init__(self, sock, on_message=None):
        self.sock, self.on_message = sock, on_message
        self.inbox, self.seen, self.is_closed = [], [], False
        self.changed = threading.Condition()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        try:
            while True:
                kind, size = struct.unpack('<II', recv_all(self.sock, HEAD))
                body = recv_all(self.sock, size) if size else b''
                name = NAMES[kind] if kind < len(NAMES) else f'message {kind}'
                with self.changed:
                    self.inbox.append((name, body))
                    self.seen.append(name)
                    self.changed.notify_all()
                if self.on_message:
                    self.on_message(name, body)
        except OSError:
            pass
        with self.changed:
            self.is_closed = True
            self.changed.notify_all()

    def send(self, name, body=b''):
        self.send_raw(struct.pack('<II', NAMES.index(name), len(body)) + body)

    def send_raw(self, data):
        self.sock.sendall(data)

    def expect(self, *names, seconds=20):
        """waits for the first message that is one of @names and takes it; Return: its name and body"""
        def found():
            return next((i for i, (name, _) in enumerate(self.inbox) if name in names), None)
        with self.changed:
            self.changed.wait_for(lambda: found() is not None or self.is_closed, seconds * SLOW)
            i = found()
            if i is None:
                raise Failed(f"no {' or '.join(names)} came{' before the end' if self.is_closed else ''}; messages: {self.seen}")
            return self.inbox.pop(i)

    def wait_closed(self, seconds=20):
        with self.changed:
            if not self.changed.wait_for(lambda: self.is_closed, seconds * SLOW):
                raise Failed(f'the peer keeps its control connection open; messages: {self.seen}')

    def cut(self):
        shut(self.sock)


class Channel:
    """A channel of a source: reads packets, keeps their marks, the device's state, and RAM where @place wants it"""

    def __init__(self, sock, number, on_mark, place=None):
        self.sock, self.number, self.on_mark, self.place = sock, number, on_mark, place
        self.marks, self.state, self.packets = {ROUND_END: 0, FINAL: 0}, {}, 0
        self.flows = threading.Event()
        self.flows.set()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        try:
            while True:
                self.read_packet()
        except OSError:
            pass

    def read_packet(self):
        self.flows.wait()
        _, _, mark, nr, _, _, mark_nr = PACKET.unpack(recv_all(self.sock, PACKET.size))
        descs = [DESC.unpack(recv_all(self.sock, DESC.size)) for _ in range(nr)]
        for region, kind, length, off, payload in descs:
            got = recv_all(self.sock, payload) if payload else b''
            if region == REGION_STATE:
                self.state[off] = got
            elif self.place:
                self.place(region, kind, off, length, got)
        self.packets += 1
        if mark:
            self.marks[mark] = mark_nr
            self.on_mark()

    def freeze(self):
        """reads nothing more until thaw(): the source's sends fill the buffers and stand"""
        self.flows.clear()

    def thaw(self):
        self.flows.set()

    def cut(self):
        shut(self.sock)
        self.thaw()


class StandinDestination:
    """accepts at @uri the migrations of sources, the newest of which its members describe

    @at: {name of a message: function(destination)}, called in place of the honest answer; the honest answer follows if
    it returns true, or when the test calls answer(). @resolved, @settled: what a question is answered with."""

    def __init__(self, uri, at=None, place=None):
        self.uri = self.listen = uri
        self.at, self.place = at or {}, place
        self.version, self.newest, self.status, self.text, self.journal = OLDEST, NEWEST, 0, '', bytes(16)
        self.resolved, self.settled, self.questions, self.outcomes = LATER, SETTLED, [], []
        self.control, self.id, self.channels, self.socks = None, None, {}, []
        self.prepare_new()
        self.lock = threading.RLock()
        self.listener = listen_at(uri)
        threading.Thread(target=self.accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def prepare_new(self):
        self.nr_channels, self.placed, self.attempt, self.ready, self.bodies = 0, 0, 0, 0, {}

    # ---- connections ----

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.socks.append(sock)
            threading.Thread(target=self.greet, args=(sock,), daemon=True).start()

    def greet(self, sock):
        try:
            hello = HELLO_S.unpack(recv_all(sock, HELLO))
            _, _, role, _, ident, number, nr, _, _, outcome, _ = hello
            status = self.judge(role, ident, outcome)
            with self.lock:
                if role == CONTROL and status >= 0:
                    self.id, self.channels = ident, {}
                    self.prepare_new()
                sock.sendall(WELCOME_S.pack(MAGIC, self.version, status, bytes(16), self.text.encode(), self.newest, 0,
                                            self.journal))
                if status < 0 or role in (RESOLVE, SETTLE):
                    shut(sock)
                elif role == CONTROL:
                    self.control = Control(sock, self.take)
                else:
                    self.nr_channels = nr
                    self.channels[number] = Channel(sock, number, self.look, self.place)
        except OSError:
            shut(sock)

    def judge(self, role, ident, outcome):
        if role == RESOLVE:
            self.questions.append(ident)
            return self.resolved(ident) if callable(self.resolved) else self.resolved
        if role == SETTLE:
            self.outcomes.append((ident, outcome))
            return self.settled
        return self.status

    # ---- what a destination answers ----

    def take(self, name, body):
        self.bodies[name] = body
        act = self.at.get(name)
        if not act or act(self):
            self.answer(name)

    def answer(self, name):
        """as an honest destination answers message @name; of a test's thread, too"""
        body = self.bodies[name]
        with self.lock:
            if name == 'plan':
                self.control.send('plan-ok', bytes(8))
            elif name == 'ping':
                self.control.send('pong', body[:8] + bytes(16))
            elif name == 'prepare':
                self.control.send('prepared')
            elif name == 'state':
                self.attempt = struct.unpack_from('<QI', body)[1]
                self.look()
            elif name == 'go':
                self.control.send('running', bytes(24))
            elif name == 'abort':
                self.attempt = self.ready = struct.unpack_from('<I', body)[0]
                self.control.send('dropped', READY_S.pack(self.attempt, 0, 0, *[0] * 16))

    def tell_ready(self, attempt=None):
        self.control.send('ready', READY_S.pack(attempt or self.attempt, 0, 1000, *[0] * 16))

    def fail(self, text):
        self.control.send('failed', text.encode().ljust(TEXT, b'\0'))

    def look(self):
        """has a round been placed, or all of a try come?"""
        with self.lock:
            marks = [c.marks for c in self.channels.values()]
            if not marks or len(marks) < self.nr_channels:
                return
            ended = min(m[ROUND_END] for m in marks)
            try:
                if ended > self.placed:
                    self.placed = ended
                    self.control.send('placed', struct.pack('<II', ended, 0))
                if self.attempt and self.attempt != self.ready and all(m[FINAL] == self.attempt for m in marks):
                    self.ready = self.attempt
                    act = self.at.get('whole')  # no message: all of a try has come
                    if not act or act(self):
                        self.tell_ready()
            except OSError:
                pass

    # ---- the test's own acts ----

    def wait_for(self, name, seconds=20):
        wait_for(f'message {name}', lambda: name in self.bodies, seconds)

    def cut_channels(self):
        for c in self.channels.values():
            c.cut()

    def freeze_channels(self):
        for c in self.channels.values():
            c.freeze()

    def stop(self):
        """as a host that is gone: nothing listens, all connections end"""
        shut(self.listener)
        self.listener.close()
        for c in list(self.channels.values()):
            c.thaw()
        shut(*self.socks)
        for s in self.socks:
            s.close()
        if self.uri.startswith('unix:') and os.path.exists(self.uri[5:]):
            os.unlink(self.uri[5:])


class StandinSource:
    """migrates a guest that there is not to the daemon at @uri, step by step, each a call of the test"""

    def __init__(self, uri, name='web1', regions=(('ram0', 0, 8 << 20),), nr_channels=2, state_size=4096, vcpus=1, ident=None):
        self.uri, self.name, self.regions, self.nr_channels = uri, name, regions, nr_channels
        self.state_size, self.vcpus = state_size, vcpus
        self.id = ident or os.urandom(16)
        self.control, self.channels, self.welcome, self.numbers = None, [], None, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def connect(self, **hello):
        sock, self.welcome = greet(self.uri, CONTROL, self.id, **hello)
        if self.welcome['status']:
            sock.close()
            raise Failed(f"not welcome: {self.welcome['text']}")
        sock.settimeout(None)
        self.control = Control(sock)

    def plan(self):
        body = struct.pack('<64s16sQIIII', self.name.encode('latin-1'), b'', self.state_size, len(self.regions), self.vcpus,
                           self.nr_channels, 0)
        for name, gpa, size in self.regions:
            body += struct.pack('<64sQQ', name.encode('latin-1'), gpa, size)
        self.control.send('plan', body)

    def open_channel(self, k, **hello):
        sock, welcome = greet(self.uri, CHANNEL, self.id, k, self.nr_channels, **hello)
        if welcome['status']:
            sock.close()
            raise Failed(f"channel {k} is not welcome: {welcome['text']}")
        sock.settimeout(None)
        self.channels.append(sock)

    def begin(self, **hello):
        """up to the channels"""
        self.connect(**hello)
        self.plan()
        name, body = self.control.expect('plan-ok', 'failed')
        if name == 'failed':
            raise Failed(body.split(b'\0')[0].decode(errors='replace'))
        for k in range(self.nr_channels):
            self.open_channel(k, **hello)

    def packet(self, k, ranges=(), mark=UNMARKED, mark_nr=0):
        """on channel @k: ranges of (region, offset, bytes), each within its stripe, and a mark"""
        self.numbers += 1
        payload = sum(len(d) for _, _, d in ranges)
        data = PACKET.pack(PACKET_MAGIC, PACKET_VERSION, mark, len(ranges), payload, self.numbers, mark_nr)
        for region, off, got in ranges:
            data += DESC.pack(region, RAW, len(got), off, len(got))
        self.channels[k].sendall(data + b''.join(d for _, _, d in ranges))

    def send_bytes(self, region, data):
        """all of @data, from offset 0 on, each stripe on its channel"""
        for off in range(0, len(data), STRIPE):
            self.packet(off // STRIPE % self.nr_channels, [(region, off, data[off:off + STRIPE])])

    def mark(self, mark, number):
        for k in range(self.nr_channels):
            self.packet(k, (), mark, number)

    def round(self, number, ram=b''):
        """a round, until it is in place"""
        self.send_bytes(0, ram)
        self.mark(ROUND_END, number)
        self.control.expect('placed')

    def prepare(self):
        self.control.send('prepare')
        name, body = self.control.expect('prepared', 'failed')
        if name == 'failed':
            raise Failed(body.split(b'\0')[0].decode(errors='replace'))

    def send_try(self, attempt, state):
        """the device's state and the last marks of a try"""
        self.control.send('state', struct.pack('<QII', len(state), attempt, 0))
        self.send_bytes(REGION_STATE, state)
        self.mark(FINAL, attempt)

    def up_to_ready(self, state, ram=b''):
        self.begin()
        self.round(1, ram)
        self.prepare()
        self.send_try(1, state)
        self.control.expect('ready')

    def go(self):
        self.control.send('go')

    def abort(self, attempt):
        self.control.send('abort', struct.pack('<II', attempt, 0))

    def cancel(self, text):
        self.control.send('cancel', text.encode('latin-1').ljust(TEXT, b'\0'))

    def cut_channels(self):
        shut(*self.channels)

    def stop(self):
        if self.control:
            self.control.cut()
            self.control.sock.close()
        self.cut_channels()
        for s in self.channels:
            s.close()
