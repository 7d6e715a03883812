"""`python -m detofa.reproduce`: every table and figure of the paper, by name, and a verdict on each of its claims.

Seed by seed, what the exhibits need is trained or taken from `runs/detofa/<data>-<scale>/`; then each exhibit is drawn
over all seeds into `exhibits/<name>/` there, and claims.json written from whatever has been measured so far. The same
command again trains nothing anew. What belongs to an exhibit stands in detofa/exhibits.py, the claims' rules in
detofa/claims.py.
"""

import json
import resource
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from common.command import InputError, run
from common.data.source import short_name
from common.report.claims import Evidence, write_claims
from common.report.page import find_runs
from common.report.tables import read_json, write_json
from common.train.loop import Precision
from common.train.run_folder import describe_environment
from detofa.claims import CLAIMS
from detofa.exhibits import EXHIBITS, Exhibit, Setting, make
from detofa.measurements import Measured
from detofa.presets import Preset, preset
from detofa.study import VARIANTS, Study, Variant

_OF_ONE_RUN = ("command", "time", "resumed")  # what an environment says of one run rather than of the machine
_SECONDS_PER_1000_IMAGES = {"smoke": 12.0, "nano": 6.0}  # training on one CPU core (2.5 GHz class), measured


@dataclass(frozen=True)
class Options:
    """Train and draw DetOFA's tables and figures, and judge its claims."""

    scale: str = "smoke"
    """Preset: smoke, nano, mini or paper."""
    data: str = "scenes"
    """scenes (built in), coco:DIR, voc:DIR or bdd:DIR."""
    seeds: int = 1
    """Number of seeds: 0, 1, ... Intervals and verdicts need at least 2."""
    seed: int | None = None
    """Train what this one of the seeds needs and draw nothing: a process a seed, then the command without it."""
    only: tuple[str, ...] = ()
    """Names of exhibits, such as figure5 table2; none means all."""
    out: Path = Path("runs")
    """Folder of all runs."""
    device: str = "cpu"
    """Where networks are trained: cpu, cuda or cuda:N."""
    precision: Precision = "float32"
    """Number format of supernet training; bfloat16 is faster on GPUs and CPUs that compute with it."""
    constraint: Literal["macs", "params", "latency"] = "macs"
    """What a path costs (MACs or parameters of the backbone, or milliseconds on the device)."""
    list: bool = False
    """Only list the exhibits, with their runs and expected time."""
    publish: bool = False
    """Also copy results, claims and run records, without pictures, into results/."""
    results: Path = Path("results")
    """Folder that --publish copies into."""


def main(options: Options) -> None:
    chosen, scale = _checked(options), preset(options.scale)
    folder = options.out / "detofa" / f"{short_name(options.data)}-{scale.name}"
    if options.list:
        print(listing(chosen, scale, folder))
        return
    began = time.perf_counter()
    out, page = shlex.quote(str(options.out)), shlex.quote(str(options.out / "report"))
    if options.seed is None:
        measured, problems = _measure(options, chosen, scale, range(options.seeds))
        _draw_and_judge(options, chosen, measured, folder)
        following = f"python -m common.report {out} --out {page}"
    else:
        _, problems = _measure(options, chosen, scale, [options.seed])
        following = f"{command(options, options.data, options.only)} --out {out}, once every seed is there"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    _say(f"{time.perf_counter() - began:,.1f} s of wall clock, peak memory {peak / 2**20:,.0f} MiB")
    _say(f"next: {following}")
    if problems:
        first, reason = next(iter(problems.items()))
        raise InputError(f"not made: {', '.join(problems)}; {first}: {reason}")


def _draw_and_judge(
    options: Options, chosen: Sequence[Exhibit], measured: Mapping[str, Mapping[int, Measured]], folder: Path
) -> None:
    """Every exhibit that all seeds have, then the claims from whatever has been measured so far."""
    seeds = range(options.seeds)
    for exhibit in chosen:
        if len(measured[exhibit.name]) == len(seeds):
            where = folder / "exhibits" / exhibit.name
            record = {
                "data": short_name(options.data),
                "scale": options.scale,
                "command": command(options, options.data, [exhibit.name]),
                "runs": _runs_of(exhibit, seeds, folder),
                "environment": shared_environment(folder, _runs_of(exhibit, seeds, folder)),
            }
            make(exhibit, measured[exhibit.name], Setting(where, preset(options.scale), options.constraint), **record)
            _say(f"{exhibit.name}: {where}")
    claims = write_claims(folder / "claims.json", CLAIMS, collect_evidence(options, folder))
    for name, claim in claims.items():
        _say(f"{name}: {claim['verdict']}" + (f" ({claim['reason']})" if claim["reason"] else ""))
    if options.publish:
        _say(f"published in {publish(options, folder)}")


def _checked(options: Options) -> list[Exhibit]:
    """The exhibits asked for; `InputError` for whatever can be known to be wrong before anything is trained."""
    unknown = [name for name in options.only if name not in EXHIBITS]
    if unknown:
        raise InputError(f"unknown exhibit {unknown[0]!r}: give some of {', '.join(EXHIBITS)}")
    if options.seeds < 1:
        raise InputError(f"--seeds {options.seeds} is no number of seeds: give 1 or more")
    try:
        torch.empty(0, device=options.device)
    except (RuntimeError, AssertionError):
        raise InputError(
            f"device {options.device!r} cannot be used here: give cpu, or cuda where there is one"
        ) from None
    if options.seed is not None and not 0 <= options.seed < options.seeds:
        raise InputError(f"--seed {options.seed} is none of the {options.seeds} seeds: give 0 to {options.seeds - 1}")
    preset(options.scale)
    return [EXHIBITS[name] for name in dict.fromkeys(options.only or EXHIBITS)]


def _measure(
    options: Options, chosen: Sequence[Exhibit], scale: Preset, seeds: Iterable[int]
) -> tuple[dict[str, dict[int, Measured]], dict[str, str]]:
    """Exhibit -> seed -> numbers, seed by seed; and why, for each exhibit that could not be measured."""
    measured: dict[str, dict[int, Measured]] = {exhibit.name: {} for exhibit in chosen}
    problems: dict[str, str] = {}
    for number, seed in enumerate(seeds):
        # One study at a time: it holds the decoded images.
        study = Study(
            scale, options.data, seed, options.out, options.device, options.constraint, _typed(), options.precision
        )
        if number == 0:
            _announce(study)
        for exhibit in chosen:
            try:
                measured[exhibit.name][seed] = exhibit.measure(study)
            except InputError as error:
                problems.setdefault(exhibit.name, str(error))
                _say(f"{exhibit.name}, seed {seed}: {error}")
    return measured, problems


def _announce(study: Study) -> None:
    """What is about to run; the data is read here, so that a fault in it stops everything at once."""
    environment = describe_environment()
    commit = (environment["git_commit"] or "unknown")[:10] + "+changes" * bool(environment["git_dirty"])
    parameters = sum(parameter.numel() for parameter in study.detector().parameters())
    constraint = study.constraint
    _say(
        f"DetOFA at scale {study.preset.name} on {study.data}: {len(study.training_set)} training and "
        f"{len(study.validation_set)} validation images; supernet {parameters:,} parameters, paths of "
        f"{constraint.lowest:.4g} to {constraint.highest:.4g} {constraint.unit}; device {study.device}; commit {commit}"
    )
    _say(f"config: {json.dumps(asdict(study.preset))}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------------------------
# Records
# ------------------------------------------------------------------------------------------------------------------


def _typed() -> str:
    return shlex.join(["python", "-m", "detofa.reproduce", *sys.argv[1:]])


def command(options: Options, data: str, only: Iterable[str] = ()) -> str:
    """The command that gives some exhibits, or all, whatever else was asked for with them."""
    words = [
        "python",
        "-m",
        "detofa.reproduce",
        "--scale",
        options.scale,
        "--data",
        data,
        "--seeds",
        str(options.seeds),
    ]
    for flag in ("device", "precision", "constraint"):
        value = getattr(options, flag)
        words += [f"--{flag}", value] if value != getattr(Options, flag) else []
    only = list(only)
    return shlex.join([*words, *(["--only", *only] if only else [])])


def generic_data(data: str) -> str:
    """The same data without the folders of this machine: coco:/some/where/aquarium -> coco:DIR/aquarium."""
    kind, _, rest = data.partition(":")
    return data if kind == "scenes" else f"{kind}:DIR/{Path(rest).expanduser().resolve().name}"


def _runs_of(exhibit: Exhibit, seeds: Iterable[int], folder: Path) -> list[str]:
    """Names of the run folders that an exhibit rests on."""
    names = [f"{what}-s{seed}" for seed in seeds for what in needed((exhibit,))]
    return [name for name in names if (folder / name).is_dir()]


def needed(exhibits: Iterable[Exhibit]) -> list[str]:
    """What is trained for some exhibits, each once, in order."""
    whats = dict.fromkeys(what for exhibit in exhibits for what in (*exhibit.shared, *exhibit.variants))
    if "ofa-shrinking" in whats:
        whats.setdefault("fullnet")  # progressive shrinking starts from it
    return list(whats)


def shared_environment(folder: Path, runs: Sequence[str]) -> dict[str, Any]:
    """Commit, versions and hardware of some runs; a list of values where runs differ."""
    environments = [read_json(folder / name / "environment.json") for name in runs] or [describe_environment()]
    values: dict[str, list] = {}
    for environment in environments:
        for key, value in environment.items():
            if key not in _OF_ONE_RUN and value not in values.setdefault(key, []):
                values[key].append(value)
    return {key: found[0] if len(found) == 1 else found for key, found in values.items()}


def collect_evidence(options: Options, folder: Path) -> Evidence:
    """What the claims are judged by: the numbers of every exhibit measured so far for all the seeds asked for."""
    seeds = list(range(options.seeds))
    values: dict[str, np.ndarray] = {}
    runs: dict[str, None] = {}
    for exhibit in EXHIBITS.values():
        path = folder / "exhibits" / exhibit.name / "measured.json"
        measured = read_json(path) if path.is_file() else {}
        if all(str(seed) in measured for seed in seeds):
            values |= stacked_evidence([measured[str(seed)]["evidence"] for seed in seeds])
            runs |= dict.fromkeys(_runs_of(exhibit, seeds, folder))
    return Evidence(
        data=short_name(options.data),
        scale=options.scale,
        seeds=seeds,
        command=command(options, options.data),
        values=values,
        runs=list(runs),
        environment=shared_environment(folder, list(runs)),
    )


def stacked_evidence(by_seed: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Values that every seed has, first axis the seed.

    Of sampled paths, buckets that a space leaves empty in some seed are dropped for all methods, so that the same
    buckets are compared; any other value with a number missing is left out.
    """
    names = [name for name in by_seed[0] if all(name in evidence for evidence in by_seed)]
    values = {name: np.array([evidence[name] for evidence in by_seed], dtype=float) for name in names}
    sampled = [name for name in names if name.startswith("sampled:")]
    if sampled:
        filled = np.isfinite(np.stack([values[name] for name in sampled])).all(axis=(0, 1))
        values |= {name: values[name][:, filled] for name in sampled}
    return {name: array for name, array in values.items() if array.size and np.isfinite(array).all()}


def publish(options: Options, folder: Path) -> Path:
    """Copy exhibits, their numbers seed by seed, claims and run records into results/<scale>/detofa/; the folder.

    Pictures are left out, for `Exhibit.draw` makes them of the numbers, and so are paths of this machine.
    """
    name = short_name(options.data)
    root = options.results / options.scale / "detofa"
    target = root if name == "scenes" else root / name
    data = generic_data(options.data)
    names: dict[str, None] = {}
    numbers: dict[str, Any] = {}
    for exhibit in EXHIBITS:
        path = folder / "exhibits" / exhibit
        if (path / "result.json").is_file():
            record = read_json(path / "result.json")
            seeds = len(record["seeds"])
            record |= {"pictures": [], "command": command(replace(options, seeds=seeds), data, [exhibit])}
            write_json(target / f"{exhibit}.json", record)
            numbers[exhibit] = read_json(path / "measured.json")
            names |= dict.fromkeys(record["runs"])
    write_json(target / "measured.json", numbers)
    claims = read_json(folder / "claims.json")
    for claim in claims.values():
        claim["command"] = command(options, data)
    write_json(root / ("claims.json" if name == "scenes" else f"claims-{name}.json"), claims)
    summaries = {summary.folder.name: summary for summary in find_runs([folder])}
    records = {}
    for run_name in names:
        environment = {key: value for key, value in summaries[run_name].environment.items() if key != "command"}
        resumed = [
            {key: value for key, value in again.items() if key != "command"} for again in environment.pop("resumed", [])
        ]
        spent = {"seconds": summaries[run_name].seconds, "candidate_seconds": summaries[run_name].candidate_seconds}
        records[run_name] = {**spent, "environment": environment, "resumed": resumed}
    write_json(target / "runs.json", records)
    return target


# ------------------------------------------------------------------------------------------------------------------
# --list
# ------------------------------------------------------------------------------------------------------------------


def listing(chosen: Sequence[Exhibit], scale: Preset, folder: Path) -> str:
    """What every exhibit shows, needs, and how long a seed of it takes."""
    recorded = _recorded_seconds(folder)
    lines = [f"Exhibits at scale {scale.name}; runs are shared, so several take less than their sum."]
    for exhibit in chosen:
        runs = needed((exhibit,))
        lines.append(f"{exhibit.name:9}{exhibit.title}: {exhibit.shows}")
        lines.append(f"{'':9}runs: {', '.join(runs) or 'none'}; a seed takes {_expected(runs, scale, recorded)}")
    lines.append(f"together, a seed takes {_expected(needed(chosen), scale, recorded)}")
    return "\n".join(lines)


def _recorded_seconds(folder: Path) -> dict[str, float]:
    """Mean seconds of finished runs, by what they train."""
    spent: dict[str, list[float]] = {}
    for summary in find_runs([folder]):
        if summary.finished:
            what = summary.folder.name.rpartition("-s")[0]
            spent.setdefault(what, []).append((summary.seconds or 0.0) + (summary.candidate_seconds or 0.0))
    return {what: sum(values) / len(values) for what, values in spent.items()}


def _expected(runs: Sequence[str], scale: Preset, recorded: Mapping[str, float]) -> str:
    """Time in words, with its source: records of finished runs, else an estimate from the preset."""
    if not runs:
        return "seconds"
    unknown = [what for what in runs if what not in recorded]
    if not unknown:
        return f"{_duration(sum(recorded[what] for what in runs))} (records of finished runs)"
    if scale.train_images is None or scale.name not in _SECONDS_PER_1000_IMAGES:
        return "an unknown time (no run at this scale has been recorded here)"
    images = sum(images_trained(what, scale) for what in unknown)
    seconds = images / 1000 * _SECONDS_PER_1000_IMAGES[scale.name] + sum(recorded.get(what, 0.0) for what in runs)
    source = "records and an estimate" if len(unknown) < len(runs) else "an estimate"
    return f"about {_duration(seconds)} ({source} for one CPU core)"


def images_trained(what: str, scale: Preset) -> float:
    """Images of a run by its preset: trained on, and a third of those only forwarded."""
    train, buckets = scale.train_images or 0, 5
    proxy = (scale.proxy_calibration_images + scale.proxy_images) / 3
    if what == "classification":
        share = (scale.crop_size / scale.image_size) ** 2
        crops = 2 * scale.classification.epochs * 2.4 * (scale.crops or 0)  # small images use a core less well
        forwarded = scale.pretraining_paths * buckets * (scale.proxy_calibration_images + (scale.crops or 0) / 10) / 3
        return share * (crops + forwarded)
    if what == "warm-up":
        return scale.warm_up.epochs * train + scale.fine_tuning_paths * buckets * proxy
    if what not in VARIANTS:
        return 0.3 * train  # filters: a few seconds each
    variant: Variant = VARIANTS[what]
    epochs = scale.fine_tuning.epochs + (0 if variant.shared_warm_up else scale.warm_up.epochs)
    if variant.shrinking:  # after the full net, which is a run of its own; the teacher's forward pass adds a third
        epochs = sum(phase.epochs for phase in scale.shrinking.phases) * 4 / 3
    measured = 1 if variant.full_net else 2 * len(scale.budget_shares)
    searched = 0 if variant.full_net else scale.search_paths * buckets * proxy
    return epochs * train + searched + measured * (scale.calibration_images + (scale.validation_images or 0)) / 3


def _duration(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


if __name__ == "__main__":
    run(main, Options)
