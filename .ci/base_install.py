"""What the package without extras must do, in an environment that has nothing else."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

import featherglue as fg


def texture(seed: int) -> np.ndarray:
    """A gray image (480, 640) uint8 with structure at several scales."""
    rng = np.random.default_rng(seed)
    image = np.zeros((480, 640), np.float32)
    for scale in (4, 16, 64):
        noise = rng.normal(size=(480 // scale, 640 // scale)).astype(np.float32)
        image += cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC)
    return cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    command = [sys.executable, "-m", "featherglue", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


for extra in ("torch", "onnx", "openvino", "matplotlib"):
    assert importlib.util.find_spec(extra) is None, f"{extra} is installed"

H = np.array([[0.95, -0.08, 20.0], [0.1, 0.97, -15.0], [1e-5, -2e-5, 1.0]])
first = texture(0)
second = cv2.warpPerspective(first, H, (640, 480))
cv2.imwrite("first.png", first)
cv2.imwrite("second.png", second)
for name in fg.shipped_models():
    result = fg.load(name)(first, second)
    found = result.homography()
    corners = np.array([[[0, 0], [639, 0], [639, 479], [0, 479]]], np.float64)
    gap = cv2.perspectiveTransform(corners, found.model) - cv2.perspectiveTransform(corners, H)
    error = float(np.linalg.norm(gap, axis=-1).mean())
    print(f"{name}: {len(result.matches)} matches, corners {error:.2f} px off")
    assert error < 1
done = run("match", "first.png", "second.png", "--json", "-", "-o", "matches.png")
assert done.returncode == 0, done.stderr
assert json.loads(done.stdout)["matches"] > 50
assert Path("matches.png").stat().st_size > 0
assert run("match", "first.png", "missing.png").returncode == 1
failed = run("match", "first.png", "second.png", "--runtime", "torch")
assert failed.returncode == 1
assert "featherglue[train]" in failed.stderr, failed.stderr
assert not hasattr(fg, "Model")
print("the base install works")
