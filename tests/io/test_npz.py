"""Reading of npz files that featherglue wrote."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from featherglue.errors import StoredFileError
from featherglue.io.files import write_npz
from featherglue.io.npz import read_npz

ARRAYS = {
    "points": np.arange(12, dtype=np.float32).reshape(6, 2),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "empty": np.zeros((0, 4), np.int64),
    "mask": np.array([True, False]),
    "text": np.array("0123456789abcdef"),
    "scalar": np.array(2.5),
}


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, ARRAYS)
    found = read_npz(path)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_every_flipped_bit_of_a_member_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, ARRAYS)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        starts = [member.header_offset for member in archive.infolist()]
    end = whole.index(b"PK\x01\x02")
    for position in range(starts[0] + 60, end, 7):
        data = bytearray(whole)
        data[position] ^= 1 << position % 8
        path.write_bytes(data)
        try:
            found = read_npz(path)
        except StoredFileError:
            continue
        # A bit of a local file header that nothing depends on.
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(found[name], array)


def test_a_message_does_not_quote_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, ARRAYS)
    data = bytearray(path.read_bytes())
    data[27] = 0x10  # the name of the first member has 4096 bytes more
    path.write_bytes(data + bytes(5000))
    with pytest.raises(StoredFileError, match=r"a\.npz: damaged") as raised:
        read_npz(path)
    assert len(str(raised.value)) < 300 + len(str(path))


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(StoredFileError, match="no such file"):
        read_npz(path)
    for data in (b"", b"PK", b"\x93NUMPY\x01\x00"):
        path.write_bytes(data)
        with pytest.raises(StoredFileError, match="damaged"):
            read_npz(path)
    np.savez_compressed(path, a=np.zeros(1_000_000))
    with pytest.raises(StoredFileError, match="compressed"):
        read_npz(path)
    np.savez(path, a=np.array([{}], dtype=object))
    with pytest.raises(StoredFileError, match="damaged"):
        read_npz(path)
    with zipfile.ZipFile(path, "w") as archive:
        header = "{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999,), }\n"
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00\x46\x00" + header.ljust(70).encode())
    with pytest.raises(StoredFileError, match="damaged"):
        read_npz(path)
