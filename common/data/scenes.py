"""Scenes: the built-in detection set, drawn on the fly from (seed, split, index); nothing is stored.

Twelve classes, every pair of four shapes and three textures ("striped disc", "dotted cross", ...), so neither shape nor
texture nor colour alone tells a class. Objects are turned and stretched, hide one another, and stand among things of
no class: the classes' shapes with a foreign texture, foreign shapes with the classes' textures, lines, a textured
background, uneven light and noise. There are about 6 objects an image, COCO has 7; 52 % are small, 46 % medium and 2 %
large by COCO's bounds (32^2 and 96^2 pixels) on an image 160 pixels wide. With COCO's own 640 pixels, most objects of a
96-pixel image would be smaller than five pixels, and no network that trains in minutes tells them apart.

A scene is made in two steps. `layout` places the objects in units of the image's side and knows every box without a
pixel drawn; `paint` draws a layout at any size. The same (seed, split, index) is thus one scene at every size.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from common.data.detection_set import Chosen, DetectionSet, first_rows
from common.plain import InputError

SHAPES = ("disc", "square", "triangle", "cross")
TEXTURES = ("plain", "striped", "dotted")
CATEGORIES = tuple(f"{texture} {shape}" for shape in SHAPES for texture in TEXTURES)

# Drawn as clutter only, never as a class.
_FOREIGN_SHAPES = ("ring", "half disc")
_FOREIGN_TEXTURE = "target"
_ALL_SHAPES = SHAPES + _FOREIGN_SHAPES
_ALL_TEXTURES = (*TEXTURES, _FOREIGN_TEXTURE)

# Pixels. `area` is given as on an image of this side, so that COCO's size bounds keep their meaning.
REFERENCE_SIDE = 160.0
MAX_OBJECTS = 16
_COUNT_WEIGHTS = np.exp(-0.045 * np.arange(1, MAX_OBJECTS + 1))
_COUNT_STEPS = np.cumsum(_COUNT_WEIGHTS) / _COUNT_WEIGHTS.sum()
# Before hiding and clipping, which make areas smaller: shares summed up, and bounds of sqrt(mask area) at 160 pixels.
_SIZE_STEPS = np.array([0.40, 0.80])
_SIZE_LOW = np.array([24.0, 36.0, 104.0])
_SIZE_HIGH = np.array([32.0, 94.0, 150.0])
_LEAST_EXTENT = 6.0 / 96.0  # of the side: 6 pixels at size 96
_LEAST_CLIPPED_EXTENT = 4.0 / 96.0
_LEAST_VISIBLE = 0.25  # an object hidden by more than 75 % is left out, of the annotations and of the picture
_CROSS_ARM = 0.38  # half the width of an arm; a shape's own coordinates span about -1..1
_SAMPLES = 48  # points of an object that are tested for being hidden


def _signed_distance(shape: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Distance to the outline in the shape's own coordinates, negative inside (exact near edges, not near corners)."""
    name = _ALL_SHAPES[shape]
    if name == "disc":
        return np.sqrt(u * u + v * v) - 1.0
    if name == "ring":
        return np.abs(np.sqrt(u * u + v * v) - 0.75) - 0.25
    if name == "half disc":
        return np.maximum(np.sqrt(u * u + v * v) - 1.0, v)
    if name == "triangle":
        slanted = np.float32(np.sqrt(0.75)) * np.abs(u) - 0.5 * v
        return np.maximum(slanted, v) - 0.5
    wide, high = np.abs(u), np.abs(v)
    if name == "square":
        return np.maximum(wide, high) - 1.0
    return np.maximum(np.maximum(wide, high) - 1.0, np.minimum(wide, high) - _CROSS_ARM)


def _outline(shape: int) -> np.ndarray:
    """(64, 2) points whose bounding box is the shape's, however it is turned (the last vertex repeated as padding)."""
    name = _ALL_SHAPES[shape]
    turn = np.linspace(0.0, 2.0 * np.pi, 64, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    if name in ("disc", "ring"):
        points = circle
    elif name == "half disc":
        points = circle[circle[:, 1] <= 1e-9]
    elif name == "square":
        points = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=np.float64)
    elif name == "triangle":  # on the unit circle
        points = np.array([[0.0, -1.0], [np.sqrt(0.75), 0.5], [-np.sqrt(0.75), 0.5]])
    else:
        arm = _CROSS_ARM
        points = np.array([[x, y] for x in (-1, 1) for y in (-arm, arm)])
        points = np.concatenate([points, points[:, ::-1]])
    return np.concatenate([points, np.repeat(points[-1:], 64 - len(points), axis=0)])


def _inner_points(shape: int) -> np.ndarray:
    """(_SAMPLES, 2) points spread evenly inside the shape (a low-discrepancy sequence with the outside rejected)."""
    steps = np.arange(1, 40 * _SAMPLES)[:, None] * np.array([0.7548776662466927, 0.5698402909980532])
    points = 2.0 * ((0.5 + steps) % 1.0) - 1.0
    return points[_signed_distance(shape, points[:, 0], points[:, 1]) < 0.0][:_SAMPLES]


_OUTLINES = np.stack([_outline(shape) for shape in range(len(_ALL_SHAPES))])  # (shapes, 64, 2)
_INNER_POINTS = np.stack([_inner_points(shape) for shape in range(len(_ALL_SHAPES))])  # (shapes, samples, 2)
_CROSS_AREA = 8.0 * _CROSS_ARM - 4.0 * _CROSS_ARM**2
# Of each shape in its own coordinates, in the order of `_ALL_SHAPES`.
_FILL_AREAS = np.array([np.pi, 4.0, 0.75 * np.sqrt(3.0), _CROSS_AREA, np.pi * 0.75, np.pi / 2.0])


@dataclass(frozen=True)
class SceneLayout:
    """What stands in one scene, the farthest first. Lengths are in units of the image's side, x right and y down.

    shape, texture: (T,) int64. centre: (T, 2). to_own: (T, 2, 2), from an offset in the image to the shape's own
    coordinates. radius: (T,), mean half extent. cycles: (T,) repeats of the texture over two radii. label: (T,) int64,
    -1 for clutter. boxes: (T, 4) xyxy, whole objects clipped to the image. visible: (T,) share of the mask to be seen.
    """

    shape: np.ndarray
    texture: np.ndarray
    centre: np.ndarray
    to_own: np.ndarray
    radius: np.ndarray
    cycles: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    visible: np.ndarray

    def area(self) -> np.ndarray:
        """(T,) float64: the visible part of each mask, in pixels of an image 160 pixels wide, as COCO's `area`."""
        return _FILL_AREAS[self.shape] * self.radius**2 * self.visible * REFERENCE_SIDE**2


def _generator(seed: int, split: str, index: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, crc32(split.encode()), index])))


def layout(random: np.random.Generator) -> SceneLayout:
    """Place the objects and the clutter of one scene."""
    objects = 1 + int(np.searchsorted(_COUNT_STEPS, random.random(), side="right"))
    clutter = int(random.random() * 3.0)
    draws = random.random((objects + clutter, 12))
    T = objects + clutter  # things

    label = np.full(T, -1, dtype=np.int64)
    label[:objects] = draws[:objects, 0] * len(CATEGORIES)
    foreign_shape = (label < 0) & (draws[:, 11] < 0.5)
    shape = np.where(label >= 0, label // len(TEXTURES), (draws[:, 0] * len(SHAPES)).astype(np.int64))
    shape = np.where(foreign_shape, len(SHAPES) + (draws[:, 1] * len(_FOREIGN_SHAPES)).astype(np.int64), shape)
    texture = np.where(label >= 0, label % len(TEXTURES), len(TEXTURES))
    texture = np.where(foreign_shape, (draws[:, 2] * len(TEXTURES)).astype(np.int64), texture)

    # Log-uniform within a size group, so that a group's smaller members are the more frequent, as in COCO.
    group = np.searchsorted(_SIZE_STEPS, draws[:, 3], side="right")
    root_area = _SIZE_LOW[group] * (_SIZE_HIGH[group] / _SIZE_LOW[group]) ** draws[:, 4] / REFERENCE_SIDE
    radius = root_area / np.sqrt(_FILL_AREAS[shape])
    stretch = np.exp(0.25 * (2.0 * draws[:, 5] - 1.0))
    angle = 0.5 * (2.0 * draws[:, 6] - 1.0)  # things stand roughly upright, as in photographs
    cosine, sine = np.cos(angle), np.sin(angle)
    rotation = np.stack([cosine, -sine, sine, cosine], axis=1).reshape(T, 2, 2)
    scale = np.stack([stretch, 1.0 / stretch], axis=1)
    to_image = rotation * scale[:, None, :]  # own coordinates to offsets in radii

    outline = np.einsum("tij,tpj->tpi", to_image, _OUTLINES[shape])
    low, high = outline.min(axis=1), outline.max(axis=1)  # (T, 2) in radii
    radius = np.maximum(radius, _LEAST_EXTENT / (high - low).min(axis=1))
    centre = 0.02 + 0.96 * draws[:, 7:9]
    boxes = np.concatenate([centre + low * radius[:, None], centre + high * radius[:, None]], axis=1).clip(0.0, 1.0)
    to_image = to_image * radius[:, None, None]
    to_own = np.linalg.inv(to_image)
    cycles = np.clip(2.0 + 2.0 * draws[:, 9], 1.6, np.maximum(1.6, 2.0 * radius / (4.0 / 96.0)))

    # Large things tend to stand behind small ones; otherwise few small ones would be left to see.
    order = np.argsort(-(np.log(radius) + 1.2 * draws[:, 10]), kind="stable")
    placed = SceneLayout(shape, texture, centre, to_own, radius, cycles, label, boxes, np.ones(T))
    placed = _take(placed, order)
    visible = _visible_shares(placed, to_image[order])
    extent = placed.boxes[:, 2:] - placed.boxes[:, :2]
    kept = (visible >= _LEAST_VISIBLE) & (extent.min(axis=1) >= _LEAST_CLIPPED_EXTENT)
    if not (kept & (placed.label >= 0)).any():  # a scene has at least one object: the nearest, alone
        kept = np.zeros(T, dtype=bool)
        kept[np.flatnonzero(placed.label >= 0)[-1]] = True
    placed = _take(placed, kept)
    return replace(placed, visible=np.maximum(visible[kept], _LEAST_VISIBLE))


def _take(placed: SceneLayout, which: np.ndarray) -> SceneLayout:
    return SceneLayout(**{name: values[which] for name, values in vars(placed).items()})


def _visible_shares(placed: SceneLayout, to_image: np.ndarray) -> np.ndarray:
    """(T,) share of each thing's mask inside the image and not behind a later thing, by a fixed set of its points."""
    points = placed.centre[:, None, :] + np.einsum("tij,tpj->tpi", to_image, _INNER_POINTS[placed.shape])
    seen = ((points > 0.0) & (points < 1.0)).all(axis=2)  # (T, samples)
    low, high = points.min(axis=1), points.max(axis=1)
    for front in range(1, len(points)):
        behind = np.flatnonzero(
            (low[:front] < placed.boxes[front, 2:]).all(axis=1) & (high[:front] > placed.boxes[front, :2]).all(axis=1)
        )
        if len(behind):
            own = (points[behind] - placed.centre[front]) @ placed.to_own[front].T
            seen[behind] &= _signed_distance(placed.shape[front], own[..., 0], own[..., 1]) > 0.0
    return seen.mean(axis=1)


def paint(placed: SceneLayout, size: int, random: np.random.Generator) -> np.ndarray:
    """Draw a layout as (size, size, 3) uint8. Edges are smoothed over one pixel by the distance to the outline."""
    canvas, ground = _background(size, random)
    for draws in random.random((int(random.random() * 4.0), 8)):
        _paint_line(canvas, draws)
    looks = random.random((len(placed.shape), 8), dtype=np.float32)
    first, second = _colours(looks, ground)
    for thing in range(len(placed.shape)):
        _paint_thing(canvas, placed, thing, first[thing], second[thing], looks[thing, 6:8] - np.float32(0.5))
    return _develop(canvas, random)


@lru_cache(maxsize=8)
def _interpolation(size: int, knots: int) -> np.ndarray:
    """(size, knots) float32 weights that spread `knots` values evenly over `size` pixels, linearly in between."""
    position = (np.arange(size) + 0.5) / size * (knots - 1)
    return np.maximum(0.0, 1.0 - np.abs(position[:, None] - np.arange(knots))).astype(np.float32)


def _background(size: int, random: np.random.Generator) -> tuple[np.ndarray, float]:
    """(3, size, size) float32 canvas of blotches and waves around one colour, and that colour's mean."""
    base = 0.15 + 0.7 * random.random((3, 1, 1), dtype=np.float32)
    spread = 0.05 + 0.25 * random.random(dtype=np.float32)
    knots = spread * (random.random((3, 6, 6), dtype=np.float32) - 0.5) + base
    weights = _interpolation(size, 6)
    canvas = weights @ knots @ weights.T
    amplitude, frequency, angle, phase = random.random(4)
    axis = np.linspace(0.0, 2.0 * np.pi * (3.0 + 14.0 * frequency), size, dtype=np.float32)
    along = np.float32(np.cos(2.0 * np.pi * angle)) * axis[:, None] + np.float32(np.sin(2.0 * np.pi * angle)) * axis
    canvas += np.float32(0.08 * amplitude) * np.sin(along + np.float32(2.0 * np.pi * phase))
    return canvas, float(base.mean())


def _window(low: np.ndarray, high: np.ndarray, size: int) -> tuple[slice, slice]:
    """Rows and columns that hold a box given in units of the side, with a pixel to spare for smoothed edges."""
    x0, y0 = (max(0, int(value * size) - 1) for value in low)
    x1, y1 = (min(size, int(value * size) + 2) for value in high)
    return slice(y0, y1), slice(x0, x1)


def _paint_line(canvas: np.ndarray, draws: np.ndarray) -> None:
    """Clutter: a straight stroke, one to three hundredths of the side wide."""
    size = canvas.shape[1]
    start, end = draws[0:2], draws[2:4]
    half_width = 0.004 + 0.01 * draws[4]
    rows, columns = _window(np.minimum(start, end) - half_width, np.maximum(start, end) + half_width, size)
    x = ((np.arange(columns.start, columns.stop) + 0.5) / size - start[0]).astype(np.float32)
    y = ((np.arange(rows.start, rows.stop) + 0.5) / size - start[1]).astype(np.float32)[:, None]
    along_x, along_y = (end - start).astype(np.float32)
    squared = along_x**2 + along_y**2 + np.float32(1e-6)
    share = (x * (along_x / squared) + y * (along_y / squared)).clip(0.0, 1.0)
    distance = np.hypot(x - share * along_x, y - share * along_y)
    cover = ((np.float32(half_width) - distance) * np.float32(size) + np.float32(0.5)).clip(0.0, 1.0)
    patch = canvas[:, rows, columns]
    patch += cover * (draws[5:8].astype(np.float32)[:, None, None] - patch)


def _pattern(texture: int, u: np.ndarray, v: np.ndarray, cycles: np.float32, pixels: np.float32) -> np.ndarray | None:
    """Where the second colour goes, 0..1; u, v: own coordinates; pixels: one radius in pixels. None if plain."""
    name = _ALL_TEXTURES[texture]
    if name == "plain":
        return None
    turn = np.float32(np.pi) * cycles
    sharpness = max(np.float32(0.6), pixels / turn)
    if name == "striped":
        wave = np.sin(turn * u)
    elif name == "dotted":
        wave = np.cos(turn * u) + np.cos(turn * v) - np.float32(0.8)
    else:
        wave = np.cos(turn * np.sqrt(u * u + v * v))
    wave *= sharpness
    wave += np.float32(0.5)
    return wave.clip(0.0, 1.0, out=wave)


def _colours(looks: np.ndarray, ground: float) -> tuple[np.ndarray, np.ndarray]:
    """Two colours (T, 3, 1, 1) a thing that differ in brightness from each other, the first also from the ground."""
    first, second = looks[:, 0:3], looks[:, 3:6]
    away = np.float32(0.3 if ground < 0.5 else -0.3)
    first = first + away * (np.abs(first.mean(axis=1, keepdims=True) - ground) < 0.15)
    brightness = first.mean(axis=1, keepdims=True)
    difference = second.mean(axis=1, keepdims=True) - brightness
    contrast = np.where(brightness < 0.5, np.float32(0.45), np.float32(-0.45))
    second = second + (contrast - difference) * (np.abs(difference) < 0.35)
    return first[:, :, None, None].clip(0.0, 1.0), second[:, :, None, None].clip(0.0, 1.0)


def _paint_thing(
    canvas: np.ndarray, placed: SceneLayout, thing: int, first: np.ndarray, second: np.ndarray, slope: np.ndarray
) -> None:
    """Draw one thing on the patch of the canvas that it covers.

    first, second: (3, 1, 1) colours. slope: (2,) how the light changes along its own coordinates.
    """
    size = canvas.shape[1]
    rows, columns = _window(placed.boxes[thing, :2], placed.boxes[thing, 2:], size)
    x = (np.arange(columns.start, columns.stop) + 0.5) / size - placed.centre[thing, 0]
    y = (np.arange(rows.start, rows.stop) + 0.5) / size - placed.centre[thing, 1]
    to_own = placed.to_own[thing]
    u = (to_own[0, 0] * x).astype(np.float32) + (to_own[0, 1] * y).astype(np.float32)[:, None]
    v = (to_own[1, 0] * x).astype(np.float32) + (to_own[1, 1] * y).astype(np.float32)[:, None]
    pixels = np.float32(placed.radius[thing] * size)
    cover = _signed_distance(placed.shape[thing], u, v)
    cover *= -pixels
    cover += np.float32(0.5)
    cover.clip(0.0, 1.0, out=cover)

    pattern = _pattern(placed.texture[thing], u, v, np.float32(placed.cycles[thing]), pixels)
    shade = 1.0 + slope[0] * u + slope[1] * v
    colour = first * shade if pattern is None else (first + (second - first) * pattern) * shade
    patch = canvas[:, rows, columns]
    colour -= patch
    colour *= cover
    patch += colour


def _develop(canvas: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Light falling from one side, exposure and noise; (3, S, S) float32 to (S, S, 3) uint8."""
    size = canvas.shape[1]
    exposure, slope_x, slope_y, noise = random.random(4)
    axis = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    light = np.float32(0.65 + 0.45 * exposure) + np.float32(0.6 * slope_x - 0.3) * axis
    canvas *= 255.0 * (light + np.float32(0.6 * slope_y - 0.3) * axis[:, None])
    # The sum of two bytes: noise of a triangular distribution, far cheaper than a normal one.
    grain = np.frombuffer(random.bytes(2 * canvas.size), dtype=np.uint8).reshape(2, *canvas.shape)
    grain = np.subtract(grain[0], grain[1], dtype=np.float32)  # standard deviation 104
    grain *= np.float32(0.01 + 0.03 * noise)
    canvas += grain
    canvas.clip(0.0, 255.0, out=canvas)
    return np.ascontiguousarray(canvas.astype(np.uint8).transpose(1, 2, 0))


@dataclass(frozen=True)
class SceneImages:
    """Draws image `index` of a split, (size, size, 3) uint8; small to pickle, so that worker processes can draw."""

    split: str
    size: int
    seed: int

    def __call__(self, index: int) -> np.ndarray:
        random = _generator(self.seed, self.split, int(index))
        return paint(layout(random), self.size, random)


def scenes(
    split: str, count: int, size: int = 96, seed: int = 0, chosen: NDArray[np.int64] | None = None
) -> DetectionSet:
    """`count` scenes of size x size pixels; the first n of a larger set are the n of a smaller one.

    chosen: positions of those that are wanted: to lay the others out, too, would take milliseconds each. None: all.

    Splits ("train", "val", any name) share no image. Boxes are of the whole object, clipped to the image; `area` is
    the visible part of its mask in pixels of an image 160 pixels wide, so that COCO's small (< 32^2) and large
    (>= 96^2) mean the same at every size. The pictures are equal to the byte on one machine and one numpy version.
    """
    if count < 1:
        raise InputError(f"scenes need at least one image in a split, got {split}={count}")
    if size < 32:
        raise InputError(f"scenes must be at least 32 pixels wide to show anything, got size={size}")
    if seed < 0:
        raise InputError(f"the seed of scenes must be at least 0, got {seed}")
    positions = np.arange(count, dtype=np.int64) if chosen is None else chosen
    steps = tqdm(positions.tolist(), desc=f"scenes of {split}", disable=len(positions) < 2000 or None, leave=False)
    placed = [layout(_generator(seed, split, index)) for index in steps]
    objects = [scene.label >= 0 for scene in placed]
    offsets, images = first_rows(np.array([which.sum() for which in objects])), SceneImages(split, size, seed)

    def joined(values: Callable[[SceneLayout], np.ndarray]) -> np.ndarray:
        return np.concatenate([values(scene)[which] for scene, which in zip(placed, objects, strict=True)])

    return DetectionSet(
        name="scenes",
        split=split,
        categories=CATEGORIES,
        category_ids=np.arange(1, len(CATEGORIES) + 1, dtype=np.int64),
        image_ids=positions + 1,
        sizes=np.full((len(positions), 2), size, dtype=np.int32),
        offsets=offsets,
        boxes=(joined(lambda scene: scene.boxes) * size).astype(np.float32),
        labels=joined(lambda scene: scene.label),
        crowd=np.zeros(int(offsets[-1]), dtype=bool),
        area=joined(SceneLayout.area),
        load_image=images if chosen is None else Chosen(images, positions),
    )
