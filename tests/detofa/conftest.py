"""One supernet of smoke scale, trained once for all tests that need a finished run; and a quicker path sampling."""

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

DATA = "scenes:train=80,val=24"


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> SimpleNamespace:
    """data: as `--data`, run: its folder, out: the folder of all runs, report: what `detofa.train --json` printed,
    said: lines on stderr meanwhile."""
    from detofa.train import Options, main

    out = tmp_path_factory.mktemp("runs")
    printed, said = io.StringIO(), io.StringIO()
    with redirect_stdout(printed), redirect_stderr(said):
        main(Options(data=DATA, out=out, device="cpu", json=True))
    report = json.loads(printed.getvalue())
    run, said = Path(report["run"]), said.getvalue().splitlines()
    return SimpleNamespace(data=DATA, run=run, out=out, report=report, said=said)


def hurry(patch: pytest.MonkeyPatch) -> None:
    """A few draws for each bucket: an empty bucket of a tiny space would be looked for 40 times."""
    from detofa import method

    patch.setattr(method, "sample_per_bucket", partial(method.sample_per_bucket, draws=1))


@pytest.fixture(scope="module")
def hurried():
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        yield
