# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs of an older commit, built once into the cache: what a rolling upgrade meets on the other host."""
import os, platform, subprocess

from cache import CACHE, Missing, is_complete, lock, making, run
from ferry import TOP, Skipped

# The last one that landed before the protocols got ranges of versions. It speaks version 2 of the wire and 1 of the VMM protocol.
LANDED = '9d17207'


def full_name(commit):
    got = subprocess.run(['git', '-C', TOP, 'rev-parse', '--verify', '--quiet', commit + '^{commit}'],
                         stdout=subprocess.PIPE, text=True)
    if got.returncode:
        raise Skipped(f'commit {commit} is not in this checkout: fetch the whole history')
    return got.stdout.strip()


def programs(commit=LANDED):
    """Return: the folder of the programs of @commit, which are built if the cache has them not"""
    name = full_name(commit)
    suite = platform.freedesktop_os_release().get('VERSION_CODENAME', 'unknown')
    product = f'landed/{name[:12]}-{suite}-{platform.machine()}'
    path = os.path.join(CACHE, product)
    with lock(product):
        if not is_complete(path):
            with making(path) as new:
                build(name, new)
    return os.path.join(path, 'bin')


def build(commit, folder):
    tree, out = os.path.join(folder, 'tree'), os.path.join(folder, 'out')
    os.mkdir(tree)
    run(['sh', '-c', f'git -C "$0" archive {commit} | tar -x -C "$1"', TOP, tree])
    env = {k: v for k, v in os.environ.items() if k not in ('MAKEFLAGS', 'MFLAGS', 'OUT', 'SAN')}
    run(['make', '-s', f'-j{os.cpu_count()}', '-C', tree, 'all', f'OUT={out}', 'DEPS=no'], env=env)
    os.rename(os.path.join(out, 'bin'), os.path.join(folder, 'bin'))
    run(['rm', '-rf', tree, out])
    if not os.path.exists(os.path.join(folder, 'bin', 'vmferryd')):
        raise Missing(f'no vmferryd in the build of {commit}')
