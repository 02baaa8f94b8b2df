"""Work on a cluster of two Ray nodes, one of which is killed."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from board_scene import Scene

from featherglue.collection import store_matching
from featherglue.collection.extraction import SessionSource, extract_features
from featherglue.collection.photo_frames import image_names
from featherglue.collection.records import Key, Record
from featherglue.collection.resumable import run_resumable
from featherglue.collection.store import Store
from featherglue.collection.store_matching import MatchingTask, match_features
from featherglue.errors import ImageError, ResourceError
from featherglue.options import SessionOptions

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
DOOMED = "FEATHERGLUE_TEST_DOOMED"  # in the environment of the node that is killed


def meet(folder: Path) -> None:
    """Called for each item: the second one of the doomed node takes forever; others wait for it."""
    stuck = folder / "stuck"
    if DOOMED not in os.environ:
        wait_for(stuck)
    elif (folder / "first").exists():
        stuck.touch()
        signal.pause()
    (folder / "first").touch()


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, path
        time.sleep(0.01)


@dataclass(frozen=True)
class Norms:
    """Norms of random matrices; notes the process of each item."""

    log: Path
    raises: str = ""

    def open(self) -> Callable[[Key], Record]:
        return self.work

    def work(self, key: Key) -> Record:
        with self.log.open("a") as file:
            file.write(f"{key[0]} {os.getpid()}\n")
        meet(self.log.parent)
        if key[0] == self.raises:
            raise ImageError("stop here")
        matrix = np.random.default_rng(int(key[0])).normal(size=(20, 20))
        norm = np.linalg.norm(matrix, 2).astype(np.float32)
        return Record(key=key, attributes={}, arrays={"global_descriptor": norm[None]})


@dataclass(frozen=True, kw_only=True)
class Matching(MatchingTask):
    """The matches of pairs."""

    folder: Path

    def open(self) -> Callable[[Key], Record]:
        work = super().open()

        def met(key: Key) -> Record:
            meet(self.folder)
            return work(key)

        return met


@contextmanager
def doomed_node(cluster: Any, folder: Path) -> Iterator[None]:
    """A node that is killed when it does its second item."""
    node = cluster.add_node(num_cpus=1, object_store_memory=100_000_000, env_vars={DOOMED: "1"})

    def kill() -> None:
        wait_for(folder / "stuck")
        kill_node(cluster, node)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    yield
    thread.join(timeout=60)
    assert not thread.is_alive()


def kill_node(cluster: Any, node: Any) -> None:
    """Kill the processes of a node with SIGKILL, as if the machine were switched off."""
    (raylet,) = (info.process.pid for info in node.all_processes["raylet"])
    children = Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
    for process in (raylet, *map(int, children)):
        os.kill(process, signal.SIGKILL)
    cluster.remove_node(node, allow_graceful=False)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    utils = pytest.importorskip("ray.cluster_utils")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    # The actors import this module.
    folder = Path(__file__).parent
    path = (str(folder), str(folder.parent), os.environ.get("PYTHONPATH", ""))
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
    items: dict[Key, str] = {(str(number),): "new" for number in range(NUM_ITEMS)}
    task = Norms(tmp_path / "log")
    counts: list[int] = []

    with doomed_node(cluster, tmp_path):
        result = run_resumable(
            tmp_path / "out.h5",
            {"kind": "test"},
            items,
            task,
            ray=cluster.address,
            progress=lambda completed, _: counts.append(completed),
        )
    assert result.failures == {}
    assert counts[-1] == NUM_ITEMS
    calls = [line.split() for line in task.log.read_text().splitlines()]
    assert {key for key, _ in calls} == {str(number) for number in range(NUM_ITEMS)}
    assert len({process for _, process in calls}) == 2
    assert "was lost" in result.notes[0]
    assert len(calls) > NUM_ITEMS  # those of the lost node were done again
    with Store(result.output) as store:
        assert len(store.sorted_keys()) == NUM_ITEMS
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


def test_every_pair_is_there_once_although_a_node_that_sees_no_files_is_killed(
    cluster: Any, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(scene.folder, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    # The working folder of the nodes is another one.
    images, features = Path("/proc/self/cwd/photos"), Path("/proc/self/cwd/f.h5")
    names = image_names(images)
    pairs = list(combinations(names, 2))
    source = SessionSource(model="fast", options=SessionOptions(max_keypoints=300, resize=-1))
    extracted = extract_features(images, features, names, source, ray=cluster.address)
    assert extracted.failures == {}
    assert [note.split(":")[0] for note in extracted.notes] == [
        f"a machine of the cluster does not see {images}"
    ]
    counts: list[int] = []

    task = functools.partial(Matching, folder=tmp_path)
    monkeypatch.setattr(store_matching, "MatchingTask", task)
    with doomed_node(cluster, tmp_path):
        matched = match_features(
            images,
            features,
            "m.h5",
            pairs,
            source,
            ray=cluster.address,
            progress=lambda completed, _: counts.append(completed),
        )
    assert matched.failures == {}
    assert counts[-1] == len(pairs) == 15
    assert any("was lost" in note for note in matched.notes)
    extract_features(images, "alone.h5", names, source, workers=1)
    assert Path("alone.h5").read_bytes() == features.read_bytes()
    match_features(images, features, "alone_m.h5", pairs, source, workers=1)
    assert Path("alone_m.h5").read_bytes() == Path("m.h5").read_bytes()


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(ResourceError, match=r"no cluster can be reached at 'ray://127\.0\.0\.1:9'"):
        run_resumable(
            tmp_path / "a.h5", {}, {("1",): ""}, Norms(tmp_path / "log"), ray="ray://127.0.0.1:9"
        )
