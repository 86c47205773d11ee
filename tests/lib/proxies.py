# SPDX-License-Identifier: GPL-2.0-or-later
"""Test instruments for the way to a peer: proxies that are slow or mistake the host, addresses and name servers that
answer nothing, and files of /etc that only one process sees. See also cutter.py."""
import os, socket, threading, time

from cutter import HELLO, connect_to, listen_at, recv_all
from ferry import wait_for


def close(*socks):
    for s in socks:
        try:
            s.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        s.close()


class Server:
    """Accepts connections at @uri and has each handled by a thread of its own; used as a context."""

    def __init__(self, uri):
        self.listen = self.uri = uri
        self.listener = listen_at(uri)
        self.socks, self.accepted = [], 0
        threading.Thread(target=self.accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        close(self.listener, *self.socks)

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            self.socks.append(near)
            self.accepted += 1
            threading.Thread(target=self.serve, args=(near, self.accepted), daemon=True).start()

    def serve(self, near, nr):
        try:
            self.handle(near, nr)
        except OSError:
            close(near)

    def handle(self, near, nr):
        """a host that connects and says nothing"""

    def pass_on(self, near, to, heard=b''):
        far = connect_to(to)
        self.socks.append(far)
        far.sendall(heard)
        for a, b in ((near, far), (far, near)):
            threading.Thread(target=self.copy, args=(a, b), daemon=True).start()

    def copy(self, a, b):
        try:
            while data := a.recv(1 << 18):
                b.sendall(data)
        except OSError:
            pass
        close(a, b)


class Slow(Server):
    """Takes @seconds to answer each connection."""

    def __init__(self, uri, to, seconds):
        self.to, self.seconds = to, seconds
        super().__init__(uri)

    def handle(self, near, nr):
        hello = recv_all(near, HELLO)
        time.sleep(self.seconds)
        self.pass_on(near, self.to, hello)


class TwoHosts(Server):
    """Every other connection goes to another daemon, as a load balancer does it."""

    def __init__(self, uri, one, other):
        self.hosts = [other, one]
        super().__init__(uri)

    def handle(self, near, nr):
        self.pass_on(near, self.hosts[nr % 2])


class Silent:
    """An address that drops silently: its queue of connections is full and nobody accepts."""

    def __init__(self, uri):
        self.listener = listen_at(uri, 0)
        self.fillers = []

    def __enter__(self):
        for _ in range(4):
            s = socket.socket()
            s.setblocking(False)
            s.connect_ex(self.listener.getsockname())
            self.fillers.append(s)
        return self

    def __exit__(self, *_):
        for s in [self.listener, *self.fillers]:
            s.close()


class DeafNameServer:
    """A name server that hears questions and answers none."""

    def __init__(self, host):
        self.host, self.questions = host, 0
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((host, 53))
        threading.Thread(target=self.hear, daemon=True).start()

    def hear(self):
        while True:
            try:
                self.sock.recv(4096)
            except OSError:
                return
            self.questions += 1

    def wait_for_question(self, after):
        wait_for('a question to the name server', lambda: self.questions > after, 60)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        close(self.sock)


class Etc:
    """Files that take the place of others for the processes that are started with `wrap`; may be changed meanwhile."""

    def __init__(self, scene, **files):
        self.folder = os.path.join(scene.dir, 'etc')
        os.makedirs(self.folder, exist_ok=True)
        self.paths = {'hosts': '/etc/hosts', 'resolv': '/etc/resolv.conf', 'nsswitch': '/etc/nsswitch.conf',
                      'boot_id': '/proc/sys/kernel/random/boot_id'}
        for name, text in files.items():
            self.write(name, text)
        mounts = ' && '.join(f'mount --bind {self.folder}/{name} {self.paths[name]}' for name in files)
        self.wrap = ['unshare', '--mount', 'sh', '-c', f'{mounts} && exec "$@"', '-']

    def write(self, name, text):
        with open(os.path.join(self.folder, name), 'w') as f:
            f.write(text)
