"""`python -m <paper>.reproduce`: every table and figure of a paper, by name, and a verdict on each of its claims.

Seed by seed, what the exhibits need is trained or taken from `runs/<paper>/<data>-<scale>/`; then each exhibit is drawn
over all seeds into `exhibits/<name>/` there, and claims.json written from whatever has been measured so far. The same
command again trains nothing anew.
"""

import json
import resource
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from common.cli import short_name
from common.plain import InputError, to_json
from common.report.claims import write_claims
from common.reproduce.evidence import collect_evidence, runs_of, shared_environment
from common.reproduce.exhibit import Exhibit, Measured, make
from common.reproduce.listing import listing
from common.reproduce.paper import Paper, ReproduceOptions, command, run_folder, second_folder
from common.reproduce.publish import publish
from common.train.run_folder import describe_environment


def reproduce(paper: Paper, options: ReproduceOptions) -> None:
    """What the options ask for. `InputError`, at the end, when some exhibit could not be measured."""
    chosen = _checked(paper, options)
    folder = run_folder(paper, options)
    if options.list:
        print(listing(paper, chosen, options.scale, folder, paper.second_data(options) is not None))
        return
    began = time.perf_counter()
    out, page = shlex.quote(str(options.out)), shlex.quote(str(options.out / "report"))
    if options.seed is None:
        measured, problems = _measure(paper, options, chosen, range(options.seeds))
        _draw_and_judge(paper, options, chosen, measured, folder)
        following = f"python -m common.report {out} --out {page}"
    else:
        _, problems = _measure(paper, options, chosen, [options.seed])
        following = f"{command(paper, options, options.only)} --out {out}, once every seed is there"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    _say(f"{time.perf_counter() - began:,.1f} s of wall clock, peak memory {peak / 2**20:,.0f} MiB")
    _say(f"next: {following}")
    if problems:
        first, reason = next(iter(problems.items()))
        raise InputError(f"not made: {', '.join(problems)}; {first}: {reason}")


def _checked(paper: Paper, options: ReproduceOptions) -> list[Exhibit]:
    """The exhibits asked for; `InputError` for whatever can be known to be wrong before anything is trained."""
    unknown = [name for name in options.only if name not in paper.exhibits]
    if unknown:
        raise InputError(f"unknown exhibit {unknown[0]!r}: give some of {', '.join(paper.exhibits)}")
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
    paper.preset(options.scale)
    return [paper.exhibits[name] for name in dict.fromkeys(options.only or paper.exhibits)]


def _measure(
    paper: Paper, options: ReproduceOptions, chosen: Sequence[Exhibit], seeds: Iterable[int]
) -> tuple[dict[str, dict[int, Measured]], dict[str, str]]:
    """Exhibit -> seed -> numbers, seed by seed; and why, for each exhibit that could not be measured."""
    measured: dict[str, dict[int, Measured]] = {exhibit.name: {} for exhibit in chosen}
    problems: dict[str, str] = {}
    typed = shlex.join(["python", "-m", f"{paper.name}.reproduce", *sys.argv[1:]])
    for number, seed in enumerate(seeds):
        study = paper.study(options, seed, typed)  # one study at a time: it holds the decoded images
        if number == 0:
            _announce(paper, options, study)
        for exhibit in chosen:
            try:
                measured[exhibit.name][seed] = exhibit.measure(study)
            except InputError as error:
                problems.setdefault(exhibit.name, str(error))
                _say(f"{exhibit.name}, seed {seed}: {error}")
    return measured, problems


def _announce(paper: Paper, options: ReproduceOptions, study: Any) -> None:
    """What is about to run."""
    environment = describe_environment()
    commit = (environment["git_commit"] or "unknown")[:10] + "+changes" * bool(environment["git_dirty"])
    _say(
        f"{paper.title} at scale {options.scale} on {options.data}: {paper.describe(study)}; device {options.device}; "
        f"commit {commit}"
    )
    _say(f"config: {json.dumps(to_json(paper.preset(options.scale)))}")


def _draw_and_judge(
    paper: Paper,
    options: ReproduceOptions,
    chosen: Sequence[Exhibit],
    measured: Mapping[str, Mapping[int, Measured]],
    folder: Path,
) -> None:
    """Every exhibit that all seeds have, then the claims from whatever has been measured so far."""
    seeds = range(options.seeds)
    for exhibit in chosen:
        if len(measured[exhibit.name]) == len(seeds):
            where = folder / "exhibits" / exhibit.name
            runs = runs_of(exhibit, seeds, folder, second_folder(paper, options))
            make(
                exhibit,
                measured[exhibit.name],
                paper.setting(options, where),
                paper=paper.name,
                labels=paper.labels,
                data=short_name(options.data),
                scale=options.scale,
                command=command(paper, options, [exhibit.name]),
                runs=runs,
                environment=shared_environment(folder, runs),
            )
            _say(f"{exhibit.name}: {where}")
    claims = write_claims(folder / "claims.json", paper.claims, collect_evidence(paper, options, folder))
    for name, claim in claims.items():
        _say(f"{name}: {claim['verdict']}" + (f" ({claim['reason']})" if claim["reason"] else ""))
    if options.publish:
        _say(f"published in {publish(paper, options, folder)}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
