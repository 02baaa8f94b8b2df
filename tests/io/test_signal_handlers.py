"""pycolmap replaces signal handlers at its import."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import faulthandler, signal, threading
from featherglue.io.pycolmap_ import require_pycolmap

def caught():
    with open("/proc/self/status") as file:
        (line,) = [line for line in file if line.startswith("SigCgt:")]
    return int(line.split()[1], 16) & 0xFFFF

before = caught()
signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
thread = threading.Thread(target=require_pycolmap)  # as in any thread of a program
thread.start()
thread.join()
assert caught() == before | 1 << signal.SIGTERM - 1, (hex(before), hex(caught()))
signal.raise_signal(signal.SIGTERM)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.raise_signal(signal.SIGTERM)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_the_handlers_of_the_program_stay() -> None:
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (-15, "handled\n", "")
