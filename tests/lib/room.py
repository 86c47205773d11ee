#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Rooms: chroots of a Debian suite, made by debootstrap from the archive that this machine's apt uses.

  tests/lib/room.py [--with PACKAGE]... SUITE CMD...   a command in the cached room of bookworm or trixie
  tests/lib/room.py --fresh SUITE CMD...               in a room of its own with no more than debootstrap's
                                                       minimum and make; tells seconds and megabytes
  --tree DIR     the tree to copy into the room (this one); the command starts in the copy
  --committed    a clone of what is committed in DIR, instead of a copy

The room has /proc, /sys and /dev/kvm while the command runs. The copy is removed afterwards.

A cached room is shared: packages are only added to it. The file .changing stands in it meanwhile;
a room in which an earlier process left that file is made anew."""
import argparse, contextlib, glob, os, re, shutil, signal, subprocess, sys, tempfile, time
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from cache import APART, CACHE, Missing, archive, discard, fetch, is_complete, lock, making, passing, run, say, TRIES

TOP = os.path.realpath(os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', '..'))
KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'
LEFTOVER_AGE = 86400
MOUNTS = '''set -e; mount --bind "$0" "$0" # its root is a mount, as it is on a machine
mount -t proc proc "$0/proc"; mount --rbind /sys "$0/sys"
if [ -e /dev/kvm ]; then : >"$0/dev/kvm"; mount --bind /dev/kvm "$0/dev/kvm"; fi
exec chroot "$0" "$@"'''


def room_env():
    """The environment in a room: plain, but with proxies of this machine."""
    env = {k: v for k, v in os.environ.items() if re.search(r'_proxy$', k, re.I) or k in ('TERM', 'CI')}
    return {**env, 'DEBIAN_FRONTEND': 'noninteractive', 'LC_ALL': 'C', 'HOME': '/root', 'PATH': '/usr/sbin:/usr/bin:/sbin:/bin'}


def in_room(path, cmd):
    """Runs a command in a room, with mounts and processes of its own; Return: what it printed."""
    return run([*APART, 'sh', '-c', MOUNTS, path, *cmd], env=room_env())


def show_in_room(path, folder, cmd):
    """Runs a command in @folder of a room, its output shown; Return: its exit code. Without a PID namespace: the
    probe compares PIDs with those that the kernel tells it."""
    into = ['sh', '-c', 'cd "$0" && exec "$@"', folder, *cmd]
    return subprocess.run(['setpriv', '--pdeathsig', 'KILL', 'unshare', '--mount', 'sh', '-c', MOUNTS, path, *into],
                          env=room_env(), stdin=subprocess.DEVNULL).returncode


def apt_get(path, *args):
    fetch([*APART, 'sh', '-c', MOUNTS, path, 'apt-get', '-q', '-o', 'Acquire::Retries=5', *args], env=room_env())


def has(path, package):
    """Is a package installed in a room?"""
    info = os.path.join(path, 'var/lib/dpkg/info', glob.escape(package))
    return bool(glob.glob(info + '.list') + glob.glob(info + ':*.list'))


def add(path, packages):
    """Installs packages in a room that the caller holds alone."""
    changing = os.path.join(path, '.changing')
    open(changing, 'w').close()
    apt_get(path, 'update')
    apt_get(path, '-y', '--no-install-recommends', 'install', *packages)
    apt_get(path, 'clean')
    os.unlink(changing)


def debootstrap(suite, path, suites):
    """Fills an empty folder with the minimum of a suite; its apt knows @suites."""
    if not shutil.which('debootstrap'):
        raise Missing('debootstrap is not installed')
    say(f'making a room of {suite}: some 60 s')
    for left in reversed(range(TRIES)):
        try:
            run([*APART, 'debootstrap', '--variant=minbase', f'--keyring={KEYRING}', suite, path, archive()])
            break
        except Missing as e:
            if not left:
                raise
            say(f'once more: {e}')
            for name in os.listdir(path):
                discard(os.path.join(path, name))
    with open(os.path.join(path, 'etc/apt/sources.list'), 'w') as f:
        f.writelines(f'deb {archive()} {s} main\n' for s in suites)
    proxies = [x for x in run(['apt-config', 'dump']).splitlines() if re.match(r'Acquire::https?::Proxy\b', x)]
    with open(os.path.join(path, 'etc/apt/apt.conf.d/80proxy'), 'w') as f:
        f.write('\n'.join(proxies) + '\n')


def room(suite, packages):
    """The path of the cached room of a suite, with packages in it. Whoever works in there holds using()."""
    path = os.path.join(CACHE, 'rooms', suite)

    def is_made():
        return is_complete(path) and not os.path.exists(os.path.join(path, '.changing'))

    def lacks():
        return [p for p in packages if not has(path, p)]

    with using(path):
        if is_made() and not lacks():
            return path
    with lock(f'room-{suite}'):
        if not is_made():
            with making(path) as new:
                debootstrap(suite, new, (suite, f'{suite}-backports'))
        if lacks():
            say(f"installing in the room of {suite}: {' '.join(lacks())}")
            add(path, lacks())
    return path


def using(path):
    """The lock under which one works in a cached room that others use, too."""
    return lock(f'room-{os.path.basename(path)}', shared=True)


@contextlib.contextmanager
def tree_in(path, tree, committed=False):
    """A copy of a tree in a room; yields its path there."""
    os.makedirs(os.path.join(path, 'trees'), exist_ok=True)
    for left in glob.glob(f'{path}/trees/vmferry-*'):  # by a process that was killed
        if time.time() - os.path.getmtime(left) > LEFTOVER_AGE:
            shutil.rmtree(left, ignore_errors=True)
    to = tempfile.mkdtemp(prefix='vmferry-', dir=os.path.join(path, 'trees'))
    try:
        if committed:
            run(['git', '-c', 'safe.directory=*', 'clone', '-q', '--no-hardlinks', tree, to + '/vmferry'])
        else:
            shutil.copytree(tree, to + '/vmferry', symlinks=True, ignore=lambda d, names: {'.git', 'out'} if d == tree else ())
        yield f'/trees/{os.path.basename(to)}/vmferry'
    finally:
        shutil.rmtree(to, ignore_errors=True)


def installed_mib(path):
    sizes = in_room(path, ['dpkg-query', '-W', '-f', '${Installed-Size}\n']).split()
    return sum(int(s) for s in sizes) / 1024


def fetched_mib(path):
    return sum(os.path.getsize(p) for p in glob.glob(f'{path}/var/cache/apt/archives/*.deb')) / (1 << 20)


def measure(suite, tree, committed, cmd):
    """Runs a command in a fresh room and tells what it cost."""
    with lock(f'room-fresh-{suite}'), passing(os.path.join(CACHE, 'rooms', f'fresh-{suite}')) as path:
        debootstrap(suite, path, (suite,))
        add(path, ['make'])  # a newcomer has make to type "make demo", but no lists
        for name in glob.glob(f'{path}/var/lib/apt/lists/*_*'):
            os.unlink(name)
        before = installed_mib(path)
        with tree_in(path, tree, committed) as at:
            start = time.monotonic()
            code = show_in_room(path, at, cmd)
            took = time.monotonic() - start
        print(f"{suite}, fresh: {' '.join(cmd)}: {took:.0f} s, {fetched_mib(path):.0f} MB of packages downloaded, "
              f'{installed_mib(path) - before:.0f} MB installed, ended with {code}', flush=True)
        return code


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('suite', choices=['bookworm', 'trixie'])
    p.add_argument('--with', dest='packages', action='append', default=[])
    p.add_argument('--fresh', action='store_true')
    p.add_argument('--tree', default=TOP)
    p.add_argument('--committed', action='store_true')
    p.add_argument('cmd', nargs=argparse.REMAINDER)
    o = p.parse_args()
    if not o.cmd:
        p.error('no command')
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if o.fresh:
            return measure(o.suite, os.path.realpath(o.tree), o.committed, o.cmd)
        path = room(o.suite, o.packages)
        with using(path), tree_in(path, os.path.realpath(o.tree), o.committed) as at:
            return show_in_room(path, at, o.cmd)
    except Missing as e:
        print(f'room: {e}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == '__main__':
    sys.exit(main())
