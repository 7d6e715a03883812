"""What the three commands have in common: flags, bad input in one sentence, and what is said without torch."""

import subprocess
import sys

import pytest

from common.cli import run
from sm_nas import reproduce, search, train
from sm_nas.exhibits import PAPER

SHARED = [  # flags that all refuse, and what they say
    ("--seed -1", "--seed must be at least 0, got -1"),
    ("--device gpu", "device 'gpu' cannot be used here: give cpu, or cuda where there is one"),
    ("--data coco:/nowhere/at/all", "no folder"),
    ("--data sceness", "unknown data"),
    ("--data scenes:train=4", "4 training images"),
]
OWN = {
    train: [
        ("--model E6", "no model is called 'E6': give one of E0, E1,"),
        ("--model resnet50_96x96", "no model is called"),
        ("--data sceness --describe", "unknown data"),
    ],
    search: [
        ("--workers -1", "--workers must be at least 0, got -1"),
        ("--preset.groups 0", "groups must be at least 1"),
    ],
    reproduce: [
        ("--data scenes --second-data scenes:seed=2", "--second-data must differ in name from --data scenes"),
        ("--workers -1", "--workers must be at least 0, got -1"),
    ],
}
REFUSED = [(module, *each) for module in (train, search) for each in SHARED]
REFUSED += [(module, *each) for module, some in OWN.items() for each in some]


@pytest.mark.parametrize(("module", "flags", "words"), REFUSED, ids=lambda value: getattr(value, "__name__", value))
def test_bad_input_is_one_sentence(module, flags, words, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run(module.main, module.Options, ["--device", "cpu", "--out", str(tmp_path), *flags.split()])
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (2, "")
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert words in printed.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "own"),
    [
        (train, "model strategy seed describe"),
        (search, "seed workers stage no-final describe"),
        (reproduce, "seeds only"),
    ],
    ids=["train", "search", "reproduce"],
)
def test_help_explains_every_flag(module, own, capsys):
    with pytest.raises(SystemExit) as ended:
        run(module.main, module.Options, ["--help"])
    text = capsys.readouterr().out
    with pytest.raises(SystemExit):
        run(module.main, module.Options, ["--help-all"])
    settings = capsys.readouterr().out
    assert ended.value.code == 0
    assert len(text.splitlines()) <= 80
    assert all(f"--{flag}" in text for flag in ("scale", "data", "out", "device", "precision", *own.split()))
    words = {word.rstrip(",;") for word in text.replace("│", " ").split()}
    assert {f"{kind}:" for kind in ("auto", "coco", "voc", "yolo")} <= words
    assert "--preset.groups" in settings
    assert "--preset.final-training.optimisation.epochs" in settings


def test_what_needs_no_torch_is_said_without_it(tmp_path):
    """All three commands, in one process."""
    script = (
        "import sys\n"
        "from common.cli import run\n"
        "from sm_nas import reproduce, search, train\n"
        "def tried(module, *flags):\n"
        f"    try: run(module.main, module.Options, [*flags, '--out', {str(tmp_path)!r}])\n"
        "    except SystemExit as ended: print('ended', ended.code)\n"
        "tried(train, '--model', 'E6')\n"
        "tried(search, '--describe', '--json')\n"
        f"tried(reproduce, '--list', '--results', {str(tmp_path)!r})\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert (done.returncode, lines[0], lines[-1]) == (0, "ended 2", "False"), done.stderr
    assert '"size": 10620' in done.stdout
    assert all(f"\n{name} " in done.stdout for name in PAPER.by_name)
    assert done.stdout.count("not run here") == len(PAPER.exhibits)
