"""The work on many items on a cluster of machines, with Ray (Moritz et al. 2018).

Each processor of the cluster has an actor that opens the task once. The actors get a few items at a
time and send the records back, which this process alone writes. The items of an actor that is lost
with its machine are done again. Actors whose machines do not see the files of the task receive
them, see `shipping`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featherglue.collection.cluster_worker import Failure, Opened, Worker
from featherglue.collection.records import Key, RecordWriter, failed_record
from featherglue.collection.shipping import Probe, Sender, probes
from featherglue.collection.tasks import Part, ShippableTask, Task
from featherglue.collection.workers import Done
from featherglue.errors import MissingExtraError, ResourceError

_CHUNK_TIME = 0.3  # s of work that an actor gets at once: each chunk costs the cluster a few ms
_FIRST_CHUNK, _MAX_CHUNK = 8, 64  # items of a chunk before the first answer, and of any
_AHEAD = 2  # chunks that an actor has: it works on one while the records of another travel
_MAX_LOSSES = 3  # of actors with the same item
_MAX_FRUITLESS = 20  # actors that are lost without a record
_PATIENCE = 120.0  # s, until an actor must have started
_POLL = 1.0  # s
_CLOSING_TIME = 10.0  # s, until actors must have removed their copies of files
_PROBED_ITEMS = 16  # whose files show whether an actor sees a folder


def run_cluster(
    task: Task,
    keys: Sequence[Key],
    fingerprints: Mapping[Key, str],
    parts: Path,
    address: str,
    num_workers: int | None = None,
) -> Iterator[Done]:
    """Do the work on each key on a cluster.

    Args:
        task: a `ShippableTask` may have files that the machines of the cluster do not see.
        keys: the items.
        fingerprints: of the items.
        parts: folder of the record file.
        address: of the cluster, as `ray.init` takes it: "auto", "host:port" or "ray://host:port".
        num_workers: maximum number of actors; None takes one per processor of the cluster.

    Yields:
        a report for each key as its record is written, in any order, and notes.

    Raises:
        MissingExtraError: Ray is not installed.
        ResourceError: there is no cluster at this address, it has no free processor, a machine has
            another version of featherglue, or actors are lost again and again.
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


@dataclass(eq=False)
class _Actor:
    """An actor of the cluster.

    Attributes:
        handle: that of Ray.
        chunks: items that it has, by the reference of the answer, in the order of the work.
        since: when it began to work on the first of them.
        unseen: folders and record files that its machine does not see.
    """

    handle: Any
    since: float = 0.0
    chunks: dict[Any, list[Key]] = field(default_factory=dict)
    unseen: frozenset[Path] = frozenset()


class _Pool:
    """The actors, and what each of them does."""

    def __init__(self, ray: Any, task: Task, fingerprints: Mapping[Key, str], count: int) -> None:
        self._ray, self._task, self._fingerprints, self._count = ray, task, fingerprints, count
        self._sender = Sender(ray, task) if isinstance(task, ShippableTask) else None
        self._probes: Mapping[Path, Probe] = {}
        self._opening: Mapping[Part, Any] = {}
        self._manifests: Mapping[Path, Mapping[str, Any]] = {}
        self._actors: dict[Any, _Actor] = {}  # by the reference of each of their answers
        self._idle: list[_Actor] = []  # those that can get a chunk, once for each
        self._left: deque[Key] = deque()
        self._doubtful: deque[Key] = deque()  # an actor was lost with them; sent one by one
        self._item_time: float | None = None  # s, of an actor
        self._losses: dict[Key, int] = {}
        self._fruitless = 0  # actors that were lost since the last record
        self._noted: set[Path] = set()

    def run(self, keys: Sequence[Key], writer: RecordWriter) -> Iterator[Done]:
        """Do the work on all keys, and write the records."""
        self._left.extend(keys)
        if self._sender is not None and isinstance(self._task, ShippableTask):
            first = [p for key in keys[:_PROBED_ITEMS] for p in self._task.item_parts(key)]
            self._probes = probes([*self._task.opening_parts(), *first])
            self._opening = self._sender.opening()
            self._manifests = self._sender.manifests(first)
        for _ in range(self._count):
            self._start()
        waiting = time.monotonic()
        while self._left or self._doubtful or any(actor.chunks for actor in self._actors.values()):
            for reference in self._ready():
                waiting = time.monotonic()
                yield from self._answered(reference, writer)
            if any(actor.chunks for actor in self._actors.values()):
                waiting = time.monotonic()
            elif time.monotonic() - waiting > _PATIENCE:
                raise ResourceError(f"the cluster had no free processor for {_PATIENCE:.0f} s")

    def _ready(self) -> list[Any]:
        """References of the answers that are there; waits for the first one."""
        references = list(self._actors)
        ready, _ = self._ray.wait(references, num_returns=1, timeout=_POLL)
        if ready and len(references) > 1:
            ready, _ = self._ray.wait(references, num_returns=len(references), timeout=0)
        return list(ready)

    def _start(self) -> None:
        handle = self._ray.remote(num_cpus=1)(Worker).remote(
            self._task, self._manifests, self._ray.get
        )
        reference = handle.open.remote(self._probes, self._opening)
        self._actors[reference] = _Actor(handle)

    def _answered(self, reference: Any, writer: RecordWriter) -> Iterator[Done]:
        """Write the records of an answer, and give the actor its next items.

        The answer is that of `Worker.open` or of `Worker.work`.
        """
        actor = self._actors.get(reference)
        if actor is None:  # one of several answers of an actor that was lost
            return
        exceptions = self._ray.exceptions
        try:
            answer = self._ray.get(reference)
        except (exceptions.RayActorError, exceptions.ObjectLostError) as error:
            if "creation task" in str(error):  # the same on any machine
                raise ResourceError(
                    f"a worker of the cluster cannot start ({_last_line(error)})"
                ) from None
            yield from self._lost(actor, writer, _last_line(error))
            return
        if isinstance(answer, Failure):
            raise answer.kind.__new__(answer.kind, answer.text)  # some have another __init__
        del self._actors[reference]
        keys = actor.chunks.pop(reference, [])
        opened = isinstance(answer, Opened)
        if opened:
            yield from self._opened(actor, answer)
        else:
            self._note_time(actor, len(keys))
        self._idle.extend([actor] * (_AHEAD if opened else 1))
        self._send()  # it works on the next items while this process writes
        for key, data in zip(keys, () if opened else answer, strict=True):
            writer.append_encoded(data)
            yield Done(key=key)
            self._fruitless = 0

    def _opened(self, actor: _Actor, answer: Opened) -> Iterator[Done]:
        """Note what the machine of an actor does not see. Raises ResourceError."""
        from featherglue import __version__

        if answer.version != __version__:
            raise ResourceError(
                f"a machine of the cluster has featherglue {answer.version}, this one has "
                f"{__version__}: install the same version"
            )
        actor.unseen = answer.unseen
        for root in sorted(answer.unseen - self._noted):
            self._noted.add(root)
            yield Done(
                note=f"a machine of the cluster does not see {root}: it is sent what it needs"
            )

    def _note_time(self, actor: _Actor, count: int) -> None:
        """An actor has done a number of items."""
        now = time.monotonic()
        taken = (now - actor.since) / count
        self._item_time = taken if self._item_time is None else (self._item_time + taken) / 2
        actor.since = now

    def _next_items(self) -> list[Key]:
        """The items of the next chunk; fewer toward the end, so that all actors finish together."""
        if self._doubtful:
            return [self._doubtful.popleft()]
        count = _FIRST_CHUNK
        if self._item_time is not None:
            count = int(min(_CHUNK_TIME / max(self._item_time, 1e-6), _MAX_CHUNK))
        count = max(1, min(count, len(self._left) // (_AHEAD * self._count)))
        return [self._left.popleft() for _ in range(count)]

    def _send(self) -> None:
        """Give idle actors items."""
        while (self._left or self._doubtful) and self._idle:
            actor, items = self._idle.pop(0), self._next_items()
            if not actor.chunks:
                actor.since = time.monotonic()
            sent = [(key, self._fingerprints[key]) for key in items]
            parts = self._sender.parts(items, actor.unseen) if self._sender is not None else {}
            reference = actor.handle.work.remote(sent, parts)
            actor.chunks[reference] = items
            self._actors[reference] = actor

    def _lost(self, actor: _Actor, writer: RecordWriter, reason: str) -> Iterator[Done]:
        """Put the items of a lost actor back one by one, and start another actor."""
        self._fruitless += 1
        if self._fruitless > _MAX_FRUITLESS:
            raise ResourceError(f"workers of the cluster are lost again and again ({reason})")
        yield Done(note=f"a worker of the cluster was lost ({reason}); its work is done again")
        self._actors = {r: other for r, other in self._actors.items() if other is not actor}
        self._idle = [other for other in self._idle if other is not actor]
        self._ray.kill(actor.handle)  # perhaps only the records were lost
        chunks = list(actor.chunks.values())
        self._left.extendleft(key for chunk in reversed(chunks[1:]) for key in reversed(chunk))
        for key in chunks[0] if chunks else []:  # it worked on the first chunk
            self._losses[key] = self._losses.get(key, 0) + 1
            if self._losses[key] < _MAX_LOSSES:
                self._doubtful.append(key)
                continue
            # Without a fingerprint: the next run tries it again.
            error = f"workers of the cluster were lost {_MAX_LOSSES} times with it"
            writer.append(failed_record(key, error))
            yield Done(key=key)
        self._start()
        self._send()

    def stop(self) -> None:
        """End the actors."""
        actors = {*self._actors.values(), *self._idle}
        closing = [actor.handle.close.remote() for actor in actors if actor.unseen]
        if closing:
            self._ray.wait(closing, num_returns=len(closing), timeout=_CLOSING_TIME)
        for actor in actors:
            self._ray.kill(actor.handle)
        if self._sender is not None:
            self._sender.close()
