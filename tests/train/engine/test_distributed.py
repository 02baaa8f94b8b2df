"""Training steps of two processes equal those of one."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from featherglue.artifact.format import load_artifact

SMALL = """
seed = 4
[loop]
steps = 3
batch_size = 4
warmup = 1
workers = 0
bf16 = false
learning_rate = 5e-3
[validation]
fraction = 0
"""
POINT = f"""
spatial = 0.5
{SMALL}
[architecture]
channels = [4, 4, 4, 4, 8, 8, 8, 8]
detector_channels = 8
descriptor_channels = 8
descriptor_dim = 16
[views]
size = [64, 64]
max_points = 32
[scenes]
size = [64, 64]
max_planes = 2
"""
GLUE = f"""
extractor = "{{matching}}"
min_keypoints = 30
max_keypoints = 30
{SMALL}
[architecture]
descriptor_dim = 16
width = 16
keypoint_encoder = [8]
layers = [{{{{ kind = "cross", heads = 1, head_dim = 8, hidden = 16 }}}}]
[scenes]
size = [96, 64]
max_planes = 2
"""
STUDENT = f"""
teacher = "{{matching}}"
part = "both"
min_keypoints = 30
max_keypoints = 30
{SMALL}
[student.extractor]
channels = [4, 4, 4, 4, 8, 8, 8, 8]
detector_channels = 8
descriptor_channels = 8
descriptor_dim = 8
[student.matcher]
descriptor_dim = 8
width = 8
keypoint_encoder = [8]
layers = [{{{{ kind = "cross", heads = 1, head_dim = 8, hidden = 8 }}}}]
[distillation]
map = "procrustes"
[views]
size = [64, 64]
max_points = 32
[scenes]
size = [96, 64]
max_planes = 2
"""


SEVERAL = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
LOOP = """
import atexit
import os
import sys
import time
from pathlib import Path
import numpy as np
import torch
from featherglue.train.engine.loop import train
from featherglue.train.engine.loop_config import LoopConfig
from featherglue.train.engine.distributed import join_process_group

class Numbers:
    def __getitem__(self, index):
        x = np.random.default_rng(index).standard_normal(4).astype(np.float32)
        return {"x": x, "y": x.sum()}

def loss(model, batch):
    return (model(batch["x"])[:, 0] - batch["y"]).square().mean(), {}

def thread_names():
    names = []
    for path in Path("/proc/self/task").glob("*/comm"):
        try:
            names.append(path.read_text().strip())
        except OSError:  # it has ended meanwhile
            pass
    return " ".join(names)

def write_threads(when):
    # The system lists a thread for a moment after it has ended.
    limit = time.monotonic() + 5
    while when == ".left" and "gloo" in thread_names() and time.monotonic() < limit:
        os.sched_yield()
    Path(sys.argv[1] + os.environ.get("RANK", "") + when).write_text(thread_names())

atexit.register(write_threads, ".left")
group, device = join_process_group("cpu")
write_threads(".joined")
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 1))
config = LoopConfig(steps=6, batch_size=4, warmup=2, workers=0, bf16=False, learning_rate=0.05)
train(model, loss, Numbers(), config, sys.argv[1], group=group)
"""


@pytest.mark.slow
def test_two_processes_take_the_same_steps_as_one(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(LOOP)
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run([sys.executable, str(script), str(one)], check=True, timeout=300)
    subprocess.run([sys.executable, *SEVERAL, str(script), str(two)], check=True, timeout=300)
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    ours, theirs = (torch.load(run / "last.pt", weights_only=True)["network"] for run in (two, one))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-5)
    joined, left = (
        [path.read_text() for path in tmp_path.glob(f"two?.{when}")] for when in ("joined", "left")
    )
    assert len(joined) == len(left) == 2
    if Path("/proc/self/task").exists():
        assert all("gloo" in names for names in joined)
    assert not any("gloo" in names for names in left)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "text", "tolerance"),
    [
        ("superpoint", POINT, 0.02),
        ("superglue", GLUE, 0.02),
        # Each process has normalization statistics of its own, and the mean over few matches.
        ("superglue", f"descriptor_weight = 0.1\n{GLUE}", 0.1),
        ("distill", STUDENT, 0.02),
    ],
)
def test_two_processes_train_as_one_with_the_doubled_batch(
    stage: str,
    text: str,
    tolerance: float,
    matching: Path,
    tmp_path: Path,
    photographs: dict[str, np.ndarray],
) -> None:
    """Losses differ slightly: each process averages over the keypoints of its own samples."""
    images = tmp_path / "images"
    images.mkdir()
    for name, image in photographs.items():
        cv2.imwrite(str(images / f"{name}.png"), cv2.resize(image, (160, 140)))
    config = tmp_path / "config.toml"
    config.write_text(text.format(matching=matching))
    command = ["-m", "featherglue", "train", stage, "--config", str(config)]
    command += ["--images", str(images), "--device", "cpu", "--threads", "1", "-o"]
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run([sys.executable, *command, str(one)], check=True, timeout=300)
    subprocess.run([sys.executable, *SEVERAL, *command, str(two)], check=True, timeout=300)
    assert losses(two) == pytest.approx(losses(one), rel=tolerance)
    assert load_artifact(two / "model").provenance.recipe[-1]["step"] == stage


def losses(run: Path) -> list[float]:
    with (run / "log.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]
