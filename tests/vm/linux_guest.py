# SPDX-License-Identifier: GPL-2.0-or-later
"""Stock QEMU, and one of Debian's kernels as its guest, for a machine: the files.

The guest has a busybox and one program, which answers on the console: see GUEST_INIT."""
import os, shutil, sys
HERE = os.path.dirname(os.path.realpath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, '..', 'lib')]
import debian, initramfs
from cache import Missing
from userspace import libraries, read

QEMU = 'qemu-system-x86_64'
# Where Debian puts the firmware that -machine pc and -kernel need.
FIRMWARE = {'bios-256k.bin': '/usr/share/seabios', 'linuxboot_dma.bin': '/usr/share/qemu', 'kvmvapic.bin': '/usr/share/qemu'}

# The writer dirties few pages, so that many of the pushes are those of the scheduler.
# The commands of the guest's console, a line each. Each answer is one line that begins with GUEST.
# The MSR of "steal" is MSR_KVM_STEAL_TIME: the guest-physical address of the page, and an enable bit.
GUEST_INIT = '''#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
insmod /msr.ko
write() { n=0; while :; do n=$((n+1)); echo $n >/tmp/passes; i=0; while [ $i -lt 300 ]; do i=$((i+1)); done; done; }
echo GUEST up
while read -r what which; do
  case $what in
    write) echo 0 >/tmp/passes; write & echo GUEST writes ;;
    steal) echo GUEST steal $(dd if=/dev/cpu/0/msr bs=8 count=1 skip=$((0x4b564d03)) iflag=skip_bytes 2>/dev/null | od -A n -t x8) ;;
    ask) echo GUEST answers $which $(cat /tmp/passes) ;;
  esac
done </dev/console
'''


def initrd(modules, folder, read_module):
    """The guest's initramfs, as bytes."""
    path = os.path.join(folder, 'guest-initrd')
    initramfs.write(path, {'init': (GUEST_INIT, 0o755), 'bin/busybox': (debian.busybox(), 0o755),
                           'msr.ko': (read_module(modules, 'msr'), 0o644)})
    return read(path)


def files(series, folder, read_module):
    """{path: (bytes, mode)} for initramfs.write(): QEMU of this machine, and under /linux firmware, kernel and initramfs.

    @read_module: called with a modules folder and a name; Return: that module's bytes"""
    qemu = shutil.which(QEMU)
    if not qemu:
        raise Missing(f'{QEMU} is not installed')
    _, vmlinuz, modules = debian.kernel(series)
    got = {path.lstrip('/'): (read(path), 0o755) for path in [qemu, *libraries(qemu)]}
    for name, where in FIRMWARE.items():
        path = os.path.join(where, name)
        if not os.path.exists(path):
            raise Missing(f'{path}, which {QEMU} needs, is not installed')
        got['linux/' + name] = (read(path), 0o644)
    got['linux/vmlinuz'] = (read(vmlinuz), 0o644)
    got['linux/initrd'] = (initrd(modules, folder, read_module), 0o644)
    return got
