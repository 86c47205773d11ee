# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's kernels, headers and build rooms, fetched by apt into a cache outside the tree.

The archive's address is the one this machine's own apt uses. Nothing on the machine is
changed: apt gets a state directory of its own, and modules are built in chroots of
the suite that each kernel was made for, with that suite's compiler."""
import fcntl, glob, hashlib, os, re, shutil, subprocess, sys, tempfile

CACHE = os.environ.get('VMFERRY_CACHE') or os.path.join(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'), 'vmferry')
KEYRING = '/usr/share/keyrings/debian-archive-keyring.gpg'
# series: (suite it comes from, suite whose compiler builds its modules)
KERNELS = {
    '6.1': ('bookworm', 'bookworm'),
    '6.12': ('bookworm-backports', 'bookworm'),
    '7.2': ('trixie-backports', 'trixie'),
}
# perl: for kernel-doc at W=1
ROOM_PACKAGES = 'make,gcc,libc6-dev,pahole,perl,sparse'
SUITES = ('bookworm', 'bookworm-backports', 'trixie', 'trixie-backports')


class Missing(Exception):
    pass


def say(text):
    print(f'# {text}', file=sys.stderr, flush=True)


def run(cmd, **kw):
    got = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw)
    if got.returncode:
        raise Missing(f"{' '.join(cmd[:6])} ...: {got.stdout[-1500:]}")
    return got.stdout


def read(path):
    try:
        with open(path) as f:
            return f.read()
    except OSError:
        return None


class lock:
    """One process at a time fills the cache."""

    def __enter__(self):
        os.makedirs(CACHE, exist_ok=True)
        self.file = open(os.path.join(CACHE, 'lock'), 'w')
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_):
        self.file.close()


def archive():
    """The URI under which this machine finds Debian's main archive."""
    for line in run(['apt-get', 'indextargets', '--format', '$(REPO_URI)']).split():
        if re.search(r'/debian/?$', line):
            return line.rstrip('/')
    raise Missing('no Debian archive among the apt sources of this machine')


def apt_env():
    """An apt of its own under the cache; updated once a process."""
    room = os.path.join(CACHE, 'apt')
    for folder in ('state/lists/partial', 'cache/archives/partial'):
        os.makedirs(os.path.join(room, folder), exist_ok=True)
    uri = archive()
    conf = os.path.join(room, 'apt.conf')
    with open(os.path.join(room, 'sources.list'), 'w') as f:
        f.writelines(f'deb [signed-by={KEYRING}] {uri} {s} main\n' for s in SUITES)
    open(os.path.join(room, 'status'), 'w').close()
    with open(conf, 'w') as f:
        f.write(f'Dir::Etc::sourcelist "{room}/sources.list";\nDir::Etc::sourceparts "/dev/null";\n'
                f'Dir::Etc::preferencesparts "/dev/null";\nDir::State "{room}/state";\n'
                f'Dir::State::status "{room}/status";\nDir::Cache "{room}/cache";\nAPT::Sandbox::User "root";\n')
    env = {**os.environ, 'APT_CONFIG': conf, 'LC_ALL': 'C'}
    if not apt_env.is_fresh:
        run(['apt-get', '-q', 'update'], env=env)
        apt_env.is_fresh = True
    return env


apt_env.is_fresh = False


def show(package):
    """Fields of a package's newest version in any of the suites, or of NAME=VERSION."""
    text = run(['apt-cache', 'show', '--no-all-versions', package], env=apt_env())
    return dict(re.findall(r'^(\S+): (.*)$', text, re.M))


def download(package, version):
    """Fetches a package once; returns the path of the .deb."""
    folder = os.path.join(CACHE, 'debs')
    os.makedirs(folder, exist_ok=True)
    pattern = os.path.join(folder, f"{package}_{version.replace(':', '%3a')}_*.deb")
    if not glob.glob(pattern):
        say(f'fetching {package} {version}')
        run(['apt-get', '-q', 'download', f'{package}={version}'], env=apt_env(), cwd=folder)
    return glob.glob(pattern)[0]


def unpack(deb, to):
    os.makedirs(to, exist_ok=True)
    run(['dpkg-deb', '-x', deb, to])


def key(version):
    return [int(x) if x.isdigit() else x for x in re.split(r'(\d+)', version)]


def newest(series):
    """The name that the newest amd64 kernel of a series has in its packages: 6.1.0-50-amd64."""
    suite = KERNELS[series][0]
    tag = {'bookworm': r'', 'bookworm-backports': r'\+deb12(\.\d+)?', 'trixie-backports': r'\+deb13(\.\d+)?'}[suite]
    names = run(['apt-cache', 'pkgnames', f'linux-headers-{series}.'], env=apt_env()).split()
    found = [m.group(1) for n in names
             if (m := re.fullmatch(rf'linux-headers-({re.escape(series)}\.[0-9-]+{tag}-amd64)', n))]
    if not found:
        raise Missing(f'{suite} has no kernel {series} any more; see KERNELS in tests/vm/debian.py')
    return max(found, key=key)


def kernel(series):
    """Fetches the image and modules of a series: (release, vmlinuz, modules folder)."""
    with lock():
        release = newest(series)
        to = os.path.join(CACHE, 'kernels', release)
        done = os.path.join(to, '.complete')
        if not os.path.exists(done):
            shutil.rmtree(to, ignore_errors=True)
            names = [f'linux-image-{release}', f'linux-binary-{release}', f'linux-modules-{release}', f'linux-base-{release}']
            version = show(names[0])['Version']
            known = set(run(['apt-cache', 'pkgnames', 'linux-'], env=apt_env()).split())
            for name in names:
                if name in known: # 7.x has its image in parts
                    unpack(download(name, version), to)
            open(done, 'w').close()
    vmlinuz = glob.glob(f'{to}/boot/vmlinuz-*') + glob.glob(f'{to}/usr/lib/modules/*/vmlinuz') + glob.glob(f'{to}/lib/modules/*/vmlinuz')
    modules = glob.glob(f'{to}/lib/modules/*/kernel') + glob.glob(f'{to}/usr/lib/modules/*/kernel')
    if not vmlinuz or not modules:
        raise Missing(f'the packages of {release} hold no kernel image where one was expected: {to}')
    return release, vmlinuz[0], os.path.dirname(modules[0])


def in_room(path, cmd, env=None):
    """Runs a command in a build room, with /proc there as long as it runs (a mount namespace of its own)."""
    return run(['unshare', '--mount', 'sh', '-c', 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"', path, *cmd],
               **({'env': env} if env else {}))


def room_env():
    env = {**os.environ, 'DEBIAN_FRONTEND': 'noninteractive', 'LC_ALL': 'C', 'PATH': '/usr/sbin:/usr/bin:/sbin:/bin'}
    env.pop('APT_CONFIG', None)
    return env


def install_in_room(path, packages):
    in_room(path, ['apt-get', '-q', 'update'], room_env())
    in_room(path, ['apt-get', '-qy', '--no-install-recommends', 'install', *packages], room_env())


def room(series):
    """A chroot in which modules for a series can be built, its headers installed: (path, build folder in it)."""
    suite = KERNELS[series][1]
    path = os.path.join(CACHE, 'rooms', suite)
    release = newest(series)
    with lock():
        if read(os.path.join(path, '.complete')) != ROOM_PACKAGES:
            if not shutil.which('debootstrap'):
                raise Missing('debootstrap is not installed')
            shutil.rmtree(path, ignore_errors=True)
            os.makedirs(path)
            say(f'making a build room of {suite}: some 60 s, once')
            run(['debootstrap', '--variant=minbase', f'--include={ROOM_PACKAGES}', f'--keyring={KEYRING}', suite, path, archive()])
            with open(os.path.join(path, 'etc/apt/sources.list'), 'w') as f:
                f.writelines(f'deb {archive()} {s} main\n' for s in SUITES if s.startswith(suite))
            with open(os.path.join(path, '.complete'), 'w') as f:
                f.write(ROOM_PACKAGES)
        if not os.path.isdir(os.path.join(path, f'usr/src/linux-headers-{release}')):
            say(f'installing the headers of {release}')
            install_in_room(path, [f'linux-headers-{release}'])
    return path, f'/usr/src/linux-headers-{release}'


def source(series):
    """Debian's source of a series, unpacked; for the kselftest harness, checkpatch and mtty."""
    with lock():
        version = show(f'linux-headers-{newest(series)}')['Version']
        to = os.path.join(CACHE, 'source', version)
        if not os.path.exists(to + '/.complete'):
            shutil.rmtree(to, ignore_errors=True)
            deb = download(f'linux-source-{series}', version)
            unpack(deb, to)
            os.unlink(deb)
            tar = glob.glob(f'{to}/usr/src/linux-source-*.tar.xz')[0]
            run(['tar', '-C', to, '-xf', tar, '--strip-components=1', '--wildcards',
                 '*/samples/vfio-mdev', '*/tools/testing/selftests/kselftest*', '*/tools/testing/selftests/lib.mk',
                 '*/scripts/checkpatch.pl', '*/scripts/spelling.txt', '*/scripts/const_structs.checkpatch'])
            shutil.rmtree(f'{to}/usr')
            open(to + '/.complete', 'w').close()
    return to


# For building a whole kernel in a room.
KERNEL_PACKAGES = ['flex', 'bison', 'bc', 'libelf-dev', 'libssl-dev', 'xz-utils', 'kmod', 'cpio']
DEBUG_SERIES = '6.12'
DEBUG_CONFIG = os.path.join(os.path.dirname(os.path.realpath(__file__)), 'debug.config')


def debug_kernel():
    """Builds Debian's source with debug.config, once: (room, tree in it, release, vmlinuz, modules folder)."""
    path, _ = room(DEBUG_SERIES)
    with open(DEBUG_CONFIG, 'rb') as f:
        mark = hashlib.sha256(f.read()).hexdigest()[:12]
    with lock():
        version = show(f'linux-headers-{newest(DEBUG_SERIES)}')['Version']
        tree = f'/usr/src/vmferry-debug-{version.replace("~", "-")}-{mark}'
        at = path + tree
        env = room_env()
        if not os.path.exists(at + '/.complete'):
            shutil.rmtree(at, ignore_errors=True)
            os.makedirs(at)
            install_in_room(path, KERNEL_PACKAGES)
            with tempfile.TemporaryDirectory() as to:
                unpack(download(f'linux-source-{DEBUG_SERIES}', version), to)
                run(['tar', '-C', at, '-xf', glob.glob(f'{to}/usr/src/linux-source-*.tar.xz')[0], '--strip-components=1'])
            shutil.copy(DEBUG_CONFIG, at + '/vmferry.config')
            make = ['make', '-C', tree, f'-j{os.cpu_count()}', 'KBUILD_BUILD_TIMESTAMP=']
            in_room(path, make + ['tinyconfig'], env)
            in_room(path, [f'{tree}/scripts/kconfig/merge_config.sh', '-m', '-O', tree, f'{tree}/.config', f'{tree}/vmferry.config'], env)
            in_room(path, make + ['olddefconfig'], env)
            say(f'building a debug kernel {version}: some 15 minutes, once')
            in_room(path, make + ['bzImage', 'modules'], env)
            in_room(path, make + ['INSTALL_MOD_PATH=' + tree + '/installed', 'modules_install'], env)
            open(at + '/.complete', 'w').close()
    release = read(f'{at}/include/config/kernel.release').strip()
    return path, tree, release, f'{at}/arch/x86/boot/bzImage', f'{at}/installed/lib/modules/{release}'


def busybox():
    """A static busybox, for the machines' user space."""
    with lock():
        version = show('busybox-static')['Version']
        to = os.path.join(CACHE, 'busybox', version)
        if not os.path.isdir(to):
            unpack(download('busybox-static', version), to)
    path = [p for p in (f'{to}/bin/busybox', f'{to}/usr/bin/busybox') if os.path.exists(p)][0]
    with open(path, 'rb') as f:
        return f.read()
