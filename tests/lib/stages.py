# SPDX-License-Identifier: GPL-2.0-or-later
"""Schedules the stages of the test suite: which run beside one another, how long each may take, what each counted.

A stage is a command. Its output goes to a log of its own, is printed whole when the stage ends, and closes with a
line "N passed, N failed, N skipped". Stages that measure nothing run side by side; a stage that is alone has the
machine to itself. tests/lib/supervise runs each, so that nothing that a stage started outlives it, nor this process."""
import dataclasses, os, re, signal, subprocess, sys, time

SUPERVISE = os.path.join(os.path.dirname(os.path.realpath(__file__)), 'supervise')
CLOSING = re.compile(r'(\d+) passed, (\d+) failed, (\d+) skipped')


def supervised(seconds, cmd):
    """The command that runs @cmd for so long at most and leaves nothing of it behind."""
    return ['setpriv', '--pdeathsig', 'TERM', sys.executable, SUPERVISE, str(seconds), *cmd]


@dataclasses.dataclass
class Stage:
    """
    @share: seconds of the plan on a quiet machine; a warning tells of a stage that takes more
    @limit: seconds after which the stage is ended
    @alone: it measures or is timed: nothing runs beside it
    @needs: names of stages that must have passed before
    """
    name: str
    cmd: list
    share: int
    does: str
    alone: bool = False
    needs: tuple = ()
    limit: int = 0

    def __post_init__(self):
        self.limit = self.limit or max(4 * self.share, 600)


@dataclasses.dataclass
class Result:
    """What a stage counted, in how many seconds."""
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0

    def counts(self):
        return f'{self.passed} passed, {self.failed} failed, {self.skipped} skipped'

    def is_good(self):
        return self.passed > 0 and not self.failed


class Run:
    """One run of some stages; interrupted by KeyboardInterrupt, which the caller may raise from a signal's handler."""

    def __init__(self, stages, jobs, logs, show):
        self.waiting, self.jobs, self.logs, self.show = list(stages), jobs, logs, show
        self.by_name = {s.name: s for s in stages}
        self.running = {}  # pid: (stage, process, start)
        self.results = {}
        self.weight = {s.name: self.weigh(s) for s in stages}

    def weigh(self, stage):
        """Seconds that hang on a stage: its own and those of the longest chain that needs it."""
        after = [self.weigh(s) for s in self.by_name.values() if stage.name in s.needs and not s.alone]
        return stage.share + max(after, default=0)

    def log(self, stage):
        return os.path.join(self.logs, stage.name + '.log')

    def start(self, stage):
        self.waiting.remove(stage)
        with open(self.log(stage), 'wb') as log:
            p = subprocess.Popen(supervised(stage.limit, stage.cmd), stdin=subprocess.DEVNULL, stdout=log,
                                 stderr=subprocess.STDOUT, start_new_session=True)
        self.running[p.pid] = (stage, p, time.monotonic())
        self.show(f'# begins: {stage.name}')

    def drop(self, stage, needed):
        """A stage that cannot run has failed."""
        self.waiting.remove(stage)
        self.results[stage.name] = Result(failed=1)
        self.show(f'not ok - {stage.name}: not run, for {needed} has failed')

    def next(self):
        """The stage to start now, or None."""
        if any(stage.alone for stage, _, _ in self.running.values()) or len(self.running) >= self.jobs:
            return None
        ready = [s for s in self.waiting if all(n in self.results or n not in self.by_name for n in s.needs)]
        beside = [s for s in ready if not s.alone]
        if beside:
            return max(beside, key=lambda s: self.weight[s.name])
        return ready[0] if ready and not self.running else None

    def end(self, stage, code, seconds):
        """Counts and prints a stage that has ended with @code."""
        with open(self.log(stage), errors='replace') as f:
            lines = f.read().splitlines()
        closing = next((n for n in reversed(range(len(lines))) if CLOSING.fullmatch(lines[n])), None)
        result = Result(seconds=seconds)
        if closing is not None:
            result = Result(*map(int, CLOSING.fullmatch(lines[closing]).groups()), seconds)
            del lines[closing]
        self.show('\n'.join([f'# stage {stage.name}', *lines]))
        if closing is None:
            result.failed += 1
            self.show(f'not ok - {stage.name}: ended with {code} before it had counted its tests')
        elif code and not result.failed and not result.skipped:
            result.failed += 1
            self.show(f'not ok - {stage.name}: ended with {code} though no test failed')
        elif not result.passed and not result.failed:
            result.failed += 1
            self.show(f'not ok - {stage.name}: tested nothing')
        self.show(f'# stage {stage.name}: {result.counts()} in {seconds:.1f} s of {stage.share}; log: {self.log(stage)}')
        if seconds > stage.share:
            self.show(f'# warning: {stage.name} has outgrown its share of {stage.share} s: its long part belongs into a target of its own')
        self.results[stage.name] = result

    def step(self):
        """Starts what can be started, then waits until one stage has ended."""
        for stage in list(self.waiting):
            bad = [n for n in stage.needs if n in self.results and not self.results[n].is_good()]
            if bad:
                self.drop(stage, bad[0])
        while stage := self.next():
            self.start(stage)
        if not self.running:
            return
        pid = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT).si_pid
        if pid not in self.running:
            os.waitpid(pid, 0)
            return
        stage, p, start = self.running.pop(pid)
        self.end(stage, p.wait(), time.monotonic() - start)

    def interrupt(self):
        """Ends all stages and what they started."""
        for stage, p, _ in self.running.values():
            p.terminate()
        for stage, p, _ in self.running.values():
            p.wait()
        names = ', '.join(stage.name for stage, _, _ in self.running.values())
        self.show(f"interrupted in {names or 'no stage'}; everything that was started is ended; logs: {self.logs}")




def run(stages, jobs, logs, show):
    """Runs stages; Return: {name: Result} in the order given, or None if interrupted."""
    os.makedirs(logs, exist_ok=True)
    one = Run(stages, jobs, logs, show)
    try:
        while one.waiting or one.running:
            before = len(one.waiting), len(one.running)
            one.step()
            if not one.running and (len(one.waiting), 0) == before:
                raise ValueError('stages need one another: ' + ', '.join(s.name for s in one.waiting))
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        one.interrupt()
        return None
    return {s.name: one.results[s.name] for s in stages}


def table(stages, results):
    """The lines of a table of the results."""
    width = max(len(s.name) for s in stages)
    yield f"# {'stage':{width}}  seconds  share  passed  failed  skipped"
    for s in stages:
        r = results[s.name]
        yield f'# {s.name:{width}}  {r.seconds:7.1f}  {s.share:5}  {r.passed:6}  {r.failed:6}  {r.skipped:7}'


def close(results, in_ci):
    """The closing line and the exit code."""
    whole = Result(*(sum(getattr(r, k) for r in results.values()) for k in ('passed', 'failed', 'skipped')))
    return whole.counts(), 0 if whole.is_good() and not (whole.skipped and in_ci) else 1
