"""Scenes: reproducible, annotated truly, and with the statistics they promise."""

import hashlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from common.data import scenes as module
from common.data.scenes import CATEGORIES, SHAPES, TEXTURES, scenes
from common.plain import InputError


@pytest.fixture(scope="module")
def many():
    return scenes("train", 600, 96, seed=0)


def _digest(dataset, count=3) -> str:
    digest = hashlib.sha256(dataset.boxes.tobytes() + dataset.labels.tobytes() + dataset.area.tobytes())
    for index in range(count):
        digest.update(dataset.load_image(index).tobytes())
    return digest.hexdigest()


def test_the_same_seed_gives_the_same_bytes_in_another_process():
    script = (
        "import hashlib; from common.data.scenes import scenes; s = scenes('val', 3, 64, 5);"
        "d = hashlib.sha256(s.boxes.tobytes() + s.labels.tobytes() + s.area.tobytes());"
        "[d.update(s.load_image(i).tobytes()) for i in range(3)]; print(d.hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == _digest(scenes("val", 3, 64, 5))


def test_seed_and_split_give_other_scenes():
    digests = {_digest(scenes(split, 3, 64, seed)) for split in ("train", "val") for seed in (0, 1)}
    assert len(digests) == 4


def test_a_set_begins_like_a_smaller_set_and_is_read_in_any_order():
    small, large = scenes("train", 4, 48), scenes("train", 7, 48)
    np.testing.assert_array_equal(large.boxes[: len(small.boxes)], small.boxes)
    last = pickle.loads(pickle.dumps(large.load_image))(3)
    large.load_image(6)
    np.testing.assert_array_equal(small.load_image(3), last)


def test_one_scene_at_every_size():
    small, large = scenes("train", 5, 64), scenes("train", 5, 128)
    np.testing.assert_allclose(large.boxes, 2 * small.boxes, rtol=1e-5)
    np.testing.assert_array_equal(large.area, small.area)
    assert large.load_image(0).shape == (128, 128, 3)


def test_the_set_is_valid_and_its_statistics_are_those_promised(many):
    """About 6 objects an image; 52 % small, 46 % medium, 2 % large by the visible area on 160 pixels; even classes."""
    assert (len(many), many.categories, len(set(CATEGORIES))) == (600, CATEGORIES, 12)
    assert ((many.boxes >= 0) & (many.boxes <= many.sizes[0, 0])).all()
    image = many.load_image(0)
    assert (image.shape, image.dtype) == ((96, 96, 3), np.uint8)
    extent = many.boxes[:, 2:] - many.boxes[:, :2]
    assert extent.min() >= 4.0 - 1e-3
    assert np.mean(extent.min(axis=1) >= 5.0 - 1e-3) > 0.95  # only what the border cuts is thinner
    counts = np.diff(many.offsets)
    assert counts.min() >= 1
    assert 13 <= counts.max() <= 16
    assert 5.6 < counts.mean() < 6.8
    small, large = np.mean(many.area < 32**2), np.mean(many.area >= 96**2)
    assert (small, large, 1 - small - large) == pytest.approx((0.52, 0.02, 0.46), abs=0.03)
    assert large > 0.01
    shares = np.bincount(many.labels, minlength=12) / len(many.labels)
    assert shares.min() > 0.85 / 12
    assert shares.max() < 1.15 / 12


def _alone(shape: str, texture: str, angle: float, stretch: float) -> module.SceneLayout:
    """One white thing in the middle of the picture, half extents .25 * stretch and .25 / stretch."""
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    to_image = 0.25 * turn * np.array([stretch, 1 / stretch])
    which = module._ALL_SHAPES.index(shape)
    outline = module._OUTLINES[which] @ to_image.T
    box = np.concatenate([outline.min(axis=0), outline.max(axis=0)]) + 0.5
    return module.SceneLayout(
        shape=np.array([which]),
        texture=np.array([module._ALL_TEXTURES.index(texture)]),
        centre=np.array([[0.5, 0.5]]),
        to_own=np.linalg.inv(to_image)[None],
        radius=np.array([0.25]),
        cycles=np.array([3.0]),
        label=np.array([0]),
        boxes=box[None],
        visible=np.ones(1),
    )


def _paint_white(canvas: np.ndarray, placed: module.SceneLayout) -> None:
    white = np.ones((3, 1, 1), np.float32)
    module._paint_thing(canvas, placed, 0, white, 0 * white, np.zeros(2, np.float32))


@pytest.mark.parametrize("shape", module._ALL_SHAPES)
@pytest.mark.parametrize(("angle", "stretch"), [(0.0, 1.0), (0.7, 1.3), (2.5, 0.8)])
def test_boxes_and_areas_hold_the_painted_mask(shape, angle, stretch):
    placed = _alone(shape, "plain", angle, stretch)
    canvas = np.zeros((3, 200, 200), dtype=np.float32)
    _paint_white(canvas, placed)
    mask = canvas[0] > 0.5
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    painted = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(painted, placed.boxes[0] * 200, atol=1.6)
    assert mask.sum() * (module.REFERENCE_SIDE / 200) ** 2 == pytest.approx(placed.area()[0], rel=0.03)


def test_every_texture_looks_different():
    canvases = []
    for texture in module._ALL_TEXTURES:
        canvas = np.zeros((3, 64, 64), dtype=np.float32)
        _paint_white(canvas, _alone("square", texture, 0.3, 1.0))
        canvases.append(canvas)
    for first in range(len(canvases)):
        for second in range(first):
            assert np.abs(canvases[first] - canvases[second]).mean() > 0.02


def test_hidden_things_are_left_out():
    """A naive count of pixels: every kept object shows at least a quarter (less what 48 points can miss)."""
    side = 240
    grid = (np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1) + 0.5) / side
    for index in range(25):
        placed = module.layout(module._generator(3, "train", index))
        owner = np.full((side, side), -1)
        for thing in range(len(placed.shape)):
            own = (grid - placed.centre[thing]) @ placed.to_own[thing].T
            owner[module._signed_distance(placed.shape[thing], own[..., 0], own[..., 1]) < 0] = thing
        for thing in range(len(placed.shape)):
            whole = module._FILL_AREAS[placed.shape[thing]] * placed.radius[thing] ** 2 * side**2
            share = (owner == thing).sum() / whole
            assert share > 0.12
            assert share == pytest.approx(placed.visible[thing], abs=0.18) or placed.visible[thing] < share


def test_label_names_shape_and_texture():
    for index in range(20):
        placed = module.layout(module._generator(0, "train", index))
        for shape, texture, label in zip(placed.shape, placed.texture, placed.label, strict=True):
            if label >= 0:
                assert CATEGORIES[label] == f"{TEXTURES[texture]} {SHAPES[shape]}"
            else:
                foreign_shape = shape >= len(SHAPES)
                assert foreign_shape != (texture >= len(TEXTURES))  # one of the two is foreign, never both


@pytest.mark.parametrize(("count", "size", "seed"), [(0, 96, 0), (4, 8, 0), (4, 96, -1)])
def test_unusable_requests_are_refused(count, size, seed):
    with pytest.raises(InputError):
        scenes("train", count, size, seed)
