# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes an initramfs: a newc cpio archive with busybox's applets linked."""
import os

APPLETS = ('sh mount mkdir insmod rmmod echo cat poweroff ls sleep ip dmesg mknod ln rm cp kill ps grep sed awk dd head tail '
           'true false test [ printf seq chmod env timeout lsmod od wc').split()


def entry(name, body, mode, ino):
    if isinstance(body, str):
        body = body.encode()
    name = name.encode() + b'\0'
    head = '070701' + ''.join(f'{x:08X}' for x in (ino, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(name), 0))
    out = head.encode() + name
    out += b'\0' * (-len(out) % 4)
    out += body
    return out + b'\0' * (-len(out) % 4)


def write(path, files):
    """files: {path: (bytes or str, mode)}; folders are made as needed"""
    folders = {'dev', 'proc', 'sys', 'tmp', 'run', 'bin', 'tests', 'modules'}
    for name in files:
        while os.path.dirname(name):
            name = os.path.dirname(name)
            folders.add(name)
    ino = 1
    with open(path, 'wb') as f:
        for name in sorted(folders):
            f.write(entry(name, b'', 0o040755, ino))
            ino += 1
        for name, (body, mode) in files.items():
            f.write(entry(name, body, 0o100000 | mode, ino))
            ino += 1
        for name in APPLETS:
            f.write(entry('bin/' + name, 'busybox', 0o120777, ino))
            ino += 1
        f.write(entry('TRAILER!!!', b'', 0, 0))
