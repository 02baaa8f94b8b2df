"""The work on many items on a cluster of machines, with Ray (Moritz et al. 2018).

Each processor of the cluster has an actor that opens the task once. The actors get a few items at a
time and send the records back, which this process alone writes. The items of an actor that is lost
with its machine are done again. The files of the task must be in a folder that all machines share.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featherglue.collection.records import (
    Key,
    Record,
    RecordWriter,
    failed_record,
    with_fingerprint,
)
from featherglue.collection.workers import Done
from featherglue.errors import FeatherglueError, MissingExtraError, ResourceError

_CHUNK = 8  # maximum number of items that an actor has at a time
_MAX_LOSSES = 3  # of actors with the same item
_MAX_FRUITLESS = 20  # actors that are lost without a record
_PATIENCE = 120.0  # s, until an actor must have started
_POLL = 1.0  # s


class Worker:
    """Does the work on items; an actor of Ray."""

    def __init__(self, task: Any) -> None:
        import cv2

        cv2.setNumThreads(1)
        self._task = task
        self._work: Callable[[Key], Record] | None = None

    def open(self) -> tuple[type[FeatherglueError], str] | None:
        """Open the task. Returns the type and the text of an error, or None."""
        try:
            self._work = self._task.open()
        except FeatherglueError as error:
            return type(error), str(error)
        return None

    def work(
        self, items: Sequence[tuple[Key, str]]
    ) -> list[Record] | tuple[type[FeatherglueError], str]:
        """Records of items with their fingerprints; the type and the text of an error."""
        assert self._work is not None
        try:
            return [with_fingerprint(self._work(key), state) for key, state in items]
        except FeatherglueError as error:
            return type(error), str(error)


def run_cluster(
    task: Any,
    keys: Sequence[Key],
    fingerprints: Mapping[Key, str],
    parts: Path,
    address: str,
    num_workers: int | None = None,
) -> Iterator[Done]:
    """Do the work on each key on a cluster.

    Args:
        task: see `Task`; its paths are those of a folder that all machines share.
        keys: the items.
        fingerprints: of the items.
        parts: folder of the record file.
        address: of the cluster, as `ray.init` takes it: "auto", "host:port" or "ray://host:port".
        num_workers: maximum number of actors; None takes one per processor of the cluster.

    Yields:
        a report for each key as its record is written, in any order, and notes.

    Raises:
        MissingExtraError: Ray is not installed.
        ResourceError: there is no cluster at this address, it has no free processor, or actors are
            lost again and again.
        FeatherglueError: what the task raised.
    """
    ray = _require_ray()
    connected = ray.is_initialized()
    if not connected:
        _connect(ray, address)
    pool = None
    try:
        count = int(ray.cluster_resources().get("CPU", 0))
        pool = _Pool(ray, task, fingerprints, min(num_workers or count, count, len(keys)))
        with RecordWriter(parts / "cluster.records") as writer:
            yield from pool.run(keys, writer)
    except (ray.exceptions.RaySystemError, ray.exceptions.RpcError) as error:
        raise ResourceError(f"the cluster at {address} was lost ({error})") from None
    finally:
        if pool is not None:
            pool.stop()
        if not connected:
            ray.shutdown()


def _require_ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError:
        raise MissingExtraError("a cluster", "cluster") from None
    return ray


def _connect(ray: Any, address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ResourceError(
            f"`ray`: no cluster can be reached at {address!r} ({_last_line(error)})"
        ) from None


def _last_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[-1]


@dataclass
class _Pool:
    """The actors, and what each of them does.

    Attributes:
        ray: the module.
        task: see `Task`.
        fingerprints: of the items.
        count: number of actors.
        opening: actors that open their task, by the reference of the answer.
        busy: actors with their items, by the reference of the answer.
        idle: actors without items.
        losses: number of actors that were lost with an item.
        fruitless: number of actors that were lost since the last record.
    """

    ray: Any
    task: Any
    fingerprints: Mapping[Key, str]
    count: int
    opening: dict[Any, Any] = field(default_factory=dict)
    busy: dict[Any, tuple[Any, list[Key]]] = field(default_factory=dict)
    idle: list[Any] = field(default_factory=list)
    losses: dict[Key, int] = field(default_factory=dict)
    fruitless: int = 0

    def run(self, keys: Sequence[Key], writer: RecordWriter) -> Iterator[Done]:
        """Do the work on all keys, and write the records."""
        chunk = max(1, min(_CHUNK, len(keys) // max(2 * self.count, 1)))
        left = deque(list(keys[i : i + chunk]) for i in range(0, len(keys), chunk))
        for _ in range(self.count):
            self._start()
        waiting = time.monotonic()
        while left or self.busy:
            ready, _ = self.ray.wait([*self.opening, *self.busy], num_returns=1, timeout=_POLL)
            if ready or self.busy:
                waiting = time.monotonic()
            elif time.monotonic() - waiting > _PATIENCE:
                raise ResourceError(f"the cluster had no free processor for {_PATIENCE:.0f} s")
            for reference in ready:
                yield from self._answered(reference, left, writer)

    def _start(self) -> None:
        actor = self.ray.remote(num_cpus=1)(Worker).remote(self.task)
        self.opening[actor.open.remote()] = actor

    def _answered(
        self, reference: Any, left: deque[list[Key]], writer: RecordWriter
    ) -> Iterator[Done]:
        """Write the records of an answer, and give the actor its next items.

        The answer is that of `Worker.open` or of `Worker.work`.
        """
        opened = self.opening.pop(reference, None)
        actor, keys = (opened, []) if opened is not None else self.busy.pop(reference)
        exceptions = self.ray.exceptions
        try:
            answer = self.ray.get(reference)
        except (exceptions.RayActorError, exceptions.ObjectLostError) as error:
            if "creation task" in str(error):  # the same on any machine
                raise ResourceError(
                    f"a worker of the cluster cannot start ({_last_line(error)})"
                ) from None
            yield from self._lost(keys, left, writer, _last_line(error))
            return
        if isinstance(answer, tuple):
            kind, text = answer
            raise kind.__new__(kind, text)  # __init__ of some types takes other arguments
        for record in answer or ():
            writer.append(record)
            yield Done(key=record.key)
            self.fruitless = 0
        self.idle.append(actor)
        self._send(left)

    def _send(self, left: deque[list[Key]]) -> None:
        """Give idle actors items."""
        while left and self.idle:
            actor, items = self.idle.pop(), left.popleft()
            sent = [(key, self.fingerprints[key]) for key in items]
            self.busy[actor.work.remote(sent)] = actor, items

    def _lost(
        self, keys: list[Key], left: deque[list[Key]], writer: RecordWriter, reason: str
    ) -> Iterator[Done]:
        """Put the items of a lost actor back one by one, and start another actor."""
        self.fruitless += 1
        if self.fruitless > _MAX_FRUITLESS:
            raise ResourceError(f"workers of the cluster are lost again and again ({reason})")
        yield Done(note=f"a worker of the cluster was lost ({reason}); its work is done again")
        for key in reversed(keys):
            self.losses[key] = self.losses.get(key, 0) + 1
            if self.losses[key] < _MAX_LOSSES:
                left.appendleft([key])
                continue
            # Without a fingerprint: the next run tries it again.
            error = f"workers of the cluster were lost {_MAX_LOSSES} times with it"
            writer.append(failed_record(key, error))
            yield Done(key=key)
        self._start()
        self._send(left)

    def stop(self) -> None:
        """End the actors."""
        busy = (actor for actor, _ in self.busy.values())
        for actor in (*self.opening.values(), *busy, *self.idle):
            self.ray.kill(actor)
