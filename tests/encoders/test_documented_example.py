"""The worked example of docs/encoders.md runs."""

import re
from pathlib import Path

import pytest

from bioverse_sc.encoders import _registry as registry

PAGE = Path(__file__).parents[2] / "docs" / "encoders.md"


def test_the_encoder_of_the_page_is_used_by_name(capsys, monkeypatch):
    if not PAGE.exists():
        pytest.skip("the documentation is not here")
    monkeypatch.setattr(registry, "_factories", {})
    example = next(code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "class" in code)
    exec(compile(example, PAGE.name, "exec"), {})
    assert capsys.readouterr().out == "(100, 32)\n"
