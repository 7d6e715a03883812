"""A finished supernet, back from its run folder: what a search needs, read without training or drawing anything again.

A run's config.json holds its whole preset, so a supernet trained with settings of one's own comes back as well as one
of a named scale. Nothing is written to the run, and it is not locked: searches may run beside a reproduction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

from common.evaluate.subnetworks import Evaluator
from common.models.centernet import CenterNet, centernet_losses
from common.models.ofa_resnet import OFAResNetSpace
from common.plain import InputError
from common.train.checkpoint import load_strictly
from common.train.run_folder import Run
from detofa.method import Operations, PathFilter, PathLosses
from detofa.presets import Preset
from detofa.study import VARIANTS, Study, Variant


def preset_from_dict(fields: Mapping[str, Any]) -> Preset:
    """The preset that `dataclasses.asdict` and JSON made `fields` of; fields that have a default may be missing."""
    return _rebuilt(Preset, fields, "preset")


def _rebuilt(kind: Any, value: Any, where: str) -> Any:
    """`value` (plain JSON) as the type `kind`: a dataclass, a tuple of one type, or a plain value."""
    if is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise InputError(f"{where} is {value!r} where an object is needed")
        kinds = get_type_hints(kind)
        if unknown := sorted(value.keys() - kinds.keys()):
            raise InputError(f"{where} has a setting {unknown[0]} that this version does not know")
        parts = {name: _rebuilt(kinds[name], item, f"{where}.{name}") for name, item in value.items()}
        try:
            return kind(**parts)
        except TypeError as error:
            raise InputError(f"{where} lacks a setting ({error})") from None
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where} is {value!r} where a list is needed")
        inner = get_args(kind)[0]
        return tuple(_rebuilt(inner, item, where) for item in value)
    return value


def path_of_key(space: OFAResNetSpace, key: str) -> np.ndarray:
    """The path (C,) int8 that `space.key` named, in a space with a fixed stem of at most 36 choices a column."""

    def values(digits: str, choices: Sequence[float]) -> list[float]:
        return [choices[int(digit, 36)] for digit in digits]

    try:
        depth, width, expand = (part[1:] for part in key.split("-"))
        stages = [values(stage, space.expands) for stage in expand.split(".")]
        kinds = {"depth": values(depth, space.depths), "width": values(width, space.widths), "expand": stages}
        return space.parse(kinds)
    except (ValueError, IndexError):
        raise InputError(f"{key!r} is no name of a path of this space") from None


class FinishedStudy(Study):
    """The study that a finished supernet belongs to, as far as a search in that supernet needs it.

    path: the run folder of one of `VARIANTS`. device: where networks go, whatever they were trained on.

    Raises `InputError` where the folder is none, holds something else, is not finished, or its data are not there.
    """

    def __init__(self, path: Path | str, device: str = "cpu"):
        self.run = _finished(Path(path))
        config = self.run.config
        self.name = config["what"]
        preset = preset_from_dict(config["preset"])
        super().__init__(preset, config["data"], config["seed"], device=device, constraint=config["constraint"])
        self.folder = self.run.path.resolve().parent  # wherever the runs were moved to
        if self.training_set.fingerprint() != config["training_set"]:
            raise InputError(
                f"{path} was trained on other images than {self.data} now holds: put the data back as they were, or "
                "train again into another folder with --out"
            )

    @property
    def variant(self) -> Variant:
        """How the supernet was trained."""
        return VARIANTS[self.name]

    @cached_property
    def supernet(self) -> CenterNet:
        """The detection supernet with its final weights."""
        stage = self.preset.shrinking.phases[-1].name if self.variant.shrinking else "fine-tuning"
        supernet = self.detector()
        load_strictly(supernet, self.run.load_weights(stage)[0], str(self.run.path / f"{stage}.safetensors"))
        return supernet

    @cached_property
    def space_left(self) -> Operations:
        """The space that the supernet was trained for, pruned or whole."""
        return self.operations(self.variant)

    @cached_property
    def warm_up(self) -> tuple[None, PathFilter, None, Run]:
        """The filter fine-tuned after the shared warm-up, which pruned the space; its supernet is not needed."""
        run = Run.read(self.folder / f"warm-up-s{self.seed}")
        return None, self._filter_of(run, "filter"), None, run

    @cached_property
    def predictor(self) -> PathFilter:
        """The filter trained on paths of the finished supernet (Section 3.3)."""
        return self._filter_of(self.run, "search-filter")

    def _filter_of(self, run: Run, stage: str) -> PathFilter:
        path_filter, best = self.new_filter(), f"{stage}-best"
        load_strictly(path_filter, run.load_weights(best)[0], str(run.path / f"{best}.safetensors"))
        return path_filter.eval()

    @cached_property
    def validated(self) -> PathLosses:
        """The uniform paths that the predictor learnt from, with their losses: a random search picks among them."""
        records = [record for record in self.run.candidates(status="done") if record["key"][0] == "search"]
        if not records:
            raise InputError(f"{self.run.path} holds no validated path: its candidates.jsonl is damaged or missing")
        paths = np.array([path_of_key(self.space, record["key"][1]) for record in records])
        return PathLosses(paths, np.array([record["loss"] for record in records]))

    @cached_property
    def final_evaluator(self) -> Evaluator:
        """Re-estimates batch norm as for every reported AP; holds no validation images."""
        calibration = self._first(self.training_set, self.preset.calibration_images)
        return Evaluator(calibration, (), centernet_losses)


def _finished(path: Path) -> Run:
    """The run at `path`, which must be a finished supernet of this paper."""
    if not path.is_dir():
        raise InputError(f"there is no folder {path}: train a supernet with python -m detofa.train, or check the path")
    run = Run.read(path)
    config = run.config
    if not isinstance(config, Mapping) or config.get("paper") != "detofa" or "preset" not in config:
        raise InputError(f"{path} is no run of detofa: give the folder that python -m detofa.train names at its end")
    what = config.get("what")
    if what not in VARIANTS or VARIANTS[what].full_net:
        searchable = ", ".join(name for name, variant in VARIANTS.items() if not variant.full_net)
        raise InputError(f"{path} is the run {what!r}, which is no supernet to search in: give one of {searchable}")
    if run.result is None:
        raise InputError(f"the supernet in {path} is not finished: give its detofa.train command again, it goes on")
    return run
