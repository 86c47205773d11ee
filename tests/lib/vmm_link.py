# SPDX-License-Identifier: GPL-2.0-or-later
"""A test instrument between a VMM and its daemon: passes everything on, files included, and cuts the connection
when it is told to; the VMM, which lives on, then registers again."""
import os, socket, threading


class VmmLink:
    """stands for @daemon where a VMM is started: tests/lib/ferry.py takes vmm and ask() from it"""

    def __init__(self, daemon, path):
        self.daemon, self.vmm, self.pairs, self.is_deaf = daemon, path, [], False
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(8)
        self.is_open, self.flows = threading.Event(), threading.Event()
        self.is_open.set()
        self.flows.set()
        threading.Thread(target=self.accept, daemon=True).start()

    def ask(self, *args, **kw):
        return self.daemon.ask(*args, **kw)

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
                self.is_open.wait()
                far = socket.socket(socket.AF_UNIX)
                far.connect(self.daemon.vmm)
            except OSError:
                return
            self.pairs.append((near, far))
            for a, b in ((near, far), (far, near)):
                threading.Thread(target=self.pass_on, args=(a, b), daemon=True).start()

    def pass_on(self, a, b):
        try:
            while True:
                data, fds, _, _ = socket.recv_fds(a, 1 << 16, 64)
                if not data:
                    break
                self.flows.wait()
                socket.send_fds(b, [data], fds)
                for fd in fds:
                    os.close(fd)
        except OSError:
            pass
        if not self.is_deaf:
            self.shut(a, b)

    @staticmethod
    def shut(*socks):
        for s in socks:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def freeze(self):
        """from now on nothing is passed on; what was kept is lost with cut()"""
        self.flows.clear()

    def deafen(self):
        """the daemon's next request fails; it hears of nothing before"""
        self.is_deaf = True
        for _, far in self.pairs:
            far.shutdown(socket.SHUT_RD)

    def cut(self):
        """both ends see it; new connections wait for mend()"""
        self.is_open.clear()
        for pair in self.pairs:
            self.shut(*pair)
        self.pairs = []
        self.flows.set()

    def mend(self):
        self.is_open.set()

    def stop(self):
        self.listener.close()
        self.cut()
        self.mend()
