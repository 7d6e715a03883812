"""One small supernet, trained once for all tests that need a finished run; and a quicker path sampling."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.detofa.tiny_space import SMALL

DATA = "scenes:train=80,val=24"


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> SimpleNamespace:
    """options: of `detofa.train`, run: its folder, report: what it printed, said: lines on stderr meanwhile."""
    from detofa.train import Options, main

    options = Options(data=DATA, out=tmp_path_factory.mktemp("runs"), device="cpu", json=True, preset=SMALL)
    printed, said = io.StringIO(), io.StringIO()
    with redirect_stdout(printed), redirect_stderr(said), pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        main(options)
    report = json.loads(printed.getvalue())
    run, said = Path(report["run"]), said.getvalue().splitlines()
    return SimpleNamespace(options=options, run=run, report=report, said=said)


def hurry(patch: pytest.MonkeyPatch) -> None:
    """A few draws and short walks for each bucket: an empty one of a tiny space would be looked for at length.

    And runs have no pages.
    """
    from detofa import method
    from detofa.presets import Options

    patch.setattr(Options, "SHOWS_RUNS", False)
    patch.setattr(method, "sample_per_bucket", partial(method.sample_per_bucket, draws=1))
    patch.setattr(method, "WALK_STEPS", 30)


@pytest.fixture(scope="module")
def hurried():
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        yield
