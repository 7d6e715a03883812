"""What the papers' own reproductions have published, as detectors side by side.

Each method trained and searched as its own scale says, so their budgets differ, and nothing is judged by it. What they
share: the data set, the images that AP is measured on, the evaluator, and how costs are counted.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.compare.methods import front_of, methods
from common.plain import InputError, read_json_if_there
from common.report.exhibit import Measured
from common.report.reproduce import generic_data, published_folder

if TYPE_CHECKING:
    from common.compare.study import Comparison

Detector = dict[str, Any]
"""name; role; AP in points; macs_mmdet of the whole detector, and macs_within, how far that may be off; minutes of one
core that it took, with what it was made from."""


@dataclass(frozen=True)
class Published:
    """What a folder of a paper's results holds of a seed.

    images: the data set and the number of validation images that AP has to be measured on.
    """

    folder: Path
    seed: int
    images: tuple[str, int | None]

    def numbers(self, exhibit: str) -> Measured | None:
        """What an exhibit measured on the seed; None where it has not been. InputError: on other images."""
        content = self._read("measured").get(exhibit)
        if content is None or str(self.seed) not in content["seeds"]:
            return None
        setting = content["setting"]
        images = setting["options"]["data"], setting["preset"]["validation_images"]
        if images != self.images:
            (data, number), (asked, wanted) = images, self.images
            raise InputError(
                f"{self.folder} holds {exhibit} measured on {number} images of {data}, and the comparison is of "
                f"{wanted} of {asked}: publish it on those, or name another folder with --results"
            )
        return content["seeds"][str(self.seed)]

    def minutes(self, names: Iterable[str]) -> float:
        """What runs took, trainings and candidates."""
        runs = self._read("runs")
        return sum((runs[name][key] or 0.0) for name in names for key in ("seconds", "candidate_seconds")) / 60

    def _read(self, what: str) -> Mapping[str, Any]:
        return read_json_if_there(self.folder / f"{what}.json") or {}


def published(study: "Comparison") -> dict[str, list[Detector]]:
    """Method -> detectors of the study's seed, of those methods that have published any in --results.

    Raises InputError where AP is of other images than the comparison's.
    """
    options, found = study.options, {}
    for name, paper in methods().items():
        own, tell = study.studies[name], getattr(front_of(name), "published", None)
        images = generic_data(options.data), own.preset.validation_images
        known = Published(published_folder(paper, options), study.seed, images)
        if tell is not None and (detectors := tell(own, known)):
            found[name] = detectors
    return found
