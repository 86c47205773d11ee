#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Promise: a product of the cache is whole or not there, whatever killed the process that made it.

Seen to fail: with products made in place; with one lock for all; with leftovers removed without an unmount."""
import os, signal, subprocess, sys, tempfile
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path.insert(0, HERE)
from ferry import expect, main, wait_for

HEAD = f'import os, sys, subprocess\nsys.path.insert(0, {HERE!r})\nimport cache\nfrom cache import *\nP = CACHE + "/things/a"\n'
HALF = HEAD + '''
with lock("a"), making(P) as new:
    open(new + "/half", "w").close()
    open(CACHE + "/begun", "w").close()
    run(["sh", "-c", "echo $$ >" + CACHE + "/pid; exec sleep 1000"])
'''
WHOLE = HEAD + '''
with lock("a"):
    if not is_complete(P):
        with making(P) as new:
            open(new + "/whole", "w").close()
print(*sorted(os.listdir(P)), *sorted(os.listdir(CACHE + "/things")))
'''
MOUNTED = HEAD + '''
os.makedirs(P + ".new-old/proc")
subprocess.run(["mount", "-t", "tmpfs", "none", P + ".new-old/proc"], check=True)
keep = os.open(P + ".new-old/proc", os.O_RDONLY)
with lock("a"), making(P):
    pass
print(*os.listdir(CACHE + "/things"), "mounted" if P in open("/proc/self/mountinfo").read() else "")
'''


def python(code, to, wrap=()):
    return [*wrap, sys.executable, '-c', code], {**os.environ, 'VMFERRY_CACHE': to, 'VMFERRY_PAUSE': '0'}


def said(code, to, wrap=()):
    cmd, env = python(code, to, wrap)
    p = subprocess.run(cmd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    expect(p.returncode == 0, p.stderr)
    return p.stdout.strip()


def half_made(to):
    """A process that is amid making a product; Return: it, and the pid of what it runs"""
    cmd, env = python(HALF, to)
    p = subprocess.Popen(cmd, env=env)

    def pid():
        try:
            return int(open(f'{to}/pid').read() or 0)
        except FileNotFoundError:
            return 0
    return p, wait_for('the product to be half-made', pid, 60)


def a_killed_process_leaves_no_half_product():
    with tempfile.TemporaryDirectory() as to:
        p, pid = half_made(to)
        p.send_signal(signal.SIGKILL)
        p.wait()
        wait_for('its command to end, too', lambda: not os.path.exists(f'/proc/{pid}') or
                 ') Z' in open(f'/proc/{pid}/stat').read(), 60)
        expect(not os.path.exists(f'{to}/things/a'), 'the half-made product has the name of a whole one')
        expect(said(WHOLE, to) == '.complete whole a', 'not made anew, or leftovers stay')


def what_fetches_is_tried_again():
    with tempfile.TemporaryDirectory() as to:
        once = HEAD + 'print(fetch(["sh", "-c", "test -e $0/x || { touch $0/x; exit 1; }; echo it", CACHE]))'
        never = HEAD + 'try: fetch(["sh", "-c", "echo . >>$0/tries; exit 7", CACHE])\nexcept Missing as e: print("ended with 7" in str(e))'
        expect(said(once, to) == 'it', 'not tried again')
        expect(said(never, to) == 'True' and open(f'{to}/tries').read().count('.') == 3, 'not given up after three tries')


def a_product_is_made_once():
    with tempfile.TemporaryDirectory() as to:
        said(WHOLE, to)
        open(f'{to}/things/a/mine', 'w').close()
        expect(said(WHOLE, to) == '.complete mine whole a', 'made again')


def one_product_does_not_hold_up_another():
    with tempfile.TemporaryDirectory() as to:
        p, _ = half_made(to)
        try:
            other = WHOLE.replace('things/a', 'things/b').replace('lock("a")', 'lock("b")')
            expect('.complete whole' in said(other, to), 'no product')
            free = HEAD + 'import fcntl\ntry:\n fcntl.flock(open(CACHE + "/locks/a"), fcntl.LOCK_EX | fcntl.LOCK_NB)\nexcept OSError: print("held")'
            expect(said(free, to) == 'held', 'the lock of a product that is being made is free')
        finally:
            p.kill()
            p.wait()


def leftovers_with_mounts_are_removed():
    """a room that was left half-made has a /proc mounted in it"""
    with tempfile.TemporaryDirectory() as to:
        expect(said(MOUNTED, to, ['unshare', '--mount']) == 'a', 'a leftover or its mount stays')


main([a_killed_process_leaves_no_half_product, what_fetches_is_tried_again, a_product_is_made_once, one_product_does_not_hold_up_another, leftovers_with_mounts_are_removed])
