#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Promise: what a migration did can be seen afterwards: a page that needs nothing else, a history of blackouts,
the stalls of any VMM's guest. Seen to fail: with "<" left as it is in the
account; with a part of the report left undrawn."""
import glob, json, os, re, select, shutil, signal, subprocess, sys, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
from ferry import OUT, Failed, Scene, expect, is_about, main, migrate, stop, wait_for

VMFERRY = os.path.join(OUT, 'bin', 'vmferry')
# VMFERRY_CHROMIUM: the browser, where it is not the one in PATH
CHROMIUM = [os.environ.get('VMFERRY_CHROMIUM') or 'chromium', '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
            '--disable-background-networking', '--disable-component-update', '--disable-sync', '--hide-scrollbars']


def run(*args, **kw):
    return subprocess.run([VMFERRY, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60, **kw)


def drawn(scene, page, picture=None):
    """the page's DOM after its script ran, in a browser without a network"""
    profile = os.path.join(scene.dir, 'profile')
    extra = [f'--screenshot={picture}', '--window-size=1060,1900'] if picture else ['--dump-dom']
    p = subprocess.run(CHROMIUM + [f'--user-data-dir={profile}', '--virtual-time-budget=2000', *extra, f'file://{page}'],
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120)
    shutil.rmtree(profile, ignore_errors=True)
    return p.stdout


def report(scene, daemon, name):
    page = os.path.join(scene.dir, name + '.html')
    p = run('--socket', daemon.control, 'report', 'web1', '--html', page)
    expect(p.returncode == 0, p.stderr)
    with open(page) as f:
        text = f.read()
    foreign = [u for u in re.findall(r'https?://[^\s\'"]+', text) if 'www.w3.org/2000/svg' not in u]
    expect(not foreign, f'the page points to {foreign}')
    if os.environ.get('VMFERRY_PICTURES'):
        drawn(scene, page, os.path.join(os.environ['VMFERRY_PICTURES'], name + '.png'))
    return drawn(scene, page)


def a_report_is_drawn():
    with Scene() as s:
        a, b, src, dst = s.pair('v0=seq:200:48 v1=hot:100:64', vcpus=2, ram='512M', options=['--device-state', '4M', '--load-cost', '8'])
        page = report_of_refusal(s, a)
        got = migrate(a, b, **{'downtime-limit': 1000})
        expect(got['status'] == 'completed', got.get('error-desc', ''))
        dom = report(s, a, 'moved')
        expect('data-drawn="yes"' in dom, f'the script did not end: {dom[-400:]}')
        expect(dom.count('<svg') == 2 and 'web1: moved' in dom, 'rounds or blackout are not drawn')
        for part in got['blackout-parts']:
            expect(f'<td>{part}</td>' in dom, f'{part} is not in the table')
        expect(all(d['text'].replace('"', '&quot;')[:20] in dom.replace('"', '&quot;') for d in got['decisions']), 'decisions')
        expect(page is None, '')


def report_of_refusal(scene, daemon):
    p = run('--socket', daemon.control, 'report', 'web1', '--html', scene.dir + '/none.html')
    expect(p.returncode == 4 and 'no migration to report on' in p.stderr, p.stderr)
    p = run('--socket', daemon.control, 'report', 'web1')
    expect(p.returncode == 2 and '--html' in p.stderr, p.stderr)


def a_failure_with_a_wild_name_is_drawn_too():
    """the device's name ends a script, and the page"""
    with Scene() as s:
        a, b, src, dst = s.pair('v0=seq:20:8', ram='64M', options=['--load-cost', '200', '--device-name', '</script><b>x0'])
        got = migrate(a, b, **{'downtime-limit': 100})  # the device alone takes more, whatever the host does
        expect(got['status'] == 'failed' and '</script>' in got['error-desc'], got.get('error-desc'))
        dom = report(s, a, 'failed')
        expect('data-drawn="yes"' in dom and '<b>x0' not in dom, 'the name got out of its place')
        expect('called off' in dom, 'no decision about the tries')


def blackouts_are_remembered():
    """the history is there after a restart, each with its parts"""
    with Scene() as s:
        a, b, src, dst = s.pair('v0=seq:50:8', ram='64M', options=['--load-cost', '600'])
        tries = migrate(a, b, **{'downtime-limit': 100})['switchover-tries']  # called off
        expect(tries, 'it was never tried')
        wait_for('a clean destination', lambda: not b.ask('query-vms')[0]['busy'])
        got = migrate(a, b, **{'downtime-limit': 5000})
        expect(got['status'] == 'completed', got.get('error-desc'))
        before = a.ask('query-blackouts')['blackouts']
        expect(len(before) == tries + 1, f'{len(before)} are remembered of {tries + 1}')
        expect(before[-1]['end'] == 'moved' and before[0]['end'] == 'called-off', str([x['end'] for x in before]))
        expect(abs(before[-1]['blackout-us'] - sum(p['actual-us'] for p in before[-1]['parts'].values())) <= 10,
               f"the parts are not the whole: {before[-1]}")
        expect(is_about(before[0]['blackout-us'], 100), f"called off, but stood still for {before[0]['blackout-us']} us")
        a.kill(signal.SIGTERM)
        a.start()
        expect(a.ask('query-blackouts')['blackouts'] == before, 'forgotten')
        p = run('--socket', a.control, 'blackouts')
        expect('called-off' in p.stdout and '#' in p.stdout and 'load 6' in p.stdout, p.stdout)
        expect(os.path.exists(a.dir + '/state/learned/device-nic.json'), 'nothing was learned of the nic')


def hold(guest):
    """stops a guest for 80 ms; Return: when it was asked to stop, when it stood, when it was let go, in ns"""
    asked = time.monotonic_ns()
    stop(guest.proc)
    stood = time.monotonic_ns()
    time.sleep(.08)
    let_go = time.monotonic_ns()
    guest.proc.send_signal(signal.SIGCONT)
    return asked, stood, let_go


def told_of(watch, since, seconds):
    """the first stall that "vmferry watch --json" tells of and that ended after @since; None: none in so many seconds"""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if not select.select([watch.stdout], [], [], left)[0]:
            break
        line = watch.stdout.readline()
        expect(line, 'vmferry watch has ended')
        got = json.loads(line)
        if got['from-ns'] + got['stood-still-us'] * 1000 >= since:
            return got
    return None


def any_vmm_can_be_watched():
    """without a daemon: a guest that is held for 80 ms is told of, with its vCPUs"""
    with Scene() as s:
        a = s.daemon('a')
        guest = s.vmm(a, append='v0=spin v1=spin', vcpus=2, ram='64M')
        guest.wait_filled()
        p = subprocess.Popen([VMFERRY, 'watch', '--pid', str(guest.proc.pid), '--min', '40', '--json'], stdout=subprocess.PIPE,
                             bufsize=0)  # select() does not know of what is read ahead
        try:
            # Nothing tells that it watches, but the first stall that it sees.
            wait_for('it to watch', lambda: told_of(p, hold(guest)[1], 1), 60)
            got, at_least, at_most = [], [], []
            for _ in range(3):
                asked, stood, let_go = hold(guest)
                got.append(told_of(p, stood, 60))
                expect(got[-1], 'a stall was not told of')
                at_least.append((let_go - stood) / 1000)
                at_most.append((time.monotonic_ns() - asked) / 1000)
        finally:
            p.send_signal(signal.SIGINT)
            p.wait(60)
            p.stdout.close()
        expect(all(lo <= g['stood-still-us'] + 1 and g['stood-still-us'] <= hi and g['vcpus'] == 2
                   for lo, g, hi in zip(at_least, got, at_most)), f'{at_least} {got} {at_most}')
        expect(run('watch').returncode == 2, 'watch without --pid')


main([a_report_is_drawn, a_failure_with_a_wild_name_is_drawn_too, blackouts_are_remembered, any_vmm_can_be_watched])
