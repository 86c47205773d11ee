#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Promise: install-packages waits for another apt, fetches lists that are missing or old, and shows apt's own words.

apt-get, dpkg-query and id are stand-ins: apt-get takes what it is to do from a file, a line a call, and notes how it was
called. Seen to fail: without the loop over locks; with lists never taken for stale; with apt's output thrown away."""
import os, subprocess, sys, tempfile, time
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from ferry import expect, main

INSTALL = os.path.join(os.path.dirname(os.path.realpath(__file__)), 'install-packages')
LOCKED = 'E: Could not get lock /var/lib/apt/lists/lock. It is held by process 4711 (apt-get)'
KILLED = "E: dpkg was interrupted, you must manually run 'dpkg --configure -a' to correct the problem."
BROKEN = 'E: Failed to fetch it: 404 Not Found'
APT = '''#!/bin/sh
for last; do case $last in update|install) echo $last >>"$T/calls"; break ;; esac; done
read -r words <"$T/plan"; sed -i 1d "$T/plan"
[ "$words" = well ] && exit 0
echo "$words"; exit 100
'''


def installed(plan, lists='fresh', packages=(), args=('build',), root=True, **env):
    """Runs install-packages where apt-get answers by @plan; Return: code, output, calls of apt-get"""
    with tempfile.TemporaryDirectory() as to:
        for name, text in (('apt-get', APT), ('id', f'#!/bin/sh\necho {0 if root else 1000}\n'),
                           ('dpkg', '#!/bin/sh\necho configure >>"$T/calls"\n'),
                           ('dpkg-query', f'#!/bin/sh\nfor last; do :; done\ncase " {" ".join(packages)} " in *" $last "*) echo ok installed ;; esac\n')):
            with open(f'{to}/{name}', 'w') as f:
                f.write(text)
            os.chmod(f'{to}/{name}', 0o755)
        with open(f'{to}/plan', 'w') as f:
            f.write('\n'.join(plan) + '\n')
        os.makedirs(f'{to}/lists/partial')
        if lists != 'missing':
            open(f'{to}/lists/archive_dists_Packages', 'w').close()
        if lists == 'old':
            for path in (f'{to}/lists/partial', f'{to}/lists'):
                os.utime(path, (time.time() - 3 * 86400,) * 2)
        p = subprocess.run([INSTALL, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           env={**os.environ, 'PATH': f'{to}:{os.environ["PATH"]}', 'T': to, 'APT_LISTS': f'{to}/lists', 'DEPS': '', **env})
        calls = open(f'{to}/calls').read().split() if os.path.exists(f'{to}/calls') else []
        return p.returncode, p.stdout, calls


def listed(group):
    return subprocess.run([INSTALL, '--list', group], stdout=subprocess.PIPE, text=True, check=True).stdout.split()


def it_waits_for_another_apt():
    for plan, calls in (([LOCKED, LOCKED, 'well'], ['install'] * 3), ([BROKEN, LOCKED, 'well', LOCKED, 'well'],
                                                                      ['install', 'update', 'update', 'install', 'install'])):
        code, out, got = installed(plan)
        expect(code == 0 and got == calls and 'waiting for another apt' in out, f'{code} {got} {out}')
    code, out, got = installed([LOCKED] * 20, APT_PATIENCE='2')
    expect(code == 1 and LOCKED in out, f'not its words: {code} {out}')


def lists_that_are_missing_or_old_are_fetched_first():
    for lists, calls in (('missing', ['update', 'install']), ('old', ['update', 'install']), ('fresh', ['install'])):
        code, out, got = installed(['well'] * 2, lists)
        expect(code == 0 and got == calls, f'{lists}: {code} {got} {out}')


def an_install_that_fails_is_tried_with_new_lists():
    code, out, got = installed([BROKEN, 'well', 'well'])
    expect(code == 0 and got == ['install', 'update', 'install'] and BROKEN not in out, f'{code} {got} {out}')


def what_a_killed_apt_left_is_mended():
    code, out, got = installed([KILLED, 'well'])
    expect(code == 0 and got == ['install', 'configure', 'install'], f'{code} {got} {out}')
    code, out, got = installed([KILLED] * 5)
    expect(code == 1 and KILLED in out and got.count('configure') == 1, f'{code} {got} {out}')


def apt_is_heard_when_it_fails():
    code, out, _ = installed([BROKEN, 'well', 'E: Unable to locate package gcc'])
    expect(code == 1 and 'apt: E: Unable to locate package gcc' in out, out)
    code, out, got = installed([BROKEN, 'well'], 'missing')
    expect(code == 1 and f'apt: {BROKEN}' in out and got == ['update'], f'{code} {got} {out}')


def the_demo_brings_no_more_than_it_needs():
    demo, check = listed('demo'), listed('check')
    for name in ('chromium', 'qemu-system-x86', 'debootstrap', 'spin'):
        expect(name in check and name not in demo, name)
    expect(set(listed('build')) < set(demo) < set(check), 'groups')
    code, out, got = installed([], packages=demo, args=('demo',))
    expect((code, got) == (0, []), f'{code} {got} {out}')


def who_may_not_install_is_told():
    for kw in ({'root': False}, {'DEPS': 'no'}):
        code, out, got = installed([], packages=listed('build')[1:], **kw)
        expect(code == 1 and got == [] and f'apt-get install {listed("build")[0]}' in out, f'{kw}: {code} {got} {out}')


main([it_waits_for_another_apt, lists_that_are_missing_or_old_are_fetched_first, an_install_that_fails_is_tried_with_new_lists,
      what_a_killed_apt_left_is_mended, apt_is_heard_when_it_fails, the_demo_brings_no_more_than_it_needs, who_may_not_install_is_told])
