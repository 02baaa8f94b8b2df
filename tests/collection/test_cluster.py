"""Work on a cluster of two Ray nodes, one of which is killed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featherglue.collection.records import Key, Record
from featherglue.collection.resumable import run_resumable
from featherglue.collection.store import Store
from featherglue.errors import ImageError, ResourceError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "FEATHERGLUE_TEST_RAY" not in os.environ,
        reason="set FEATHERGLUE_TEST_RAY=1: Ray takes 500 MB of memory and half a minute",
    ),
    # Ray leaves sockets open and starts threads of its own.
    pytest.mark.filterwarnings("ignore"),
]

FAST_DETECTION = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 3,
}
NUM_ITEMS = 80


@dataclass(frozen=True)
class Norms:
    """Norms of random matrices; notes the process of each item. Two processes start together."""

    log: Path
    raises: str = ""

    def open(self) -> Callable[[Key], Record]:
        self.log.with_name(f"{os.getpid()}.started").touch()
        while len(list(self.log.parent.glob("*.started"))) < 2:
            time.sleep(0.01)
        return self.work

    def work(self, key: Key) -> Record:
        with self.log.open("a") as file:
            file.write(f"{key[0]} {os.getpid()}\n")
        if key[0] == self.raises:
            raise ImageError("stop here")
        matrix = np.random.default_rng(int(key[0])).normal(size=(200, 200))
        norm = np.linalg.norm(matrix, 2).astype(np.float32)
        return Record(key=key, attributes={}, arrays={"global_descriptor": norm[None]})


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    utils = pytest.importorskip("ray.cluster_utils")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # The actors import this module.
    path = (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    head = {
        "num_cpus": 1,
        "include_dashboard": False,
        "object_store_memory": 100_000_000,
        "_system_config": FAST_DETECTION,
    }
    started = utils.Cluster(initialize_head=True, head_node_args=head)
    yield started
    ray.shutdown()
    started.shutdown()


def test_every_item_is_there_once_although_a_node_is_killed(cluster: Any, tmp_path: Path) -> None:
    node = cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
    items: dict[Key, str] = {(str(number),): "new" for number in range(NUM_ITEMS)}
    task = Norms(tmp_path / "log")
    counts: list[int] = []

    def progress(completed: int, total: int) -> None:
        counts.append(completed)
        if completed == 20:
            cluster.remove_node(node, allow_graceful=False)  # SIGKILL

    result = run_resumable(
        tmp_path / "out.h5",
        {"kind": "test"},
        items,
        task,
        ray=cluster.address,
        progress=progress,
    )
    assert result.failures == {}
    assert counts[-1] == NUM_ITEMS
    calls = [line.split() for line in task.log.read_text().splitlines()]
    assert {key for key, _ in calls} == {str(number) for number in range(NUM_ITEMS)}
    assert len({process for _, process in calls}) >= 2
    assert "was lost" in result.notes[0]
    assert len(calls) > NUM_ITEMS  # those of the lost node were done again
    with Store(result.output) as store:
        assert len(store.sorted_keys()) == NUM_ITEMS
    (tmp_path / "here.started").touch()
    alone = run_resumable(tmp_path / "alone.h5", {"kind": "test"}, items, task, workers=1)
    assert alone.output.read_bytes() == result.output.read_bytes()
    # What the task raises reaches the caller.
    with pytest.raises(ImageError, match="stop here"):
        run_resumable(
            tmp_path / "b.h5",
            {},
            items,
            Norms(tmp_path / "log2", raises="7"),
            ray=cluster.address,
        )


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(ResourceError, match=r"no cluster can be reached at 'ray://127\.0\.0\.1:9'"):
        run_resumable(
            tmp_path / "a.h5", {}, {("1",): ""}, Norms(tmp_path / "log"), ray="ray://127.0.0.1:9"
        )
