"""Batches: the same for a seed, resumed or not, held in memory or streamed."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image

from common.batch import normalise
from common.data.batches import ClassificationBatches, DetectionBatches, ResolutionBatches, resident
from common.data.crops import object_crops
from common.data.detection_set import DetectionSet
from common.data.scenes import scenes
from common.letterbox import PADDING, canvas_of, letterbox, letterbox_scale, padded
from common.plain import InputError
from common.settings import CROP_AUGMENTATION, Augmentation


@pytest.fixture(scope="module")
def dataset() -> DetectionSet:
    return scenes("train", 11, 48, seed=2)


def _wide_images(counts=(2, 0, 11), crowd_first=False) -> DetectionSet:
    """Images of 60x30 and 30x60 pixels with `counts` boxes each, grey by their position."""
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    M = int(offsets[-1])
    sizes = np.array([(30, 60) if i % 2 == 0 else (60, 30) for i in range(len(counts))], np.int32)
    low = np.stack([np.arange(M) % 5 * 2.0, np.arange(M) % 3 * 3.0], axis=1)
    crowd = np.zeros(M, bool)
    crowd[:1] = crowd_first
    return DetectionSet(
        name="wide",
        split="val",
        categories=("a", "b"),
        category_ids=np.array([1, 2]),
        image_ids=np.arange(len(counts)),
        sizes=sizes,
        offsets=offsets,
        boxes=np.concatenate([low, low + 10], axis=1).astype(np.float32),
        labels=np.arange(M) % 2,
        crowd=crowd,
        area=np.full(M, 100.0),
        load_image=lambda index: np.full((*sizes[index], 3), 40 * index, np.uint8),
    )


def _assert_equal(first, second) -> None:
    for field in fields(first):
        assert torch.equal(getattr(first, field.name), getattr(second, field.name)), field.name


def _assert_all_equal(first, second) -> None:
    first, second = list(first), list(second)
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        _assert_equal(one, other)


@pytest.mark.parametrize("augment", [None, Augmentation()])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("size", [32, (64, 32)])
def test_resident_equals_streamed(dataset, device, augment, workers, size):
    held = DetectionBatches(dataset, size, 4, device, augment, seed=7)
    streamed = DetectionBatches(dataset, size, 4, device, augment, seed=7, memory_limit=0, workers=workers)
    assert held.images is not None
    assert streamed.images is None
    _assert_all_equal(held.epoch(1), streamed.epoch(1))
    _assert_all_equal(held.in_order(), streamed.in_order())


def test_resuming_continues_the_epoch(dataset, device):
    batches = DetectionBatches(dataset, 32, 2, device, Augmentation(), seed=7)
    assert batches.steps_per_epoch == 5
    whole = list(batches.epoch(3))
    assert len(whole) == 5
    _assert_all_equal(whole[2:], batches.epoch(3, start=2))
    assert list(batches.epoch(3, start=5)) == []


def test_resuming_does_not_draw_what_it_skips(dataset):
    drawn = []

    def load_image(index):
        drawn.append(index)
        return dataset.load_image(index)

    watched = DetectionSet(**{**vars(dataset), "load_image": load_image})
    batches = DetectionBatches(watched, 48, 2, memory_limit=0, workers=0)
    assert drawn == []
    list(batches.epoch(0, start=4))
    assert len(drawn) == 2


def test_seed_and_epoch_decide(dataset):
    batches = DetectionBatches(dataset, 32, 5, augment=Augmentation(), seed=7)
    other_seed = DetectionBatches(dataset, 32, 5, augment=Augmentation(), seed=8, images=batches.images)
    first = next(batches.epoch(0))
    _assert_equal(first, next(batches.epoch(0)))
    assert not torch.equal(first.index, next(batches.epoch(1)).index)
    assert not torch.equal(first.index, next(other_seed.epoch(0)).index)


def test_an_epoch_shows_each_image_once_and_in_order_shows_all(dataset):
    batches = DetectionBatches(dataset, 32, 2, augment=Augmentation())
    shown = torch.cat([batch.index for batch in batches.epoch(0)]).tolist()
    assert len(shown) == len(set(shown)) == 10
    in_order = list(batches.in_order())
    assert torch.cat([batch.index for batch in in_order]).tolist() == list(range(11))
    assert len(in_order[-1].images) == 1


def test_in_order_is_the_set_itself(device):
    dataset = _wide_images()
    (batch,) = DetectionBatches(dataset, 30, 4, device, Augmentation()).in_order()
    assert batch.images.shape == (3, 3, 30, 30)
    assert batch.boxes.shape == (3, 16, 4)  # 11 boxes, rounded up to a multiple of 8
    assert batch.valid.sum(dim=1).tolist() == [2, 0, 11]
    assert batch.scale.tolist() == [0.5, 0.5, 0.5]
    original = batch.boxes / batch.scale.view(-1, 1, 1)
    for index in range(3):
        rows = dataset.boxes_of(index)
        kept = batch.valid[index]
        torch.testing.assert_close(original[index][kept].cpu(), torch.from_numpy(dataset.boxes[rows]))
        assert batch.labels[index][kept].tolist() == dataset.labels[rows].tolist()
    grey = normalise(torch.full((1, 3, 1, 1), 40.0, device=device)).flatten()
    torch.testing.assert_close(batch.images[1, :, 29, 14], grey)  # 15 wide, 30 high
    assert batch.images[1, :, :, 16:].abs().max() < 0.01


def test_crowds_are_no_targets():
    (batch,) = DetectionBatches(_wide_images((2, 1), crowd_first=True), 30, 4).in_order()
    assert batch.boxes.shape[1] == 8
    assert batch.valid.sum(dim=1).tolist() == [1, 1]
    assert batch.boxes[0, 0].tolist() == [1.0, 1.5, 6.0, 6.5]
    assert batch.labels[0, 0] == 1


def test_images_without_a_box_survive_augmentation(device):
    batches = DetectionBatches(_wide_images((0, 0, 0)), 30, 3, device, Augmentation())
    (batch,) = batches.epoch(0)
    assert not batch.valid.any()
    assert batch.boxes.abs().max() == 0
    assert torch.isfinite(batch.images).all()


def test_letterbox_keeps_positions():
    image = np.zeros((70, 101, 3), np.uint8)
    image[20:50, 30:80] = 255
    boxed = letterbox(image, 64)
    scale = 64 / 101
    assert boxed.shape == (64, 64, 3)
    bright = boxed[..., 0] > 180
    bright[44:] = False  # 70 rows make 44; below is padding
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    np.testing.assert_allclose(found, np.array([30, 20, 80, 50]) * scale, atol=1.0)
    assert tuple(boxed[50, 5]) == PADDING
    assert letterbox(boxed, 64) is boxed
    assert letterbox(np.zeros((1, 300, 3), np.uint8), 32).shape == (32, 32, 3)


def test_a_square_by_either_name_is_the_same(dataset):
    _assert_all_equal(
        DetectionBatches(dataset, 40, 4, augment=Augmentation()).epoch(0),
        DetectionBatches(dataset, (40, 40), 4, augment=Augmentation()).epoch(0),
    )


def _fitted_naively(image: np.ndarray, width: int, height: int) -> tuple[np.ndarray, float]:
    """The canvas, where the image fits it in whole pixels, and network pixels per original pixel."""
    H, W = image.shape[:2]
    scale = width / W if width * H <= height * W else height / H
    fitted = Image.fromarray(image).resize((round(W * scale), round(H * scale)), Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", (width, height), PADDING)
    canvas.paste(fitted, (0, 0))
    return np.asarray(canvas), scale


@pytest.mark.parametrize(
    ("shape", "content"),
    [((60, 80), (64, 48)), ((40, 160), (96, 24)), ((80, 40), (24, 48)), ((30, 60), (96, 48)), ((48, 96), (96, 48))],
)
def test_a_rectangle_equals_the_naive_reference(shape, content):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected, scale = _fitted_naively(image, 96, 48)
    boxed = letterbox(image, (96, 48))
    np.testing.assert_array_equal(boxed, expected)
    assert letterbox_scale(np.array([shape]), (96, 48)) == np.float32(scale)
    padding = (boxed == PADDING).all(axis=2)
    assert padding[content[1] :].all()
    assert padding[:, content[0] :].all()
    assert not padding[: content[1], : content[0]].any(axis=1).all()


@pytest.mark.parametrize("size", [(64, 32), (32, 64), (800, 608), (33, 57)])
def test_boxes_map_back_from_a_rectangle(size, device):
    dataset = _wide_images((3, 5, 2))  # 60 wide, 30 high, and the other way round
    batches = DetectionBatches(dataset, size, 3, device)
    assert batches.images.shape == (3, 3, size[1], size[0])
    (batch,) = batches.in_order()
    for index, (height, width) in enumerate(dataset.sizes):
        scale = min(size[0] / width, size[1] / height)
        assert batch.scale[index].item() == pytest.approx(scale, rel=1e-7)
        kept = batch.boxes[index][batch.valid[index]]
        assert (kept <= torch.tensor([width, height] * 2, device=device) * batch.scale[index]).all()
        assert (kept <= torch.tensor([*size] * 2, device=device)).all()
        original = torch.from_numpy(dataset.boxes[dataset.boxes_of(index)]).to(device)
        torch.testing.assert_close(kept / batch.scale[index], original, rtol=2e-7, atol=0)
        grey = normalise(torch.full((1, 3, 1, 1), 40.0 * index, device=device)).flatten()
        inside = batch.images[index, :, : int(height * scale + 1e-6), : int(width * scale + 1e-6)]
        torch.testing.assert_close(inside, grey.view(3, 1, 1).expand_as(inside))
        assert batch.images[index, :, int(height * scale + 1e-6) :].abs().sum() < 0.02 * batch.images[index].numel()


def test_augmentation_stays_inside_a_rectangle(device):
    dataset = _wide_images((4,) * 6)
    batches = DetectionBatches(dataset, (96, 32), 6, device, Augmentation())
    places = []
    for epoch in range(4):
        (batch,) = batches.epoch(epoch)
        assert batch.images.shape == (6, 3, 32, 96)
        places.append(batch.boxes[batch.valid])
    places = torch.cat(places)
    assert len(places) > 60
    assert (places >= 0).all()
    assert (places <= torch.tensor([96, 32, 96, 32], device=device)).all()
    assert places[:, 2].max() > 40  # beyond a square of the canvas's height


@pytest.mark.parametrize("size", [0, (32, 0), (32,), (1, 2, 3), (32.0, 32)])
def test_a_canvas_that_is_none_gives_a_sentence(size):
    with pytest.raises(InputError, match="width and height"):
        canvas_of(size)


def test_several_batches_share_the_decoded_images(dataset):
    images = resident(dataset, 32)
    first, second = (DetectionBatches(dataset, 32, size, images=images) for size in (2, 4))
    assert first.images.data_ptr() == second.images.data_ptr()
    with pytest.raises(ValueError, match="not the 11 of this set"):
        DetectionBatches(dataset, 40, 2, images=images)


def test_faults_are_one_sentence(dataset):
    with pytest.raises(InputError, match="too few for one batch of 12"):
        next(DetectionBatches(dataset, 32, 12).epoch(0))
    with pytest.raises(InputError, match="at least 1"):
        DetectionBatches(dataset, 32, 0)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_is_named_without_a_traceback(workers):
    def broken(index):
        raise InputError("image x.jpg cannot be decoded; export it again")

    dataset = DetectionSet(**{**vars(_wide_images()), "load_image": broken})
    with pytest.raises(InputError) as error:
        resident(dataset, 32, workers=workers)
    assert str(error.value) == "image x.jpg cannot be decoded; export it again"


def test_classification_batches(dataset, device):
    crops = object_crops(dataset, 24, count=30)
    batches = ClassificationBatches(crops, 8, device, CROP_AUGMENTATION, seed=1)
    assert batches.steps_per_epoch == 3
    whole = list(batches.epoch(0))
    assert whole[0].images.shape == (8, 3, 24, 24)
    _assert_all_equal(whole[1:], batches.epoch(0, start=1))
    in_order = list(batches.in_order())
    assert torch.cat([batch.labels for batch in in_order]).tolist() == crops.labels.tolist()
    torch.testing.assert_close(in_order[0].images.cpu(), normalise(crops.images[:8]))


def test_cpu_and_cuda_see_the_same_augmentation(dataset):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    on_cpu = next(DetectionBatches(dataset, 32, 4, "cpu", Augmentation()).epoch(0))
    on_cuda = next(DetectionBatches(dataset, 32, 4, "cuda", Augmentation()).epoch(0)).to("cpu")
    assert torch.equal(on_cpu.index, on_cuda.index)
    torch.testing.assert_close(on_cpu.boxes, on_cuda.boxes, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(on_cpu.images, on_cuda.images, atol=2e-2, rtol=0)


# ---- a canvas drawn at each step


@pytest.mark.parametrize("memory_limit", [None, 0], ids=["resident", "streamed"])
def test_each_step_draws_a_size_and_nothing_else(dataset, memory_limit):
    augment, sizes = Augmentation(), ((32, 32), (64, 32), (64, 64))
    parts = {size: DetectionBatches(dataset, size, 2, "cpu", augment, 3, memory_limit, workers=0) for size in sizes}
    batches = ResolutionBatches(parts, 3)
    assert batches.steps_per_epoch == 5
    drawn = [size for epoch in range(12) for size in batches.sizes(epoch)]
    assert all(10 <= drawn.count(size) <= 32 for size in sizes), "60 draws, all alike likely"
    for epoch in (0, 4):
        found = list(batches.epoch(epoch))
        assert [(batch.images.shape[3], batch.images.shape[2]) for batch in found] == batches.sizes(epoch)
        for step, (batch, size) in enumerate(zip(found, batches.sizes(epoch), strict=True)):
            _assert_equal(batch, next(parts[size].epoch(epoch, step)))
        _assert_all_equal(found[2:], batches.epoch(epoch, 2))
    assert ResolutionBatches(parts, 4).sizes(0) + ResolutionBatches(parts, 4).sizes(1) != drawn[:10]


def test_no_size_to_draw_is_said():
    with pytest.raises(InputError, match="give one or more"):
        ResolutionBatches({})


def test_canvas_in_whole_multiples():
    assert padded((1333, 800)) == (1344, 800)
    assert padded((1080, 720)) == (1088, 736)
    assert padded(65, multiple=64) == (128, 128)
