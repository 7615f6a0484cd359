"""The workers as the supervisor sees them: started, given a configuration, replaced when they die.

1. A configuration is handed out in two steps: all workers prepare it, then all commit. One that
   says no stops the change for all; one that dies or hangs meanwhile does not, since its successor
   gets the configuration that holds by then.
2. Nobody serves an old configuration beside a new one: who does not commit is killed.
3. A dead worker's slot is filled again, whatever it died of, after a pause that grows while its
   workers do not live long.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from gateway.process.channel import Answer, Channel, ChannelError
from gateway.process.messages import (
    AnyMessage,
    Commit,
    Done,
    Drain,
    Flush,
    Prepare,
)
from gateway.telemetry.logs import Log

_ANSWER_TIMEOUT: Final = 30.0
"""Seconds in which a worker has to start, to prepare and to commit; after that it hangs and is killed."""
_SHORT_LIFE: Final = 2.0
"""Seconds of serving below which a worker's successor waits."""
_LONGEST_PAUSE: Final = 5.0
_SCRAPE_TIMEOUT: Final = 0.5
_LAST_WORDS: Final = 2.0
_KILL_GRACE: Final = 15.0
"""Seconds beyond its drain in which a worker breaks off what is left, settles it and says its last words."""

Handle = Callable[["WorkerProcess", AnyMessage], Answer]


class WorkerProcess:
    """One live worker: its process, its channel, and what it last told of itself."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        """The channel is opened by the pool."""
        self.name = name
        self.process = process
        self.channel: Channel
        self.taken = False  # it was given a configuration, and not reaped since
        self.inflight = 0
        self.queued = 0
        self.trouble: str | None = None

    @property
    def serving(self) -> bool:
        """Whether it has a configuration and lives, as far as its channel tells: that is known before it is reaped."""
        return self.taken and not self.channel.closed.is_set()

    @property
    def pid(self) -> int:
        """The process id, as operators see it."""
        return self.process.pid

    def kill(self) -> None:
        """End it now; harmless when it is dead already."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()


class WorkerPool:
    """Keeps `count` workers alive on one listening socket, with their recovery files in `recovery`.

    `handle` answers what a worker asks; `reaped` is called with a dead worker's name before its
    successor starts; `log` gives the log, which a reload replaces.
    """

    def __init__(
        self,
        count: int,
        recovery: Path,
        handle: Handle,
        reaped: Callable[[str], Awaitable[None]],
        log: Callable[[], Log],
    ) -> None:
        """Nothing starts before `start`."""
        self.count = count
        self.restarts = 0
        self.trouble = ""
        """Why a slot was last left empty, for `/readyz`."""
        self.workers: dict[int, WorkerProcess] = {}
        self._log = log
        self._listener: socket.socket
        self._recovery = recovery
        self._handle = handle
        self._reaped = reaped
        self._configuration: Prepare
        self._stopping = asyncio.Event()
        self._spawned = 0
        self._keepers: list[asyncio.Task[None]] = []
        self._changing = asyncio.Lock()

    @property
    def serving(self) -> list[WorkerProcess]:
        """The workers that have a configuration."""
        return [worker for worker in self.workers.values() if worker.serving]

    async def start(self, listener: socket.socket, configuration: Prepare) -> None:
        """Start all workers with a configuration; returns when all serve, raises `ChannelError` if one cannot."""
        self._listener, self._configuration = listener, configuration
        first = [asyncio.get_running_loop().create_future() for _ in range(self.count)]
        self._keepers = [asyncio.create_task(self._keep(slot, first[slot])) for slot in range(self.count)]
        await asyncio.gather(*first)

    async def change(self, configuration: Prepare) -> None:
        """Give all workers another configuration, or none; raises `ChannelError` with the reasons."""
        async with self._changing:
            asked = self.serving
            answers = await asyncio.gather(
                *(self._answered(worker, configuration) for worker in asked), return_exceptions=True
            )
            refused = [str(answer) for answer in answers if isinstance(answer, BaseException)]
            if refused:
                raise ChannelError("; ".join(refused))
            if not any(answers):
                raise ChannelError("no worker lived to take it")
            self._configuration = configuration
            commit = Commit(configuration.generation)
            await asyncio.gather(*(self._commit(worker, commit) for worker in asked))

    def tell_all(self, message: AnyMessage) -> None:
        """Tell every worker that has a channel; those too that serve later, so that nothing falls in between."""
        for worker in self.workers.values():
            worker.channel.tell(message)

    async def flush(self) -> None:
        """Have all workers tell what they counted; one that does not answer soon tells it later."""

        async def ask(worker: WorkerProcess) -> None:
            with contextlib.suppress(ChannelError, TimeoutError):
                async with asyncio.timeout(_SCRAPE_TIMEOUT):
                    await worker.channel.request(Flush(), Done)

        await asyncio.gather(*map(ask, self.serving))

    async def stop(self, drain: float) -> None:
        """Let every worker finish what runs within `drain` seconds, then end it."""
        self._stopping.set()
        for worker in self.workers.values():
            if worker.serving:
                worker.channel.tell(Drain(drain))
            else:
                worker.kill()
        _, late = await asyncio.wait(self._keepers, timeout=drain + _KILL_GRACE)
        if late:
            for worker in list(self.workers.values()):
                self._log().warning("worker_killed", worker=worker.name, reason="it did not drain in time")
                worker.kill()
            await asyncio.wait(late)

    async def _keep(self, slot: int, first: asyncio.Future[None]) -> None:
        """Keep one slot filled; `first` tells whether its first worker came up."""
        pause = 0.0
        while not self._stopping.is_set():
            served, end = await self._live(slot, first)
            if self._stopping.is_set():
                break
            self.restarts += 1
            pause = min(_LONGEST_PAUSE, pause * 2 + 0.1) if served < _SHORT_LIFE else 0.0
            self.trouble = f"worker-{slot + 1} {end}; the next one starts in {pause:g} s" if pause else ""
            self._log().error("worker_died", worker=f"worker-{slot + 1}", end=end, served_s=served, pause_s=pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
        if not first.done():
            first.cancel()

    async def _live(self, slot: int, first: asyncio.Future[None]) -> tuple[float, str]:
        """One worker's life, and its last will; gives how many seconds it served, and how it ended."""
        loop = asyncio.get_running_loop()
        try:
            worker = await self._spawn(slot)
        except OSError as error:
            end = f"cannot be started: {error.strerror or error}"
            if not first.done():
                first.set_exception(ChannelError(f"worker-{slot + 1} {end}"))
            return 0.0, end
        began, reason = None, ""
        try:
            await self._bring_up(worker)
            began = loop.time()
            if not first.done():
                first.set_result(None)
        except (ChannelError, TimeoutError) as error:
            reason = str(error) or f"it did not answer within {_ANSWER_TIMEOUT:g} s"
            self._log().error("worker_failed_to_start", worker=worker.name, pid=worker.pid, error=reason)
            await self._put_down(worker)
        code = await worker.process.wait()
        served = loop.time() - began if began is not None else 0.0
        worker.taken = False
        await worker.channel.ended()  # before its will: it may have asked for something that it cannot give back
        await self._reaped(worker.name)
        del self.workers[slot]
        if not first.done():
            first.set_exception(ChannelError(f"{worker.name} did not start: {reason} (exit code {code})"))
        return served, f"(pid {worker.pid}) ended with exit code {code}" + (f": {reason}" if reason else "")

    async def _put_down(self, worker: WorkerProcess) -> None:
        """Kill a worker that could not start, after it has had the time to say why and leave by itself."""
        if worker.channel.closed.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS):
                    await worker.process.wait()
        worker.kill()

    async def _spawn(self, slot: int) -> WorkerProcess:
        self._spawned += 1
        name = f"worker-{slot + 1}.{os.getpid()}.{self._spawned}"
        listener = self._listener.fileno()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "gateway.process.worker",
                    "--name", name, "--recovery", str(self._recovery),
                    "--listener", str(listener), "--channel", str(theirs.fileno()),
                    pass_fds=(listener, theirs.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                )  # fmt: skip
        except OSError:
            ours.close()
            raise
        worker = WorkerProcess(name, process)
        worker.channel = await Channel.open(
            ours,
            lambda message: self._handle(worker, message),
            lambda error: self._log().error("internal_error", worker=name, error=error),
        )
        self.workers[slot] = worker
        return worker

    async def _bring_up(self, worker: WorkerProcess) -> None:
        """Give a new worker the configuration that holds when it is ready for it."""
        async with asyncio.timeout(_ANSWER_TIMEOUT):
            while not worker.taken:
                if self._stopping.is_set():
                    raise ChannelError("the gateway is stopping")
                configuration = self._configuration
                await worker.channel.request(configuration, Done)
                # Not held before: a worker that starts slowly must not keep a change waiting.
                async with self._changing:
                    if configuration is self._configuration:
                        worker.taken = True  # it may have calls from here on, so a stop lets it drain
                        await worker.channel.request(Commit(configuration.generation), Done)

    async def _answered(self, worker: WorkerProcess, message: Prepare | Commit) -> bool:
        """Whether a worker did it; `False` where it died or hung, `ChannelError` where it said no."""
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT):
                await worker.channel.request(message, Done)
        except TimeoutError:
            self._log().error("worker_killed", worker=worker.name, reason="it does not answer")
            worker.kill()
            return False
        except ChannelError as error:
            if worker.channel.closed.is_set():
                return False
            raise ChannelError(f"{worker.name}: {error}") from error
        return True

    async def _commit(self, worker: WorkerProcess, commit: Commit) -> None:
        try:
            await self._answered(worker, commit)
        except ChannelError as error:
            self._log().error("worker_killed", worker=worker.name, reason=f"it did not commit: {error}")
            worker.kill()
