#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Promise: no reader of a log, no stranger, no client and no peer can stop a guest or the daemon. A standard error
that nobody reads delays nothing; a flood costs a bounded number of lines and its part of each turn of the loop.

Seen to fail on the code before: with a write(2) to standard error on the loop a migration never ends and SIGTERM
does nothing; 700 strangers make 700 lines; 600 silent connections use up the daemon's file descriptors; a flood of
pings starves the destination; a client that does not read its events stays; a console that nobody reads stops the
guest. The text of a function names the change with which it was seen to fail; without one it was not tried."""
import contextlib, json, os, signal, socket, struct, subprocess, sys, threading, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
from ferry import OUT, SLOW, Failed, Scene, expect, has_ended, is_about, main, migrate, wait_for

QUIET = 'v0=seq:20:4'
LIMIT = int(150 * SLOW)
REGIONS_OF_32M = (('ram0', 0, 16 << 20), ('ram1', 16 << 20, 16 << 20))
MAGIC, OLDEST, NEWEST, CONTROL, PLAN, PING, PONG_LEN = 0x59525245464d56, 2, 3, 1, 1, 14, 32


def fill(fd):
    """no room is left for a byte"""
    for size in (4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(fd, b'x' * size)


@contextlib.contextmanager
def unread_pipe(scene, name, full=True):
    """a pipe that nobody reads, with no room for a byte; yields its path and our end of it"""
    path = os.path.join(scene.dir, name)
    os.mkfifo(path)
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        if full:
            fill(fd)
        yield path, fd
    finally:
        os.close(fd)


def drain(fd):
    """all that is in the pipe"""
    text = b''
    with contextlib.suppress(BlockingIOError):
        while True:
            text += os.read(fd, 1 << 16)
    return text.lstrip(b'x').decode()


def with_stderr(path):
    return ['sh', '-c', 'exec "$@" 2>"$0"', path]


# ferry.Vmm always says --quiet; here the console is what is tested
NOT_QUIET = ('import os, sys; a = [x for x in sys.argv[2:] if x != "--quiet"]; fd = os.open(sys.argv[1], os.O_WRONLY); '
             'os.dup2(fd, 1); os.dup2(fd, 2); os.execv(a[0], a)')


def end(who):
    """SIGTERM ends it, in good order"""
    who.proc.send_signal(signal.SIGTERM)
    wait_for(f'{who.name} to end', lambda: has_ended(who), 30)
    expect(who.proc.returncode == 0, f'{who.name} ended with {who.proc.returncode}')


def connect(daemon):
    def attempt():
        c = socket.socket(socket.AF_UNIX)
        c.settimeout(30 * SLOW)
        try:
            c.connect(daemon.listen.removeprefix('unix:'))
            return c
        except BlockingIOError:  # its backlog is full
            c.close()
    return wait_for(f'{daemon.name} to accept', attempt)


def stranger(daemon):
    with connect(daemon) as c, contextlib.suppress(ConnectionError):
        c.sendall(b'GET / HTTP/1.1\r\nHost: vmferry\r\n\r\n')
        while c.recv(4096):
            pass


def back_and_forth(a, b, src, dst, times):
    """strict migrations of web1 that complete, each with about its limit"""
    for _ in range(times):
        got = migrate(a, b, **{'downtime-limit': LIMIT})
        expect(got['status'] == 'completed', f"{got['status']}: {got.get('error-desc')}")
        expect(is_about(got['downtime-us'], LIMIT), f"{got['downtime-us']} us of blackout with a limit of {LIMIT} ms")
        dst.verdict()
        a, b, src, dst = b, a, dst, src
        wait_for('the other VMM to wait for a guest', lambda: 'web1-in' in b.vms() and not b.vms()['web1-in']['busy'])


def a_log_that_nobody_reads_stops_nothing():
    """report() that writes by itself: the migration never ends, and SIGTERM ends neither daemon"""
    with Scene() as s, unread_pipe(s, 'log-a', full=False) as (log_a, fd_a), \
            unread_pipe(s, 'log-b', full=False) as (log_b, fd_b):
        a, b = s.daemon('a', wrap=with_stderr(log_a)), s.daemon('b', wrap=with_stderr(log_b))
        src = s.vmm(a, append=QUIET, ram='32M', options=['--stay'])
        dst = s.vmm(b, incoming=True, ram='32M', options=['--stay'])
        src.wait_filled()
        for fd in (fd_a, fd_b):
            fill(fd)
        for d in (a, b):
            for _ in range(700):
                stranger(d)
        back_and_forth(a, b, src, dst, 2)
        expect(src.runs() and not dst.runs(), 'not exactly one runs')
        end(a)
        end(b)


def what_was_kept_is_written_when_somebody_reads():
    # What log_close() waits for is unit-tested: tests/unit/error_test.c.
    with Scene() as s, unread_pipe(s, 'log') as (log, fd):
        a = s.daemon('a', wrap=with_stderr(log))
        for _ in range(5):
            stranger(a)
        text = ''

        def says(words):
            nonlocal text
            text += drain(fd)
            return words in text
        wait_for('the log', lambda: says('refused a connection'))
        end(a)
        says('')
        lines = text.splitlines()
        expect(lines[0].startswith('<5>vmferryd') and 'ready' in lines[0], f'it begins with {lines[0]}')
        expect(all(line.startswith('<') for line in lines) and text.endswith('\n'), 'a line is not whole')
        expect(text.count('refused a connection') == 5, f"{text.count('refused a connection')} of 5 lines")
        expect('ending on signal 15' in lines[-1], f'it ends with {lines[-1]}')


def strangers_get_a_bounded_number_of_lines():
    """the timer of limited.c left out"""
    with Scene() as s:
        a = s.daemon('a')
        for _ in range(700):
            stranger(a)

        def told(text):
            said = sum('refused a connection' in line and 'more connections' not in line for line in text.splitlines())
            return said + sum(int(line.split()[0].partition('>')[2]) for line in text.splitlines() if 'more connections' in line)
        # Where 700 strangers take longer than a period there are several summaries.
        wait_for('each stranger to be told of or counted', lambda: told(a.text()) >= 700, 60)
        text = a.text()
        expect(text.count('\n') <= 20, f'{text.count(chr(10))} lines: {text[-2000:]}')
        expect('more connections of peers were refused' in text and told(text) == 700, f'{told(text)} are not 700')


def silent_connections_keep_no_peer_out():
    """MAX_GREETERS left out"""
    with Scene() as s:
        limited = ['sh', '-c', 'ulimit -n 512; exec "$0" "$@"']
        a, b = s.daemon('a'), s.daemon('b', wrap=limited)
        src = s.vmm(a, append=QUIET, ram='32M', options=['--stay'])
        dst = s.vmm(b, incoming=True, ram='32M', options=['--stay'])
        src.wait_filled()
        silent = [connect(b) for _ in range(900)]
        try:
            b.ask('query-vms')  # by now it has accepted them
            fds = len(os.listdir(f'/proc/{b.proc.pid}/fd'))
            expect(fds < 400, f'{fds} file descriptors for connections that say nothing')
            back_and_forth(a, b, src, dst, 1)
        finally:
            for c in silent:
                c.close()


class Flood:
    """sends @text again and again to a socket and reads what comes back, on two threads, until it is stopped;
    with @reply, the bytes that answer one text, never more than two texts ahead of the answers"""

    def __init__(self, sock, text, reply=0):
        self.sock, self.text, self.reply, self.sent, self.got = sock, text, reply, 0, 0
        self.has_ended, self.changed = False, threading.Condition()
        self.threads = [threading.Thread(target=t, daemon=True) for t in (self.send, self.read)]
        for t in self.threads:
            t.start()

    def send(self):
        with contextlib.suppress(OSError):
            while not self.has_ended:
                self.sock.sendall(self.text)
                self.sent += 1
                with self.changed:
                    self.changed.wait_for(lambda: self.has_ended or self.got >= (self.sent - 2) * self.reply)

    def read(self):
        with contextlib.suppress(OSError):
            while True:
                got = len(self.sock.recv(1 << 20))
                if not got:
                    break
                with self.changed:
                    self.got += got
                    self.changed.notify()
        with self.changed:
            self.has_ended = True
            self.changed.notify()

    def stop(self):
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        with self.changed:
            self.has_ended = True
            self.changed.notify()
        for t in self.threads:
            t.join()
        self.sock.close()


def forged_source(daemon, name, regions):
    """a control connection for a guest that waits at @daemon, after its plan"""
    c = connect(daemon)
    c.sendall(struct.pack('<QIIQ16sII16sI60x', MAGIC, OLDEST, CONTROL, 0, os.urandom(16), 0, 0, b'', NEWEST))
    status = struct.unpack_from('<i', c.recv(416, socket.MSG_WAITALL), 12)[0]
    expect(status == 0, f'not welcome: {status}')
    body = struct.pack('<64s16sQIIII', name.encode(), b'', 4096, len(regions), 1, 1, 0)
    for region, gpa, size in regions:
        body += struct.pack('<64sQQ', region.encode(), gpa, size)
    c.sendall(struct.pack('<II', PLAN, len(body)) + body)
    return c


def a_flood_of_pings_delays_nobody_else():
    """peer_ready() that receives until EAGAIN: migrations to and from that daemon do not complete"""
    with Scene() as s:
        a, b, src, dst = s.pair(QUIET, ram='32M', options=['--stay'])
        s.vmm(b, name='web2', incoming=True, ram='32M')
        c = forged_source(b, 'web2', REGIONS_OF_32M)
        wait_for('the forged source to be believed', lambda: b.vms()['web2-in']['busy'])
        ping = struct.pack('<II', PING, 8) + bytes(8)
        flood = Flood(c, ping * 30000, PONG_LEN * 30000)
        try:
            wait_for('the flood', lambda: flood.got > 1 << 20)
            back_and_forth(a, b, src, dst, 4)
            before = flood.got
            wait_for('the flood to go on', lambda: flood.got > before, 30)
        finally:
            flood.stop()


def a_flood_of_commands_delays_nobody_else():
    """client_ready() that carries out all it has received"""
    with Scene() as s:
        a, b, src, dst = s.pair(QUIET, ram='32M', options=['--stay'])
        floods = []
        try:
            for d in (a, b):
                for _ in range(4):
                    q = socket.socket(socket.AF_UNIX)
                    q.connect(d.control)
                    q.sendall(b'{"execute": "qmp_capabilities"}\n')
                    floods.append(Flood(q, b'{"execute": "query-migrate", "arguments": {"vm": "web1"}}\n' * 500))
            wait_for('the floods', lambda: all(f.got > 1 << 16 for f in floods))
            back_and_forth(a, b, src, dst, 4)
            before = [f.got for f in floods]
            wait_for('every client to be answered still',
                     lambda: all(f.got > n for f, n in zip(floods, before)), 60)
        finally:
            for f in floods:
                f.stop()


def a_client_that_reads_nothing_is_dropped_and_told_of():
    """api_clients_tell() that queues without end"""
    with Scene() as s:
        a = s.daemon('a')
        src = s.vmm(a, name='web1' + 'x' * 50, append=QUIET, ram='32M')
        lazy = socket.socket(socket.AF_UNIX)
        lazy.connect(a.control)
        lazy.sendall(b'{"execute": "qmp_capabilities"}\n')
        q = a.qmp()

        def fails():
            q.raw(json.dumps({'execute': 'migrate', 'arguments': {'vm': src.name, 'uri': 'carrier-pigeon'}}))
            q.until(lambda e: e['data'].get('status') == 'failed')
            return 'does not read its events' in a.text()
        wait_for('the client to be dropped', fails, 120)
        lazy.settimeout(30 * SLOW)
        got = 0
        with contextlib.suppress(ConnectionError):
            while n := len(lazy.recv(1 << 20)):
                got += n
        lazy.close()
        expect(got < 8 << 20, f'{got} bytes were kept for it')
        expect(src.runs(), 'the guest does not run')
        q.close()


def a_client_that_reads_no_answers_is_not_heard():
    """settle() that looks for commands whatever is unread: the daemon keeps all answers"""
    with Scene() as s:
        a = s.daemon('a')
        lazy = socket.socket(socket.AF_UNIX)
        lazy.connect(a.control)
        lazy.setblocking(False)
        lazy.send(b'{"execute": "qmp_capabilities"}\n')
        line = b'{"execute": "query-commands"}\n' * 100
        sent, still = 0, 0
        while still < 50:  # a second without room: nobody takes the commands any more
            try:
                sent += lazy.send(line)
                still = 0
                expect(sent < 64 << 20, 'commands are taken without end')
            except BlockingIOError:
                still += 1
                time.sleep(.02)
        expect(a.ask('query-version'), 'no answer to another client')
        with open(f'/proc/{a.proc.pid}/status') as f:
            kib = int(next(x for x in f if x.startswith('VmRSS')).split()[1])
        expect(kib < (64 << 10) * (20 if SLOW > 1 else 1), f'the daemon has {kib} KiB')
        lazy.setblocking(True)
        lazy.settimeout(30 * SLOW)
        got = 0
        while got < 1 << 20:  # it goes on when it is read again
            got += len(lazy.recv(1 << 20))
        lazy.close()


def a_console_that_nobody_reads_stops_no_guest():
    """devices_out() with putchar() and fflush(); vm_release() with fprintf()"""
    with Scene() as s, unread_pipe(s, 'console') as (path, fd):
        a, b = s.daemon('a'), s.daemon('b')
        src = s.vmm(a, append=QUIET + ' dots=1 hb_us=20', ram='32M', wrap=[sys.executable, '-c', NOT_QUIET, path])
        src.wait_filled()

        def beats():
            return src.stats()['vcpus'][0]['beats']
        before = beats()
        wait_for('the guest to go on', lambda: beats() > before + 2000, 60)
        # More than is kept, and what is lost is said where it is missing.
        wait_for('the console to overflow', lambda: beats() > before + 400000, 600)
        text = drain(fd)

        def says():
            nonlocal text
            text += drain(fd)
            return 'bytes of its console were lost' in text
        wait_for('a word about it', says)
        expect(text.startswith('F...'), f'it begins with {text[:20]}')
        dst = s.vmm(b, incoming=True, ram='32M')
        expect(migrate(a, b)['status'] == 'completed', 'it was not moved')
        wait_for('the VMM that nobody reads to end', lambda: has_ended(src), 30)
        dst.verdict()


def a_console_is_complete_when_somebody_reads():
    with Scene() as s, unread_pipe(s, 'console', full=False) as (path, fd):
        a = s.daemon('a')
        text, quit = [], threading.Event()

        def read():
            while not quit.is_set():
                text.append(drain(fd))
                time.sleep(.001)
            text.append(drain(fd))
        reader = threading.Thread(target=read)
        reader.start()
        try:
            v = s.vmm(a, append=QUIET + ' dots=1', ram='32M', wrap=[sys.executable, '-c', NOT_QUIET, path])
            v.wait_filled()
            wait_for('some beats', lambda: v.stats()['vcpus'][0]['beats'] > 500, 60)
            beats = v.stats()['vcpus'][0]['beats']
            end(v)
        finally:
            quit.set()
            reader.join()
        got = ''.join(text)
        expect(got.startswith('F') and got.strip('F.') == '', f'not what the guest wrote: {got[:100]}')
        expect(got.count('.') >= beats - 1, f"{got.count('.')} of {beats} dots")


def the_loop_tells_of_its_stalls():
    """query-loop, and a line of vmferry status"""
    with Scene() as s:
        a, b, src, dst = s.pair(QUIET, ram='32M')
        expect(migrate(a, b)['status'] == 'completed', 'it was not moved')
        for d in (a, b):
            got = d.ask('query-loop', reset=True)['since-start']
            expect(got['callbacks'] > 10 and got['p50-us'] <= got['p99-us'] <= got['p99.9-us'] <= got['worst-us'],
                   f'not an account: {got}')
            expect(got['worst'], 'the worst has no name')
            expect(d.ask('query-loop')['since-reset']['callbacks'] < got['callbacks'], 'it was not reset')
        out = subprocess.run([os.path.join(OUT, 'bin', 'vmferry'), '--socket', b.control, 'status'], text=True,
                             stdout=subprocess.PIPE, check=True).stdout
        expect(out.splitlines()[-1].startswith('loop: 99.9th percentile '), f'no line about the loop: {out[-200:]}')
        out = subprocess.run([os.path.join(OUT, 'bin', 'vmferry'), '--socket', b.control, 'status', 'web1'], text=True,
                             stdout=subprocess.PIPE, check=True).stdout
        json.loads(out)


main([a_log_that_nobody_reads_stops_nothing, what_was_kept_is_written_when_somebody_reads,
      strangers_get_a_bounded_number_of_lines, silent_connections_keep_no_peer_out,
      a_flood_of_pings_delays_nobody_else, a_flood_of_commands_delays_nobody_else,
      a_client_that_reads_nothing_is_dropped_and_told_of, a_client_that_reads_no_answers_is_not_heard,
      a_console_that_nobody_reads_stops_no_guest, a_console_is_complete_when_somebody_reads,
      the_loop_tells_of_its_stalls])
