"""`python -m PAPER.reproduce`: every table and figure of a paper, by name, and a verdict on each of its claims.

Seed by seed, what the exhibits need is trained or read from OUT/PAPER/DATA-SCALE/; then each exhibit is drawn over all
seeds into `exhibits/NAME/` there, and claims.json written from whatever has been measured so far. The same command
again trains nothing anew. Knows no paper, and imports nothing that trains: a paper's study does.
"""

import os
import resource
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from common import progress
from common.cli import StudyOptions, Switch, command, program, short_name, typed_command, words_for
from common.plain import (
    InputError,
    first_difference,
    read_json,
    read_json_if_there,
    to_json,
    write_atomically,
    write_json,
)
from common.report.claims import Claim, Evidence, judge_all
from common.report.exhibit import (
    PILOT_SEED,
    Exhibit,
    ExhibitResult,
    Measured,
    Setting,
    display_name,
    printed,
    printed_table,
    stacked,
)
from common.report.runs import duration, shared_environment, summarise
from common.settings import Parallel

# where and how, not what
_NOT_MEASURED = ("seed", "only", "claim", "out", "list", "publish", "go_on_from_published", "results")


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """Train and draw a paper's tables and figures, and judge its claims; beside a paper's own options."""

    SHOWS_RUNS: ClassVar[bool] = False
    seeds: int = 1
    """Number of seeds: 0, 1, ... Intervals need at least 2, verdicts as many as the claim says."""
    seed: int | None = None
    """Train only what this one of the seeds needs and draw nothing: a process for each seed, then the command without
    it. With --publish and --go-on-from-published, add the seed to those that are published, whichever they are."""
    only: tuple[str, ...] = ()
    """Names of exhibits, such as figure5 table2 (default: all)."""
    claim: tuple[str, ...] = ()
    """Names of claims, such as DO-4: the exhibits that they rest on."""
    list: Switch = False
    """Only list the exhibits, with the time that they took where they were run."""
    publish: Switch = False
    """Also copy results, claims and run records, without pictures' files, into --results."""
    go_on_from_published: Switch = False
    """Take seeds that --results holds, measured with the same settings, from there instead of training them."""
    results: Path = Path("results")
    """Folder that --publish copies into, and --list reads recorded times from."""


@dataclass(frozen=True)
class Paper:
    """A paper as this command sees it.

    name: its package, "detofa": of its run folders and records; title: as sentences name it, "DetOFA". folder: its
    package's, where printed.json holds the paper's numbers. exhibits: in the paper's order. study: (options, seed,
    command) -> the paper's study; imports what trains. describe: study -> its data and networks, in a phrase; reads
    the data, so that a fault in it stops everything at once. comparable: evidence of one exhibit, all seeds, NaN where
    a number is missing -> that to judge by, where what is missing in one value must be dropped from all that are
    compared with it. module: of the command that this is; None means NAME.reproduce.
    """

    name: str
    title: str
    folder: Path
    exhibits: Sequence[Exhibit]
    study: Callable[[Any, int, str], Any]
    describe: Callable[[Any], str]
    comparable: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] = dict
    module: str | None = None

    @property
    def by_name(self) -> dict[str, Exhibit]:
        """Exhibits by name."""
        return {exhibit.name: exhibit for exhibit in self.exhibits}

    @property
    def claims(self) -> list[Claim]:
        """All claims, by number."""
        claims = [claim for exhibit in self.exhibits for claim in exhibit.claims]
        return sorted(claims, key=lambda claim: int("".join(filter(str.isdigit, claim.id))))

    @property
    def shown_by(self) -> dict[str, tuple[str, ...]]:
        """Names of the exhibits that each claim rests on, the one that it stands with first."""
        return {claim.id: (each.name, *claim.exhibits) for each in self.exhibits for claim in each.claims}


def reproduce(paper: Paper, options: ReproduceOptions) -> None:
    """What the options ask for. `InputError`, at the end, when some exhibit could not be measured."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        by_itself = f", or train with torchrun -m {paper.name}.train, whose finished runs are taken as they are"
        raise InputError(
            f"{program()} cannot run under torchrun: start one process, with --workers for several candidates"
            f"{'' if paper.module else by_itself}"
        )
    chosen = _checked(paper, options)
    folder = options.out / paper.name / options.run_folder
    if options.list:
        print(listing(paper, chosen, options))
        return
    began = time.perf_counter()
    measured, problems = _measure(paper, options, chosen)
    if options.seed is None or options.publish:
        setting = setting_of(options)
        for exhibit in chosen:
            complete = len(measured[exhibit.name]) == len(seeds_of(exhibit, options))
            if complete or options.seed in measured[exhibit.name]:
                where = folder / "exhibits" / exhibit.name
                write_json(where / "measured.json", {"setting": setting, "seeds": measured[exhibit.name]})
                result = draw(paper, exhibit, measured[exhibit.name], setting, command_for(paper, options, exhibit))
                records = _records(paper, options, folder, measured)
                save(replace(result, environment=environment_of(result.runs, records)), where)
                _say(f"{exhibit.name}: {where}")
        claims = judge_folder(paper, options, folder)
        write_json(folder / "claims.json", claims)
        for name, claim in claims.items():
            _say(f"{name}: {claim['verdict']}" + (f" ({claim['reason']})" if claim["reason"] else ""))
        if options.publish:
            _say(f"published in {publish(paper, options, folder)}")
        out = str(options.out)
        following = shlex.join([*words_for("common.report"), out, "--out", f"{out}/report"])
    else:
        following = f"{command_for(paper, options)} --out {shlex.quote(str(options.out))}, once every seed is there"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    _say(f"{time.perf_counter() - began:,.1f} s of wall clock, peak memory {peak / 2**20:,.0f} MiB")
    _say(f"next: {following}")
    if problems:
        first, reason = next(iter(problems.items()))
        raise InputError(f"not made: {', '.join(problems)}; {first}: {reason}")


def _checked(paper: Paper, options: ReproduceOptions) -> list[Exhibit]:
    """The exhibits asked for; `InputError` for whatever can be known to be wrong before anything is trained."""
    names = list(options.only)
    for wanted in options.claim:
        if wanted not in paper.shown_by:
            raise InputError(f"unknown claim {wanted!r}: give some of {', '.join(each.id for each in paper.claims)}")
        names += paper.shown_by[wanted]
    unknown = [name for name in names if name not in paper.by_name]
    if unknown:
        raise InputError(f"unknown exhibit {unknown[0]!r}: give some of {', '.join(paper.by_name)}")
    if options.seeds < 1:
        raise InputError(f"--seeds must be at least 1, got {options.seeds}")
    if options.seed is not None and not 0 <= options.seed < options.seeds:
        raise InputError(
            f"--seed must be between 0 and {options.seeds - 1} for --seeds {options.seeds}, got {options.seed}"
        )
    if options.seed is not None and options.publish and not options.go_on_from_published:
        raise InputError(
            "--publish with --seed adds a seed to those that are published: give --go-on-from-published, too, or leave "
            "out --seed"
        )
    every = [exhibit.name for exhibit in paper.exhibits if options.list or not exhibit.pilot]
    return [paper.by_name[name] for name in dict.fromkeys(names or every)]


def seeds_of(exhibit: Exhibit, options: ReproduceOptions) -> list[int]:
    """The seeds that an exhibit is measured on; a pilot's are its own."""
    pilot = [PILOT_SEED + number for number in range(exhibit.pilot)]
    return pilot or list(range(options.seeds))[: exhibit.most_seeds]


def _seeds_flag_for(seeds: Sequence[int]) -> int:
    """What `--seeds` must be for these, which may leave some out, or be those of a pilot."""
    return max([len(seeds), *(seed + 1 for seed in seeds if seed < PILOT_SEED)])


def setting_of(options: StudyOptions) -> Setting:
    """What exhibits are measured with, as plain JSON that names no folder of this machine."""
    options = _without_places(options)
    shared = {item.name for item in (*fields(StudyOptions), *fields(ReproduceOptions), *fields(Parallel))}
    own = {item.name: getattr(options, item.name) for item in fields(options) if item.name not in shared}
    how = {"data": options.data, "precision": options.precision}  # the name alone does not say which scenes
    return Setting(short_name(options.data), options.scale, to_json(options.preset), to_json(own | how))


def command_for(paper: Paper, options: ReproduceOptions, exhibit: Exhibit | None = None) -> str:
    """The command that gives one exhibit, or all that were asked for."""
    if exhibit is not None:
        options = replace(options, only=(exhibit.name,), claim=())
    left_out = [name for name in _NOT_MEASURED if name not in ("only", "claim")]
    module = paper.module or f"{paper.name}.reproduce"
    return command(module, options, leave_out=left_out, always=("scale", "data", "seeds"))


# ---- measuring


def _measure(
    paper: Paper, options: ReproduceOptions, chosen: Sequence[Exhibit]
) -> tuple[dict[str, dict[int, Measured]], dict[str, str]]:
    """Exhibit -> seed -> numbers, seed by seed; and why, for each exhibit that could not be measured."""
    measured = {exhibit.name: _published_seeds(paper, options, exhibit) for exhibit in chosen}
    left: dict[int, list[Exhibit]] = {}
    for exhibit in chosen:
        for seed in seeds_of(exhibit, options):
            if seed not in measured[exhibit.name] and (exhibit.pilot or options.seed in (None, seed)):
                left.setdefault(seed, []).append(exhibit)
    problems: dict[str, str] = {}
    progress.plan({f"seed {seed}": 1.0 for seed in left})
    for number, seed in enumerate(sorted(left)):
        study = paper.study(options, seed, typed_command())  # one at a time: a study holds the decoded images
        if number == 0:
            _say(
                f"{paper.title} at scale {options.scale} on {options.data}: {paper.describe(study)}; "
                f"device {study.device}"
            )
        with progress.stage(f"seed {seed}"):
            for exhibit in left[seed]:
                try:
                    measured[exhibit.name][seed] = measure_exhibit(exhibit, study)
                except InputError as error:
                    problems.setdefault(exhibit.name, str(error))
                    _say(f"{exhibit.name}, seed {seed}: {error}")
    return measured, problems


def _published_seeds(paper: Paper, options: ReproduceOptions, exhibit: Exhibit) -> dict[int, Measured]:
    """Seeds of an exhibit that are taken from published results; `InputError` for those of other settings."""
    known = _published(paper, options, "measured").get(exhibit.name) if options.go_on_from_published else None
    if known is None:
        return {}
    if other := first_difference(known["setting"], to_json(setting_of(options))):
        raise InputError(
            f"{published_folder(paper, options) / 'measured.json'} holds {exhibit.name} measured with {other[0]} = "
            f"{other[1]}, and this command asks for {other[2]}: give the same settings, or leave out "
            "--go-on-from-published"
        )
    wanted = seeds_of(exhibit, options)
    return {seed: numbers for seed, numbers in by_number(known["seeds"]).items() if seed in wanted}


def measure_exhibit(exhibit: Exhibit, study: Any) -> Measured:
    """One seed's numbers, with the runs that they rest on: "runs" all of them, "rests_on" those of each evidence."""
    with study.recording() as used:
        numbers = exhibit.measure(study)
        by_measuring = list(used)
        evidence, rests_on = {}, {}
        for name, value in numbers.get("evidence", {}).items():
            with study.recording() as behind:
                evidence[name] = value() if callable(value) else value
            rests_on[name] = list(behind) or by_measuring  # a plain value was made while measuring
    return to_json({**numbers, "evidence": evidence, "runs": list(used), "rests_on": rests_on})


# ---- drawing and judging: from measured numbers alone


def draw(
    paper: Paper, exhibit: Exhibit, measured: Mapping[int, Measured], setting: Setting, typed: str
) -> ExhibitResult:
    """The exhibit's record. measured: seed -> numbers. typed: the command that gives them."""
    seeds = sorted(measured)
    drawn = exhibit.draw([{"seed": seed, **measured[seed]} for seed in seeds], setting)
    runs = list(dict.fromkeys(run for seed in seeds for run in measured[seed].get("runs", ())))
    notes = list(drawn.notes)
    if len(seeds) == 1 and runs:
        notes.append("One seed: no interval can be given.")
    missing = [(seed, what, why) for seed in seeds for what, why in measured[seed].get("missing", {}).items()]
    notes += sorted(f"{what} has no result for seed {seed}: {why}." for seed, what, why in missing)
    exhibits = printed(paper.folder)["exhibits"]
    paper_table = printed_table(exhibits, exhibit.name)
    theirs = exhibits[exhibit.name]
    if theirs.get("readable"):
        notes.append(f"The paper: {theirs['readable']}")
    return ExhibitResult(
        exhibit=exhibit.name,
        paper=paper.name,
        paper_title=paper.title,
        title=exhibit.title,
        caption=drawn.caption,
        data=setting.data,
        scale=setting.scale,
        seeds=tuple(seeds),
        command=typed,
        table=drawn.table,
        paper_table=paper_table,
        units=dict(drawn.units),
        paper_units=theirs.get("units", {}),
        notes=(*notes, *theirs.get("notes", ())),
        pictures=tuple(drawn.pictures),
        runs=tuple(runs),
    )


def save(result: ExhibitResult, folder: Path) -> None:
    """The record and its pictures' files into an exhibit's folder."""
    from common.report.figures import render  # matplotlib takes half a second

    result.save(folder / "result.json")
    for picture in result.pictures:
        write_atomically(folder / f"{picture.name}.png", render(picture))


def judge_folder(paper: Paper, options: ReproduceOptions, folder: Path) -> dict[str, dict[str, Any]]:
    """Every claim judged by the numbers of all exhibits measured so far, and of those that were published by the same
    settings, where results are published or gone on from."""
    numbers = _measured_here(paper, options, folder)
    if options.publish or options.go_on_from_published:
        there = _by_these_settings(options, _published(paper, options, "measured"))
        numbers = there | _not_behind(numbers, there)
    measured = {name: by_number(record["seeds"]) for name, record in numbers.items()}
    records = _records(paper, options, folder, measured)
    why = _published(paper, options, "why")
    return judge_measured(paper, options, measured, lambda runs: environment_of(runs, records), why)


def _measured_here(paper: Paper, options: ReproduceOptions, folder: Path) -> dict[str, dict[str, Any]]:
    """Exhibit -> its measured.json in a run folder, by the settings that are asked for: others may lie there from
    before a scale was changed."""
    there = {name: read_json_if_there(folder / "exhibits" / name / "measured.json") for name in paper.by_name}
    return _by_these_settings(options, {name: record for name, record in there.items() if record is not None})


def _not_behind(here: Mapping[str, dict[str, Any]], published: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Exhibits measured here without those that lack a seed that is published by the same settings: another machine
    may have added seeds since."""
    return {
        name: record
        for name, record in here.items()
        if name not in published or set(published[name]["seeds"]) <= set(record["seeds"])
    }


def _by_these_settings(options: ReproduceOptions, records: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    setting = to_json(setting_of(options))
    return {name: each for name, each in records.items() if not first_difference(each["setting"], setting)}


def by_number(seeds: Mapping[str, Measured]) -> dict[int, Measured]:
    """Seed -> numbers, of the object in measured.json, whose keys are text."""
    return {int(seed): numbers for seed, numbers in seeds.items()}


def judge_measured(
    paper: Paper,
    options: ReproduceOptions,
    measured: Mapping[str, Mapping[int, Measured]],
    environment: Callable[[Sequence[str]], Mapping[str, Any]] = lambda runs: {},
    why: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Every claim judged, by the seeds that all of its exhibits have.

    measured: exhibit -> seed -> numbers. why: claim -> a sentence written after looking at the results.
    """
    alike: dict[tuple[str, ...], list[Claim]] = {}
    for claim in paper.claims:
        alike.setdefault(paper.shown_by[claim.id], []).append(claim)
    judged: dict[str, dict[str, Any]] = {}
    for exhibits, claims in alike.items():
        there = [set(measured.get(name, ())) for name in exhibits if not _has_all(paper.by_name[name], measured)]
        # Two exhibits may have measured one run, on different machines: a claim takes the numbers of its own, and
        # where it has several, of the first.
        others = [name for name in measured if name not in exhibits]
        own = [name for name in reversed(exhibits) if name in measured]
        ordered = {name: measured[name] for name in (*others, *own)}
        seeds = sorted(set.intersection(*there)) if there else []
        seeds = seeds or list(range(options.seeds))
        judged |= _judged_by(paper, claims, options, seeds, ordered, environment, why or {})
    return {claim.id: judged[claim.id] for claim in paper.claims}


def _has_all(exhibit: Exhibit, measured: Mapping[str, Mapping[int, Measured]]) -> bool:
    """Whether an exhibit that needs only so many seeds has them, and so goes with any others."""
    return exhibit.most_seeds is not None and set(range(exhibit.most_seeds)) <= set(measured.get(exhibit.name, ()))


def _judged_by(
    paper: Paper,
    claims: Sequence[Claim],
    options: ReproduceOptions,
    seeds: Sequence[int],
    measured: Mapping[str, Mapping[int, Measured]],
    environment: Callable[[Sequence[str]], Mapping[str, Any]],
    why: Mapping[str, str],
) -> dict[str, dict[str, Any]]:
    """Claims judged by some seeds; an exhibit that lacks one of them is passed over, and of what several have measured
    the last one's numbers count."""
    values: dict[str, np.ndarray] = {}
    budget: dict[str, dict[str, Any]] = {}
    rests_on: dict[str, dict[str, None]] = {}
    for exhibit, numbers in measured.items():
        most = paper.by_name[exhibit].most_seeds
        of_exhibit = [seed for seed in seeds if most is None or seed < most]
        if not of_exhibit or not all(seed in numbers for seed in of_exhibit):
            continue
        by_seed = [numbers[seed].get("evidence", {}) for seed in of_exhibit]
        found = stacked_evidence(by_seed, paper.comparable)
        values |= found
        budget |= dict.fromkeys(found, _mean_budget([numbers[seed].get("budget", {}) for seed in of_exhibit]))
        for seed in of_exhibit:
            for name, runs in numbers[seed].get("rests_on", {}).items():
                rests_on.setdefault(name, {}).update(dict.fromkeys(runs))
    evidence = Evidence(
        data=short_name(options.data),
        scale=options.scale,
        seeds=seeds,
        command=command_for(paper, replace(options, seeds=_seeds_flag_for(seeds), only=(), claim=())),
        values=values,
        rests_on=rests_on,
        environment=environment,
        budget=budget,
        why=why,
    )
    judged = judge_all(claims, evidence, paper.name, paper.title)
    return {name: record | {"exhibits": list(paper.shown_by[name])} for name, record in judged.items()}


def _mean_budget(by_seed: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Side -> what it was trained with, averaged over the seeds; a side that one of them lacks is left out."""
    return {
        side: {what: float(np.mean([spent[side][what] for spent in by_seed])) for what in by_seed[0][side]}
        for side in by_seed[0]
        if all(side in spent for spent in by_seed)
    }


def stacked_evidence(
    by_seed: Sequence[Mapping[str, Any]], comparable: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Values of one exhibit that every seed has, first axis the seed; one with a number missing is left out.

    comparable: see `Paper.comparable`.
    """
    names = [name for name in by_seed[0] if all(name in evidence for evidence in by_seed)]
    values = comparable({name: stacked(by_seed, name) for name in names})
    return {name: array for name, array in values.items() if array.size and np.isfinite(array).all()}


def environment_of(runs: Sequence[str], records: Callable[[str], Mapping[str, Any]]) -> dict[str, Any]:
    """Commit, versions and hardware of some runs (DATA-SCALE/RUN); a list of values where runs differ. records: see
    `_records`."""
    found = [records(name) for name in runs]
    return shared_environment(place for each in found for place in (each["environment"], *each["resumed"]))


# ---- publishing and listing


def publish(paper: Paper, options: ReproduceOptions, folder: Path) -> Path:
    """Copy exhibits, their numbers seed by seed, claims and run records of a run folder; the folder they are in.

    Claims are those of the exhibits: nobody looked for the others yet.
    Nothing that is published holds a path of this machine; pictures are there as data.
    """
    target = published_folder(paper, options)
    anywhere = _without_places(options)
    names: dict[str, None] = {}
    published = _published(paper, options, "measured")
    there = _by_these_settings(options, published)
    measured, numbers = _measured_here(paper, options, folder), {}
    here = _not_behind(measured, there)
    for exhibit in paper.exhibits:
        where, copy = folder / "exhibits" / exhibit.name, target / f"{exhibit.name}.json"
        if exhibit.name in here and (where / "result.json").is_file():
            result = ExhibitResult.load(where / "result.json")
            again = command_for(paper, replace(anywhere, seeds=_seeds_flag_for(result.seeds)), exhibit)
            replace(result, command=again).save(copy)
            numbers[exhibit.name] = here[exhibit.name]
        elif exhibit.name in published and copy.is_file():  # measured elsewhere: it stays
            result, numbers[exhibit.name] = ExhibitResult.load(copy), published[exhibit.name]
            if exhibit.name in measured:
                _say(
                    f"{exhibit.name}: what is published stays, which has seeds that this folder lacks; "
                    "--go-on-from-published adds to them"
                )
        else:
            continue
        names |= dict.fromkeys(result.runs)
    records = _records(paper, options, folder, {name: by_number(each["seeds"]) for name, each in numbers.items()})
    write_json(target / "measured.json", numbers)
    judged_by = {*here, *there}
    before, claims = _published(paper, options, "claims"), {}
    for name, claim in read_json(folder / "claims.json").items():
        if name in before and judged_by.isdisjoint(paper.shown_by[name]):  # by other settings: its verdict stays
            claims[name] = before[name]
        elif paper.shown_by[name][0] in numbers:
            command = command_for(paper, replace(anywhere, seeds=_seeds_flag_for(claim["seeds"]), only=(), claim=()))
            claims[name] = claim | {"command": command}
    write_json(target / "claims.json", claims)
    write_json(target / "runs.json", {name: records(name) for name in names})
    return target


def published_folder(paper: Paper, options: ReproduceOptions) -> Path:
    """RESULTS/SCALE/PAPER, and in it a folder for each data set other than scenes."""
    name = short_name(options.data)
    return options.results / options.scale / paper.name / ("" if name == "scenes" else name)


def _published(paper: Paper, options: ReproduceOptions, name: str) -> dict[str, Any]:
    """What NAME.json in the published folder holds; nothing where it is not there."""
    return read_json_if_there(published_folder(paper, options) / f"{name}.json") or {}


def _records(
    paper: Paper, options: ReproduceOptions, folder: Path, measured: Mapping[str, Mapping[int, Measured]]
) -> Callable[[str], Mapping[str, Any]]:
    """A run's name -> what it took and where it was made: here, where the published numbers rest on it as they were
    published, or both.

    measured: exhibit -> seed -> numbers. A run of that name may lie here that they have nothing to do with.
    """
    known, published = (_published(paper, options, name) for name in ("runs", "measured"))
    by_side: dict[bool, set[str]] = {True: set(), False: set()}
    for exhibit, seeds in measured.items():
        there = by_number(published.get(exhibit, {}).get("seeds", {}))
        for seed, numbers in seeds.items():
            by_side[seed in there and numbers == there[seed]].update(numbers.get("runs", ()))

    def record(name: str) -> Mapping[str, Any]:
        path, elsewhere = folder.parent / name, known.get(name)
        if elsewhere and (name not in by_side[False] or not path.is_dir()):
            return elsewhere
        made = _run_record(path)
        if not elsewhere or name not in by_side[True] or elsewhere["environment"] == made["environment"]:
            return made
        spent = {key: sum(filter(None, (made[key], elsewhere[key]))) for key in ("seconds", "candidate_seconds")}
        resumed = [*made["resumed"], elsewhere["environment"], *elsewhere["resumed"]]
        return {**spent, "environment": made["environment"], "resumed": resumed}

    return record


def _run_record(path: Path) -> dict[str, Any]:
    """What a run here took and where it was made; its commands are left out, for they name folders."""
    summary = summarise(path)
    environment, *resumed = (
        {key: value for key, value in each.items() if key not in ("command", "resumed")}
        for each in (summary.environment, *summary.environment.get("resumed", []))
    )
    spent = {"seconds": summary.seconds, "candidate_seconds": summary.candidate_seconds}
    return {**spent, "environment": environment, "resumed": resumed}


def _without_places(options: ReproduceOptions) -> ReproduceOptions:
    """The same options without folders: data sets (options that end on "data") as by `generic_data`, files by name."""
    measured = {item.name: getattr(options, item.name) for item in fields(options) if item.name not in _NOT_MEASURED}
    sets = {name: generic_data(text) for name, text in measured.items() if name.endswith("data") and text is not None}
    files = {name: Path(path.name) for name, path in measured.items() if isinstance(path, Path)}
    return replace(options, **sets, **files)


def generic_data(data: str) -> str:
    """The same data without the folders of this machine: coco:/some/where/aquarium -> coco:DIR/aquarium."""
    kind, _, rest = data.partition(":")
    return data if kind == "scenes" or not rest else f"{kind}:DIR/{Path(os.path.expanduser(rest)).resolve().name}"


def listing(paper: Paper, chosen: Sequence[Exhibit], options: ReproduceOptions) -> str:
    """Each exhibit with the recorded time of a seed on a named machine, here or as published, or "not run here"."""
    width = max(map(len, paper.by_name)) + 2
    lines = [f"Exhibits of {paper.title} at scale {options.scale}; they share runs, so several take less than the sum."]
    for exhibit in chosen:
        lines.append(f"{exhibit.name:{width}}{display_name(exhibit.name)}: {exhibit.title}; {exhibit.shows}")
        lines.append(f"{'':{width}}{_recorded_time(paper, exhibit, options)}")
    return "\n".join(lines)


def _recorded_time(paper: Paper, exhibit: Exhibit, options: ReproduceOptions) -> str:
    folder = options.out / paper.name / options.run_folder
    own, published = folder / "exhibits" / exhibit.name / "result.json", published_folder(paper, options)
    copy, known = published / f"{exhibit.name}.json", _published(paper, options, "runs")
    if own.is_file():
        result, where = ExhibitResult.load(own), "here"
        there = {name: folder.parent / name for name in result.runs}
        local = {name: _run_record(path) for name, path in there.items() if path.is_dir()}
        records = [*local.values(), *(known[name] for name in there if name in known and name not in local)]
    elif copy.is_file() and not options.changed:
        result, where = ExhibitResult.load(copy), f"as published in {published}"
        records = [known[name] for name in result.runs if name in known]
    else:
        return "not run here"
    if not records:
        return f"no training, {where}"
    seconds = sum((each["seconds"] or 0.0) + (each["candidate_seconds"] or 0.0) for each in records)
    machine = shared_environment(each["environment"] for each in records)
    gpus = machine.get("gpus") or []
    hardware = ", ".join(map(str, gpus)) if gpus else f"{machine.get('cores', '?')} cores of {machine.get('cpu', '?')}"
    return f"{duration(seconds / len(result.seeds))} a seed, {where} ({hardware})"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
