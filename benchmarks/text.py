"""Texts about proteins and molecules that ``recipes/mini`` kept out of training, beside plain baselines, and retrieval.

    python benchmarks/text.py --shared ../shared [--model mini] [--limit N] [--threads N]

It needs the extras: ``pip install 'bioverse-sc[text,chem]'``. A model of yours compares only when it was trained on the
same share.

model: what ``bsc.tl.describe`` writes, without and with ``retrieve=True``. nearest: the text of the nearest training
entity, copied, by words of four residues or by Morgan fingerprints. commonest: the commonest text of the training
share; of equally common ones the one most like all others (TF-IDF). blank: the language model's text when every soft
token is replaced by zeros.

exact name: the text up to its first full stop is the product of the protein. EC class: the first digit after "EC" is
that of the enzyme's number, of the proteins that have one; a text without a number is wrong. BLEU is over words and
marks, not pieces of words, and METEOR without synonyms, so neither compares with published figures; a copy of a text of
fewer than four words has no full BLEU-4. The brackets hold 95 % intervals of a bootstrap over entities, and a star
behind a column says that the interval of the difference holds 0. Wall time counts encoding, and making the index of
what is near.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes/mini"))

import proteins
import questions
import sequences
from recipe import Recipe

import bioverse_sc as bsc
from bioverse_sc.facts import Memory
from bioverse_sc.metrics import text_retrieval, words
from bioverse_sc.models import BioVerse, Decoding, description_prompt, generate_text, mean_soft_tokens

DRAWS = 200
COLUMNS = {
    **{"bleu_2": "BLEU-2", "bleu_4": "BLEU-4", "rouge_1": "ROUGE-1", "rouge_2": "ROUGE-2", "rouge_l": "ROUGE-L"},
    **{"meteor": "METEOR", "exact_match": "exact text"},
}
SLOTS = {"protein": ("sequence", "X_esm2"), "molecule": ("smiles", "X_chemberta")}
"""Columns of entities, and slots of their vectors."""
Scores = dict[str, tuple[float, np.ndarray | None]]
"""By column, the value and its bootstrap draws."""


@dataclass(frozen=True)
class HeldOut:
    """Entities that nothing was trained on."""

    mod: str
    table: pd.DataFrame
    """``entity``, ``text``; of proteins also ``product``, ``ec`` (first digit or "") and ``known`` (training
    proteins with that product)."""
    training: pd.DataFrame
    """``entity`` and ``text`` of the training share."""

    def groups(self) -> dict[str, np.ndarray]:
        """Which rows have a table of their own."""
        everything = {"all": np.ones(len(self.table), dtype=bool)}
        if self.mod == "molecule":
            return everything
        known = self.table["known"]
        bounds = {
            "seen": (1, np.inf),
            "seen once": (1, 1),
            "seen 2 to 4 times": (2, 4),
            "seen 5 times or more": (5, np.inf),
        }
        bounds["not seen"] = (0, 0)
        return everything | {f"product {name}": known.between(*bound).to_numpy() for name, bound in bounds.items()}


def read(shared: Path, limit: int | None) -> list[HeldOut]:
    """Both modalities, split as the recipe splits them."""
    recipe = Recipe()
    both = proteins.read_proteins(shared, held_out=recipe.held_out, seed=recipe.seed)
    table, training = both.table, both.training
    enzyme = questions.with_enzyme_class(table, training)
    texts = [questions.protein_text(protein) for protein in table.assign(ec=enzyme).to_dict("records")]
    names = pd.Series([name_of(text) for text in texts])
    known = names.map(names[training].value_counts()).fillna(0)
    table = pd.DataFrame({"entity": table["sequence"], "product": names, "ec": table["ec"].fillna("").str[:1]})
    table = table.assign(text=texts, known=known)
    held_out = [HeldOut("protein", table[~training], table.loc[training, ["entity", "text"]])]
    molecules = sequences.read_molecules(shared, held_out=recipe.held_out, seed=recipe.seed)
    table = molecules.table.rename(columns={"smiles": "entity", "description": "text"})
    held_out.append(HeldOut("molecule", table[~molecules.training], table[molecules.training]))
    if limit is None:
        return held_out
    return [replace(h, table=h.table.sample(min(limit, len(h.table)), random_state=0)) for h in held_out]


def commonest(texts: pd.Series) -> str:
    counts = texts.value_counts()
    ties = counts.index[counts == counts.max()]
    vectors = TfidfVectorizer().fit_transform(ties)
    return str(ties[int((vectors @ np.asarray(vectors.mean(axis=0)).T).argmax())])


def blank(model: BioVerse, mod: str, decoding: Decoding) -> str:
    zeros = torch.zeros((1, model.n_tokens[mod], model.embeddings.weight.shape[1]), device=model.device)
    return generate_text(model, [description_prompt(mod, prompts=model.config.prompts)], zeros, decoding)[0]


def answers(
    held: HeldOut, model: BioVerse, max_new_tokens: int
) -> tuple[dict[str, tuple[list[str], float]], np.ndarray]:
    """Texts and seconds of each row of the tables, and the encoder's vectors."""
    mod, entities = held.mod, held.table["entity"].tolist()
    column, slot = SLOTS[mod]
    names = [f"{mod}{i}" for i in range(len(entities))]
    adata = ad.AnnData(obs=pd.DataFrame({column: entities}, index=names))
    options = {"mod": mod, "model": model, "max_new_tokens": max_new_tokens}

    def described(adata: ad.AnnData, *, retrieve: bool) -> list[str]:
        bsc.tl.describe(adata, retrieve=retrieve, **options)
        return adata.obs["bioverse_description"].tolist()

    def nearest() -> list[str]:
        return [near[0].text if near else "" for near in Memory(mod, held.training).nearest(entities, 1)]

    without = adata.copy()
    calls = {
        "model": lambda: described(adata, retrieve=False),
        "model, retrieve=True": lambda: described(without, retrieve=True),
        "nearest": nearest,
        "commonest": lambda: [commonest(held.training["text"])] * len(entities),
        "blank": lambda: [blank(model, mod, Decoding(max_new_tokens).of_model(model))] * len(entities),
    }
    if mod not in model.memory:
        del calls["model, retrieve=True"]
    elif both := set(entities) & set(model.memory[mod].table["entity"]):
        sys.exit(f"The model's memory holds {len(both)} of the {len(entities)} held-out entities of {mod}.")
    written = {}
    for name, call in calls.items():
        began = time.perf_counter()
        written[name] = (call(), time.perf_counter() - began)
    return written, np.asarray(adata.obsm[slot])


def name_of(text: str) -> str:
    """A text up to its first full stop."""
    return text.split(". ")[0].removesuffix(".")


def ec_of(text: str) -> str:
    """First digit of the EC number in a text; "" when there is none."""
    number = re.search(r"\bEC (\d)\.", text)
    return number[1] if number else ""


def bleu_2_counts(candidate: str, reference: str) -> list[int]:
    """Matching words and pairs, all words and pairs, and the lengths, which BLEU-2 sums over texts."""
    one, two = words(candidate), words(reference)
    counts = [(Counter(one), Counter(two)), (Counter(pairwise(one)), Counter(pairwise(two)))]
    matching = [sum((a & b).values()) for a, b in counts]
    return [*matching, max(1, len(one)), max(1, len(one) - 1), len(one), len(two)]


def bleu_2(sums: np.ndarray) -> np.ndarray:
    """BLEU-2 from sums of :func:`bleu_2_counts`, shape (corpora, 6)."""
    precision = np.sqrt(sums[:, 0] / sums[:, 2] * sums[:, 1] / sums[:, 3])
    return precision * np.exp(np.minimum(0, 1 - sums[:, 5] / np.maximum(sums[:, 4], 1e-9)))


def score(texts: list[str], table: pd.DataFrame) -> Scores:
    n, truth = len(table), table["text"].tolist()
    # the same draws for every row of a table
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=DRAWS)
    scores: Scores = {}
    if "product" in table:
        right = np.array([name_of(text) == product for text, product in zip(texts, table["product"], strict=True)])
        scores["exact name"] = right.mean(), weights @ right / n
        enzyme = table["ec"].to_numpy() != ""
        right = enzyme & [ec_of(text) == ec for text, ec in zip(texts, table["ec"], strict=True)]
        with np.errstate(invalid="ignore"):
            scores["EC class"] = right.sum() / enzyme.sum(), weights @ right / (weights @ enzyme)
    counts = np.array([bleu_2_counts(*pair) for pair in zip(texts, truth, strict=True)])
    for name, value in bsc.metrics.text_metrics(texts, truth, synonyms=False).items():
        scores[COLUMNS[name]] = value, bleu_2(weights @ counts) if name == "bleu_2" else None
    return scores


def interval(draws: np.ndarray) -> tuple[float, float]:
    return tuple(np.nanquantile(draws, [0.025, 0.975]))


def shown(value: float, draws: np.ndarray | None) -> str:
    if math.isnan(value):
        return "none"
    return f"{value:.3f}" + ("" if draws is None else " [{:.3f}, {:.3f}]".format(*interval(draws)))


def winners(ours: Scores, nearest: Scores) -> str:
    """Which columns either wins; a star where the interval of the difference holds 0."""
    won: dict[str, list[str]] = {"model wins": [], "nearest wins": [], "equal": []}
    for column, (value, draws) in ours.items():
        difference = value - nearest[column][0]
        if math.isnan(difference):
            continue
        low, high = (difference,) * 2 if draws is None else interval(draws - nearest[column][1])
        who = "model wins" if difference > 0 else "nearest wins" if difference < 0 else "equal"
        won[who].append(column + ("*" if difference and low <= 0 <= high else ""))
    return "; ".join(f"{who}: {', '.join(columns)}" for who, columns in won.items() if columns)


def print_texts(held: HeldOut, written: dict[str, tuple[list[str], float]]) -> None:
    for group, mask in held.groups().items():
        if not mask.any():
            continue
        table = held.table[mask]
        enzymes = f", {(table['ec'] != '').sum()} with an EC number" if "ec" in table else ""
        print(f"\n### Texts, {held.mod}, {group}: {len(table)}{enzymes}\n")
        rows = {name: score([texts[i] for i in np.flatnonzero(mask)], table) for name, (texts, _) in written.items()}
        print(f"| | {' | '.join(rows['nearest'])} |\n| --- |{' ---: |' * len(rows['nearest'])}")
        for name, scores in rows.items():
            print(f"| {name} | {' | '.join(shown(*scored) for scored in scores.values())} |")
        print()
        for name, scores in rows.items():
            if name.startswith("model"):
                print(f"- {name}, against nearest: {winners(scores, rows['nearest'])}", flush=True)
    seconds = ", ".join(f"{name} {taken:.1f} s" for name, (_, taken) in written.items())
    print(f"\nWall time for all {len(held.table)}: {seconds}")


def chance(n_items: int, n_own: int, k: int) -> float:
    """How likely one of a query's own items is among ``k`` drawn ones."""
    return 1 - math.comb(n_items - n_own, k) / math.comb(n_items, k) if k < n_items else 1.0


def print_retrieval(held: HeldOut, model: BioVerse, vectors: np.ndarray) -> None:
    text_of, texts = pd.factorize(held.table["text"])
    text_vectors = model.text_vectors(list(texts)).cpu().numpy()
    untrained = model.untrained_projector(held.mod).to(model.device).eval()
    ks = (1, 5, 10)
    to_text, to_entity = {}, {}
    for name, projector in (("trained", model.projectors[held.mod]), ("untrained", untrained)):
        placed = mean_soft_tokens(projector, vectors)
        to_text[name] = [bsc.metrics.retrieval_at_k(placed, text_vectors, text_of, k) for k in ks]
        to_entity[name] = list(text_retrieval(placed, text_vectors, text_of).values())
    to_text["chance"] = [chance(len(texts), 1, k) for k in ks]
    to_entity["chance"] = [np.mean([chance(len(text_of), int(m), k) for m in np.bincount(text_of)]) for k in ks]
    print(f"\n### Retrieval among {len(text_of)} held-out entities of {held.mod} and their {len(texts)} texts\n")
    print("| | projector | @1 | @5 | @10 |\n| --- | --- | ---: | ---: | ---: |")
    for direction, rows in ((f"{held.mod} to text", to_text), (f"text to {held.mod}", to_entity)):
        for name, shares in rows.items():
            print(f"| {direction} | {name} | {' | '.join(f'{share:.3f}' for share in shares)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the reference data")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--limit", type=int, help="random entities of each modality at most")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="of a text")
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    a = parser.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    for module in ("nltk", "rouge_score"):
        if find_spec(module) is None:
            sys.exit(f"This needs {module}: pip install 'bioverse-sc[text]'")
    model = bsc.models.load(a.model)
    if not set(SLOTS) & set(model.projectors):
        sys.exit(f"The model {model.config.name!r} reads {sorted(model.projectors)}; expected protein or molecule.")
    print(
        f"{model.config.name} ({model.fingerprint}), {model.device}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}"
    )
    for held in read(a.shared, a.limit):
        if held.mod in model.projectors:
            written, vectors = answers(held, model, a.max_new_tokens)
            print_texts(held, written)
            print_retrieval(held, model, vectors)


if __name__ == "__main__":
    main()
