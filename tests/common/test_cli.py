"""Flags from settings: any field of any preset, and the command that gives them again."""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

import pytest

from common.cli import StudyOptions, Switch, command, exact, metric, output_folder, parse, quantity, run
from common.compare.presets import Options as CompareOptions
from common.plain import InputError
from common.predict import PredictCommand
from common.settings import Augmentation, Optimisation, StudyPreset
from sm_nas.presets import PRESETS, SearchOptions
from sm_nas.search import Options as SMNASOptions

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Row:
    norm: Literal["batch", "group"] = "batch"
    optimisation: Optimisation = Optimisation(epochs=2)  # noqa: RUF009
    deformable: bool = True


@dataclass(frozen=True, kw_only=True)
class Preset(StudyPreset):
    rows: tuple[Row, ...] = (Row(), Row("group"))
    named: tuple[tuple[str, Row], ...] = (("a", Row()),)
    sizes: tuple[tuple[int, int], ...] = ((32, 32),)
    limit: float | None = None


SMALL = Preset(
    name="small",
    train_images=None,
    search_images=1,
    validation_images=1,
    evaluation_batch_size=1,
    augmentation=Augmentation(),
    crop_size=1,
    crop_batch_size=1,
    crops=2,
    classification=Optimisation(),
)


@dataclass(frozen=True, kw_only=True)
class Options(StudyOptions):
    PRESETS: ClassVar[Mapping[str, Preset]] = {"small": SMALL, "large": replace(SMALL, name="large", limit=9.0)}
    scale: Literal["small", "large"] = "small"
    preset: Preset = SMALL
    seed: int = 0
    names: tuple[str, ...] = ()
    fast: bool = True


CHANGES = {
    "": {},
    "--preset.rows.1.optimisation.epochs 36": {"rows.1.optimisation.epochs": 36},
    "--preset.named.0.1.norm group": {"named.0.1.norm": "group"},
    "--preset.imagenet --preset.rows.0.no-deformable": {"imagenet": True, "rows.0.deformable": False},
    "--preset.sizes 1 2 3 4 --preset.limit 0.5": {"sizes": [[1, 2], [3, 4]], "limit": 0.5},
    "--preset.augmentation.flip 0 --preset.rows.0.norm group": {"augmentation.flip": 0.0, "rows.0.norm": "group"},
    "--scale large --preset.limit None": {"limit": None},
    "--scale=large": {},
}


@pytest.mark.parametrize(("typed", "changed"), CHANGES.items())
def test_any_field_of_a_preset_is_a_flag_and_is_said_again(typed, changed):
    options = parse(Options, [*typed.split(), "--seed", "3", "--names", "a", "b", "--no-fast"])
    assert options.changed == changed
    assert (options.seed, options.names, options.fast) == (3, ("a", "b"), False)
    assert options.preset.name == options.scale
    words = shlex.split(command("paper.train", options))
    assert words[:3] == ["python", "-m", "paper.train"]
    assert parse(Options, words[3:]) == options


def test_a_description_may_be_of_another_scale_where_none_is_given():
    @dataclass(frozen=True, kw_only=True)
    class Described(Options):
        DESCRIBED: ClassVar[str] = "large"
        describe: Switch = False

    assert parse(Described, []).preset == SMALL
    assert parse(Described, ["--describe"]).preset.limit == 9.0
    assert parse(Described, ["--describe", "--scale", "small"]).scale == "small"


def test_photographs_may_have_a_scale_of_their_own_where_none_is_given(capsys):
    @dataclass(frozen=True, kw_only=True)
    class Training(Options):
        PRESETS: ClassVar = {**Options.PRESETS, "smoke": replace(SMALL, name="smoke")}
        OF_PHOTOGRAPHS: ClassVar[str] = "large"

        scale: str = "small"

    for typed, scale in {
        "": "small",
        "--data scenes:size=64": "small",
        "--data coco:DIR": "large",
        "--data=auto:DIR": "large",
        "--data voc:DIR --scale small": "small",
        "--scale smoke": "smoke",
    }.items():
        options = parse(Training, typed.split())
        assert (options.scale, options.preset.name) == (scale, scale)
    assert not capsys.readouterr().err
    assert parse(Training, ["--data", "coco:DIR", "--scale", "smoke"]).scale == "smoke"
    assert "finds nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "typed", "trains"),
    [
        (SMNASOptions, "--scale smoke", True),
        (SMNASOptions, "--scale smoke --describe", False),
        (CompareOptions, "", True),
        (CompareOptions, "--list", False),
        (CompareOptions, "runs/best", False),
    ],
)
def test_only_what_trains_is_said_to_find_nothing(kind, typed, trains, capsys):
    parse(kind, [*typed.split(), "--data", "coco:DIR"])
    assert ("finds nothing" in capsys.readouterr().err) == trains


def test_a_folder_is_made_before_the_work_and_is_gone_where_nothing_is_written(tmp_path):
    with output_folder(tmp_path / "kept" / "folder"):
        (tmp_path / "kept" / "folder" / "file").touch()
    with pytest.raises(InputError, match="refused"), output_folder(tmp_path / "new" / "folder"):
        raise InputError("refused")
    with output_folder(tmp_path / "made"):
        assert (tmp_path / "made").is_dir()
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["kept", "folder", "file"]
    with pytest.raises(InputError, match="there is a file where a folder is needed"):
        output_folder(tmp_path / "kept" / "folder" / "file").__enter__()


def test_what_is_default_is_not_said_but_for_scale_and_data():
    assert command("p.train", Options()) == "python -m p.train --scale small --data scenes"
    assert command("p.train", Options(seed=2), leave_out=("seed",), always=()) == "python -m p.train"


def test_other_settings_have_another_run_folder():
    folders = [parse(Options, typed.split()).run_folder for typed in CHANGES]
    assert len(set(folders)) == len(folders)
    assert (folders[0], folders[-1], folders[1][:-8]) == ("scenes-small", "scenes-large", "scenes-small-")


@pytest.mark.parametrize(("kind", "goes_on"), [(Options, True), (PredictCommand, False)])
def test_only_what_has_runs_is_said_to_go_on(kind, goes_on, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        run(interrupted, kind, [] if goes_on else ["detector", "photos", "--out", "found"])
    assert ended.value.code == 130
    assert ("the same command goes on" in capsys.readouterr().err) == goes_on


WRONG = {
    **{
        typed: typed.split()[-1].removeprefix("--") for typed in ("--scale huge", "--preset.foo 1", "--seed x", "--foo")
    },
    "--preset.classification.epochs 0": "epochs must be at least 1, got 0",
    "--preset.search-images 0": "search_images must be at least 1, got 0",
    "--preset.crop-batch-size 0": "crop_batch_size must be at least 1, got 0",
}


@pytest.mark.parametrize(("typed", "said"), WRONG.items())
def test_a_wrong_flag_or_setting_ends_with_status_2(typed, said, capsys):
    with pytest.raises(SystemExit) as ended:
        run(lambda options: None, Options, typed.split())
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [(InputError("too few"), 2, "error: too few\n"), (KeyboardInterrupt(), 130, "the same command goes on")],
)
def test_errors_of_the_work_end_without_a_traceback(error, code, text, capsys):
    def main(options):
        raise error

    with pytest.raises(SystemExit) as ended:
        run(main, Options, [])
    assert ended.value.code == code
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "unbuffered"),  # a screen or less waits for the end of Python, or not; the last is longer
    [
        ("common", ""),
        ("common.cost --help", ""),
        ("common.cost --help", "1"),
        ("joint_detnas.reproduce --help-all", ""),
    ],
)
def test_output_that_nobody_reads_to_its_end_is_no_error(typed, unbuffered):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    variables = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen([sys.executable, "-m", *typed.split()], cwd=ROOT, env=variables, **pipes) as started:
        started.stdout.close()
        assert started.stderr.read() == b""
    assert started.returncode == 141


@pytest.mark.parametrize("flag", ["-h", "--help", "--help-all"])
def test_help_is_short_and_help_all_lists_the_settings_of_the_asked_scale(flag, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(SearchOptions, ["--scale", "nano", flag])
    told = capsys.readouterr().out
    assert ended.value.code == 0
    assert ("--help-all also lists the settings" in told, "--preset.train-images" in told) == (
        (False, True) if flag == "--help-all" else (True, False)
    )
    assert "--latencies" in told
    told_of_options = told.partition("preset options")[0]
    assert "(default: )" not in told_of_options
    assert "default: None" not in told_of_options
    if flag == "--help-all":
        assert f"(default: {PRESETS['nano'].train_images})" in told
    else:
        assert len(told.splitlines()) < 80


@pytest.mark.parametrize("flag", ["--help", "--help-all"])
def test_a_command_without_settings_has_one_help(flag, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(PredictCommand, [flag])
    told = capsys.readouterr().out
    assert ended.value.code == 0
    assert "--score" in told
    assert "inside them included. (required)" in " ".join(told.split()).replace(" │ │ ", " ")


def test_help_breaks_lines_where_the_box_ends_and_not_where_the_source_does(capsys):
    with pytest.raises(SystemExit):
        parse(SearchOptions, ["--help"])
    told = [line.strip("│ ") for line in capsys.readouterr().out.splitlines()]
    assert any("Ray: as many as" in line for line in told)  # the source has a break after "Ray:"


def test_another_broken_pipe_is_told(capfd):
    def main(options):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run(main, Options, [])


def test_numbers_may_be_typed_with_a_prefix_and_are_shown_with_one():
    shown = {"25M": 25e6, "300k": 3e5, "1.234G": 1.234e9, "2T": 2e12, "999": 999, "0.25": 0.25, "0": 0}
    for text, number in shown.items():
        assert quantity(text) == pytest.approx(number)
        assert metric(number) == text
    assert quantity("2.5e7") == 25e6
    assert metric(6269000) == exact(6269000) == "6.269M"
    assert (exact(123456789.0), quantity(exact(0.1 + 0.2))) == ("123456789", 0.1 + 0.2)
    for bad in ("", "M", "25X", "-1", "nan", "inf", "1 M x"):
        with pytest.raises(ValueError, match=r"number|float"):
            quantity(bad)


def commands() -> list[str]:
    """Every command of the project that parses flags of its own: found, not listed."""
    mains = [*ROOT.glob("*/train.py"), *ROOT.glob("*/search.py"), *ROOT.glob("*/reproduce.py")]
    return sorted(f"{path.parent.name}.{path.stem}" for path in mains if path.parent.name != "common")


def test_help_and_wrong_flags_answer_without_torch():
    """All in one process: the first of them that loads torch is named."""
    code = (
        "import sys, runpy\n"
        f"for module in {commands()}:\n"
        "    for flag in ('--help', '--nonsense'):\n"
        "        sys.argv = ['x', flag]\n"
        "        try: runpy.run_module(module, run_name='__main__')\n"
        "        except SystemExit as ended: print('\\n#', module, ended.code, {'torch', 'scipy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    answers = [line for line in done.stdout.splitlines() if line.startswith("#")]
    assert answers == [f"# {module} {code} set()" for module in commands() for code in (0, 2)], done.stderr
