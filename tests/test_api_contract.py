import inspect
import re
from dataclasses import is_dataclass

import pytest

from bioverse_sc import (
    Chat,
    datasets,
    encoders,
    facts,
    groups,
    metrics,
    models,
    ontology,
    pl,
    pp,
    reasoning,
    runs,
    tl,
    train,
)

PACKAGES = {
    "tl": tl,
    "pl": pl,
    "pp": pp,
    "metrics": metrics,
    "ontology": ontology,
    "datasets": datasets,
    "facts": facts,
    "groups": groups,
}
PACKAGES |= {"train": train, "runs": runs, "models": models, "reasoning": reasoning}
PUBLIC = [(f"{name}.{item}", getattr(package, item)) for name, package in PACKAGES.items() for item in package.__all__]
FUNCTIONS = [(name, item) for name, item in PUBLIC if inspect.isfunction(item)]
CLASSES = [(name, item) for name, item in PUBLIC if inspect.isclass(item)]
TOOLS = [(name, item) for name, item in FUNCTIONS if name.startswith(("tl.", "pl."))]
CHAT = [("tl.Chat", Chat)] + [
    (f"tl.Chat.{name}", item) for name, item in vars(Chat).items() if inspect.isfunction(item) and name[0] != "_"
]
# a parameter that means something else than that of the same name elsewhere, and why
MEANS_SOMETHING_ELSE = {
    ("tl.Chat", "data"): "there may be none",
    ("tl.Chat", "mod"): "the modalities of the observations that `entities` names",
    ("tl.ask", "mod"): "several modalities may be in one prompt",
    ("tl.embed", "mod"): "an encoder has a modality",
    ("tl.alignment_umap", "texts"): "in the place of descriptions; those of tl.score are scored",
    ("pl.alignment_umap", "ax"): "two panels",
    ("pl.evidence", "n"): "counts genes; that of pl.score counts rows and columns",
}


def cases(items):
    return [pytest.param(item, id=name) for name, item in items]


def section(item, title):
    """Lines of a section of a numpydoc docstring."""
    match = re.search(
        rf"^{title}\n-+\n(.*?)(?=^\S[^\n]*\n-{{3,}}\n|\Z)", inspect.getdoc(item) or "", re.MULTILINE | re.DOTALL
    )
    return match.group(1) if match else ""


def documented(item):
    heads = re.findall(r"^(\S.*)$", section(item, "Parameters"), re.MULTILINE)
    return {name.strip() for head in heads for name in head.split(",")}


def texts_of_parameters(item):
    """By parameter, what a docstring says of it, in one line."""
    texts = {}
    for heads, lines in re.findall(r"^(\S.*)\n((?:[ \t]+.*\n?|\n)*)", section(item, "Parameters"), re.MULTILINE):
        texts |= {name.strip(): " ".join(lines.split()) for name in heads.split(",")}
    return texts


def parameters(item):
    return {name: p for name, p in inspect.signature(item).parameters.items() if name != "self"}


@pytest.mark.parametrize("package", [*PACKAGES.values(), encoders], ids=[*PACKAGES, "encoders"])
def test_all_is_sorted_and_there(package):
    assert package.__doc__
    # constants, classes, functions, as ruff sorts them
    assert list(package.__all__) == sorted(package.__all__, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    assert all(hasattr(package, name) for name in package.__all__)


@pytest.mark.parametrize("function", cases(FUNCTIONS))
def test_every_parameter_is_documented(function):
    assert inspect.getdoc(function)
    assert set(parameters(function)) - documented(function) == set()


@pytest.mark.parametrize("function", cases(FUNCTIONS))
def test_no_parameter_is_documented_that_is_not_there(function):
    assert documented(function) - set(parameters(function)) == set()


@pytest.mark.parametrize("function", cases(FUNCTIONS))
def test_every_parameter_and_result_has_a_type(function):
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    assert [n for n, p in signature.parameters.items() if p.annotation is inspect.Parameter.empty] == []


@pytest.mark.parametrize("kind", cases(CLASSES))
def test_every_class_says_what_it_is(kind):
    assert kind.__doc__
    assert not kind.__doc__.startswith(f"{kind.__name__}("), "the docstring that a dataclass makes of itself"
    # a protocol has parameters of its own accord
    if not is_dataclass(kind) and not getattr(kind, "_is_protocol", False):
        assert set(parameters(kind)) - documented(kind) == set()


@pytest.mark.parametrize("function", cases(TOOLS))
def test_at_most_three_parameters_are_positional(function):
    positional = [p for p in parameters(function).values() if p.kind is not p.KEYWORD_ONLY]
    assert len(positional) <= 3
    assert next(iter(parameters(function))) in ("adata", "mdata", "data")


@pytest.mark.parametrize("function", cases(FUNCTIONS))
def test_no_boolean_is_positional(function):
    flags = [n for n, p in parameters(function).items() if isinstance(p.default, bool) and p.kind is not p.KEYWORD_ONLY]
    assert flags == []


@pytest.mark.parametrize("function", cases([f for f in TOOLS if f[0].startswith("tl.")]))
def test_tools_share_their_grammar(function):
    known = parameters(function)
    assert known["copy"].default is False
    assert known["key_added"].default is None
    assert known["model"].default == "mini"
    assert "Sets" in section(function, "Returns")
    assert '``.uns["bioverse"]' in section(function, "Returns")


@pytest.mark.parametrize("function", cases([f for f in TOOLS if f[0].startswith("pl.")]))
def test_plots_share_their_grammar(function):
    assert {"ax", "show"} <= set(parameters(function))
    assert not {"save", "path"} & set(parameters(function))


@pytest.mark.parametrize("package", ["tl", "pl"])
def test_a_parameter_has_one_text(package):
    said = {}
    for name, item in [*TOOLS, *CHAT]:
        for parameter, text in texts_of_parameters(item).items():
            if name.startswith(f"{package}.") and (name, parameter) not in MEANS_SOMETHING_ELSE:
                said.setdefault(parameter, {}).setdefault(text, []).append(name)
    assert {parameter: texts for parameter, texts in said.items() if len(texts) > 1} == {}


def test_what_means_something_else_says_so():
    known = {name: texts_of_parameters(item) for name, item in [*TOOLS, *CHAT]}
    for name, parameter in MEANS_SOMETHING_ELSE:
        others = {texts.get(parameter) for other, texts in known.items() if other != name and other[:2] == name[:2]}
        assert known[name][parameter] not in others
        assert others != {None}


def test_a_plot_draws_what_the_tool_of_its_name_wrote():
    assert set(pl.__all__) <= set(tl.__all__)
