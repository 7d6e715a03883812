"""Batches: the same for a seed, resumed or not, held in memory or streamed."""

import errno
import os
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from PIL import Image

from common.batch import normalise
from common.data import batches as module
from common.data.batches import ClassificationBatches, DetectionBatches, ResolutionBatches, SharedImages, resident
from common.data.crops import object_crops
from common.data.detection_set import DetectionSet
from common.data.scenes import scenes
from common.letterbox import PADDING, canvas_of, letterbox, letterbox_scale, padded
from common.plain import InputError
from common.settings import CROP_AUGMENTATION, Augmentation
from tests.common.data.forms import made, refused


@pytest.fixture(scope="module")
def dataset() -> DetectionSet:
    return scenes("train", 11, 48, seed=2)


def _wide_images(counts=(2, 0, 11), crowd_first=False) -> DetectionSet:
    """Images of 60x30 and 30x60 pixels with `counts` boxes each, grey by their position."""
    sizes, rows = [(30, 60) if i % 2 == 0 else (60, 30) for i in range(len(counts))], np.arange(sum(counts))
    low = np.stack([rows % 5 * 2.0, rows % 3 * 3.0], axis=1)
    fields = {"crowd": (rows == 0) & crowd_first}
    fields["load_image"] = lambda index: np.full((*sizes[index], 3), 40 * index, np.uint8)
    return made(sizes, counts, np.concatenate([low, low + 10], axis=1), rows % 2, **fields)


def _assert_equal(first, second) -> None:
    for field in fields(first):
        assert torch.equal(getattr(first, field.name), getattr(second, field.name)), field.name


def _assert_all_equal(first, second) -> None:
    first, second = list(first), list(second)
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        _assert_equal(one, other)


def _stream(monkeypatch, workers: bool) -> None:
    """No memory for decoded images from here on."""
    monkeypatch.setattr(module, "memory_for_images", lambda device: 0)
    monkeypatch.setattr(module, "_PARALLEL_FROM", 1 if workers else 10**9)


@pytest.mark.parametrize(
    ("augment", "size", "workers"),
    [(None, 32, False), (Augmentation(), (64, 32), False), (Augmentation(), (64, 32), True)],
)
def test_resident_equals_streamed(dataset, device, augment, size, workers, monkeypatch):
    held = DetectionBatches(dataset, size, 4, device, augment, seed=7)
    _stream(monkeypatch, workers)
    streamed = DetectionBatches(dataset, size, 4, device, augment, seed=7)
    assert held.images is not None
    assert streamed.images is None
    _assert_all_equal(held.epoch(1), streamed.epoch(1))
    _assert_all_equal(held.in_order(), streamed.in_order())


def test_resuming_continues_the_epoch_and_does_not_draw_what_it_skips(dataset, device, monkeypatch):
    drawn = []
    watched = replace(dataset, load_image=lambda index: (drawn.append(index), dataset.load_image(index))[1])
    _stream(monkeypatch, workers=False)
    batches = DetectionBatches(watched, 32, 2, device, Augmentation(), seed=7)
    assert batches.steps_per_epoch == 5
    whole = list(batches.epoch(3))
    assert len(whole) == 5
    drawn.clear()
    _assert_all_equal(whole[2:], batches.epoch(3, start=2))
    assert len(drawn) == 6
    assert list(batches.epoch(3, start=5)) == []


def test_seed_stage_and_epoch_decide_and_an_epoch_shows_each_image_once(dataset):
    batches = DetectionBatches(dataset, 32, 2, augment=Augmentation(), seed=7)
    other_seed = DetectionBatches(dataset, (32, 32), 2, augment=Augmentation(), seed=8, images=batches.images)
    assert other_seed.images is batches.images
    shown = {
        (seed, stage, epoch): torch.cat([batch.index for batch in part.epoch(epoch, stage=stage)]).tolist()
        for seed, part in ((7, batches), (8, other_seed))
        for stage in ("warm-up", "fine-tuning")
        for epoch in (0, 1)
    }
    assert all(len(images) == len(set(images)) == 10 for images in shown.values())
    assert len(set(map(tuple, shown.values()))) == 8
    whole = DetectionBatches(dataset, 32, 11, augment=Augmentation(), images=batches.images)
    one, other = (next(whole.epoch(0, stage=stage)) for stage in ("warm-up", "fine-tuning"))
    assert not torch.equal(one.images[one.index.argsort()], other.images[other.index.argsort()])  # augmented anew
    same = DetectionBatches(dataset, (32, 32), 2, augment=Augmentation(), seed=7)
    _assert_all_equal(batches.epoch(0), same.epoch(0))  # 32 and (32, 32) are one canvas
    in_order = list(batches.in_order())
    assert torch.cat([batch.index for batch in in_order]).tolist() == list(range(11))
    assert len(in_order[-1].images) == 1


def test_images_without_a_box_survive_augmentation(device):
    batches = DetectionBatches(_wide_images((0, 0, 0)), 30, 3, device, Augmentation())
    (batch,) = batches.epoch(0)
    assert not batch.valid.any()
    assert batch.boxes.abs().max() == 0
    assert torch.isfinite(batch.images).all()


def _fitted_naively(image: np.ndarray, width: int, height: int) -> tuple[np.ndarray, float]:
    """The canvas, where the image fits it in whole pixels, and network pixels per original pixel."""
    H, W = image.shape[:2]
    scale = width / W if width * H <= height * W else height / H
    fitted = Image.fromarray(image).resize((round(W * scale), max(1, round(H * scale))), Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", (width, height), PADDING)
    canvas.paste(fitted, (0, 0))
    return np.asarray(canvas), scale


@pytest.mark.parametrize(
    ("shape", "content"),
    [
        ((60, 80), (64, 48)),
        ((1, 300), (96, 1)),
        ((40, 160), (96, 24)),
        ((80, 40), (24, 48)),
        ((30, 60), (96, 48)),
        ((48, 96), (96, 48)),
    ],
)
def test_a_rectangle_equals_the_naive_reference(shape, content):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected, scale = _fitted_naively(image, 96, 48)
    boxed = letterbox(image, (96, 48))
    np.testing.assert_array_equal(boxed, expected)
    assert letterbox_scale(np.array([shape]), (96, 48)) == np.float32(scale)
    assert letterbox(boxed, (96, 48)) is boxed
    padding = (boxed == PADDING).all(axis=2)
    assert padding[content[1] :].all()
    assert padding[:, content[0] :].all()
    assert not padding[: content[1], : content[0]].any(axis=1).all()


@pytest.mark.parametrize("size", [30, (64, 32), (32, 64), (33, 57)])
def test_in_order_is_the_set_itself(size, device):
    dataset = _wide_images((2, 0, 12), crowd_first=True)  # 60 wide, 30 high, and the other way round
    (batch,) = DetectionBatches(dataset, size, 4, device, Augmentation()).in_order()
    width, height = canvas_of(size)
    assert batch.images.shape == (3, 3, height, width)
    assert batch.boxes.shape == (3, 16, 4)  # 12 boxes, rounded up to a multiple of 8
    assert batch.valid.sum(dim=1).tolist() == [1, 0, 12]  # a crowd is no target
    for index, (H, W) in enumerate(dataset.sizes):
        scale = min(width / W, height / H)
        assert batch.sizes[index].tolist() == [H, W]
        kept, rows = batch.valid[index], np.arange(14)[dataset.boxes_of(index)]
        rows = rows[~dataset.crowd[rows]]
        boxes = batch.boxes[index][kept]
        assert (boxes <= torch.tensor([W, H] * 2, device=device) * scale * (1 + 1e-6)).all()
        original = torch.from_numpy(dataset.boxes[rows]).to(device)
        torch.testing.assert_close(boxes / scale, original, rtol=2e-7, atol=0)
        assert batch.labels[index][kept].tolist() == dataset.labels[rows].tolist()
        assert not batch.boxes[index][~kept].any()
        grey = normalise(torch.full((1, 3, 1, 1), 40.0 * index, device=device)).flatten()
        inside = batch.images[index, :, : int(H * scale + 1e-6), : int(W * scale + 1e-6)]
        torch.testing.assert_close(inside, grey.view(3, 1, 1).expand_as(inside))
        assert batch.images[index, :, round(H * scale) + 1 :].abs().sum() < 0.02 * batch.images[index].numel()


@pytest.mark.parametrize("size", [0, (32, 0), (32,), (1, 2, 3), (32.0, 32)])
def test_a_canvas_that_is_none_gives_a_sentence(size):
    with refused("width and height"):
        canvas_of(size)


def test_faults_are_one_sentence(dataset):
    with refused("too few for one batch of 12"):
        next(DetectionBatches(dataset, 32, 12).epoch(0))
    with refused("at least 1"):
        DetectionBatches(dataset, 32, 0)
    with pytest.raises(ValueError, match="not the 11 of this set"):
        DetectionBatches(dataset, 40, 2, images=resident(dataset, 32))
    with refused("give one or more"):
        ResolutionBatches({})


@pytest.mark.parametrize("workers", [False, True])
def test_a_bad_image_is_named_without_a_traceback(workers, monkeypatch):
    def broken(index):
        raise InputError("image x.jpg cannot be decoded; export it again")

    _stream(monkeypatch, workers)
    with pytest.raises(InputError) as error:
        resident(replace(_wide_images(), load_image=broken), 32)
    assert str(error.value) == "image x.jpg cannot be decoded; export it again"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not bind processes to cores")
def test_images_are_decoded_by_no_more_processes_than_the_cores_that_may_be_used(dataset, monkeypatch, recwarn):
    _stream(monkeypatch, workers=True)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        list(DetectionBatches(dataset, 32, 4, "cpu").in_order())
    finally:
        os.sched_setaffinity(0, before)
    assert not recwarn.list  # torch counts them and warns


@pytest.mark.parametrize("workers", [False, True])
def test_crops_are_streamed_where_they_do_not_fit(dataset, device, workers, monkeypatch):
    _, crops = object_crops(dataset, 24, count=30).split(3)
    crops = crops.repeated(33)
    held = ClassificationBatches(crops, 8, device, CROP_AUGMENTATION, seed=1)
    assert held.steps_per_epoch == 4
    whole = list(held.epoch(0))
    assert whole[0].images.shape == (8, 3, 24, 24)
    _assert_all_equal(whole[1:], held.epoch(0, start=1))
    in_order = list(held.in_order())
    assert torch.cat([batch.labels for batch in in_order]).tolist() == crops.labels.tolist()
    cut = torch.stack([torch.from_numpy(crops.objects(index)) for index in crops.index[:8].tolist()])
    torch.testing.assert_close(in_order[0].images.cpu(), normalise(cut.permute(0, 3, 1, 2)))

    _stream(monkeypatch, workers)
    drawn = []
    watched = replace(dataset, load_image=lambda index: (drawn.append(index), dataset.load_image(index))[1])
    fresh = replace(crops, objects=replace(crops.objects, dataset=watched, _held={}))
    streamed = ClassificationBatches(fresh, 8, device, CROP_AUGMENTATION, seed=1)
    assert streamed.images is None
    _assert_all_equal(whole, streamed.epoch(0))
    _assert_all_equal(in_order, streamed.in_order())
    if not workers:  # nothing is kept from batch to batch
        drawn.clear()
        next(streamed.epoch(1))
        assert len(drawn) == 8
        assert fresh.objects._held == {}


def test_cpu_and_cuda_see_the_same_augmentation(dataset):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    on_cpu = next(DetectionBatches(dataset, 32, 4, "cpu", Augmentation()).epoch(0))
    on_cuda = next(DetectionBatches(dataset, 32, 4, "cuda", Augmentation()).epoch(0)).to("cpu")
    assert torch.equal(on_cpu.index, on_cuda.index)
    torch.testing.assert_close(on_cpu.boxes, on_cuda.boxes, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(on_cpu.images, on_cuda.images, atol=2e-2, rtol=0)


# ---- a canvas drawn at each step


@pytest.mark.parametrize("held", [True, False], ids=["resident", "streamed"])
def test_each_step_draws_a_size_and_nothing_else(dataset, held, monkeypatch):
    if not held:
        _stream(monkeypatch, workers=False)
    augment, sizes = Augmentation(), ((32, 32), (64, 32), (64, 64))
    parts = {size: DetectionBatches(dataset, size, 2, "cpu", augment, 3) for size in sizes}
    batches = ResolutionBatches(parts, 3)
    assert batches.steps_per_epoch == 5
    drawn = [size for epoch in range(12) for size in batches.sizes(epoch)]
    assert all(10 <= drawn.count(size) <= 32 for size in sizes), "60 draws, all equally likely"
    for epoch in (0, 4):
        found = list(batches.epoch(epoch))
        assert [(batch.images.shape[3], batch.images.shape[2]) for batch in found] == batches.sizes(epoch)
        for step, (batch, size) in enumerate(zip(found, batches.sizes(epoch), strict=True)):
            _assert_equal(batch, next(parts[size].epoch(epoch, step)))
        _assert_all_equal(found[2:], batches.epoch(epoch, 2))
    assert ResolutionBatches(parts, 4).sizes(0) + ResolutionBatches(parts, 4).sizes(1) != drawn[:10]


def test_canvas_in_whole_multiples():
    assert padded((1333, 800)) == (1344, 800)
    assert padded((1080, 720)) == (1088, 736)
    assert padded(65) == (96, 96)


# ---- images that the processes of a search hold together


@pytest.fixture
def own(dataset) -> torch.Tensor:
    """The images of `dataset`, of this process alone."""
    boxed = [letterbox(dataset.load_image(index), 32).transpose(2, 0, 1) for index in range(len(dataset))]
    return torch.from_numpy(np.stack(boxed))


@pytest.fixture
def shared(monkeypatch, tmp_path):
    """Files that hold images, from here on shared."""
    monkeypatch.setattr(SharedImages, "folder", tmp_path / "images")
    return lambda: [each for each in (tmp_path / "images").iterdir() if each.suffix == ""]


def test_processes_of_a_search_decode_a_set_once_and_hold_it_once(dataset, own, shared, monkeypatch):
    first = resident(dataset, 32)
    monkeypatch.setattr(module, "_decode_into", None)  # from here on nobody can decode
    second = resident(dataset, 32)
    assert torch.equal(first, own)
    assert torch.equal(second, own)
    first[3] = 7
    assert (second[3] == 7).all()  # one memory
    (file,) = shared()
    assert file.stat().st_size == own.numel()


def test_other_sizes_and_sets_are_other_files(dataset, shared):
    held = [resident(each, size) for each in (dataset, dataset.subset([1, 2])) for size in (32, (32, 48))]
    assert [tuple(each.shape) for each in held] == [(n, 3, height, 32) for n in (11, 2) for height in (32, 48)]
    assert torch.equal(held[2], held[0][1:3])
    assert len(shared()) == 4


def test_what_an_interrupted_process_left_is_decoded_again(dataset, own, shared):
    resident(dataset, 32)
    (file,) = shared()
    file.unlink()
    file.with_suffix(".part").write_bytes(b"\0" * 10)
    assert torch.equal(resident(dataset, 32), own)


def test_where_the_disk_is_full_each_process_holds_its_own(dataset, own, shared, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "posix_fallocate", full)
    assert torch.equal(resident(dataset, 32), own)
    assert not shared()
