# SPDX-License-Identifier: GPL-2.0-or-later
"""A stand-in for a daemon, for one VMM: speaks uapi/vmferry_vmm.h, refuses registrations and asks as a test says."""
import os, socket, struct, threading, time
from standin_vmm import FIELDS, HEAD, HELLO, NEWEST_SHIFT, REGISTER, REGISTERED, REPLY, VMM_MAGIC


class StandinDaemon:
    """listens at @path and speaks @version at most

    @refusals: words with which the next registrations are refused, in this order; None in it: without words
    @registrations: (when, run state, flags, the last migration as (id, role) or None), of all that were tried"""

    def __init__(self, path, version=2, refusals=()):
        self.vmm, self.version, self.refusals = path, version, list(refusals)
        self.registrations, self.pid, self.seq = [], 0, 0
        self.is_registered, self.has_ended = threading.Event(), False
        self.sock = None
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(8)
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def receive(self, n):
        data = b''
        while len(data) < n:
            got, fds, _, _ = socket.recv_fds(self.sock, n - len(data), 128)
            for fd in fds:
                os.close(fd)
            if not got:
                raise ConnectionError('closed')
            data += got
        return data

    def message(self):
        kind, length, seq, status = HEAD.unpack(self.receive(HEAD.size))
        return kind, seq, status, self.receive(length) if length else b''

    def take_registration(self):
        """Return: whether it was accepted"""
        _, seq, _, body = self.message()
        _, oldest, features = struct.unpack('<IIQ', body)
        version = min(self.version, features >> NEWEST_SHIFT or oldest)
        self.sock.sendall(HEAD.pack(HELLO | REPLY, 16, seq, 0) + struct.pack('<IIQ', VMM_MAGIC, version, 0))
        _, seq, _, body = self.message()
        said = dict(zip(FIELDS, REGISTERED.unpack_from(body)))
        rest = len(body) - REGISTERED.size - said['nr_regions'] * 96 - said['nr_devices'] * 72
        last = struct.unpack('<16sII', body[-24:])[:2] if rest == 24 else None
        self.registrations.append((time.monotonic(), said['run_state'], said['flags'], last))
        if self.refusals:
            text = self.refusals.pop(0)
            text = text.encode() if text and version > 1 else b''
            self.sock.sendall(HEAD.pack(REGISTER | REPLY, len(text), seq, -22) + text)
            return False
        self.sock.sendall(HEAD.pack(REGISTER | REPLY, 0, seq, 0))
        self.pid = said['pid']
        return True

    def serve(self):
        while not self.has_ended:
            try:
                self.sock = self.listener.accept()[0]
                if self.take_registration():
                    self.is_registered.set()
                    while self.is_registered.is_set() and not self.has_ended:  # request() has the connection
                        time.sleep(.01)
            except OSError:
                pass
            if self.sock:
                self.sock.close()

    def request(self, kind, body=b'', fd=-1):
        """asks the VMM; Return: status and body of its answer"""
        self.seq += 1
        socket.send_fds(self.sock, [HEAD.pack(kind, len(body), self.seq, 0) + body], [fd] if fd >= 0 else [])
        got, seq, status, answer = self.message()
        if got != kind | REPLY or seq != self.seq:
            raise ConnectionError(f'{got} of {seq} answers {kind} of {self.seq}')
        return status, answer

    def close(self):
        """the connection ends; the VMM may register again"""
        self.is_registered.clear()

    def ask(self, command):
        """for class Vmm: what "query-vms" says"""
        return [{'pid': self.pid}] if self.is_registered.is_set() else []

    def stop(self):
        self.has_ended = True
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()
