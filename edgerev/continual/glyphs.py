"""Classes made up from images that are there, so that a backbone learns strokes before other classes come.

Two classes teach a backbone too little for eight that come later: it learns to tell those two apart, and no more. A
glyph is a picture put together from one to three of the images, each turned, scaled, sheared and moved; every glyph is
a class of its own, whose samples are the glyph, turned, scaled, sheared and moved a little. To tell many of them apart
takes features of strokes and where they are, which other classes are made of as well. Of images that are not drawn on
an empty ground (photographs), glyphs are no likeness.

References
----------
Dosovitskiy et al. 2014, "Discriminative unsupervised feature learning with convolutional neural networks", section 2:
there a class is a patch of an image, and its samples are the patch transformed.
"""

from __future__ import annotations

from math import pi, prod

import numpy

from edgerev.errors import DataError
from edgerev.numbers import INT32_MAX, whole

MOST_PARTS = 3
PLACING = (pi / 3, 0.35, 0.3, 0.18)  # most of: turn (radians), logarithm of scale, shear, shift (share of the side)
JITTER = (pi / 12, 0.15, 0.15, 0.07)
GRID = 1 << 16  # places are rounded to this share of a pixel: sine and exp differ between machines in the last bits


class Glyphs:
    """Draws samples of classes that are made up from images.

    Parameters
    ----------
    images : ``(samples, height, width, channels)`` finite real numbers; not kept, only the glyphs made from them are
    classes : glyphs to make up
    seed : seed of the glyphs and of the samples

    Raises
    ------
    DataError
        There are no images, they have another number of dimensions, or are not finite.
    UsageError
        The number of classes or the seed is out of range.
    """

    def __init__(self, images: numpy.ndarray, classes: int, seed: int = 0) -> None:
        classes = whole("classes", classes, 1, INT32_MAX)
        if images.ndim != 4 or not prod(images.shape) or images.dtype.kind not in "fiub":
            raise DataError(
                f"images of shape {images.shape} and type {images.dtype}; expected (samples, height, width, channels) "
                "real numbers, one sample at least; reshape them"
            )
        self._ground = numpy.float32(images.min())
        if not numpy.isfinite(self._ground) or not numpy.isfinite(images.max()):
            raise DataError("the images hold NaN or infinity; expected finite values; leave such images out")
        self._random = numpy.random.default_rng(whole("seed", seed, 0, 2**63 - 1))
        self._glyphs = numpy.empty((classes, *images.shape[1:]), "f4")
        for glyph in self._glyphs:
            chosen = images[self._random.integers(0, len(images), self._random.integers(1, MOST_PARTS + 1))]
            glyph[:] = self._moved(chosen.astype("f4"), PLACING).max(0)

    def draw(self, count: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Return samples of classes drawn evenly, other ones at each call.

        Parameters
        ----------
        count : how many

        Returns
        -------
        images : ``(count, height, width, channels)`` float32, within the range of the images' values
        labels : ``(count,)`` int32, from 0
        """
        labels = self._random.integers(0, len(self._glyphs), whole("count", count, 1, INT32_MAX), dtype="i4")
        return self._moved(self._glyphs[labels], JITTER), labels

    def _moved(self, images: numpy.ndarray, most: tuple[float, float, float, float]) -> numpy.ndarray:
        """Turn, scale, shear and move each image at random about its centre; bilinear, ground where none reaches."""
        count, height, width, channels = images.shape
        centre = numpy.array([(height - 1) / 2, (width - 1) / 2])[:, None]
        across = numpy.mgrid[:height, :width].reshape(2, -1) - centre
        sides = numpy.array([height, width])[:, None]
        shift = self._random.uniform(-most[3], most[3], (count, 2, 1)) * sides
        places = self._matrices(count, most) @ across + centre + shift
        places = numpy.rint(numpy.clip(places, -1, sides) * GRID) / GRID + 1  # of the image with a border of ground
        bordered = numpy.full((count, height + 3, width + 3, channels), self._ground, "f4")
        bordered[:, 1 : height + 1, 1 : width + 1] = images
        corner = places.astype("i8")
        down, right = (places - corner).astype("f4")[..., None].swapaxes(0, 1)
        flat, line = bordered.reshape(-1, channels), width + 3
        first = corner[:, 0] * line + corner[:, 1] + (numpy.arange(count) * (height + 3) * line)[:, None]
        upper = flat[first] * (1 - right) + flat[first + 1] * right
        lower = flat[first + line] * (1 - right) + flat[first + line + 1] * right
        return (upper * (1 - down) + lower * down).reshape(images.shape)

    def _matrices(self, count: int, most: tuple[float, float, float, float]) -> numpy.ndarray:
        turn, log_height, log_width, shear = (
            self._random.uniform(-end, end, count) for end in (most[0], most[1], most[1], most[2])
        )
        height, width, cosine, sine = numpy.exp(log_height), numpy.exp(log_width), numpy.cos(turn), numpy.sin(turn)
        return numpy.array([
            [cosine * height, shear * cosine - sine * width], [sine * height, cosine * width + shear * sine],
        ]).transpose(2, 0, 1)  # fmt: skip
