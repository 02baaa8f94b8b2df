"""Ctrl-C and requests to terminate, from the first moment of the command line to its end."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any

# Signal -> the message on standard error. Windows has no SIGHUP.
_MESSAGES = {
    getattr(signal, name): message
    for name, message in (("SIGINT", "stopped"), ("SIGTERM", "terminated"), ("SIGHUP", "hung up"))
    if hasattr(signal, name)
}
_received: list[int] = []
_AGAIN_SECONDS = 0.05  # after an interruption that was lost


def exit_on_signals() -> None:
    """End the process at once, with one line, on a signal: while there is no work to save.

    An exception would interrupt imports, which then fail in many ways. Signals that the process
    ignores (`nohup`, the background of a shell) stay ignored.
    """
    _install(_exit)


def raise_on_signals() -> None:
    """Raise KeyboardInterrupt on a signal, so that the running command cleans up.

    Python drops an exception in a finalizer or in a callback of a weak reference. There the
    KeyboardInterrupt is raised again a moment later.
    """
    _install(_raise)
    if hasattr(signal, "setitimer"):
        sys.unraisablehook = _raise_later


def exit_code() -> int | None:
    """The exit code after a recorded signal; None without one."""
    return 128 + _received[0] if _received else None


def forget_signals() -> None:
    """Start a command without a record of signals, in a process that has run another command."""
    _received.clear()


def message() -> str:
    """What to print about the signal."""
    return _MESSAGES[_received[0]] if _received else _MESSAGES[signal.SIGINT]


def _install(handler: object) -> None:
    for number in _MESSAGES:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)  # type: ignore[arg-type]


def _exit(number: int, frame: FrameType | None) -> None:
    del frame
    try:
        os.write(2, f"{_MESSAGES[number]}\n".encode())
    finally:
        os._exit(128 + number)


def _raise_later(dropped: Any) -> None:
    """Called with an exception that Python dropped."""
    if dropped.exc_type is not KeyboardInterrupt or not _received:
        sys.__unraisablehook__(dropped)
        return
    signal.signal(signal.SIGALRM, _raise_again)
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)


def _raise_again(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt


def record_signal(number: int) -> None:
    """Record a signal that a command handles itself, for the exit code and the message."""
    _received.append(number)


def _raise(number: int, frame: FrameType | None) -> None:
    del frame
    record_signal(number)
    raise KeyboardInterrupt
