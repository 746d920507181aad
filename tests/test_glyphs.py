"""Glyphs: the same for a seed, in range, with classes that differ, and what is refused."""

import numpy as np
import pytest

from edgerev.continual.glyphs import GRID, Glyphs
from edgerev.errors import DataError, UsageError


def strokes(count=20, height=9, width=8, channels=1, seed=0):
    """Bars on an empty ground."""
    x = np.zeros((count, height, width, channels), "f4")
    for image, place in zip(x, np.random.default_rng(seed).integers(1, width - 2, count)):
        image[2:7, place] = 1
    return x


def ref_moved(image, matrix, shift):
    """Sample one image pixel by pixel; the ground is 0."""
    height, width, _ = image.shape
    result, centre = np.zeros_like(image), np.array([(height - 1) / 2, (width - 1) / 2])
    for i in range(height):
        for j in range(width):
            row, column = np.rint((matrix @ (np.array([i, j]) - centre) + centre + shift) * GRID) / GRID
            for a in (int(np.floor(row)), int(np.floor(row)) + 1):
                for b in (int(np.floor(column)), int(np.floor(column)) + 1):
                    if 0 <= a < height and 0 <= b < width:
                        result[i, j] += (1 - abs(row - a)) * (1 - abs(column - b)) * image[a, b]
    return result


@pytest.mark.parametrize("shape", [(9, 8, 1), (1, 1, 1), (4, 7, 3), (28, 28, 1)])
def test_samples_have_shape_type_and_range_of_the_images(shape):
    images = np.random.default_rng(0).uniform(-2, 3, (5, *shape))
    x, y = Glyphs(images, 6, 1).draw(50)
    assert (x.shape, x.dtype) == ((50, *shape), "f4")
    assert (y.shape, y.dtype) == ((50,), "i4")
    assert set(y) <= set(range(6))
    assert images.min() - 1e-6 <= x.min() <= x.max() <= images.max() + 1e-6


def test_the_same_seed_draws_the_same():
    first, again, other = Glyphs(strokes(), 4, 7), Glyphs(strokes(), 4, 7), Glyphs(strokes(), 4, 8)
    for _ in range(2):
        x, y = first.draw(10)
        comp_x, comp_y = again.draw(10)
        np.testing.assert_array_equal(x, comp_x)
        np.testing.assert_array_equal(y, comp_y)
    assert not np.array_equal(x, other.draw(10)[0])
    assert not np.array_equal(x, first.draw(10)[0])


def test_samples_of_a_class_are_more_alike_than_those_of_others():
    x, y = Glyphs(strokes(height=20, width=20), 8, 3).draw(600)
    means = np.stack([x[y == label].mean(0).ravel() for label in range(8)])
    nearest = ((x.reshape(600, 1, -1) - means) ** 2).sum(2).argmin(1)
    assert (nearest == y).mean() > 0.6  # chance: 1/8
    assert np.bincount(y, minlength=8).min() > 40


def test_moving_is_bilinear_sampling():
    images, glyphs = np.random.default_rng(0).uniform(0, 1, (3, 6, 5, 2)).astype("f4"), Glyphs(strokes(), 1)
    glyphs._ground, twin = np.float32(0), np.random.default_rng(5)
    glyphs._random = np.random.default_rng(5)
    most = (0.5, 0.2, 0.3, 0.2)
    shifts = twin.uniform(-0.2, 0.2, (3, 2)) * [6, 5]
    turns, heights, widths, shears = (twin.uniform(-end, end, 3) for end in (0.5, 0.2, 0.2, 0.3))
    for image, comp, shift, turn, height, width, shear in zip(
        images, glyphs._moved(images, most), shifts, turns, heights, widths, shears
    ):
        sheared = np.array([[np.exp(height), shear], [0, np.exp(width)]])
        turned = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        np.testing.assert_allclose(comp, ref_moved(image, turned @ sheared, shift), atol=1e-5)


def test_uint8_images_are_taken_as_numbers():
    x, _ = Glyphs((255 * strokes()).astype("u1"), 3).draw(5)
    assert x.dtype == "f4"
    assert x.max() > 100


@pytest.mark.parametrize("images", [
    np.zeros((3, 4, 4), "f4"), np.zeros((0, 4, 4, 1), "f4"), np.zeros((3, 0, 4, 1), "f4"),
    np.full((3, 4, 4, 1), np.nan, "f4"), np.full((3, 4, 4, 1), np.inf, "f4"), np.zeros((3, 4, 4, 1), "c8"),
])  # fmt: skip
def test_what_is_no_images_is_refused(images):
    with pytest.raises(DataError, match="expected"):
        Glyphs(images, 4)


@pytest.mark.parametrize(("classes", "seed", "count"), [(0, 0, 1), (2.5, 0, 1), (4, -1, 1), (4, 0, 0)])
def test_numbers_out_of_range_are_refused(classes, seed, count):
    with pytest.raises(UsageError, match="expected"):
        Glyphs(strokes(), classes, seed).draw(count)
