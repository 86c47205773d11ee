#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Promise: vmferryd, ferryvm and vmferry refuse a wrong argument with exit code 2 and a line that names the option and what it
takes; --help and the manual list the same options; and no message goes into a file that was opened for something else.
An answer of vmferry that was not written is no success, and a VM that it does not know is called unknown.
Seen to fail: with atoi() for numbers and "bad option or value" for all of them; with the configuration file read by
fgets() alone, where /dev/zero never ended and a folder was empty; without check_address(), check_folder() and is_address(),
with take_text() for --daemon; without open_standard_files(); without report_part() or the line for -EMFILE; with need-kvm behind the
packages in the Makefile; without check_options() and check_arguments() in the CLI; without terminal_close(); with "none" for the status of any name."""
import json, os, re, signal, socket, subprocess, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
from ferry import OUT, Scene, expect, main, wait_for

TOP = os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', '..')
GUEST = os.path.join(OUT, 'bin', 'guest.elf')
LONG = 'a' * 100000
PATH_108 = '/nowhere/' + 'a' * 99  # one byte more than a socket's path may have


def program(name):
    return os.path.join(OUT, 'bin', name)


def ends(code, words, name, *args, stdout=subprocess.PIPE):
    """@name with @args ends with @code, and standard error has all of @words"""
    got = subprocess.run([program(name), *args], stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, timeout=60)
    said, what = got.stderr.decode(errors='replace'), f'{name} {" ".join(map(str, args))}'[:200]
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
    ('--daemon', (PATH_108, LONG), ['107 bytes']),
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
    ('--listen', ('x', 'host2:4747', 'tcp:x', 'tcp:::1:80', 'x' * 300), ['listen: "', 'tcp:HOST:PORT']),
    ('--listen', ('tcp::65536', 'tcp::99999999999999999999', 'tcp::no-such-service'), ['listen: "tcp::', '65535']),
    ('--listen', ('unix:', 'unix:' + PATH_108), ['listen: "unix:', '1 to 107 bytes']),
    ('--vmm-socket', (PATH_108,), ['107 bytes']), ('--control-socket', (PATH_108, LONG), ['107 bytes']),
    ('--run-dir', (PATH_108, LONG), ['bytes']), ('--state-dir', ('x' * 256, LONG), ['bytes']),
    ('--vmm-socket', ('',), ['empty']), ('--control-socket', ('',), ['empty']), ('--state-dir', ('',), ['empty']),
) for value in values]


# No daemon is asked: a verb that is obeyed ends with 3. "resolve" takes either option, and takes no decision with both.
VMFERRY = [
    (['bogus'], ['no such verb: bogus']),
    (['list', 'x'], ['list takes no argument']),
    (['migrate', 'web1'], ['migrate takes two arguments, VM and ADDRESS']),
    (['migrate', 'web1', 'host2'], ['ADDRESS "host2"', 'tcp:HOST:PORT']), (['migrate', 'web1', ''], ['ADDRESS ""']),
    (['cancel'], ['cancel takes one argument, VM']),
    (['status', 'a', 'b'], ['status takes one argument at most, VM']),
    (['forget'], ['forget takes one argument, ID']),
    (['resolve', 'web1'], ['--gone or --run-here']),
    (['resolve', 'web1', '--gone', '--run-here'], ['one of --gone and --run-here']),
    (['resolve', 'web1', '--run-here', '--gone'], ['one of --gone and --run-here']),
    (['report', 'web1'], ['--html']),
    (['watch'], ['--pid']),
    (['watch', '--pid', '0'], ['--pid: "0"']), (['watch', '--pid', '1.5'], ['--pid: "1.5"']),
    (['watch', '--pid', '99999999999'], ['--pid: "99999999999"']), (['watch', '--pid', '1', '--seconds', 'inf'], ['--seconds: "inf"']),
    (['blackouts', '--last', 'x'], ['--last: "x"']), (['migrate', 'a', 'unix:/x', '--channels', 'many'], ['--channels: "many"']),
    (['--bogus'], ['--bogus', '--help']),
    (['status', 'a\nb'], ['argument 2', 'control character']), (['status', b'a\xff'], ['argument 2', 'UTF-8']),
    (['--\x1b[2J'], ['argument 1']), (['resolve', 'a\u009b', '--gone'], ['argument 2']),
] + [([*verb, *option], [f'{verb[0]} takes no {option[0]}']) for verb, option in (
    (['migrate', 'a', 'unix:/x'], ['--gone']), (['migrate', 'a', 'unix:/x'], ['--run-here']), (['migrate', 'a', 'unix:/x'], ['--last', '1']),
    (['cancel', 'a'], ['--json']), (['list'], ['--detach']), (['status'], ['--strict']), (['forget', 'a'], ['--gone']),
    (['resolve', 'a'], ['--timeout', '1']), (['journal'], ['--html', 'x']), (['blackouts'], ['--pid', '1']), (['events'], ['--last', '1']),
)]


def vmferry(daemon, code, words, *args, **more):
    return ends(code, words, 'vmferry', '--socket', daemon.control, *args, **more)


def a_wrong_argument_is_named():
    for args, words in FERRYVM:
        ends(2, words, 'ferryvm', *args)
    for args, words in DAEMON:
        ends(2, words, 'vmferryd', *args)
    for args, words in VMFERRY:
        said = ends(2, words, 'vmferry', *args, '--socket', '/nowhere').stderr
        expect(not re.search(rb'[\0-\x09\x0b-\x1f\x7f-\xff]', said), f'{args}: raw bytes go to the terminal: {said}')


def vmferry_calls_a_vm_unknown():
    with Scene() as s:
        a = s.daemon('a')
        for args in (['status', 'web9'], ['cancel', 'web9'], ['resolve', 'web9', '--gone'], ['report', 'web9', '--html', s.dir + '/x']):
            got = vmferry(a, 4, ['vm web9: unknown', 'vmferry list'], *args)
            expect(not got.stdout, f'{args}: {got.stdout}')
        s.vmm(a, name='web9', incoming=True, ram='32M')
        got = vmferry(a, 0, [], 'status', 'web9', '--json')
        expect(json.loads(got.stdout)['status'] == 'none' and got.stdout.count(b'\n') == 1, str(got.stdout))
        said = vmferry(a, 4, ['no migration to cancel'], 'cancel', 'web9').stderr
        expect(b'unknown' not in said, str(said))


def an_answer_that_is_not_written_is_no_success():
    """also with standard output closed, where the control socket must not take its place"""
    forms = ['list'], ['list', '--json'], ['status'], ['blackouts'], ['blackouts', '--json'], ['journal'], ['--help'], ['--version']
    with Scene() as s, open('/dev/full', 'w') as full:
        a = s.daemon('a')
        for args in forms:
            vmferry(a, 0, [], *args)
            vmferry(a, 1, ['cannot write to standard output'], *args, stdout=full)
            got = subprocess.run(['/bin/sh', '-c', 'exec "$@" >&-', 'sh', program('vmferry'), '--socket', a.control, *args],
                                 stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=60)
            expect(got.returncode == 1 and b'cannot write to standard output' in got.stderr, f'{args}, closed: {got}')


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
        with open(path, 'wb') as f:
            f.write(b'listen = host2:4747\n')
        ends(2, ['listen: "host2:4747"', 'tcp:HOST:PORT'], 'vmferryd', '--config', path)
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
        for name in ('ferryvm', 'vmferryd', 'vmferry'):
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


def a_low_limit_of_open_files_is_told():
    """at each limit below the one that suffices to start; the first limit is the lowest that ld.so can do with"""
    with Scene() as s:
        for limit in range(4, 65):
            at, log = os.path.join(s.dir, str(limit)), os.path.join(s.dir, f'{limit}.log')
            os.makedirs(at)
            with open(log, 'w') as f:
                p = subprocess.Popen(['/bin/sh', '-c', f'ulimit -n {limit}; exec "$@"', 'sh', program('vmferryd'), '--config', '/dev/null',
                                      '--run-dir', at, '--state-dir', at + '/state', '--listen', f'unix:{at}/peer.sock'],
                                     stdin=subprocess.DEVNULL, stderr=f)
            try:
                wait_for('it to start, or to end', lambda: p.poll() is not None or b' ready; ' in open(log, 'rb').read(), 60)
                code = p.poll()
            finally:
                p.terminate()
                p.wait(60)
            said = open(log).read()
            expect(code in (1, None), f'limit {limit}: ended with {code}: {said}')
            expect(f'the limit of open files, {limit}, is {"low" if code is None else "too low to start"}' in said and
                   'ulimit -n 1024' in said, f'limit {limit}: {code}: {said}')
            expect(code is None or said.count('Too many open files') >= 1, f'limit {limit}: it does not say what it cannot open: {said}')
            if code is None:
                expect(limit > 12, f'it starts at {limit}')
                return
        expect(False, 'it does not start at all')


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


main([a_wrong_argument_is_named, vmferry_calls_a_vm_unknown, an_answer_that_is_not_written_is_no_success, a_file_that_is_no_configuration, help_and_manual_list_the_same_options,
      help_that_cannot_be_written, closed_standard_files_stay_empty, a_low_limit_of_open_files_is_told, a_stats_socket_replaces_no_other_file,
      no_kvm_is_told_before_anything_is_installed])
