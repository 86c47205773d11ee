#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Promise: whatever a stage does, it is counted, its output is shown whole, and nothing of it stays behind.

Stand-ins are small shell commands. Seen to fail: with the closing line not demanded; with plain Popen instead of
supervise; with stages that are alone started beside others; with skips that CI lets pass."""
import os, re, signal, subprocess, sys, tempfile
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
import stages
from ferry import expect, main, wait_for
from stages import Stage

HERE = os.path.dirname(os.path.realpath(__file__))
PASSES = 'echo ok 1 - it; echo "1 passed, 0 failed, 0 skipped"'


def stand_in(name, script, share=600, **kw):
    return Stage(name, ['sh', '-c', script], share, 'a stand-in', **kw)


def scheduled(*todo, jobs=2):
    """Return: results, what was shown"""
    shown = []
    with tempfile.TemporaryDirectory() as logs:
        return stages.run(todo, jobs, logs, shown.append), '\n'.join(shown)


def is_alive(pid):
    try:
        with open(f'/proc/{pid}/stat') as f:
            return f.read().rpartition(')')[2].split()[0] not in 'ZX'
    except (FileNotFoundError, ProcessLookupError):
        return False


def pid_in(path):
    def written():
        try:
            with open(path) as f:
                return int(f.read() or 0)
        except FileNotFoundError:
            return 0
    return wait_for(path, written, 60)


def counts_are_those_of_the_stages():
    got, shown = scheduled(stand_in('good', PASSES), stand_in('bad', 'echo "3 passed, 2 failed, 1 skipped"; exit 1'))
    expect(got['good'].counts() == '1 passed, 0 failed, 0 skipped', got['good'].counts())
    expect(got['bad'].counts() == '3 passed, 2 failed, 1 skipped', got['bad'].counts())
    expect(stages.close(got, False) == ('4 passed, 2 failed, 1 skipped', 1), str(stages.close(got, False)))
    expect(not re.search(r'^\d+ passed, ', shown, re.M), f'a closing line of a stage was shown: {shown}')


def a_stage_that_crashes_has_failed():
    for script in ('echo ok 1; kill -SEGV $$', 'echo ok 1; exit 0', 'exit 3', PASSES + '; exit 5', 'nonesuch'):
        got, shown = scheduled(stand_in('s', script))
        expect(got['s'].failed == 1 and 'not ok - s: ended with' in shown, f'{script}: {got} {shown}')
        expect(stages.close(got, False)[1] == 1, script)


def a_stage_that_tests_nothing_has_failed():
    for script in ('', 'echo "0 passed, 0 failed, 0 skipped"'):
        got, shown = scheduled(stand_in('s', script))
        expect(got['s'].failed == 1 and 'not ok - s' in shown, f'{script}: {got} {shown}')


def skips_fail_in_ci_only():
    got, _ = scheduled(stand_in('s', 'echo "1 passed, 0 failed, 1 skipped"'))
    expect(stages.close(got, False)[1] == 0, 'a skip failed')
    expect(stages.close(got, 'true')[1] == 1, 'a skip passed in CI')


def a_stage_that_hangs_is_ended_with_all_it_started():
    with tempfile.TemporaryDirectory() as to:
        script = f'trap "" TERM; setsid sh -c "echo \\$\\$ >{to}/pid; exec sleep 1000" & sleep 1000'
        got, shown = scheduled(stand_in('s', script, limit=10))
        expect(got['s'].failed == 1 and 'its 10 s are over' in shown, f'{got} {shown}')
        expect(not is_alive(pid_in(f'{to}/pid')), 'a process outlived its stage')


def a_child_does_not_outlive_its_stage():
    with tempfile.TemporaryDirectory() as to:
        script = f'setsid sh -c "echo \\$\\$ >{to}/pid; exec sleep 1000" & while ! [ -s {to}/pid ]; do sleep .1; done; ' + PASSES
        got, shown = scheduled(stand_in('s', script))
        expect(got['s'].is_good() and 'left processes behind' in shown, f'{got} {shown}')
        expect(not is_alive(pid_in(f'{to}/pid')), 'a process outlived its stage')


def marked(to, name):
    """A script that tells which stages run, itself included: their marks. One that is not alone waits for a second one."""
    begin = f'ls {to} >{to}.{name}; sleep .5; '
    others = f'i=0; while [ $(ls {to}.begun | wc -l) -lt 2 ] && [ $i -lt 300 ]; do sleep .1; i=$((i + 1)); done; '
    return f'touch {to}/{name}; ' + ('' if 'alone' in name else f'touch {to}.begun/{name}; ' + others) + begin + \
        f'rm {to}/{name}; ' + PASSES


def a_stage_that_is_alone_has_nothing_beside_it():
    with tempfile.TemporaryDirectory() as base:
        to = base + '/marks'
        os.mkdir(to)
        os.mkdir(to + '.begun')
        names = ('alone1', 'a', 'b', 'c', 'alone2')
        got, _ = scheduled(*[stand_in(n, marked(to, n), alone='alone' in n) for n in names], jobs=2)
        expect(all(r.is_good() for r in got.values()), str(got))
        beside = {}
        for n in names:
            with open(f'{to}.{n}') as f:
                beside[n] = f.read().split()
        for n in names:
            expect(beside[n] == [n] if 'alone' in n else len(beside[n]) <= 2 and 'alone' not in str(beside[n]), str(beside))
        expect(any(len(x) == 2 for x in beside.values()), f'nothing ran side by side: {beside}')


def outputs_are_whole():
    """lines of two stages never mix"""
    script = 'for i in 1 2 3 4 5 6 7 8 9; do echo line $i of {0}; sleep .05; done; ' + PASSES
    _, shown = scheduled(stand_in('x', script.format('x')), stand_in('y', script.format('y')))
    for s in 'xy':
        whole = '\n'.join(f'line {i} of {s}' for i in range(1, 10))
        expect(whole in shown, f'{s} is not whole: {shown}')


def what_a_stage_needs_comes_first():
    with tempfile.TemporaryDirectory() as to:
        second = stand_in('second', f'[ -e {to}/first ] && {PASSES}', needs=('first',))
        got, _ = scheduled(second, stand_in('first', f'sleep .3; touch {to}/first; {PASSES}', share=1))
        expect(got['second'].is_good(), str(got))
        got, shown = scheduled(second, stand_in('first', 'echo "0 passed, 1 failed, 0 skipped"; exit 1'))
        expect(got['second'].failed == 1 and 'not run, for first has failed' in shown, f'{got} {shown}')
        alone = stand_in('third', PASSES, alone=True, needs=('second',))
        got, _ = scheduled(second, alone, stand_in('first', 'exit 1'))
        expect(got['third'].failed == 1, str(got))


def a_stage_that_outgrows_its_share_is_told():
    got, shown = scheduled(stand_in('slow', 'sleep 1.2; ' + PASSES, share=1), stand_in('quick', PASSES))
    expect('# warning: slow has outgrown its share of 1 s' in shown and 'warning: quick' not in shown, shown)
    expect(stages.close(got, True)[1] == 0, 'a warning failed')


SCHEDULER = '''
import signal, sys
sys.path.insert(0, {here!r})
import stages
def interrupted(*_): raise KeyboardInterrupt
signal.signal(signal.SIGTERM, interrupted)
got = stages.run([stages.Stage(n, ["sh", "-c", "echo $$ >{to}/" + n + "; setsid sleep 1000 & sleep 1000"], 600, "") for n in "ab"], 2, {to!r}, print)
sys.exit(130 if got is None else 0)
'''


def an_interrupt_ends_everything():
    """by Ctrl-C, SIGTERM and, without a word, SIGKILL"""
    for signo in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with tempfile.TemporaryDirectory() as to:
            p = subprocess.Popen([sys.executable, '-u', '-c', SCHEDULER.format(here=HERE, to=to)], stdout=subprocess.PIPE, text=True)
            pids = [pid_in(f'{to}/{n}') for n in 'ab']
            p.send_signal(signo)
            out = p.communicate(timeout=120)[0]
            if signo != signal.SIGKILL:
                expect(p.returncode == 130 and 'interrupted in a, b; everything that was started is ended' in out, f'{p.returncode} {out}')
            for pid in pids:
                wait_for(f'{pid} to end after {signo.name}', lambda: not is_alive(pid), 60)


def stages_that_need_one_another_are_an_error():
    try:
        scheduled(stand_in('a', PASSES, needs=('b',)), stand_in('b', PASSES, needs=('a',)))
    except (ValueError, RecursionError):
        return
    expect(False, 'no error')


main([counts_are_those_of_the_stages, a_stage_that_crashes_has_failed, a_stage_that_tests_nothing_has_failed, skips_fail_in_ci_only,
      a_stage_that_hangs_is_ended_with_all_it_started, a_child_does_not_outlive_its_stage, a_stage_that_is_alone_has_nothing_beside_it,
      outputs_are_whole, what_a_stage_needs_comes_first, a_stage_that_outgrows_its_share_is_told, an_interrupt_ends_everything,
      stages_that_need_one_another_are_an_error])
