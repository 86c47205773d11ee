# SPDX-License-Identifier: GPL-2.0-or-later
"""A folder of a daemon on a small disk of its own, which a test fills and empties."""
import contextlib, os, signal, subprocess


@contextlib.contextmanager
def small_disk(daemon, folder, size):
    """@daemon starts again with its @folder on a tmpfs of @size; it ends with the context"""
    daemon.kill(signal.SIGTERM)
    if folder == daemon.dir:
        daemon.log = os.path.join(daemon.scene.dir, f'{daemon.name}.log')
    subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}', 'none', folder], check=True)
    try:
        daemon.start()
        yield
    finally:
        daemon.kill(signal.SIGTERM)
        subprocess.run(['umount', '--lazy', folder], check=True)  # a VMM may be looking for its socket there


def fill(folder):
    """no file there can get another page, nor the journal another byte in its last one"""
    cpus = os.sched_getaffinity(0)
    for n in range(16):
        os.sched_setaffinity(0, {sorted(cpus)[n % len(cpus)]})  # tmpfs counts by processor, and not quite exactly
        with open(f'{folder}/ballast{n}', 'wb', buffering=0) as f:
            try:
                while f.write(b'x' * 512):
                    pass
            except OSError:
                pass
    os.sched_setaffinity(0, cpus)
    if not os.path.exists(f'{folder}/journal'):
        return
    with open(f'{folder}/journal', 'ab', buffering=0) as f:
        if f.tell() % 4096:  # comments: the journal's reader skips them
            f.write(b'#' * (4096 - f.tell() % 4096 - 1) + b'\n')


def empty(folder):
    """takes away what fill() has put there"""
    for name in os.listdir(folder):
        if name.startswith('ballast'):
            os.unlink(os.path.join(folder, name))
