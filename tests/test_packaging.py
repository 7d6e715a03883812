"""The one command that an installation brings."""

import dataclasses
import importlib
import itertools
import re
import shlex
import sys
import typing
from pathlib import Path

import pytest

from common import __main__ as detnas
from common import cli

ROOT = Path(__file__).resolve().parents[1]
PAPERS = sorted(path.parent.name for path in ROOT.glob("*/printed.json"))


def typed(monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/detnas", *words])
    detnas.main()


def test_every_command_has_options_of_its_own_and_stands_in_the_help(monkeypatch, capsys):
    known = detnas.commands()
    assert {f"{paper} {command}" for paper in PAPERS for command in ("train", "search", "reproduce")} <= set(known)
    typed(monkeypatch, "--help")
    lines = capsys.readouterr().out.splitlines()
    for name, module in known.items():
        (options, *_) = typing.get_type_hints(importlib.import_module(module).main).values()
        assert dataclasses.is_dataclass(options)
        assert any(re.match(rf"  {name}  +[A-Z].*\S$", line) for line in lines), name
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize(
    ("words", "name"), [(("cost",), "cost"), (("detofa", "search"), "detofa search"), (("check",), "check")]
)
def test_a_command_is_named_as_it_was_typed(words, name, monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        typed(monkeypatch, *words, "--help")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: detnas {name} [-h]")
    assert cli.words_for("common.predict") == ["detnas", "predict"]
    assert cli.words_for("sm_nas.search") == ["detnas", "sm_nas", "search"]


def test_the_readme_shows_commands_as_they_are(monkeypatch, capsys):
    text = (ROOT / "README.md").read_text()
    shown = re.findall(r"^detnas .*$", text, re.M) + re.findall(r"`(detnas [^`.]+)`", text)
    assert len(shown) >= 9
    for line in shown:
        words = shlex.split(re.split(r" {3,}", line)[0])[1:]
        if words != ["--help"]:
            with pytest.raises(SystemExit):
                typed(
                    monkeypatch, *itertools.takewhile(lambda word: word.islower() and word[0] != "-", words), "--help"
                )
            said = capsys.readouterr().out
            assert all(word in said for word in words if word.startswith("--")), line


def test_words_are_given_on_and_unknown_ones_told(monkeypatch, capsys):
    typed(monkeypatch, "cost", "r18", "--size", "64x64", "--json")
    assert '"macs"' in capsys.readouterr().out
    typed(monkeypatch, "--version")
    assert re.fullmatch(r"detnas \d+\.\d+\.\d+\n", capsys.readouterr().out)
    with pytest.raises(SystemExit) as ended:
        typed(monkeypatch, "trian", "--help")
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: no command 'trian --help': known are predict, ")
