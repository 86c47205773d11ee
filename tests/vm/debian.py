# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's kernels, headers and build rooms, fetched by apt into a cache outside the tree.

The archive's address is the one this machine's own apt uses. Nothing on the machine is
changed: apt gets a state directory of its own, and modules are built in chroots of
the suite that each kernel was made for, with that suite's compiler."""
import glob, hashlib, os, re, shutil, sys, tempfile, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import room as rooms
from cache import CACHE, Missing, archive, fetch, is_complete, lock, making, passing, read, run, say
from room import KEYRING, in_room

# name: (suite, the package of it that names the kernel, suite whose compiler builds its modules)
KERNELS = {
    '6.1': ('bookworm', 'linux-image-amd64', 'bookworm'),
    '6.12': ('bookworm-backports', 'linux-image-amd64', 'bookworm'),
    'newest': ('trixie-backports', 'linux-image-amd64', 'trixie'),
    'rt': ('trixie-backports', 'linux-image-rt-amd64', 'trixie'),
}
# perl: for kernel-doc at W=1
ROOM_PACKAGES = ['make', 'gcc', 'libc6-dev', 'pahole', 'perl', 'sparse']
SUITES = ('bookworm', 'bookworm-backports', 'trixie', 'trixie-backports')


def apt_env():
    """An apt of its own under the cache; its lists are some minutes old at most."""
    room = os.path.join(CACHE, 'apt')
    conf = os.path.join(room, 'apt.conf')
    stamp = os.path.join(room, 'updated')
    env = {**os.environ, 'APT_CONFIG': conf, 'LC_ALL': 'C'}
    if apt_env.is_fresh:
        return env
    uri = archive()
    sources = ''.join(f'deb [signed-by={KEYRING}] {uri} {s} main\n' for s in SUITES)
    with lock('apt'):
        if read(stamp) != sources or time.time() - os.path.getmtime(stamp) > LISTS_AGE:
            for folder in ('state/lists/partial', 'cache/archives/partial'):
                os.makedirs(os.path.join(room, folder), exist_ok=True)
            with open(os.path.join(room, 'sources.list'), 'w') as f:
                f.write(sources)
            open(os.path.join(room, 'status'), 'w').close()
            with open(conf, 'w') as f:
                f.write(f'Dir::Etc::sourcelist "{room}/sources.list";\nDir::Etc::sourceparts "/dev/null";\n'
                        f'Dir::Etc::preferencesparts "/dev/null";\nDir::State "{room}/state";\n'
                        f'Dir::State::status "{room}/status";\nDir::Cache "{room}/cache";\nAPT::Sandbox::User "root";\n'
                        'Acquire::Retries "5";\n')
            fetch(['apt-get', '-q', '-o', 'APT::Update::Error-Mode=any', 'update'], env=env)
            with open(stamp, 'w') as f:
                f.write(sources)
    apt_env.is_fresh = True
    return env


apt_env.is_fresh = False
LISTS_AGE = 600


def apt(*cmd, **kw):
    """Runs apt-get or apt-cache on the lists of the cache, which stay as they are meanwhile."""
    env = apt_env()
    with lock('apt', shared=True):
        return (fetch if 'download' in cmd else run)(list(cmd), env=env, **kw)


def show(package):
    """Fields of a package: of NAME=VERSION, or of the newest version in any of the suites."""
    return dict(re.findall(r'^(\S+): (.*)$', apt('apt-cache', 'show', '--no-all-versions', package), re.M))


def download(package, version):
    """Fetches a package once; returns the path of the .deb."""
    folder = os.path.join(CACHE, 'debs')
    os.makedirs(folder, exist_ok=True)
    pattern = f"{package}_{version.replace(':', '%3a')}_*.deb"
    with lock(f'deb-{package}'):
        if not glob.glob(os.path.join(folder, pattern)):
            say(f'fetching {package} {version}')
            with passing(os.path.join(folder, package)) as new:
                apt('apt-get', '-q', 'download', f'{package}={version}', cwd=new)
                [deb] = glob.glob(os.path.join(new, pattern))
                os.rename(deb, os.path.join(folder, os.path.basename(deb)))
    return glob.glob(os.path.join(folder, pattern))[0]


def unpack(deb, to):
    os.makedirs(to, exist_ok=True)
    run(['dpkg-deb', '-x', deb, to])


def resolve(series):
    """The kernel that a suite's package asks for: (release, version), such as (6.1.0-50-amd64, 6.1.176-1)."""
    suite, package = KERNELS[series][:2]
    lines = [[x.strip() for x in line.split('|')] for line in apt('apt-cache', 'madison', package).splitlines()]
    versions = [line[1] for line in lines if len(line) == 3 and f' {suite}/main ' in line[2]]
    if not versions:
        raise Missing(f'{suite} has no {package}')
    fields = show(f'{package}={versions[0]}')  # madison has the newest first
    asked = re.search(r'\blinux-image-(\d\S*-amd64)\b', fields.get('Depends', ''))
    if not asked:
        raise Missing(f'{package} {versions[0]} of {suite} depends on no kernel: {fields.get("Depends")}')
    if series[0].isdigit() and not asked.group(1).startswith(series + '.'):
        raise Missing(f'{suite} has no kernel {series} any more, but {asked.group(1)}; see KERNELS in tests/vm/debian.py')
    return asked.group(1), show(f'linux-image-{asked.group(1)}')['Version']


def parts(package, release):
    """A package and those of its dependencies that belong to the same kernel: since 7.x an image is in parts."""
    names = [package]
    for name in names:
        depends = show(name).get('Depends', '')
        names += [n for n in re.findall(r'[a-z0-9][a-z0-9.+-]+', depends)
                  if n.startswith('linux-') and n.endswith(f'-{release}') and n not in names]
    return names


def kernel(series):
    """Fetches the image and modules of a series: (release, vmlinuz, modules folder)."""
    release, version = resolve(series)
    to = os.path.join(CACHE, 'kernels', release)
    with lock(f'kernel-{release}'):
        if not is_complete(to):
            with making(to) as new:
                for name in parts(f'linux-image-{release}', release):
                    unpack(download(name, version), new)
    vmlinuz = glob.glob(f'{to}/boot/vmlinuz-*') + glob.glob(f'{to}/usr/lib/modules/*/vmlinuz') + glob.glob(f'{to}/lib/modules/*/vmlinuz')
    modules = glob.glob(f'{to}/lib/modules/*/kernel') + glob.glob(f'{to}/usr/lib/modules/*/kernel')
    if not vmlinuz or not modules:
        raise Missing(f'the packages of {release} hold no kernel image where one was expected: {to}')
    return release, vmlinuz[0], os.path.dirname(modules[0])


def room(series):
    """A chroot in which modules for a series can be built, its headers installed: (path, build folder in it).
    Whoever works in there holds the lock room.using(path)."""
    headers = f'linux-headers-{resolve(series)[0]}'
    return rooms.room(KERNELS[series][2], [*ROOM_PACKAGES, headers]), f'/usr/src/{headers}'


def source(series):
    """Debian's source of a series, unpacked; for the kselftest harness, checkpatch and mtty."""
    release, version = resolve(series)
    to = os.path.join(CACHE, 'source', version)
    with lock(f'source-{version}'):
        if not is_complete(to):
            deb = download(source_package(release), version)
            with making(to) as new, passing(to + ".whole") as whole:
                unpack(deb, whole)
                run(['tar', '-C', new, '-xf', glob.glob(f'{whole}/usr/src/linux-source-*.tar.xz')[0], '--strip-components=1', '--wildcards',
                     '*/samples/vfio-mdev', '*/tools/testing/selftests/kselftest*', '*/tools/testing/selftests/lib.mk',
                     '*/scripts/checkpatch.pl', '*/scripts/spelling.txt', '*/scripts/const_structs.checkpatch'])
            os.unlink(deb)
    return to


def source_package(release):
    return 'linux-source-' + '.'.join(release.split('.')[:2])


# For building a whole kernel in a room.
KERNEL_PACKAGES = ['flex', 'bison', 'bc', 'libelf-dev', 'libssl-dev', 'xz-utils', 'kmod', 'cpio']
DEBUG_SERIES = '6.12'
DEBUG_CONFIG = os.path.join(os.path.dirname(os.path.realpath(__file__)), 'debug.config')


def debug_kernel():
    """Builds Debian's source with debug.config, once: (room, tree in it, release, vmlinuz, modules folder)."""
    path = rooms.room(KERNELS[DEBUG_SERIES][2], [*ROOM_PACKAGES, *KERNEL_PACKAGES])
    release, version = resolve(DEBUG_SERIES)
    with open(DEBUG_CONFIG, 'rb') as f:
        mark = hashlib.sha256(f.read()).hexdigest()[:12]
    with rooms.using(path), lock('debug-kernel'):
        tree = f'/usr/src/vmferry-debug-{version.replace("~", "-")}-{mark}'
        at = path + tree
        if not os.path.exists(at + '/.complete'):
            shutil.rmtree(at, ignore_errors=True)
            os.makedirs(at)
            with tempfile.TemporaryDirectory() as to:
                unpack(download(source_package(release), version), to)
                run(['tar', '-C', at, '-xf', glob.glob(f'{to}/usr/src/linux-source-*.tar.xz')[0], '--strip-components=1'])
            shutil.copy(DEBUG_CONFIG, at + '/vmferry.config')
            make = ['make', '-C', tree, f'-j{os.cpu_count()}', 'KBUILD_BUILD_TIMESTAMP=']
            in_room(path, make + ['tinyconfig'])
            in_room(path, [f'{tree}/scripts/kconfig/merge_config.sh', '-m', '-O', tree, f'{tree}/.config', f'{tree}/vmferry.config'])
            in_room(path, make + ['olddefconfig'])
            say(f'building a debug kernel {version}: some 15 minutes, once')
            in_room(path, make + ['bzImage', 'modules'])
            in_room(path, make + ['INSTALL_MOD_PATH=' + tree + '/installed', 'modules_install'])
            open(at + '/.complete', 'w').close()
    release = read(f'{at}/include/config/kernel.release').strip()
    return path, tree, release, f'{at}/arch/x86/boot/bzImage', f'{at}/installed/lib/modules/{release}'


def busybox():
    """A static busybox, for the machines' user space."""
    version = show('busybox-static')['Version']
    to = os.path.join(CACHE, 'busybox', version)
    with lock(f'busybox-{version}'):
        if not is_complete(to):
            with making(to) as new:
                unpack(download('busybox-static', version), new)
    path = [p for p in (f'{to}/bin/busybox', f'{to}/usr/bin/busybox') if os.path.exists(p)][0]
    with open(path, 'rb') as f:
        return f.read()
