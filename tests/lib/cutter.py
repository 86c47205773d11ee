# SPDX-License-Identifier: GPL-2.0-or-later
"""A test instrument between two daemons: passes everything on, and does something at a message of the
control connection: cuts it before or after that message, or calls back and goes on."""
import contextlib, os, socket, struct, threading

ROLE_CONTROL = 1
NAMES = ['?', 'plan', 'plan-ok', 'ahead', 'placed', 'prepare', 'prepared', 'state', 'ready', 'go', 'running', 'abort',
         'cancel', 'failed', 'ping', 'pong', 'dropped']
HELLO, WELCOME, HEAD = 128, 416, 8


def recv_all(sock, n):
    data = b''
    while len(data) < n:
        got = sock.recv(n - len(data))
        if not got:
            raise OSError('closed')
        data += got
    return data


def split(uri):
    """(family, address) of unix:PATH or tcp:IPV4:PORT"""
    kind, _, rest = uri.partition(':')
    host, _, port = rest.rpartition(':')
    return (socket.AF_UNIX, rest) if kind == 'unix' else (socket.AF_INET, (host, int(port)))


def listen_at(uri, backlog=64):
    family, address = split(uri)
    s = socket.socket(family)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(address)
    s.listen(backlog)
    return s


def connect_to(uri):
    family, address = split(uri)
    s = socket.socket(family)
    s.connect(address)
    return s


class Cutter:
    """listens at @path (PATH, or tcp:IPV4:PORT), passes on to the address @to; @at: name of a message, its first time only"""

    def __init__(self, path, to, at=None, when='before', call=None):
        self.to, self.at, self.when, self.call = to, at, when, call
        self.uri = path if path.startswith('tcp:') else f'unix:{path}'
        self.seen, self.has_cut = [], threading.Event()
        self.listener = listen_at(self.uri)
        self.socks = []
        self.ident = None  # the migration's id, once its control connection has said hello
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            try:
                far = connect_to(self.to)
            except OSError:  # nobody listens there just now
                near.close()
                continue
            self.socks += [near, far]
            threading.Thread(target=self.greet, args=(near, far), daemon=True).start()

    def greet(self, near, far):
        try:
            hello = recv_all(near, HELLO)
            far.sendall(hello)
            near.sendall(recv_all(far, WELCOME))
        except OSError:
            self.cut(near, far)
            return
        is_control = struct.unpack_from('<I', hello, 12)[0] == ROLE_CONTROL
        if is_control:
            self.ident = hello[24:40]
        work = self.messages if is_control else self.raw
        for a, b in ((near, far), (far, near)):
            threading.Thread(target=work, args=(a, b), daemon=True).start()

    def cut(self, *socks):
        for s in socks:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def raw(self, a, b):
        try:
            while data := a.recv(1 << 18):
                b.sendall(data)
        except OSError:
            pass
        self.cut(a, b)

    def messages(self, a, b):
        try:
            while True:
                head = recv_all(a, HEAD)
                kind, size = struct.unpack('<II', head)
                body = recv_all(a, size) if size else b''
                name = NAMES[kind] if kind < len(NAMES) else '?'
                hit = name == self.at and not self.has_cut.is_set()
                self.seen.append(name)
                if hit and self.when == 'before':
                    break
                if hit and self.call:
                    self.call()
                    self.has_cut.set()
                b.sendall(head + body)
                if hit and self.when == 'after':
                    break
        except OSError:
            pass
        if self.at and self.seen.count(self.at):
            self.has_cut.set()
        self.cut(a, b)

    def stop(self):
        self.listener.close()
        self.cut(*self.socks)
        for s in self.socks:
            s.close()
        if self.uri.startswith('unix:'):
            with contextlib.suppress(FileNotFoundError):  # it is stopped already
                os.unlink(self.uri[5:])
