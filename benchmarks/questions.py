"""Questions with a closed, keyed answer, about real cells, and famous proteins and molecules: right, refused, or wrong?

    python benchmarks/questions.py --shared ../shared [--model smollm2-135m] [--n 100] [--conversations 14]
        [--seeds 0 1 2] [--types-file held_out.txt] [--backbone] [--swap] [--dump answers.jsonl]
        [--parts cells entities]

What the part about proteins and molecules measures is written in ``grounded/entities.py``. The questions about cells
(``benchmarks/data/questions.yaml``) are worded as biologists type them, apart from the wordings of any training. Each
is asked of another real cell, in sets that nothing was trained on; the conversations have two to four
turns. About a quarter cannot be answered from a cell. Who is asked:

- shown: ``bsc.Chat(...).ask``, without the sentences that the facts do not support.
- raw: the language model's own words of the same turn.
- likeliest fact: a rule, no language model. It copies the fact that the question most probably asks for, by the reading
  that chose what the model was shown (``Fact.relevance``), and refuses where that has less than ``facts.ASKED``.
- nearest fact: a rule that does not read the question so. It copies the fact that is nearest to it (TF-IDF), of those
  that the model was shown.
- backbone: with ``--backbone``, the same language model without its adapter, shown the same facts.

right = a keyed, closed answer. The keys are computed from the matrix, the Cell Ontology, the Accordion table, RefSeq
and GO, not from the facts; the label is that of ``bsc.tl.annotate`` by the same model, right or not. Where nothing
can be told, a refusal is right. refused = it says that this cannot be told, where it can. sure = asserted, neither
refused nor hedged. wrong = contradicts the key; an answer that says yes and no at once is wrong, and so is a refusal
that goes on to assert what it refused. hedged = the first thing that it asserts is hedged ("may be"), right or wrong.
beside = none of these: it says nothing that the key can judge, such as a fact about something else. What a wrong and
hedged answer counts for is what a row lacks to n. The keys of *unusual*, *against*, *quality* and *state* are the
loosest: they let "nothing unusual" pass.

supported: share of the claims of the answers that ``bioverse_sc.facts.check_answer`` has as supported, refusals left
out. ``--types-file`` names types, one a line, that were held out of training: cells whose label is one of them, or a
kind of one, stand in a table of their own. ``--swap`` gives each cell the label of another in its facts, so that they
contradict its genes: answers are keyed by the label that was given. ``--dump`` writes every question with its facts,
answers, key and verdicts as JSON lines. Equal seeds give equal questions about equal cells.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from sklearn.feature_extraction.text import TfidfVectorizer

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "recipes/mini"))

from grounded import entities as famous
from grounded.asked import Question, Score
from grounded.cells import SETS, Cell, filled, real_cells, relabelled, worded
from grounded.keys import scored, truth
from grounded.tables import Tables, read_tables
from types_named import terms_named

import bioverse_sc as bsc
from bioverse_sc.ontology import cell_ontology

if TYPE_CHECKING:
    from bioverse_sc.facts import Fact
    from bioverse_sc.models import BioVerse

QUESTIONS = Path(__file__).parent / "data/questions.yaml"
SLOTS = ("name", "gene", "pathway")
UNSHOWN = "That cannot be told from the facts."
"""What the rule says where no fact has a word of the question."""
COLUMNS = ("n", "right", "refused", "wrong and sure", "hedged", "beside")
Session = list[Question]
"""Questions that are asked one after another of the same cell."""
OpenChat = Callable[..., Any]
"""Makes a conversation about a cell, or about none."""


@dataclass(frozen=True)
class Record:
    """A question, and what each of those who were asked said."""

    question: Question
    place: str
    """``"single"``, or the number of the conversation and of the turn."""
    facts: Sequence[Fact]
    answers: Mapping[str, str]
    scores: Mapping[str, Score]
    seconds: float
    claims: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """By who was asked, supported claims and all."""


def read_questions(path: Path = QUESTIONS) -> tuple[list[dict], list[list[dict]]]:
    """Single questions and conversations."""
    table = yaml.safe_load(path.read_text(encoding="utf-8"))
    return table["questions"], table["conversations"]


def session_for(turns: Sequence[Mapping[str, Any]], cell: Cell, rng: np.random.Generator) -> Session | None:
    """The turns with their slots filled; a slot that a turn does not set stays that of the turn before."""
    slots: dict[str, str] = {}
    questions = []
    for turn in turns:
        rules = {slot: turn[slot] for slot in SLOTS if turn.get(slot, "same") != "same"}
        chosen = filled(rules, cell, rng)
        if chosen is None or (not cell.term and turn["kind"] not in ("identity", "refused", "study")):
            return None
        slots = slots | chosen
        text = worded(turn["text"], slots)
        obs_keys = tuple(turn.get("obs_keys", ()))
        if not set(obs_keys) <= set(cell.adata.obs):
            return None
        options = {"asserted": turn.get("asserted", ""), "obs_keys": obs_keys, "alone": turn.get("alone", False)}
        questions.append(Question(turn["kind"], text, slots, cell, **options))
    return questions


def planned(lists: Sequence[Sequence[Mapping[str, Any]]], cells: list[Cell], rng: np.random.Generator) -> list[Session]:
    """A session of each list of turns, each on the first cell left that has what its slots ask for."""
    sessions = []
    for turns in lists:
        for i, cell in enumerate(cells):
            if session := session_for(turns, cell, rng):
                sessions.append(session)
                del cells[i]
                break
    return sessions


def plan(shared: Path, sets: Sequence[str], model: BioVerse, n: int, n_conversations: int, seed: int) -> list[Session]:
    """Single questions, none twice before all were asked, then conversations."""
    rng = np.random.default_rng([seed, 135])
    singles, conversations = read_questions()
    turns = [[singles[i]] for _ in range(-(-n // len(singles))) for i in rng.permutation(len(singles))][:n]
    talks = [conversations[i % len(conversations)] for i in range(n_conversations)]
    per_set = -(-2 * (n + n_conversations) // len(sets))
    cells = real_cells(shared, sets, per_set, model, seed)
    return planned([*turns, *talks], cells, rng)


def open_chat(model: BioVerse, cell: Cell | None, **options: Any) -> Any:
    """A conversation about a cell, or about none; the options are those of ``bsc.Chat``."""
    return bsc.Chat(model=model, **options) if cell is None else bsc.Chat(cell.adata, cell.name, model=model, **options)


def give_label(chat: Any, donor: Any) -> None:
    """Put the label of another chat's cell, with its probability and its rivals, into what a chat knows of its cell.

    The genes of the cell, its numbers and its state stay, and contradict the label.
    """
    mine, theirs = chat.abouts[0], donor.abouts[0].cell
    label = {name: getattr(theirs, name) for name in ("label", "term", "probability", "candidates")}
    chat.abouts[0] = replace(mine, cell=replace(mine.cell, **label))


def likeliest_fact(facts: Sequence[Fact]) -> str:
    """The first fact, which is asked for with the highest probability, copied."""
    from bioverse_sc.facts import ASKED

    return facts[0].text if facts and facts[0].relevance >= ASKED else UNSHOWN


def nearest_fact(question: str, facts: Sequence[Fact]) -> str:
    """The fact with the most telling words of the question, copied."""
    texts = [fact.text for fact in facts]
    if not texts:
        return UNSHOWN
    vectors = TfidfVectorizer(token_pattern=r"(?u)\b[\w+-]+\b").fit_transform([question, *texts])
    near = (vectors[1:] @ vectors[0].T).toarray().ravel()
    return texts[int(near.argmax())] if near.max() > 0 else UNSHOWN


def claims_of(answer: str, facts: Sequence[Fact]) -> tuple[int, int]:
    """Claims that the facts support, and all that are not refusals."""
    from bioverse_sc.facts import check_answer

    verdicts = [claim.verdict for claim in check_answer(answer, facts)]
    return verdicts.count("supported"), sum(verdict != "refusal" for verdict in verdicts)


def asked(session: Session, tables: Tables, chats: Mapping[str, Any], place: str, *, check: Callable) -> list[Record]:
    """Ask the turns one after another. ``chats`` are the model's and, if it was asked for, the backbone's."""
    records = []
    for number, question in enumerate(session, 1):
        began = time.perf_counter()
        answers = {"shown": chats["model"].ask(question.text)}
        seconds = time.perf_counter() - began
        facts = list(chats["model"].facts)
        answers |= {"raw": chats["model"].grounds[-1].written, "likeliest fact": likeliest_fact(facts)}
        answers["nearest fact"] = nearest_fact(question.text, facts)
        if "backbone" in chats:
            chats["backbone"].ask(question.text)
            answers["backbone"] = chats["backbone"].grounds[-1].written
        scores = {who: scored(answer, question, tables) for who, answer in answers.items()}
        claims = {who: check(answers[who], facts) for who in answers if not who.endswith(" fact")}
        turn = place if place == "single" else f"{place}.{number}"
        records.append(Record(question, turn, facts, answers, scores, seconds, claims))
    return records


def run(
    sessions: list[Session], tables: Tables, openers: Mapping[str, OpenChat], *, swap: bool, check: Callable
) -> list[Record]:
    """All sessions, in order."""
    records, talks = [], 0
    for i, session in enumerate(sessions):
        donor = None
        if swap and not session[0].alone:
            donors = [other[0].cell for other in sessions[i + 1 :] + sessions[:i]]
            donor = next((d for d in donors if d.term and not related(d.term, session[0].cell.term)), None)
        cell = None if session[0].alone else session[0].cell
        options = {"obs_keys": list(session[0].obs_keys)} if session[0].obs_keys else {}
        chats = {who: opener(cell, **options) for who, opener in openers.items()}
        if donor is not None and cell is not None:
            session = [replace(question, cell=relabelled(cell, donor)) for question in session]
            for who, opener in openers.items():
                give_label(chats[who], opener(donor))
        talks += len(session) > 1
        place = "single" if len(session) == 1 else str(talks)
        records += asked(session, tables, chats, place, check=check)
    return records


def related(term: str, other: str) -> bool:
    """Whether one of two terms is a kind of the other."""
    ancestors = cell_ontology().ancestors
    return term in ancestors(other) or other in ancestors(term)


def row(records: Sequence[Record], who: str) -> dict[str, int]:
    """Counts of one who was asked."""
    scores = [record.scores[who] for record in records if who in record.scores]
    counts = {verdict: sum(s.verdict == verdict for s in scores) for verdict in ("right", "refused", "beside")}
    return {
        "n": len(scores),
        **counts,
        "wrong and sure": sum(s.wrong_and_sure for s in scores),
        "hedged": sum(s.hedged for s in scores),
    }


def by_kind(records: Sequence[Record], who: str) -> str:
    """A Markdown table with a line for each kind of question."""
    kinds = dict.fromkeys(record.question.kind for record in records)
    rows = {kind: row([r for r in records if r.question.kind == kind], who) for kind in sorted(kinds)}
    return table(rows | {"**all**": row(records, who)}, "kind")


def table(rows: Mapping[str, Mapping[str, int]], head: str) -> str:
    lines = [f"| {head} | {' | '.join(COLUMNS)} |", f"| --- |{' ---: |' * len(COLUMNS)}"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(str(r[c]) for c in COLUMNS)} |" for name, r in rows.items())])


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "none"


def in_all(records: Sequence[Record]) -> str:
    """Who was asked, side by side, and shares of each."""
    whos = list(records[0].answers)
    rows = {who: row(records, who) for who in whos}
    lines = [table(rows, "asked"), ""]
    for who, r in rows.items():
        claims = np.array([record.claims[who] for record in records if who in record.claims]).reshape(-1, 2).sum(axis=0)
        supported = f", claims supported {share(*claims)} of {claims[1]}" if claims[1] else ""
        lines.append(
            f"- {who}: right {share(r['right'], r['n'])}, right or refused {share(r['right'] + r['refused'], r['n'])}, "
            f"wrong and sure {share(r['wrong and sure'], r['n'])}{supported}"
        )
    return "\n".join(lines)


def held_out(records: Sequence[Record], names: Sequence[str]) -> dict[str, list[Record]]:
    """Records about cells whose label is one of these types or a kind of one, and the others."""
    terms = terms_named(names)
    inside = [bool(cell_ontology().ancestors(record.question.cell.term) & terms) for record in records]
    return {
        "types held out of training": [r for r, i in zip(records, inside, strict=True) if i],
        "other types": [r for r, i in zip(records, inside, strict=True) if not i],
    }


def print_report(records: Sequence[Record], names: Sequence[str]) -> None:
    parts = {"Single questions": [r for r in records if r.place == "single"]}
    parts["Conversations"] = [r for r in records if r.place != "single"]
    if names:
        parts |= {f"Of {name}": part for name, part in held_out(records, names).items()}
    for title, part in parts.items():
        if part:
            print(f"\n### {title}\n\n{by_kind(part, 'shown')}\n\n{in_all(part)}", flush=True)
    seconds = np.array([record.seconds for record in records])
    print(f"\nSeconds per answer: median {np.median(seconds):.2f}, longest {seconds.max():.2f}")


def dump(records: Sequence[Record], seed: int, path: Path) -> None:
    """A line of JSON for each record."""
    with path.open("a", encoding="utf-8") as file:
        for r in records:
            q = r.question
            line = {
                **{"seed": seed, "place": r.place, "kind": q.kind, "set": q.cell.dataset, "cell": q.cell.name},
                **{"label": q.cell.label, "question": q.text, "slots": dict(q.slots), "key": truth(q)},
                "facts": [asdict(fact) for fact in r.facts],
                **{"answers": dict(r.answers), "scores": {who: asdict(s) for who, s in r.scores.items()}},
                **{"claims": dict(r.claims), "seconds": round(r.seconds, 3)},
            }
            file.write(json.dumps(line) + "\n")


def without_adapter(path: str) -> BioVerse:
    """A model of its own whose language model is as it was before LoRA."""
    model = bsc.models.load(path, merge_adapter=False)
    if not hasattr(model.language_model, "disable_adapter"):
        sys.exit(f"The language model of {path!r} has no adapter, so --backbone would ask the same model twice.")
    model.language_model.base_model.disable_adapter_layers()
    return model


def cells(a: argparse.Namespace) -> None:
    """Questions about cells."""
    model = bsc.models.load(a.model)
    openers = {"model": partial(open_chat, model)}
    if a.backbone:
        openers["backbone"] = partial(open_chat, without_adapter(a.model))
    tables = read_tables(a.shared)
    names = a.types_file.read_text().splitlines() if a.types_file else []
    if a.dump:
        a.dump.unlink(missing_ok=True)
    print(f"{model.config.name} ({model.fingerprint}), {torch.get_num_threads()} threads, sets {', '.join(a.sets)}")
    everything = []
    for seed in a.seeds:
        sessions = plan(a.shared, a.sets, model, a.n, a.conversations, seed)
        records = run(sessions, tables, openers, swap=a.swap, check=claims_of)
        if a.dump:
            dump(records, seed, a.dump)
        print(f"\nseed {seed}: {len(sessions)} cells, {len(records)} questions\n\n{in_all(records)}", flush=True)
        everything += records
    print_report(everything, names)


def entities(a: argparse.Namespace) -> None:
    """Famous proteins and molecules."""
    famous.entities(bsc.models.load(a.model), show=a.show)


PARTS = {"cells": cells, "entities": entities}
"""By name, what can be asked about."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with the reference data")
    parser.add_argument("--model", default="smollm2-135m", help="name of a bundled model, or path of a saved one")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--n", type=int, default=100, help="single questions, each of another cell")
    parser.add_argument("--conversations", type=int, default=14, help="conversations, each of another cell")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--types-file", type=Path, help="types that were held out of training, one a line")
    parser.add_argument("--backbone", action="store_true", help="ask the language model without its adapter as well")
    parser.add_argument("--swap", action="store_true", help="give each cell the label of another in its facts")
    parser.add_argument("--show", action="store_true", help="print each answer about proteins and molecules")
    parser.add_argument("--dump", type=Path, help="file of JSON lines to write")
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    a = parser.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    bsc.settings.verbosity = "error"
    for part in a.parts:
        PARTS[part](a)


if __name__ == "__main__":
    main()
