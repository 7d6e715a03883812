"""The made-up paper's settings and flags."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from common.cli import StudyOptions
from common.settings import Augmentation, Optimisation, StudyPreset


@dataclass(frozen=True, kw_only=True)
class Preset(StudyPreset):
    widths: tuple[int, ...] = (8, 16)
    """Channels to choose from, the narrowest first."""
    training: Optimisation
    """Training of each detector."""


_IMAGES = {"train_images": 16, "search_images": 4, "validation_images": 8, "evaluation_batch_size": 8}
_CROPS = {"crop_size": 16, "crop_batch_size": 8, "crops": 8, "classification": Optimisation(epochs=1)}
SMOKE = Preset(name="smoke", augmentation=Augmentation(), training=Optimisation(epochs=1), **_IMAGES, **_CROPS)
PRESETS = {"smoke": SMOKE, "nano": replace(SMOKE, name="nano", widths=(8, 16, 24))}


@dataclass(frozen=True, kw_only=True)
class Options(StudyOptions):
    PRESETS: ClassVar[Mapping[str, Preset]] = PRESETS
    scale: Literal["smoke", "nano"] = "smoke"
    preset: Preset = SMOKE
    data: str = "scenes:train=40,val=8,size=32"
