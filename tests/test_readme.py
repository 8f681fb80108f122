"""The Python blocks of the README run as they stand."""

import re
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=[block.splitlines()[-1][:40] for block in BLOCKS])
def test_python_block_runs(code, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    exec(compile(code.replace("outputs/", f"{tmp_path}/"), "README.md", "exec"), {"__name__": "readme"})
