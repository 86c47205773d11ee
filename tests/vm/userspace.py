# SPDX-License-Identifier: GPL-2.0-or-later
"""Daemon, VMM, guest and the end-to-end tests of this tree for a machine: the files, and the libraries they need."""
import glob, os, re, subprocess, sys, sysconfig

TOP = os.path.realpath(os.path.join(os.path.dirname(__file__), '..', '..'))
LEFT_OUT = re.compile(r'/(test|tests|idlelib|tkinter|ensurepip|lib2to3|turtledemo|pydoc_data|site-packages|dist-packages|'
                      r'config-[^/]*|unittest|distutils|venv|curses|sqlite3|dbm|xmlrpc|wsgiref)(/|$)')


def libraries(path):
    """{path} of what the loader would load for a binary, itself and the loader included."""
    out = subprocess.run(['ldd', path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return set(re.findall(r'(?:=> )?(/\S+) \(0x', out))


def read(path):
    with open(path, 'rb') as f:
        return f.read()


def python():
    """[(path in the machine, path here)] of the interpreter that runs this, at the place where it is here."""
    files = [(sys.executable, os.path.realpath(sys.executable))]
    stdlib = sysconfig.get_path('stdlib')
    for root, _, names in os.walk(stdlib):
        if not LEFT_OUT.search(root[len(stdlib):]):
            files += [(os.path.join(root, n),) * 2 for n in names if n.endswith(('.py', '.pyc', '.so'))]
    return files


def files(out):
    """{path: (bytes, mode)} for initramfs.write(); the tree's own lies under /vmferry."""
    builds = [''] + [f'/{n}' for n in ('noheat', 'sendsall') if os.path.isdir(f'{out}/{n}/bin')] # see bench/hot_pages.py
    want = [(f'/vmferry/out{b}/bin/{n}', f'{out}{b}/bin/{n}') for b in builds
            for n in ('vmferryd', 'vmferry', 'ferryvm', 'guest.elf')]
    want += [(f'/vmferry/tests/{f}', f'{TOP}/tests/{f}')
             for f in ['lib/ferry.py'] + [os.path.relpath(p, f'{TOP}/tests') for d in ('e2e', 'bench', 'vm/inside')
                                          for p in glob.glob(f'{TOP}/tests/{d}/*.py')]]
    want += python()
    needed = set()
    for _, path in list(want):
        if path.endswith('.so') or '.' not in os.path.basename(path) or os.access(path, os.X_OK):
            needed |= libraries(path)
    want += [(p, p) for p in needed]
    got = {to.lstrip('/'): (read(path), 0o755) for to, path in want}
    got['bin/python3'] = (f'#!/bin/sh\nexec {sys.executable} -B "$@"\n', 0o755)
    return got
