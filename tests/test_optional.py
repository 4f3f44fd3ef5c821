import sys

import pytest

from bioverse_sc._optional import require


def test_what_is_installed_is_imported():
    assert require("json.decoder", "text") is sys.modules["json.decoder"]


@pytest.mark.parametrize("module", ["nowhere_to_be_found", "nowhere_to_be_found.part"])
def test_what_is_not_installed_says_what_to_type(module):
    with pytest.raises(ImportError, match=r"needs nowhere_to_be_found, which is not installed: pip install") as error:
        require(module, "text")
    assert str(error.value).endswith("pip install 'bioverse-sc[text]'")
    assert isinstance(error.value.__cause__, ModuleNotFoundError)
    assert error.value.__cause__.name == "nowhere_to_be_found"


@pytest.mark.parametrize("line", ["import nowhere_to_be_found", "raise ImportError('nowhere_to_be_found is too old')"])
def test_what_is_there_and_breaks_is_not_called_absent(line, tmp_path, monkeypatch):
    (tmp_path / "package_that_breaks.py").write_text(line, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"package_that_breaks, which does not import \(.*nowhere_to_be_found"):
        require("package_that_breaks", "text")


def test_other_errors_of_a_package_are_its_own(tmp_path, monkeypatch):
    (tmp_path / "package_that_raises.py").write_text("1 / 0", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ZeroDivisionError):
        require("package_that_raises", "text")
