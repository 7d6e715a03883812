"""`--list`: what every exhibit shows and needs, and how long a seed of it takes."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from common.report.page import find_runs
from common.reproduce.exhibit import Exhibit, needed
from common.reproduce.paper import Paper


def listing(paper: Paper, chosen: Sequence[Exhibit], scale: str, folder: Path, two_sets: bool = False) -> str:
    """The list as text; times from the finished runs in `folder`, else estimated from the scale's preset.

    two_sets: whether there is a second data set.
    """
    recorded = _recorded_seconds(folder)
    width = max(map(len, paper.exhibits)) + 2
    lines = [f"Exhibits at scale {scale}; runs are shared, so several take less than their sum."]
    for exhibit in chosen:
        runs = needed([exhibit], two_sets)
        expected = _expected(paper, runs, scale, recorded)
        lines.append(f"{exhibit.name:{width}}{exhibit.title}: {exhibit.shows}")
        lines.append(f"{'':{width}}runs: {', '.join(runs) or 'none'}; a seed takes {expected}")
    lines.append(f"together, a seed takes {_expected(paper, needed(chosen, two_sets), scale, recorded)}")
    return "\n".join(lines)


def _recorded_seconds(folder: Path) -> dict[str, float]:
    """Mean seconds of finished runs, by what they train."""
    spent: dict[str, list[float]] = {}
    for summary in find_runs([folder]):
        if summary.finished:
            what = summary.folder.name.rpartition("-s")[0]
            spent.setdefault(what, []).append((summary.seconds or 0.0) + (summary.candidate_seconds or 0.0))
    return {what: sum(values) / len(values) for what, values in spent.items()}


def _expected(paper: Paper, runs: Sequence[str], scale: str, recorded: Mapping[str, float]) -> str:
    """Time in words, with its source: records of finished runs, else an estimate from the preset."""
    if not runs:
        return "seconds"
    preset = paper.preset(scale)
    estimated = {what: paper.seconds(what, preset) for what in runs if what not in recorded}
    if None in estimated.values():
        return "an unknown time (no run at this scale has been recorded here)"
    taken = _duration(sum((recorded | estimated)[what] for what in runs))
    if not estimated:
        return f"{taken} (records of finished runs)"
    source = "records and an estimate" if len(estimated) < len(runs) else "an estimate"
    return f"about {taken} ({source} for one CPU core)"


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
