"""Batches for training and evaluation: the same for a seed, however the images are held.

A set that fits in memory lives on the device, decoded and letterboxed, as one uint8 tensor; a larger one is streamed by
worker processes. Shuffling depends on (seed, stage of training, epoch) only, augmentation on the step too, and both
happen on the whole batch on the device, so the batches are equal to the bit either way, and a resumed run sees the same
data.
"""

import fcntl
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import repeat
from math import prod
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from common.batch import Batch, ClassificationBatch, normalise
from common.data.augment import Drawn, augment_boxes, augment_images, draw
from common.data.crops import Crops
from common.data.detection_set import DetectionSet, LoadImage, first_rows
from common.letterbox import Size, canvas_of, letterbox, letterbox_scale
from common.plain import InputError, cores
from common.settings import Augmentation

_Kind = TypeVar("_Kind")

CPU_MEMORY_LIMIT = 2 * 1024**3  # bytes of decoded images kept in main memory
CUDA_MEMORY_SHARE = 1 / 3  # of what is free on the device
_DECODE_BATCH = 32
_PARALLEL_FROM = 256  # images; below, starting worker processes costs more than it saves


class _Images(Dataset):
    """What `load` gives, (H, W, 3) uint8, as (3, H, W). A bad image is returned as its `InputError`, not raised: a
    worker process would wrap the sentence in a traceback."""

    def __init__(self, load: LoadImage):
        self.load = load

    def __getitem__(self, index: int) -> Tensor | InputError:
        try:
            return torch.from_numpy(np.ascontiguousarray(self.load(index).transpose(2, 0, 1)))
        except InputError as error:
            return error


def _letterboxed(dataset: DetectionSet, size: Size, index: int) -> NDArray[np.uint8]:
    return letterbox(dataset.load_image(index), size)


def _stack(items: list[Tensor | InputError]) -> Tensor | InputError:
    return next((item for item in items if isinstance(item, InputError)), None) or torch.stack(items)


def _decoded(load: LoadImage, order: list[list[int]], pin: bool) -> Iterator[Tensor]:
    """uint8 images (b, 3, H, W) of each list of indices in `order`, by a process for each core where there are many."""
    workers = min(16, cores(), len(order)) if sum(map(len, order)) >= _PARALLEL_FROM else 0
    for images in DataLoader(
        _Images(load), batch_sampler=order, num_workers=workers, collate_fn=_stack, pin_memory=pin
    ):
        if isinstance(images, InputError):
            raise images
        yield images


class SharedImages:
    """Where the processes of a search hold decoded images together: in files that each of them maps into its memory.

    folder: of the files; None: each process holds its own.
    """

    folder: Path | None = None

    @classmethod
    def held(cls, dataset: DetectionSet, size: Size, shape: tuple[int, ...]) -> Tensor | None:
        """Images that are decoded by the first process that asks; None where the disk has no room for them."""
        file = cls.folder / "{}-{}x{}".format(dataset.fingerprint(), *canvas_of(size))
        part = file.with_suffix(".part")

        def mapped(path: Path) -> Tensor:
            return torch.from_file(str(path), shared=True, size=prod(shape), dtype=torch.uint8).view(shape)

        try:
            cls.folder.mkdir(parents=True, exist_ok=True)
            with open(file.with_suffix(".lock"), "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # given back by whoever is killed, too
                if not file.exists():
                    with open(part, "wb") as made:
                        os.posix_fallocate(made.fileno(), 0, prod(shape))  # a page without room would end the process
                    _decode_into(mapped(part), dataset, size)
                    part.rename(file)
            return mapped(file)
        except OSError:
            return None


def resident(dataset: DetectionSet, size: Size, device: torch.device | str = "cpu") -> Tensor:
    """All images of a set decoded, (N, 3, H, W) uint8 on `device`, for several `DetectionBatches`."""
    width, height = canvas_of(size)
    shape = (len(dataset), 3, height, width)
    if SharedImages.folder is not None and torch.device(device).type == "cpu" and len(dataset):
        shared = SharedImages.held(dataset, size, shape)
        if shared is not None:
            return shared
    return _decode_into(torch.empty(shape, dtype=torch.uint8, device=device), dataset, size)


def _decode_into(held: Tensor, dataset: DetectionSet, size: Size) -> Tensor:
    N = len(dataset)
    order = [list(range(first, min(first + _DECODE_BATCH, N))) for first in range(0, N, _DECODE_BATCH)]
    name = f"decode {dataset.name} {dataset.split}"
    with tqdm(total=N, desc=name, unit="image", disable=N < 500 or None) as progress:
        first = 0
        for images in _decoded(partial(_letterboxed, dataset, size), order, held.is_cuda):
            held[first : first + len(images)] = images.to(held.device, non_blocking=True)
            first += len(images)
            progress.update(len(images))
    return held


def memory_for_images(device: torch.device) -> int:
    """Bytes of decoded images that are kept on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * CUDA_MEMORY_SHARE)
    return CPU_MEMORY_LIMIT


def _generator(seed: int, stage: str, *key: int) -> torch.Generator:
    """A CPU generator seeded by all of these, without neighbouring keys being related."""
    state = int(np.random.SeedSequence([seed, zlib.crc32(stage.encode()), *key]).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state >> 1)  # torch takes 63 bits


class _Batches(Generic[_Kind]):
    """Which images make up which step, and how they are augmented: what detection and classification share.

    images: (N, 3, H, W) uint8 on the device; None means that `load` (index -> (H, W, 3)) gives them when needed.
    """

    images: Tensor | None
    load: LoadImage

    def __init__(
        self,
        length: int,
        batch_size: int,
        device: torch.device | str,
        augment: Augmentation | None,
        seed: int,
        name: str,
    ):
        if batch_size < 1:
            raise InputError(f"the batch size for {name} must be at least 1, got {batch_size}")
        self.length, self.batch_size, self.name = length, batch_size, name
        self.device, self.augment, self.seed = torch.device(device), augment, seed

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in one pass; an epoch leaves out the few images that fill no batch."""
        if self.length < self.batch_size:
            raise InputError(
                f"{self.name} has {self.length} images, too few for one batch of {self.batch_size}; give more images "
                "or a smaller batch"
            )
        return self.length // self.batch_size

    def epoch(self, epoch: int, start: int = 0, stage: str = "") -> Iterator[_Kind]:
        """Shuffled, augmented batches of one epoch of a stage from step `start` on; the steps before cost nothing."""
        yield from self.chosen(epoch, range(start, self.steps_per_epoch), stage)

    def chosen(self, epoch: int, steps: Sequence[int], stage: str) -> Iterator[_Kind]:
        """The batches of some steps of an epoch."""
        order = torch.randperm(self.length, generator=_generator(self.seed, stage, epoch)).split(self.batch_size)
        yield from self._batches([order[step] for step in steps], (self._drawn(epoch, step, stage) for step in steps))

    def in_order(self) -> Iterator[_Kind]:
        """Every image once, in order, as it is; the last batch may be short."""
        yield from self._batches(list(torch.arange(self.length).split(self.batch_size)), repeat(None))

    def _drawn(self, epoch: int, step: int, stage: str) -> Drawn | None:
        if self.augment is None:
            return None
        return draw(self.augment, self.batch_size, _generator(self.seed, stage, epoch, step + 1)).to(self.device)

    def _batches(self, order: list[Tensor], draws: Iterable[Drawn | None]) -> Iterator[_Kind]:
        """order: of each batch the indices (B,), on the CPU."""
        for (index, images), drawn in zip(self._loaded(order), draws, strict=False):
            yield self._batch(index, images, drawn)

    def _loaded(self, order: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Indices (B,) and uint8 images (B, 3, H, W) on the device, from memory or from worker processes."""
        if self.images is not None:
            for index in order:
                index = index.to(self.device, non_blocking=True)
                yield index, self.images[self._place(index)]
        else:
            indices = [self._place(index).tolist() for index in order]
            decoded = _decoded(self.load, indices, self.device.type == "cuda")
            for index, images in zip(order, decoded, strict=True):
                yield index.to(self.device), images.to(self.device, non_blocking=True)

    def _place(self, index: Tensor) -> Tensor:
        """What `images` and `load` call these."""
        return index

    def _batch(self, index: Tensor, images: Tensor, drawn: Drawn | None) -> _Kind:
        """The batch of indices (B,) and images (B, 3, H, W) uint8; drawn: None means as they are."""
        raise NotImplementedError


def _targets(dataset: DetectionSet, size: Size, device: torch.device) -> tuple[Tensor, ...]:
    """What `Batch` calls boxes, labels, valid and sizes, and (N, 2) width and height of the image in the letterbox.

    Boxes are those that are not crowds, in network pixels, padded to G: the most in an image, rounded up to 8.
    """
    N = len(dataset)
    scale = letterbox_scale(dataset.sizes, size)
    single = ~dataset.crowd
    image = np.repeat(np.arange(N), np.diff(dataset.offsets))[single]
    counts = np.bincount(image, minlength=N)
    slot = np.arange(len(image)) - first_rows(counts)[image]
    G = max(8, -(-int(counts.max(initial=0)) // 8) * 8)
    boxes = np.zeros((N, G, 4), dtype=np.float32)
    labels = np.zeros((N, G), dtype=np.int64)
    valid = np.zeros((N, G), dtype=bool)
    boxes[image, slot] = dataset.boxes[single] * scale[image, None]
    labels[image, slot] = dataset.labels[single]
    valid[image, slot] = True
    sizes = np.ascontiguousarray(dataset.sizes, dtype=np.int64)
    content = (sizes[:, ::-1] * scale[:, None]).astype(np.float32)
    return tuple(torch.from_numpy(array).to(device) for array in (boxes, labels, valid, sizes, content))


class DetectionBatches(_Batches[Batch]):
    """`Batch`es of a detection set, letterboxed into a canvas: size x size, or (width, height).

    augment: None means no augmentation; `in_order` never augments. images: what `resident` returned, where it is
    shared; None means that they are decoded now, or streamed where they exceed `memory_for_images`.
    """

    def __init__(
        self,
        dataset: DetectionSet,
        size: Size,
        batch_size: int,
        device: torch.device | str = "cpu",
        augment: Augmentation | None = None,
        seed: int = 0,
        images: Tensor | None = None,
    ):
        super().__init__(len(dataset), batch_size, device, augment, seed, f"{dataset.name} ({dataset.split})")
        width, height = canvas_of(size)
        shape = (len(dataset), 3, height, width)
        if images is not None and images.shape != shape:
            raise ValueError(f"images {tuple(images.shape)} are not the {len(dataset)} of this set at size {size}")
        self.load = partial(_letterboxed, dataset, size)
        if images is None and prod(shape) <= memory_for_images(self.device):
            images = resident(dataset, size, self.device)
        self.images, self.size = images, (width, height)
        self._targets = _targets(dataset, size, self.device)

    def _batch(self, index: Tensor, images: Tensor, drawn: Drawn | None) -> Batch:
        boxes, labels, valid, sizes, content = (target[index] for target in self._targets)
        if drawn is None:
            images = normalise(images)
        else:
            images = augment_images(images, content, drawn)
            boxes, valid = augment_boxes(boxes, valid, content, drawn, images.shape[-2:])
        return Batch(images, boxes, labels, valid, index, sizes)


class ResolutionBatches:
    """Training batches with a random canvas at each step: every size equally likely, by (seed, stage, epoch, step)
    only.

    parts: by size, batches of the same images with the same seed and batch size, so that only the size is drawn.
    Streamed images are decoded at the size that is drawn.
    """

    def __init__(self, parts: Mapping[Size, DetectionBatches], seed: int = 0):
        if not parts:
            raise InputError("there is no size to draw training images at; give one or more")
        self.parts, self.seed = dict(parts), seed
        self.steps_per_epoch = next(iter(self.parts.values())).steps_per_epoch
        self.size = max((part.size for part in self.parts.values()), key=prod)

    def sizes(self, epoch: int, stage: str = "") -> list[Size]:
        """The canvas of each step of an epoch."""
        generator = _generator(self.seed, stage, epoch, 0, 1)
        draw = torch.randint(len(self.parts), (self.steps_per_epoch,), generator=generator)
        choices = list(self.parts)
        return [choices[index] for index in draw.tolist()]

    def epoch(self, epoch: int, start: int = 0, stage: str = "") -> Iterator[Batch]:
        """Shuffled, augmented batches of one epoch of a stage from step `start` on."""
        sizes = self.sizes(epoch, stage)
        wanted = {size: [step for step in range(start, len(sizes)) if sizes[step] == size] for size in self.parts}
        streams = {size: part.chosen(epoch, wanted[size], stage) for size, part in self.parts.items()}
        for size in sizes[start:]:
            yield next(streams[size])


class ClassificationBatches(_Batches[ClassificationBatch]):
    """`ClassificationBatch`es of crops, held on the device where all objects fit there; see `DetectionBatches`."""

    def __init__(
        self,
        crops: Crops,
        batch_size: int,
        device: torch.device | str = "cpu",
        augment: Augmentation | None = None,
        seed: int = 0,
    ):
        super().__init__(len(crops.index), batch_size, device, augment, seed, "the set of object crops")
        self.load, self.images = crops.objects, crops.objects.held(self.device, memory_for_images(self.device))
        self.index = crops.index if self.images is None else crops.index.to(self.device)
        self.labels = crops.labels.to(self.device)

    def _place(self, index: Tensor) -> Tensor:
        return self.index[index]

    def _batch(self, index: Tensor, images: Tensor, drawn: Drawn | None) -> ClassificationBatch:
        if drawn is None:
            return ClassificationBatch(normalise(images), self.labels[index])
        whole = torch.full((len(index), 2), float(images.shape[-1]), device=self.device)
        return ClassificationBatch(augment_images(images, whole, drawn), self.labels[index])
