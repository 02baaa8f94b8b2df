"""Pictures of matches."""

from __future__ import annotations

import numpy as np
import pytest

from featherglue.drawing import confidence_colors, draw_matches
from featherglue.errors import UsageError
from featherglue.types import Features, Matches, MatchResult


def features(points: list[tuple[float, float]], image: np.ndarray | None) -> Features:
    size = (64, 48) if image is None else (image.shape[1], image.shape[0])
    return Features(
        keypoints=np.array(points, np.float32).reshape(-1, 2),
        scores=np.ones(len(points), np.float32),
        descriptors=np.zeros((len(points), 4), np.float32),
        image_size=size,
        image=image,
    )


def result(
    image0: np.ndarray | None,
    image1: np.ndarray | None,
    count: int = 1,
    scores: tuple[float, ...] = (1.0, 0.0),
) -> MatchResult:
    """Two keypoints in each image, of which the first `count` match."""
    features0 = features([(10, 20), (40, 30)], image0)
    features1 = features([(15, 25), (45, 10)], image1)
    chosen = np.arange(count)
    matches = Matches(
        indices=np.stack((chosen, chosen), 1).astype(np.int64),
        scores=np.array(scores[:count], np.float32),
        points0=features0.keypoints[:count],
        points1=features1.keypoints[:count],
        refined=np.zeros(count, np.bool_),
    )
    return MatchResult(features0=features0, features1=features1, matches=matches, milliseconds={})


def test_colors_go_from_blue_over_green_to_red() -> None:
    low, middle, high = confidence_colors(np.array([0.1, 0.5, 0.9], np.float32)).astype(int)
    assert low.argmax() == 2
    assert middle.argmax() == 1
    assert high.argmax() == 0
    np.testing.assert_array_equal(
        confidence_colors(np.array([-1, 0, 1, 7], np.float32))[[0, 3]],
        confidence_colors(np.array([0, 1], np.float32)),
    )
    assert confidence_colors(np.zeros(0, np.float32)).shape == (0, 3)


def test_both_images_stand_side_by_side(gray: np.ndarray) -> None:
    first, second = gray[:48, :64], gray[100:160, 100:180]
    picture = draw_matches(result(first, second, 0), show_keypoints=False)
    assert picture.shape == (60, 64 + 8 + 80, 3)
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture[:48, :64], np.dstack([first] * 3))
    np.testing.assert_array_equal(picture[:, 72:], np.dstack([second] * 3))
    assert (picture[:, 64:72] == 255).all()
    assert (picture[48:, :64] == 255).all()


def test_lines_join_the_matched_points_in_their_colors() -> None:
    black = np.zeros((48, 64), np.uint8)
    picture = draw_matches(result(black, black, 2), show_keypoints=False).astype(int)
    right = 64 + 8
    (x0, y0), (x1, y1) = (10, 20), (15 + right, 25)
    red, blue = confidence_colors(np.array([1, 0], np.float32)).astype(int)
    assert np.abs(picture[y0, x0] - red).max() < 30
    assert np.abs(picture[y1, x1] - red).max() < 30
    middle = picture[(y0 + y1) // 2 - 2 : (y0 + y1) // 2 + 3, 40]
    assert np.abs(middle - red).max(1).min() < 100
    assert np.abs(picture[30, 40] - blue).max() < 30
    untouched = draw_matches(result(black, black, 0), show_keypoints=False)
    assert (untouched[:, :64] == 0).all()


def test_unmatched_keypoints_are_optional() -> None:
    black = np.zeros((48, 64), np.uint8)
    unmatched = draw_matches(result(black, black, 1))[26:35, 36:45]
    assert unmatched.max() > 100
    assert (unmatched[..., 0] == unmatched[..., 1]).all()  # gray
    assert draw_matches(result(black, black, 0), show_keypoints=False)[26:35, 36:45].max() == 0


def test_text_is_written_in_the_corner() -> None:
    black = np.zeros((200, 300), np.uint8)
    plain, text = (
        draw_matches(result(black, black, 0), show_keypoints=False, lines=lines)
        for lines in (None, ["matches 7"])
    )
    changed = np.flatnonzero((plain != text).any((0, 2)))
    assert len(changed) > 20
    assert changed.max() < 150


@pytest.mark.parametrize("shape", [(100, 3000), (2000, 1500), (1, 4000)])
def test_large_images_are_scaled_down_together(shape: tuple[int, int]) -> None:
    image = np.full(shape, 90, np.uint8)
    picture = draw_matches(result(image, image, 2), max_width=800)
    assert 780 <= picture.shape[1] <= 801
    assert picture.shape[0] <= max(1, shape[0] // 2)


def test_features_without_images_are_drawn_on_given_or_blank_ones(gray: np.ndarray) -> None:
    image = gray[:48, :64]
    kept = draw_matches(result(image, image, 2))
    given = draw_matches(result(None, None, 2), image, image)
    np.testing.assert_array_equal(given, kept)
    assert draw_matches(result(None, None, 2)).shape == kept.shape


def test_image_of_another_size_is_rejected(gray: np.ndarray) -> None:
    image = gray[:48, :64]
    with pytest.raises(UsageError, match=r"image1 must be \(48, 64\), not \(20, 30\)"):
        draw_matches(result(image, image), image1=gray[:20, :30])


def test_text_does_not_cover_small_images(gray: np.ndarray) -> None:
    small = gray[:48, :64]
    plain = draw_matches(result(small, small, 0), show_keypoints=False)
    captioned = draw_matches(result(small, small, 0), show_keypoints=False, lines=["keypoints 2"])
    assert captioned.shape[0] > plain.shape[0]
    height, width = plain.shape[:2]
    np.testing.assert_array_equal(captioned[-height:, :width], plain)
    large = np.zeros((300, 400), np.uint8)
    drawn = draw_matches(result(large, large, 0), show_keypoints=False, lines=["keypoints 2"])
    assert drawn.shape[0] == 300


def test_a_thumbnail_beside_a_large_image_stays_readable() -> None:
    thumbnail, large = np.full((48, 64), 200, np.uint8), np.zeros((1200, 1600), np.uint8)
    picture = draw_matches(result(thumbnail, large, 1), max_width=808)
    assert picture.shape[1] <= 808
    # The thumbnail is half as wide as the photograph: 267 of 800 px.
    assert (picture[100, 150:260] == 200).all()
    assert (picture[190, 100] == 200).all()
    mapped = np.array([10, 20]) * (267 / 64)
    x, y = np.rint(mapped).astype(int)
    assert (picture[y - 1 : y + 2, x - 1 : x + 2] != 200).any()


def test_far_points_are_drawn_toward_their_direction() -> None:
    far = Features(
        keypoints=np.array([(1e8, -1e8), (3e38, 5.0)], np.float32),
        scores=np.ones(2, np.float32),
        descriptors=np.zeros((2, 4), np.float32),
        image_size=(64, 48),
    )
    matches = Matches(
        indices=np.array([[0, 0]]),
        scores=np.ones(1, np.float32),
        points0=np.array([[20.0, 20.0]], np.float32),
        points1=far.keypoints[:1],
        refined=np.zeros(1, np.bool_),
    )
    near = features([(20.0, 20.0)], None)
    picture = draw_matches(MatchResult(features0=near, features1=far, matches=matches))
    assert picture.shape == (48, 64 + 8 + 64, 3)


@pytest.mark.parametrize("width", [63, 0, -5, 100.0, None, True])
def test_the_width_of_a_picture_is_checked(width: int) -> None:
    with pytest.raises(UsageError, match="max_width must be an integer of at least 64"):
        draw_matches(result(None, None), max_width=width)
