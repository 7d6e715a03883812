"""Whatever happens to a file of a run, a sentence says what to delete, and the same command then ends as it would have.

Every file of a finished and of an unfinished run is damaged in every way that a crash, a full disk or an editor has
been seen to do it.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from common.plain import InputError
from common.search.executors import evaluate_all
from common.settings import Optimisation
from common.train import run_folder
from common.train.loop import Training, fit
from common.train.run_folder import Run
from tests.repeatable import without_times


class Batches:
    steps_per_epoch = 2

    def epoch(self, epoch: int, start: int = 0, stage: str = ""):
        for index in range(start, self.steps_per_epoch):
            yield torch.randn(4, 3, generator=torch.Generator().manual_seed(10 * epoch + index))


def command(folder: Path, stop: bool = False) -> tuple[Any, ...]:
    """A training, some candidates and a result, as a study makes them; returns all that the folder is read for."""
    with Run.open(folder, {"kind": "tiny"}) as run:
        if run.result is None:
            torch.manual_seed(1)
            model = nn.Linear(3, 1)

            def losses(batch, step):
                yield {"loss": functional.mse_loss(model(batch), batch.sum(1, keepdim=True))}

            def after_epoch(epoch: int) -> None:
                if stop:
                    raise KeyboardInterrupt

            list(evaluate_all(lambda item: {"AP": item / 10}, range(3), run, key=lambda item: item))
            training = Training(Optimisation(epochs=2), checkpoint_every_s=0.0 if stop else 60.0)
            for stage in "first", "second":
                after = after_epoch if stage == "second" else None
                fit(run, stage, model, Batches(), losses, training, after_epoch=after)
            run.write_json("uses", ["another/run"])
            run.finish({"sum": sum(each.sum().item() for each in model.parameters()), "AP": 0.2})
        weights = [run.load_weights(stage)[0] for stage in ("first", "second")]
        plain = [{name: tensor.tolist() for name, tensor in each.items()} for each in weights]
        stages = [without_times(run.stage_done(stage) or {}) for stage in ("first", "second")]
        found = sorted((record["key"], record["AP"]) for record in run.candidates(status="done"))
        return run.config, run.result, run.read_json("uses", list), plain, stages, found, logged(folder)


def logged(folder: Path) -> list[tuple]:
    """Of the log, which nothing else rests on, what can be read."""
    lines = (folder / "log.jsonl").read_text(errors="replace").splitlines() if (folder / "log.jsonl").exists() else []
    records = [json.loads(line) for line in lines if re.fullmatch(r'\{"stage": .*\}', line)]
    return sorted((record["stage"], record["epoch"], record["loss"]) for record in records)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(run_folder, "_git", dict)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path, tuple[Any, ...]]:
    """A finished run, one interrupted in its second stage, and what reading either ends with."""
    finished, unfinished = tmp_path_factory.mktemp("finished"), tmp_path_factory.mktemp("unfinished")
    found = command(finished)
    with pytest.raises(KeyboardInterrupt):
        command(unfinished, stop=True)
    return finished, unfinished, found


def flipped(content: bytes) -> bytes:
    middle = 3 * len(content) // 4
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


DAMAGES = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "all but a byte": lambda content: content[:-1],
    "zeros": lambda content: bytes(len(content)),
    "zeros at the end": lambda content: content[: len(content) // 2] + bytes(len(content) - len(content) // 2),
    "a line of zeros": lambda content: bytes(20) + b"\n" + content,
    "a list": lambda content: b"[]\n",
    "an empty object": lambda content: b"{}\n",
    "a number": lambda content: b"5\n",
    "null": lambda content: b"null\n",
    "a text": lambda content: b'"x"\n',
    "nested": lambda content: b"[" * 100_000 + b"\n",
    "5,000 digits": lambda content: b"9" * 5_000 + b"\n",
    "not UTF-8": lambda content: b'{"a": "\xff\xfe"}\n',
    "a flipped bit": flipped,
    "missing": None,
}
OFTEN = ("half", "zeros", "a list", "nested", "not UTF-8", "a flipped bit")  # the others are slow tests
BOTH = ("config.json", "environment.json", "log.jsonl", "candidates.jsonl", ".lock")
FIRST = ("stages/first.json", "first.safetensors")
SECOND = ("stages/second.json", "second.safetensors")
FILES = {
    "finished": (*BOTH, *FIRST, *SECOND, "uses.json", "result.json"),
    "unfinished": (*BOTH, *FIRST, "second.state"),
}
TEXT = (".json", ".jsonl")


def cases():
    for kind, names in FILES.items():
        for name, damage in product(names, DAMAGES):
            undetected = (
                (damage == "a flipped bit" and name.endswith(TEXT))  # may leave another valid text
                or (name, damage) == ("uses.json", "a list")  # it is one
                or (kind == "finished" and name.startswith("stages") and damage == "missing")  # nobody asks for it
            )
            if not undetected:
                yield pytest.param(kind, name, damage, marks=[] if damage in OFTEN else pytest.mark.slow)


def follow(sentence: str, folder: Path) -> None:
    """Do what an error says is to be done."""
    assert "\n" not in sentence
    assert len(sentence) < 1500
    advice = sentence[sentence.rindex(": ") :]
    if "another output folder, or delete that one" in advice:
        shutil.rmtree(folder)
        return
    if line := re.search(r"\((sed .*?)\)", sentence):
        subprocess.run(shlex.split(line[1]), check=True)
        advice = advice.replace(line[0], "")
    for path in re.findall(rf"{re.escape(str(folder))}/[\w./-]+\w", advice):
        os.unlink(path)


@pytest.mark.parametrize(("kind", "name", "damage"), list(cases()))
def test_the_same_command_ends_as_it_would_have_after_at_most_two_sentences(tmp_path, runs, kind, name, damage):
    folder = tmp_path / "run"
    shutil.copytree(runs[kind == "unfinished"], folder)
    file, change = folder / name, DAMAGES[damage]
    if change is None:
        file.unlink()
    else:
        file.write_bytes(change(file.read_bytes()))
    for _ in range(3):
        try:
            found = command(folder)
            break
        except InputError as error:
            follow(str(error), folder)
    else:
        pytest.fail("two sentences were not enough")
    expected = list(runs[2])
    if name == "log.jsonl":  # what a finished epoch logged is lost; nothing rests on it
        assert set(found[-1]) <= set(expected[-1])
        expected[-1] = found[-1]
    assert list(found) == expected


def test_all_files_of_a_run_are_damaged_above(runs):
    for kind, folder in zip(FILES, runs[:2], strict=True):
        files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        assert sorted(files) == sorted(FILES[kind])


def test_the_record_of_another_stage_or_network_is_refused_in_a_sentence(tmp_path, runs):
    shutil.copytree(runs[0], tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    for record in ({"stage": "first"}, {"stage": "first", "seconds": "long"}):
        (tmp_path / "run" / "stages" / "first.json").write_text(json.dumps(record))
        with pytest.raises(InputError, match=r"first\.json is damaged: the record"):
            command(tmp_path / "run")
