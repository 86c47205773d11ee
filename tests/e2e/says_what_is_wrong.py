#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Promise: vmferryd and ferryvm refuse a wrong argument with exit code 2 and a line that names the option and what it
takes; --help and the manual list the same options; and no message goes into a file that was opened for something else.
Seen to fail: with atoi() for numbers and "bad option or value" for all of them; with the configuration file read by
fgets() alone, where /dev/zero never ended and a folder was empty; without open_standard_files(); with need-kvm behind the
packages in the Makefile."""
import os, re, signal, socket, subprocess, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
from ferry import OUT, Scene, expect, main, wait_for

TOP = os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', '..')
GUEST = os.path.join(OUT, 'bin', 'guest.elf')
LONG = 'a' * 100000


def program(name):
    return os.path.join(OUT, 'bin', name)


def ends(code, words, name, *args, stdout=subprocess.PIPE):
    """@name with @args ends with @code, and standard error has all of @words"""
    got = subprocess.run([program(name), *args], stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, timeout=60)
    said, what = got.stderr.decode(errors='replace'), f'{name} {" ".join(args)}'[:200]
    expect(got.returncode == code, f'{what} ended with {got.returncode}, not {code}: {said[:300]}')
    for w in words:
        expect(w in said, f'{what}: "{w}" is not in: {said[:300]}')
    expect(len(said) < 1000 or LONG in args, f'{what}: {len(said)} bytes of words')
    return got


# Each is refused before anything is opened. The wrong option stands last, so that a later check cannot refuse it.
FERRYVM = [
    ([], ['--name is missing']),
    (['--name'], ['--name', 'requires an argument', '--help']),
    (['--name', ''], ['--name']),
    (['--name', 'a'], ['--kernel', '--incoming']),
    (['--name', 'a', '--incoming', '--kernel', GUEST], ['one of --kernel and --incoming']),
    (['--name', 'a', '--incoming', 'b'], ['no argument "b"']),
    (['--name', 'a', '--incoming', LONG], ['no argument']),
    (['--bogus'], ['--bogus', '--help']),
] + [(['--name', 'a', '--incoming', option, value], [option, *words]) for option, values, words in (
    ('--ram', ('', '0', '-1', '16M', '33M', '64m', '64MB', '99999999999999999999', '100000000T', LONG), ['32M', '4M']),
    ('--vcpus', ('', '0', '9', '-1', '2x', '4294967297', '9999999999999999999999', LONG), ['1 to 8']),
    ('--append', ('v' * 3701,), ['3700']),
    ('--tracker', ('', 'rings', LONG), ['ring or bitmap']),
    ('--device-state', ('', 'x', '-1x', '4MB'), ['4M']),
    ('--save-cost', ('', 'x', '-1', '1000001', '4294967296'), ['milliseconds']),
    ('--load-cost', ('', '1.5', '-1'), ['milliseconds']),
    ('--die-after-run', ('x', '-5'), ['milliseconds']),
    ('--daemon', ('',), []), ('--stats', ('',), []), ('--disk', ('',), []), ('--device-name', ('',), []), ('--untracked', ('',), []),
) for value in values]

DAEMON = [
    (['x'], ['no argument "x"']),
    (['--bogus'], ['--bogus', '--help']),
    (['--listen'], ['--listen', 'requires an argument', '--help']),
] + [(['--config', '/dev/null', option, value], [option.strip('-'), *words]) for option, values, words in (
    ('--nice', ('20', '-21', '1x', '4294967296', '18446744073709551616'), ['-20 to 19']),
    ('--tracker', ('both',), ['auto, kmod, vmm']),
    ('--nice', ('',), ['empty']), ('--tracker', ('',), ['empty']), ('--listen', ('',), ['empty']), ('--run-dir', ('',), ['empty']),
    ('--vmm-socket', ('',), ['empty']), ('--control-socket', ('',), ['empty']), ('--state-dir', ('',), ['empty']),
) for value in values]


def a_wrong_argument_is_named():
    for args, words in FERRYVM:
        ends(2, words, 'ferryvm', *args)
    for args, words in DAEMON:
        ends(2, words, 'vmferryd', *args)


def a_file_that_is_no_configuration():
    with Scene() as s:
        path = os.path.join(s.dir, 'conf')

        def refused(text, *words):
            with open(path, 'wb') as f:
                f.write(text)
            ends(2, [path, *words], 'vmferryd', '--config', path)
        ends(2, [s.dir, 'directory'], 'vmferryd', '--config', s.dir)
        ends(2, ['/dev/zero', '64 KiB'], 'vmferryd', '--config', '/dev/zero')
        ends(2, ['No such file'], 'vmferryd', '--config', path + '-none')
        ends(2, ['No such file'], 'vmferryd', '--config', '')
        refused(b'# a comment\n\nnice = 3\nlisten tcp::1\n', 'line 4', 'NAME = VALUE')
        refused(b'nice = 3\nbogus = 1\n', 'line 2', 'NAME = VALUE')
        refused(b'nice =\n', 'line 1', '"nice" has no value')
        refused(b'nice = 3\0\n', 'value 0')
        refused(b'run-dir = ' + b'a' * 10000000 + b'\n', '64 KiB')
        # A long line is one line: what is wrong behind it has the next number.
        refused(b'run-dir = /' + b'a' * 3000 + b'\nbogus = 1\n', 'line 2')


def help_and_manual_list_the_same_options():
    for name, section in (('ferryvm', 1), ('vmferryd', 8), ('vmferry', 1)):
        said = ends(0, [], name, '--help').stdout.decode()
        with open(os.path.join(TOP, 'packaging', 'man', f'{name}.{section}')) as f:
            manual = re.sub(r'\n\.SH FOR USERS OF OTHER TOOLS\n.*?(?=\n\.SH )', '', f.read().replace('\\-', '-'), flags=re.S)
        in_help = set(re.findall(r'--[a-z][a-z-]+', said)) - {'--help', '--version'}
        in_manual = set(re.findall(r'--[a-z][a-z-]+', manual)) - {'--help', '--version'}
        expect(in_help == in_manual, f'{name}: only --help has {sorted(in_help - in_manual)}, only the manual '
               f'{sorted(in_manual - in_help)}')


def help_that_cannot_be_written():
    with open('/dev/full', 'w') as full:
        for name in ('ferryvm', 'vmferryd'):
            for option in ('--help', '--version'):
                ends(1, ['standard output', 'No space left'], name, option, stdout=full)


def closed_standard_files_stay_empty():
    """Started with 0, 1 and 2 closed, a daemon's log went into an eventfd, and a VMM's messages into guest RAM"""
    def first_files(pid):
        return [os.readlink(f'/proc/{pid}/fd/{n}') for n in (0, 1, 2)]

    with Scene() as s:
        for args, socket_of in (([program('vmferryd'), '--config', '/dev/null', '--run-dir', s.dir, '--state-dir', s.dir + '/state',
                                  '--listen', f'unix:{s.dir}/peer.sock'], s.dir + '/control.sock'),
                                ([program('ferryvm'), '--name', 'a', '--ram', '32M', '--kernel', GUEST, '--daemon', s.dir + '/none',
                                  '--stats', s.dir + '/stats'], s.dir + '/stats')):
            p = subprocess.Popen(['/bin/sh', '-c', 'exec "$@" <&- >&- 2>&-', 'sh', *args])
            try:
                wait_for(f'{args[0]} to listen', lambda: p.poll() is not None or os.path.exists(socket_of), 60)
                expect(p.poll() is None, f'{args[0]} ended with {p.returncode}')
                expect(first_files(p.pid) == ['/dev/null'] * 3, f'{args[0]}: {first_files(p.pid)}')
            finally:
                if p.poll() is None:
                    p.send_signal(signal.SIGTERM)
                p.wait(60)


def a_stats_socket_replaces_no_other_file():
    with Scene() as s:
        path = os.path.join(s.dir, 'precious')
        with open(path, 'w') as f:
            f.write('precious')
        args = ['--name', 'a', '--ram', '32M', '--incoming', '--daemon', s.dir + '/none', '--stats']
        ends(1, [path, 'in use'], 'ferryvm', *args, path)
        with open(path) as f:
            expect(f.read() == 'precious', 'the file is not what it was')
        ends(1, ['No such file'], 'ferryvm', *args, s.dir + '/no/such/folder')
        ends(1, ['too long'], 'ferryvm', *args, f'{s.dir}/{"a" * 200}')
        left = os.path.join(s.dir, 'left')  # as by a ferryvm that was killed
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(left)
        sock.close()
        p = subprocess.Popen([program('ferryvm'), *args, left])
        try:
            def answers():
                with socket.socket(socket.AF_UNIX) as c:
                    return p.poll() is not None or c.connect_ex(left) == 0
            wait_for('the statistics', answers, 60)
            expect(p.poll() is None, f'ended with {p.returncode}')
        finally:
            p.terminate()
            p.wait(60)


def no_kvm_is_told_before_anything_is_installed():
    """In a namespace without /dev/kvm, and where dpkg knows no package, so that all of them are to be installed"""
    hide = ('mount --make-rprivate / && mount -t tmpfs none /var/lib/dpkg && mount -t tmpfs none "$1" && mkdir "$1/dev" && '
            'cp -a /dev/null /dev/zero /dev/urandom "$1/dev" && mount --bind "$1/dev" /dev && cd "$2" && exec make "$3" DEPS=no')
    with Scene() as s:
        for target in ('demo', 'check', 'bench'):
            got = subprocess.run(['unshare', '-m', 'sh', '-c', hide, 'sh', s.dir, TOP, target], stdin=subprocess.DEVNULL,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
            said = got.stdout.decode(errors='replace')
            expect(got.returncode and 'no /dev/kvm here' in said, f'make {target}: {got.returncode}: {said[:300]}')
            expect('missing packages' not in said, f'make {target}: {said[:300]}')


main([a_wrong_argument_is_named, a_file_that_is_no_configuration, help_and_manual_list_the_same_options,
      help_that_cannot_be_written, closed_standard_files_stay_empty, a_stats_socket_replaces_no_other_file,
      no_kvm_is_told_before_anything_is_installed])
