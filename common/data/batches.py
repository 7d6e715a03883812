"""Batches for training and evaluation: the same for a seed, however the images are held.

A set that fits in memory lives on the device, decoded and letterboxed, as one uint8 tensor; a larger one is streamed by
worker processes. Shuffling depends on (seed, epoch) and augmentation on (seed, epoch, step) only, and both happen on
the whole batch on the device, so the batches are equal to the bit either way, and a resumed run sees the same data.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from common.batch import Batch, ClassificationBatch, normalise
from common.data.augment import augment_boxes, augment_images, draw
from common.data.crops import Crops
from common.data.detection_set import DetectionSet
from common.letterbox import Size, canvas_of, letterbox, letterbox_scale
from common.plain import InputError
from common.settings import Augmentation

CPU_MEMORY_LIMIT = 2 * 1024**3  # bytes of decoded images kept in main memory
CUDA_MEMORY_SHARE = 1 / 3  # of what is free on the device
_DECODE_BATCH = 32
_PARALLEL_FROM = 256  # images; below, starting worker processes costs more than it saves


class _Letterboxed(Dataset):
    """Decoded images as (3, H, W) uint8. A bad image is returned as its `InputError`, not raised: a worker
    process would wrap the sentence in a traceback."""

    def __init__(self, dataset: DetectionSet, size: Size):
        self.dataset = dataset
        self.size = size

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Tensor | InputError:
        try:
            image = letterbox(self.dataset.load_image(index), self.size)
        except InputError as error:
            return error
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _stack(items: list[Tensor | InputError]) -> Tensor | InputError:
    return next((item for item in items if isinstance(item, InputError)), None) or torch.stack(items)


def _decoded(
    dataset: DetectionSet, size: Size, order: list[list[int]], workers: int | None, pin: bool
) -> Iterator[Tensor]:
    """uint8 images (b, 3, H, W) of each list of indices in `order`."""
    if workers is None:
        images = sum(map(len, order))
        workers = min(16, os.cpu_count() or 1, len(order)) if images >= _PARALLEL_FROM else 0
    loader = DataLoader(
        _Letterboxed(dataset, size),
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_stack,
        pin_memory=pin,
    )
    for images in loader:
        if isinstance(images, InputError):
            raise images
        yield images


def resident(
    dataset: DetectionSet, size: Size, device: torch.device | str = "cpu", workers: int | None = None
) -> Tensor:
    """All images of a set decoded, (N, 3, H, W) uint8 on `device`, for several `DetectionBatches`.

    workers: processes that decode; None means one for each core, or none for a small set.
    """
    N = len(dataset)
    width, height = canvas_of(size)
    held = torch.empty(N, 3, height, width, dtype=torch.uint8, device=device)
    order = [list(range(first, min(first + _DECODE_BATCH, N))) for first in range(0, N, _DECODE_BATCH)]
    with tqdm(total=N, desc=f"decode {dataset.name} {dataset.split}", unit="image", disable=N < 500) as progress:
        first = 0
        for images in _decoded(dataset, size, order, workers, held.is_cuda):
            held[first : first + len(images)] = images.to(device, non_blocking=True)
            first += len(images)
            progress.update(len(images))
    return held


def memory_for_images(device: torch.device) -> int:
    """Bytes of decoded images that are kept on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * CUDA_MEMORY_SHARE)
    return CPU_MEMORY_LIMIT


def _generator(*key: int) -> torch.Generator:
    """A CPU generator seeded by all of `key`, without neighbouring keys being related."""
    state = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state >> 1)  # torch takes 63 bits


class _Shuffled:
    """Which images make up which step: what detection and classification share."""

    def __init__(self, length: int, batch_size: int, device: torch.device | str, seed: int, name: str):
        if batch_size < 1:
            raise InputError(f"the batch size for {name} must be at least 1, got {batch_size}")
        self.length = length
        self.batch_size = batch_size
        self.device = torch.device(device)
        self.seed = seed
        self.name = name

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in one pass; an epoch leaves out the few images that fill no batch."""
        if self.length < self.batch_size:
            raise InputError(
                f"{self.name} has {self.length} images, too few for one batch of {self.batch_size}; give more images "
                "or a smaller batch"
            )
        return self.length // self.batch_size

    def _shuffled(self, epoch: int, start: int) -> list[Tensor]:
        """Indices of the steps from `start` on, each (batch_size,) int64 on the CPU."""
        steps = self.steps_per_epoch
        order = torch.randperm(self.length, generator=_generator(self.seed, epoch))
        return list(order[: steps * self.batch_size].split(self.batch_size)[start:])

    def _in_order(self) -> list[Tensor]:
        return list(torch.arange(self.length).split(self.batch_size))


@dataclass(frozen=True)
class _Targets:
    """Targets of a whole set on the device, padded to G boxes an image; content: (N, 2) width, height of the image in
    the letterbox."""

    boxes: Tensor
    labels: Tensor
    valid: Tensor
    scale: Tensor
    content: Tensor


def _targets(dataset: DetectionSet, size: Size, device: torch.device) -> _Targets:
    """Boxes that are not crowds, in network pixels. G is the largest number in an image, rounded up to 8."""
    N = len(dataset)
    scale = letterbox_scale(dataset.sizes, size)
    image = np.repeat(np.arange(N), np.diff(dataset.offsets))
    single = ~dataset.crowd
    image = image[single]
    counts = np.bincount(image, minlength=N)
    slot = np.arange(len(image)) - np.repeat(np.cumsum(counts) - counts, counts)
    G = max(8, -(-int(counts.max(initial=0)) // 8) * 8)
    boxes = np.zeros((N, G, 4), dtype=np.float32)
    labels = np.zeros((N, G), dtype=np.int64)
    valid = np.zeros((N, G), dtype=bool)
    boxes[image, slot] = dataset.boxes[single] * scale[image, None]
    labels[image, slot] = dataset.labels[single]
    valid[image, slot] = True
    content = dataset.sizes[:, ::-1] * scale[:, None]
    tensors = (boxes, labels, valid, scale, content.astype(np.float32))
    return _Targets(*(torch.from_numpy(array).to(device) for array in tensors))


class DetectionBatches(_Shuffled):
    """`Batch`es of a detection set, letterboxed into a canvas: size x size, or (width, height).

    augment: None means no augmentation; `in_order` never augments. memory_limit: bytes that decoded images may take on
    the device; None means 2 GiB on a CPU and a third of the free memory on a GPU; a larger set is streamed. images:
    what `resident` returned, where it is shared. workers: as for `resident`.
    """

    def __init__(
        self,
        dataset: DetectionSet,
        size: Size,
        batch_size: int,
        device: torch.device | str = "cpu",
        augment: Augmentation | None = None,
        seed: int = 0,
        memory_limit: int | None = None,
        images: Tensor | None = None,
        workers: int | None = None,
    ):
        super().__init__(len(dataset), batch_size, device, seed, f"{dataset.name} ({dataset.split})")
        width, height = canvas_of(size)
        shape = (len(dataset), 3, height, width)
        if images is not None and images.shape != shape:
            raise ValueError(f"images {tuple(images.shape)} are not the {len(dataset)} of this set at size {size}")
        self.dataset = dataset
        self.size = size
        self.augment = augment
        self.workers = workers
        limit = memory_for_images(self.device) if memory_limit is None else memory_limit
        if images is None and prod(shape) <= limit:
            images = resident(dataset, size, self.device, workers)
        self.images = images
        self._targets = _targets(dataset, size, self.device)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Shuffled, augmented batches of one epoch from step `start` on; the steps before cost nothing.

        `scale` is the letterbox's: it does not follow the augmentation.
        """
        yield from self.chosen(epoch, range(start, self.steps_per_epoch))

    def chosen(self, epoch: int, steps: Sequence[int]) -> Iterator[Batch]:
        """The batches of some steps of an epoch."""
        order = self._shuffled(epoch, 0)
        for step, (index, images) in zip(steps, self._loaded([order[step] for step in steps]), strict=True):
            drawn = None
            if self.augment is not None:
                drawn = draw(self.augment, self.batch_size, _generator(self.seed, epoch, step + 1)).to(self.device)
            targets = self._targets
            boxes, valid = targets.boxes[index], targets.valid[index]
            if drawn is None:
                images = normalise(images)
            else:
                content = targets.content[index]
                images = augment_images(images, content, drawn)
                boxes, valid = augment_boxes(boxes, valid, content, drawn, images.shape[-2:])
            yield Batch(images, boxes, targets.labels[index], valid, index, targets.scale[index])

    def in_order(self) -> Iterator[Batch]:
        """Every image once, in the set's order, as it is; the last batch may be short."""
        targets = self._targets
        for index, images in self._loaded(self._in_order()):
            parts = targets.boxes[index], targets.labels[index], targets.valid[index], index, targets.scale[index]
            yield Batch(normalise(images), *parts)

    def _loaded(self, order: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Indices (B,) and uint8 images (B, 3, H, W) on the device, from memory or from worker processes."""
        if self.images is not None:
            for index in order:
                index = index.to(self.device, non_blocking=True)
                yield index, self.images[index]
        else:
            indices = [index.tolist() for index in order]
            decoded = _decoded(self.dataset, self.size, indices, self.workers, self.device.type == "cuda")
            for index, images in zip(order, decoded, strict=True):
                yield index.to(self.device), images.to(self.device, non_blocking=True)


class ResolutionBatches:
    """Training batches whose canvas is drawn anew at each step: every size equally likely, by (seed, epoch, step) only.

    parts: by size, batches of the same images with the same seed and batch size, so that only the size is drawn.
    Streamed images are decoded at the size that is drawn.
    """

    def __init__(self, parts: Mapping[Size, DetectionBatches], seed: int = 0):
        if not parts:
            raise InputError("there is no size to draw training images at; give one or more")
        self.parts, self.seed = dict(parts), seed
        self.steps_per_epoch = next(iter(self.parts.values())).steps_per_epoch

    def sizes(self, epoch: int) -> list[Size]:
        """The canvas of each step of an epoch."""
        draw = torch.randint(len(self.parts), (self.steps_per_epoch,), generator=_generator(self.seed, epoch, 0, 1))
        choices = list(self.parts)
        return [choices[index] for index in draw.tolist()]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Shuffled, augmented batches of one epoch from step `start` on."""
        sizes = self.sizes(epoch)
        wanted = {size: [step for step in range(start, len(sizes)) if sizes[step] == size] for size in self.parts}
        streams = {size: part.chosen(epoch, wanted[size]) for size, part in self.parts.items()}
        for size in sizes[start:]:
            yield next(streams[size])


class ClassificationBatches(_Shuffled):
    """`ClassificationBatch`es of object crops, which all live on the device; the interface of `DetectionBatches`."""

    def __init__(
        self,
        crops: Crops,
        batch_size: int,
        device: torch.device | str = "cpu",
        augment: Augmentation | None = None,
        seed: int = 0,
    ):
        super().__init__(len(crops.labels), batch_size, device, seed, "the set of object crops")
        self.augment = augment
        self.images = crops.images.to(self.device)
        self.labels = crops.labels.to(self.device)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[ClassificationBatch]:
        """Shuffled, augmented batches of one epoch from step `start` on."""
        for step, index in enumerate(self._shuffled(epoch, start), start):
            index = index.to(self.device)
            images = self.images[index]
            if self.augment is None:
                images = normalise(images)
            else:
                drawn = draw(self.augment, self.batch_size, _generator(self.seed, epoch, step + 1)).to(self.device)
                S = images.shape[-1]
                images = augment_images(images, images.new_full((len(index), 2), S, dtype=torch.float32), drawn)
            yield ClassificationBatch(images, self.labels[index])

    def in_order(self) -> Iterator[ClassificationBatch]:
        """Every crop once, in order, as it is; the last batch may be short."""
        for index in self._in_order():
            index = index.to(self.device)
            yield ClassificationBatch(normalise(self.images[index]), self.labels[index])
