# SPDX-License-Identifier: GPL-2.0-or-later
"""Fault points of a daemon (daemon/base/fault.c): hold a named place, see that it is reached, let it go on."""
import os, shutil, tempfile, time


class Faults:
    """A folder of fault points; give `env` to the daemons that shall have it."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix='vmferry-faults-')
        self.env = {'VMFERRY_FAULTS': self.folder}

    def path(self, name):
        return os.path.join(self.folder, name)

    def hold(self, name):
        """From now on whoever reaches the point stays there."""
        open(self.path(name), 'w').close()

    def is_held(self, name):
        return os.path.exists(self.path(name) + '.held')

    def wait_until_held(self, name, seconds=30):
        end = time.monotonic() + seconds
        while not self.is_held(name):
            if time.monotonic() > end:
                raise AssertionError(f'nothing reached the fault point {name} within {seconds} s')
            time.sleep(0.005)

    def release(self, name):
        try:
            os.unlink(self.path(name))
        except FileNotFoundError:
            pass

    def close(self):
        """Lets everything go: a point that finds no folder is not held."""
        shutil.rmtree(self.folder, ignore_errors=True)
