# SPDX-License-Identifier: GPL-2.0-or-later
"""The cache outside the tree: what is fetched or built once, and who may change it.

Theory of operation: every product (a kernel, a source tree, a room) has a lock of its own. A product
is made in a folder NAME.new-RANDOM, gets its .complete file there, and is then renamed to NAME: a
process that is killed leaves a .new- folder, which the next holder of the lock removes. Commands that
fill the cache die with the process that started them."""
import contextlib, fcntl, glob, os, re, shutil, subprocess, sys, tempfile, time

CACHE = os.environ.get('VMFERRY_CACHE') or os.path.join(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'), 'vmferry')
TRIES, PAUSE = 3, int(os.environ.get('VMFERRY_PAUSE', 15))
# Mounts and processes of their own, which end with the command.
APART = ['unshare', '--mount', '--pid', '--fork', '--kill-child']


class Missing(Exception):
    pass


def say(text):
    print(f'# {text}', file=sys.stderr, flush=True)


def run(cmd, **kw):
    """Runs a command, which dies with this process; Return: what it printed."""
    got = subprocess.run(['setpriv', '--pdeathsig', 'KILL', *cmd], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True, errors='replace', **kw)
    if got.returncode:
        raise Missing(f"{' '.join(cmd[:6])} ... ended with {got.returncode}: {got.stdout[-1500:]}")
    return got.stdout


def fetch(cmd, **kw):
    """run() for a command that fetches: an archive that is just being renewed is right a moment later."""
    for left in reversed(range(TRIES)):
        try:
            return run(cmd, **kw)
        except Missing as e:
            if not left:
                raise
            say(f'once more in {PAUSE} s: {e}')
            time.sleep(PAUSE)


def read(path):
    try:
        with open(path) as f:
            return f.read()
    except OSError:
        return None


class lock:
    """Holds one product of the cache: its holder alone changes it, or, shared, it stays as it is."""

    def __init__(self, product, shared=False):
        self.product, self.kind = product, fcntl.LOCK_SH if shared else fcntl.LOCK_EX

    def __enter__(self):
        folder = os.path.join(CACHE, 'locks')
        os.makedirs(folder, exist_ok=True)
        self.file = open(os.path.join(folder, self.product.replace('/', '-')), 'w')
        try:
            fcntl.flock(self.file, self.kind | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f'waiting for another process that works on {self.product}')
            fcntl.flock(self.file, self.kind)

    def __exit__(self, *_):
        self.file.close()


def discard(path):
    """Removes a folder and first unmounts what is mounted below it."""
    with open('/proc/self/mountinfo') as f:
        points = [line.split()[4].encode().decode('unicode_escape') for line in f]
    for point in sorted((p for p in points if p.startswith(os.path.realpath(path) + '/')), reverse=True):
        run(['umount', '-l', point])
    shutil.rmtree(path, ignore_errors=True)


def is_complete(path):
    return os.path.exists(os.path.join(path, '.complete'))


@contextlib.contextmanager
def passing(path):
    """A new folder @path.new-RANDOM, which goes when the block ends, unless it was renamed.
    The caller holds the lock of the product: such folders of other processes are leftovers, and go, too."""
    for old in glob.glob(glob.escape(path) + '.new-*'):
        discard(old)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    new = tempfile.mkdtemp(prefix=os.path.basename(path) + '.new-', dir=os.path.dirname(path))
    os.chmod(new, 0o755)
    try:
        yield new
    finally:
        if os.path.exists(new):
            discard(new)


@contextlib.contextmanager
def making(path):
    """A new folder, which gets .complete in it and then the name @path when the block ends well."""
    discard(path)
    with passing(path) as new:
        yield new
        open(os.path.join(new, '.complete'), 'w').close()
        os.rename(new, path)


def archive():
    """The URI under which this machine finds Debian's main archive."""
    for line in run(['apt-get', 'indextargets', '--format', '$(REPO_URI)']).split():
        if re.search(r'/debian/?$', line):
            return line.rstrip('/')
    raise Missing('no Debian archive among the apt sources of this machine')
