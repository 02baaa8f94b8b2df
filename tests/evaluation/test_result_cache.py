"""Cached features and results are reused if and only if nothing has changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from evaluation_cases import SIFT, WriteList, homographies, plain
from scenes import Array, Oracle, texture

from featherglue.errors import StoredFileWarning
from featherglue.evaluation import (
    HomographyConfig,
    evaluate,
)


def test_resumes_where_it_stopped(
    photos: Path, write_list: WriteList, shift_and_turn: Array, tmp_path: Path
) -> None:
    suite = homographies(photos, write_list(shift_and_turn))
    expected = plain(evaluate(Oracle(shift_and_turn), suite))

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    stopped, resumed, idle = (Oracle(shift_and_turn) for _ in range(3))
    with pytest.raises(KeyboardInterrupt):
        evaluate(stopped, suite, cache=tmp_path / "cache", progress=stop)
    assert stopped.extractions == 4
    (log,) = (tmp_path / "cache").glob("homography-*.jsonl")
    with log.open("ab") as file:
        file.write(b'\n{"key": "cut o')
    with pytest.warns(StoredFileWarning, match="1 damaged result;"):
        assert plain(evaluate(resumed, suite, cache=tmp_path / "cache")) == expected
    assert resumed.extractions == 2
    with pytest.warns(StoredFileWarning, match="1 damaged result;"):
        assert plain(evaluate(idle, suite, cache=tmp_path / "cache")) == expected
    assert idle.extractions == 0


def test_features_are_reused_for_other_settings(
    photos: Path, write_list: WriteList, shift_and_turn: Array, tmp_path: Path
) -> None:
    path = write_list(shift_and_turn)
    cache = tmp_path / "cache"
    evaluate(Oracle(shift_and_turn), homographies(photos, path), cache=cache)
    stricter = homographies(photos, path, config=HomographyConfig(threshold=1.0))
    again, other = Oracle(shift_and_turn, name="new"), Oracle(shift_and_turn, count=90)
    expected = plain(evaluate(Oracle(shift_and_turn, name="new"), stricter))
    assert plain(evaluate(again, stricter, cache=cache)) == expected
    assert again.extractions == 0
    damaged = next((cache / "features").glob("*/*.npz"))
    evaluate(other, stricter, cache=cache)
    assert other.extractions == 6
    damaged.write_bytes(damaged.read_bytes()[:40])
    for log in cache.glob("*.jsonl"):
        log.unlink()
    with pytest.warns(StoredFileWarning, match="features are extracted again"):
        evaluate(again, stricter, cache=cache)
    assert again.extractions == 1


def test_a_changed_digit_of_a_stored_result_is_noticed(
    photos: Path, write_list: WriteList, shift_and_turn: Array, tmp_path: Path
) -> None:
    suite = homographies(photos, write_list(shift_and_turn))
    cache = tmp_path / "cache"
    expected = plain(evaluate(Oracle(shift_and_turn), suite, cache=cache))
    (log,) = cache.glob("homography-*.jsonl")
    text = log.read_text()
    log.write_text(text.replace('"matches": ', '"matches": 1', 1))
    assert log.read_text() != text
    with pytest.warns(StoredFileWarning, match="1 damaged result;"):
        assert plain(evaluate(Oracle(shift_and_turn), suite, cache=cache)) == expected


def test_stored_features_give_the_same_results(photos: Path, tmp_path: Path) -> None:
    suite = homographies(photos, None)
    expected = plain(evaluate(SIFT, suite))
    assert plain(evaluate(SIFT, suite, cache=tmp_path / "cache")) == expected
    for log in (tmp_path / "cache").glob("*.jsonl"):
        log.unlink()
    assert plain(evaluate(SIFT, suite, cache=tmp_path / "cache")) == expected  # refined too


def test_changed_and_restored_images_are_evaluated_again(
    photos: Path, write_list: WriteList, shift_and_turn: Array, tmp_path: Path
) -> None:
    suite = homographies(photos, write_list(shift_and_turn))
    cache = tmp_path / "cache"
    (photos / "b.png").rename(photos / "away.png")
    assert evaluate(Oracle(shift_and_turn), suite, cache=cache).summary["unreadable"] == 1
    (photos / "away.png").rename(photos / "b.png")
    cv2.imwrite(str(photos / "a.png"), texture(77))
    os.utime(photos / "a.png", ns=(1, 1))
    oracle = Oracle(shift_and_turn)
    assert evaluate(oracle, suite, cache=cache).summary["unreadable"] == 0
    assert oracle.extractions == 4


def test_equal_names_in_another_folder_are_other_images(
    photos: Path, write_list: WriteList, shift_and_turn: Array, tmp_path: Path
) -> None:
    path = write_list(shift_and_turn)
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    oracle = Oracle(shift_and_turn)
    evaluate(oracle, homographies(photos, path), cache=tmp_path / "cache")
    cv2.imwrite(str(other / "a.png"), np.zeros((120, 160), np.uint8))
    suite = homographies(other, path, photometric=False)
    expected = plain(evaluate(Oracle(shift_and_turn), suite))
    assert plain(evaluate(oracle, suite, cache=tmp_path / "cache")) == expected
