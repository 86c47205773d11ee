# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest between two daemons whose VMMs are both stand-ins, and what a test does to the way between the daemons."""
import os, sys

from cutter import Cutter
from ferry import NO_LIMIT, Scene, expect, marks, wait_for
from proxies import Etc
from standin_vmm import StandinVmm


class StandinPair:
    """web1 at daemon a, and a VMM that waits for it at daemon b; the way from a to b leads through @cutter

    @message: of the control connection, at which at_message() is called, once; None: at none
    @vmm, @fields: class of the VMMs, and how they are made
    @vmms: all that are stopped at the end; @path: where the way begins"""

    def __init__(self, message=None, vmm=StandinVmm, **fields):
        self.message, self.kind, self.fields = message, vmm, fields
        self.scene, self.vmms, self.cutter = Scene(), [], None

    def __enter__(self):
        self.scene.__enter__()
        try:
            self.set_up()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *why):
        self.stop_way()
        for v in self.vmms:
            v.stop()
        self.scene.__exit__(*why)

    def set_up(self):
        self.a, self.b = self.scene.daemon('a'), self.scene.daemon('b')
        self.src = self.vmm(self.a, **self.fields)
        self.dst = self.vmm(self.b, incoming=True, **self.fields)
        self.path = os.path.join(self.scene.dir, 'cutter.sock')
        self.cutter = self.make_way()
        wait_for('both to register', lambda: 'web1' in self.a.vms() and 'web1-in' in self.b.vms())

    def make_way(self):
        return Cutter(self.path, self.b.listen, self.message, 'call', self.at_message)

    def stop_way(self):
        if self.cutter:
            self.cutter.stop()

    def at_message(self):
        """the destination dies"""
        self.b.kill()

    def vmm(self, daemon, *args, **fields):
        """one more of them at @daemon; it registers soon"""
        self.vmms.append(self.kind(daemon.vmm, *args, **fields))
        return self.vmms[-1]

    def begin(self):
        self.a.ask('migrate', vm='web1', uri=self.cutter.uri, **NO_LIMIT)

    def status(self):
        return self.a.ask('query-migrate', vm='web1')


class MovedUnheard(StandinPair):
    """web1 has moved to b, and a has not heard so: at_message() has lost RUNNING; @id: of the migration"""

    def __init__(self, **fields):
        super().__init__('running', **fields)

    def set_up(self):
        super().set_up()
        self.begin()
        wait_for('RUNNING to be lost', self.cutter.has_cut.is_set, 60)
        wait_for('it to be noted', lambda: marks(self.b) == {'web1': 'done'})
        self.id = bytes.fromhex(self.b.ask('query-journal')['entries'][0]['id'])

    def lose_power_there(self):
        """b and its VMM are gone; b starts in another boot with "begun" on its disk, and what followed is lost"""
        self.dst.die()
        self.b.kill()
        os.unlink(self.b.dir + '/journal-marks')
        with open(self.b.dir + '/state/journal', 'rb+') as f:
            synced = [line for line in f.readlines() if not line.startswith((b'go ', b'done '))]
            f.seek(0)
            f.truncate()
            f.writelines(synced)
        self.b.wrap = Etc(self.scene, boot_id='5f1b0e2c-0000-4000-8000-123456789abc\n').wrap
        self.b.start()
        expect(marks(self.b) == {'web1': 'begun'}, str(marks(self.b)))
