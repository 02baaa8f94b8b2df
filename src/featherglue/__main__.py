"""`python -m featherglue` and the command `featherglue`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line in this process, with its signals, streams and log levels."""
    from featherglue.terminal.signals import exit_code, exit_on_signals, raise_on_signals

    exit_on_signals()  # before the other imports, which take most of a second
    from featherglue.terminal.streams import flush_streams, prepare_streams

    prepare_streams()
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # errors carry their own messages
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        from featherglue.cli import main as run
    except ImportError as error:
        if "failed to map segment" not in str(error):
            raise
        print(f"error: not enough memory to start ({error})", file=sys.stderr)
        sys.exit(1)
    raise_on_signals()
    code = run()
    exit_on_signals()  # nothing is left to clean up
    if exit_code() is not None:
        # Python ends itself with SIGINT if a KeyboardInterrupt ever left an `exec` of text, also
        # where it was caught later. The namedtuples and dataclasses of imports are such texts.
        flush_streams()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    main()
