"""Reads requirements.txt; everything else about the package is in pyproject.toml."""

import re
from pathlib import Path

from setuptools import setup

texts = re.split(r"^# extra: (\w+)$", Path(__file__).with_name("requirements.txt").read_text(), flags=re.M)
parts = {name: re.findall(r"^\w.*$", text, re.M) for name, text in zip(["", *texts[1::2]], texts[::2], strict=True)}
more = {
    "bench": ["faster-coco-eval>=1.6", "fvcore>=0.1.5", "ofa>=0.1.0.post202307202001", *parts["test"]],
    "cluster": ["ray>=2.30"],  # a search over several machines
    "mutation": ["mutmut>=3.8", *parts["test"]],
}
setup(install_requires=parts.pop(""), extras_require=parts | more)
