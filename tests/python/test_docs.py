# SPDX-License-Identifier: MIT
"""The examples of docs/python.md run as they stand there."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_example(example):
    if "torch" in example:
        pytest.importorskip("torch")
    if "jax" in example:
        pytest.importorskip("jax")
    exec(compile(example, str(PAGE), "exec"), {})
