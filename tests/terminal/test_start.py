"""The process of the command line: signals from the first moment, and unusual standard streams."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.slow
# Sends a signal to its own process at the import of a module.
_START = """
import importlib.abc, os, sys, signal
class Interrupter(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == MODULE:
            os.kill(os.getpid(), NUMBER)
MODULE, NUMBER = sys.argv[1], int(sys.argv[2])
sys.argv[1:] = ["match", "no.png", "no.png"]
sys.meta_path.insert(0, Interrupter())
# The background of a shell ignores SIGINT, and so do its child processes.
signal.signal(signal.SIGINT, signal.default_int_handler)
from featherglue.__main__ import main
main()
"""


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "featherglue", *(str(argument) for argument in arguments)]


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    options = {"stderr": subprocess.PIPE, "timeout": 300} | options
    return subprocess.run(command(*arguments), check=False, **options)


@pytest.mark.parametrize(
    "module", ["featherglue.terminal.streams", "typer", "cv2", "featherglue.native.library"]
)
@pytest.mark.parametrize(
    ("number", "text"), [(signal.SIGINT, b"stopped\n"), (signal.SIGTERM, b"terminated\n")]
)
def test_a_signal_during_an_import_ends_with_one_line(
    module: str, number: signal.Signals, text: bytes
) -> None:
    code = [sys.executable, "-c", _START, module, str(int(number))]
    done = subprocess.run(code, capture_output=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (128 + number, text)


def test_a_signal_that_breaks_an_import_is_an_interruption(tmp_path: Path) -> None:
    code = """
import os, signal, sys, featherglue.cli
from featherglue.terminal.signals import raise_on_signals
def broken(*_, **__):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        raise ImportError("numpy: multiarray failed to import")
featherglue.cli._application = broken
signal.signal(signal.SIGINT, signal.default_int_handler)
raise_on_signals()
sys.exit(featherglue.cli.main(["info"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, timeout=300
    )
    assert (done.returncode, done.stderr) == (130, b"stopped\n")


_TEXT = """
import os, signal, featherglue.cli
from featherglue.__main__ import main
def interrupted(*_, **__):
    exec("os.kill(os.getpid(), signal.SIGTERM); print()")  # as in a namedtuple of an import
featherglue.cli._application = interrupted
main()
"""


def test_a_signal_in_executed_text_has_its_own_exit_code() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _TEXT], capture_output=True, check=False, timeout=300
    )
    assert (done.returncode, done.stderr) == (143, b"terminated\n")


_DROPPED = """
import os, signal, time, featherglue.cli
from featherglue.__main__ import main
class Thing:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)
def interrupted(*_, **__):
    for _ in range(3):
        Thing()
    signal.pause()
featherglue.cli._application = interrupted
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.alarm(60)
main()
"""


def test_a_signal_in_a_finalizer_is_not_lost() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _DROPPED], capture_output=True, check=False, timeout=300
    )
    assert (done.returncode, done.stderr) == (130, b"stopped\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["info", "--model", "fast"], ["--version"]])
def test_full_standard_output_is_one_line(arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = run(*arguments, stdout=full)
    assert done.returncode == 1
    assert done.stderr == (b"error: standard output: cannot be written (No space left on device)\n")


def test_closed_standard_output_is_one_line() -> None:
    shell = " ".join(command("info", "--model", "fast", "--json", "-")) + " >&-"
    done = subprocess.run(shell, shell=True, stderr=subprocess.PIPE, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (1, b"error: standard output is closed\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_standard_error_keeps_the_exit_code() -> None:
    with Path("/dev/full").open("wb") as full:
        assert run("info", "--model", "fast", "--no-such-option", stderr=full).returncode == 2


def test_names_on_an_ascii_terminal(gray: np.ndarray, tmp_path: Path) -> None:
    names = tmp_path / "café.png", tmp_path / "naïve.png"
    for name in names:
        name.write_bytes(cv2.imencode(".png", gray)[1].tobytes())
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    arguments = ("match", *names, "-o", tmp_path / "é.png")
    done = run(*arguments, "--json", "-", stdout=subprocess.PIPE, env=ascii_only)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["image0"] == str(names[0])
    missing = run("match", names[0], tmp_path / "ä\nb.png", env=ascii_only)
    assert missing.returncode == 1
    assert missing.stderr.endswith(b"\\xe4\\nb.png: no such file\n")
    assert missing.stderr.count(b"\n") == 1


def test_nothing_is_written_to_the_home_folder(gray: np.ndarray, tmp_path: Path) -> None:
    home, image = tmp_path / "home", tmp_path / "a.png"
    home.mkdir()
    image.write_bytes(cv2.imencode(".png", gray)[1].tobytes())
    dropped = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "ORT_DISABLE_TELEMETRY")
    environment = {k: v for k, v in os.environ.items() if k not in dropped} | {"HOME": str(home)}
    done = run("match", image, image, "--no-viz", stdout=subprocess.PIPE, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert list(home.rglob("*")) == []
