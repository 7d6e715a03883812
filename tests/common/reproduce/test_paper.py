"""The command line that is rebuilt from options."""

import shlex
from pathlib import Path

import pytest
import tyro

from common.reproduce.paper import command


def test_what_is_default_is_not_said_but_for_scale_data_and_seeds(toy):
    assert command(toy.paper, toy.Options()) == "python -m toynas.reproduce --scale smoke --data scenes --seeds 1"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"device": "cuda", "precision": "bfloat16"}, "--device cuda --precision bfloat16"),
        ({"second_data": "voc:other"}, "--second-data voc:other"),
        ({"second_data": "coco:two words"}, "--second-data 'coco:two words'"),
        ({"rounds": 5, "device": "cuda"}, "--device cuda --rounds 5"),  # the paper's own come last
        ({"shares": (0.5, 1.0)}, "--shares 0.5 1.0"),
        ({"quick": True}, "--quick"),
    ],
)
def test_an_option_that_differs_is_said_and_understood(toy, given, words):
    options = toy.Options(scale="paper", data="coco:some/where", seeds=3, **given)
    made = command(toy.paper, options, ["figure1", "table2"])
    start = "python -m toynas.reproduce --scale paper --data coco:some/where --seeds 3"
    assert made == f"{start} {words} --only figure1 table2"
    typed = tyro.cli(toy.Options, args=shlex.split(made)[3:])
    assert typed == toy.Options(scale="paper", data="coco:some/where", seeds=3, only=("figure1", "table2"), **given)


def test_what_an_exhibit_does_not_depend_on_is_not_said(toy):
    elsewhere = {"out": Path("a"), "results": Path("b"), "publish": True, "list": True, "seed": 0, "only": ("table2",)}
    assert command(toy.paper, toy.Options(**elsewhere)) == command(toy.paper, toy.Options())
