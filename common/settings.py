"""Settings that several papers share, as frozen dataclasses: every field is a flag. Importable without torch."""

from dataclasses import dataclass, replace
from typing import Literal

from common.plain import InputError

Precision = Literal["float32", "bfloat16"]
SIDE_MULTIPLE = 32
"""What the sides of a canvas are multiples of: pixels to a cell of a backbone's last feature."""
COCO_CLASSES = 80
"""What a detector tells apart where no data say otherwise, as in the papers' costs."""


@dataclass(frozen=True)
class Augmentation:
    """What may be done to a training image. The defaults are CenterNet's."""

    flip: float = 0.5
    """Probability of mirroring left and right."""
    scale_min: float = 0.6
    """Smallest side of the window that is cut out, relative to the image: below 1 zooms in."""
    scale_max: float = 1.3
    """Largest side of that window: above 1 zooms out, with padding around the image."""
    jitter: float = 0.4
    """Brightness, contrast and saturation are multiplied by 1 - jitter to 1 + jitter, each independently."""
    shift: float = 0.25
    """The window's centre moves from the image's by up to this share of the image, in x and in y."""


CROP_AUGMENTATION = Augmentation(flip=0.5, scale_min=0.75, scale_max=1.1, jitter=0.4, shift=0.08)
"""For object crops, where the object has to stay in the picture."""


@dataclass(frozen=True)
class Optimisation:
    """How a network is trained: optimiser, learning rate and their schedule."""

    epochs: int = 12
    """Passes over the training set, warm-up included."""
    optimiser: Literal["adam", "adamw", "sgd"] = "adamw"
    """Update rule; adamw decouples the weight decay from the gradient."""
    learning_rate: float = 1e-3
    """Learning rate after warm-up and before any decay."""
    weight_decay: float = 0.0
    """L2 penalty on the weights (decoupled for adamw)."""
    momentum: float = 0.9
    """Momentum of sgd, first-moment decay of adam and adamw."""
    nesterov: bool = False
    """Nesterov momentum, for sgd."""
    policy: Literal["constant", "multistep", "cosine"] = "cosine"
    """How the learning rate falls: never, by `decay` at each milestone, or along a half cosine to `final_share`."""
    milestones: tuple[float, ...] = ()
    """Epochs, counted from the start, at which multistep multiplies the learning rate by `decay`."""
    decay: float = 0.1
    """Factor of multistep at each milestone."""
    final_share: float = 0.0
    """Share of the learning rate that cosine ends at."""
    warmup_epochs: float = 0.0
    """Epochs over which the learning rate first rises linearly; a fraction is allowed."""
    warmup_start: float = 0.001
    """Share of the learning rate at which warm-up begins."""
    clip_norm: float | None = None
    """Largest L2 norm of the whole gradient, which is scaled down to it; None leaves gradients alone."""
    no_decay_on_norm: bool = False
    """Leave normalisation layers and biases out of the weight decay."""

    def __post_init__(self) -> None:
        wanted = {
            f"epochs must be at least 1, got {self.epochs}": self.epochs >= 1,
            f"learning_rate must be positive, got {self.learning_rate}": self.learning_rate > 0,
            f"weight_decay must not be negative, got {self.weight_decay}": self.weight_decay >= 0,
            f"warmup_epochs must be between 0 and epochs ({self.epochs}), got {self.warmup_epochs}": (
                0 <= self.warmup_epochs <= self.epochs
            ),
            f"final_share must be between 0 and 1, got {self.final_share}": 0 <= self.final_share <= 1,
            f"milestones must increase, got {self.milestones}": list(self.milestones) == sorted(self.milestones),
            f"clip_norm must be positive, got {self.clip_norm}": self.clip_norm is None or self.clip_norm > 0,
            "policy multistep needs milestones": self.policy != "multistep" or bool(self.milestones),
        }
        for sentence, met in wanted.items():
            if not met:
                raise InputError(f"these optimisation settings cannot be used: {sentence}")


def lasting(optimisation: Optimisation, epochs: int) -> Optimisation:
    """The same schedule over so many epochs."""
    share = epochs / optimisation.epochs
    milestones = tuple(share * each for each in optimisation.milestones)
    warmup = min(optimisation.warmup_epochs, epochs)
    return replace(optimisation, epochs=epochs, milestones=milestones, warmup_epochs=warmup)


@dataclass(frozen=True)
class ShrinkingPhase:
    """One phase of progressive shrinking; a paper adds which sub-networks it trains."""

    name: str
    """Names the stage in the run."""
    epochs: int
    """Epochs of the phase."""
    learning_rate_share: float = 1.0
    """Learning rate of the phase, as a share of the settings'."""


@dataclass(frozen=True, kw_only=True)
class StudyPreset:
    """What every study reads of its preset; a paper adds its own fields."""

    name: str
    """Scale: smoke, nano, photo, mini or paper."""
    train_images: int | None
    """Images of an epoch: of a larger set this many are drawn once, a smaller one is repeated; None means the whole
    set."""
    search_images: int
    """Training images held out to compare candidates by, at most a fifth of the set: a search's AP and losses come from
    them, never the reported AP."""
    validation_images: int | None
    """Images that AP is reported on, at most; None means all."""
    evaluation_batch_size: int
    """Images in a forward pass of an evaluation."""
    augmentation: Augmentation
    """Augmentation of the detection images."""
    latency_images: int = 200
    """Images that detection is timed on, one at a time."""
    latency_warmup: int = 20
    """Passes before the clock starts."""
    latency_pause: float = 0.01
    """Pause between timed passes, seconds."""
    latency_rounds: int = 9
    """Rounds in which detectors that are compared are timed in turn."""
    imagenet: bool = False
    """Use torchvision's ImageNet weights for the standard backbones that it has; all others train on object crops."""
    crop_size: int
    """Side of the classification images, pixels."""
    crop_batch_size: int
    """Crops in a training step."""
    crops: int | None
    """Object crops of an epoch of pre-training, in place of ImageNet; fewer are repeated; None means all there are."""
    pretraining_data: str | None = None
    """Detection set whose crops are learned from, such as scenes:seed=1,train=4000: once for all data sets, and for all
    seeds where no other setting says otherwise. None means the training images of --data, once for each seed."""
    classification: Optimisation
    """Pre-training on classification."""

    def __post_init__(self) -> None:
        images = ("train_images", "search_images", "validation_images", "evaluation_batch_size")
        for name in (*images, "latency_images", "latency_rounds", "crop_size", "crop_batch_size"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise InputError(f"{name} must be at least 1, got {number}")
        if self.crops is not None and self.crops < 2:
            raise InputError(f"crops must be at least 2, got {self.crops}")


@dataclass(frozen=True)
class TwoStageSettings:
    """What all two-stage detectors of a scale share, whatever their backbone; a paper adds its own fields."""

    width: int = 64
    """Channels of the first stage of a standard ResNet; all other standard backbones are thinner in proportion."""
    anchor_scale: float = 8.0
    """Side of an RPN's square anchors, in strides."""
    hidden: int = 1024
    """Channels of the two fully connected layers."""
    canonical_side: float = 224.0
    """Side of the regions that are read from stride 16, pixels."""
    rpn_samples: int = 256
    """Anchors per image in the RPN's loss."""
    region_samples: int = 512
    """Regions per image and head in the losses."""
    candidates: tuple[int, int] = (2000, 1000)
    """Boxes of each level before the RPN's suppression, in training and in testing."""
    proposals: tuple[int, int] = (2000, 1000)
    """Boxes after it."""
    region_candidates: int = 2000
    """Pairs of region and class before the last suppression."""


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """Where the candidates of a search are evaluated, as flags of the commands that search."""

    workers: int = 0
    """Candidates that are evaluated side by side, each in a process of its own (0: one by one in this process; on Ray:
    as many as its machines take)."""
    executor: Literal["processes", "ray"] = "processes"
    """What evaluates them: processes of this machine, or tasks on a Ray cluster."""
    address: str | None = None
    """Ray cluster to join: auto, or HOST:PORT of its head (default: RAY_ADDRESS, else one on this machine alone)."""
    files: Literal["folder", "store"] = "folder"
    """How Ray's machines come by weights: from --out, a folder that all of them share, or through the object store."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise InputError(f"--workers must be at least 0, got {self.workers}")
        if self.address is not None and self.executor != "ray":
            raise InputError(f"--address {self.address} is for --executor ray: give both or neither")
