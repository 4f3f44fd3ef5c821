"""Usual ways to say what the facts say in other words, so that an answer may have a style of its own."""

from __future__ import annotations

import re

_PROBABILITY = r"(?:more than |less than )?\d\.\d+"
_STATE = r"(?:signs of|a response to) .+"
_EXPRESSES, _EXPRESSES_UNUSUAL = "The cell expresses ", "The cell expresses the unusual "
_SAID = tuple(
    (re.compile(pattern), instead)
    for pattern, instead in (
        # a call is a label
        (
            rf"^With a probability of (?:only )?({_PROBABILITY}) the call is (.+)\.$",
            r"The label is \2. Its probability is \1.",
        ),
        (r"^(?:(?:So|In all,) the call is|The call is|(?:Together this|This) makes the call) ", "The label is "),
        # what is open is not certain
        (
            r"^(?:The genes leave it open: the call is|That leaves the call open: it is) (?=likely|not certain)",
            "The label is ",
        ),
        (
            r"^(?:No known type is like it|No type is likely enough for a call|It is unlike the known types)\.",
            "No type is likely enough for a label.",
        ),
        (
            r"^The call rests on the whole profile, as its genes are not known markers of (.+)\.$",
            r"The cell expresses no known marker of \1.",
        ),
        (r"^(.+) (?:is|are) among its highest genes\.$", r"Its highest genes are \1."),
        (r"^(?:What is high in it:|Its highest genes include) ", "Its highest genes are "),
        (r"^As (?:other )?(.+) do, it expresses (.+)\.$", r"The cell expresses \2, markers of \1."),
        (r"^In it (?=[A-Z0-9])", ""),
        (r"^(.+) supports? the call\.$", r"The cell expresses the markers \1."),
        (r"^Its ([A-Z0-9]{2}.*) (?:is a marker|are markers) of ", r"The cell expresses \1, markers of "),
        # what speaks for another type
        (r", which supports? an? (.+)\.$", r", which speak for \1."),
        (r"^(.+) would support an? (.+)\.$", r"The cell expresses \1, which speak for \2."),
        (r"^It expresses (.+) too, as an? (.+) would\.$", r"The cell expresses \1, which speak for \2."),
        # wider types, and what genes do
        (r"\b(a marker|markers) of the wider type, ", r"\1 of "),
        (r"\b(?:has a|is known for its) role in\b", "takes part in"),
        (r"^The role of (\S+) is in ", r"\1 takes part in "),
        # what comes next
        (
            r"^(?:No other type is (?:near|likely)|None of the other types is near)\.",
            "No other type has a probability of 0.01 or more.",
        ),
        (r"^(?:The next candidate is|Also possible is) ", "The next most likely type is "),
        (r"^After it, (.+) is most likely, with", r"The next most likely type is \1, with"),
        (r"^It may also be an? (.+), with", r"The next most likely type is \1, with"),
        (r"^The profile is more like an? (.+), with", r"A more likely type is \1, with"),
        (r"^An? (.+) is more likely, with", r"A more likely type is \1, with"),
        (r"^(?:Next comes|After it comes|The runner-up is|The alternative is) ", "The next most likely type is "),
        (r"^An? (.+) is the next candidate, with", r"The next most likely type is \1, with"),
        (
            r"^(?:No other type comes near|There is no other candidate)\.",
            "No other type has a probability of 0.01 or more.",
        ),
        # how sure the label is
        (rf"^With a probability of ({_PROBABILITY}) the label is (.+)\.$", r"The label is \2. Its probability is \1."),
        (r"^(?:The evidence does not settle it: the|So the|In all, the) label is ", "The label is "),
        (r"^That makes the label ", "The label is "),
        (r": its probability is (?:only )?", ". Its probability is "),
        (rf"^(The label is .+?),? (?:at|with) a probability of ({_PROBABILITY})\.$", r"\1. Its probability is \2."),
        (rf"^(The label is .+) \(({_PROBABILITY})\)\.$", r"\1. Its probability is \2."),
        (rf" \(({_PROBABILITY})\)\.$", r", with a probability of \1."),
        (rf", with ({_PROBABILITY})\.$", r", with a probability of \1."),
        # markers
        (r", so the label rests on the whole profile", ""),
        (r"^(?:The (?:label|call) rests on|The wider type shows in) (?=.+, (?:a marker|markers) of )", _EXPRESSES),
        (r"^Among the genes of the (?:cell|cluster) (?:is|are) ", _EXPRESSES),
        (
            r"^With (.+) (?:it|the cell|the cluster) has (?:a known marker|known markers) of ",
            rf"{_EXPRESSES}\1, markers of ",
        ),
        (r"^Its (?=[A-Z0-9]{2})", _EXPRESSES),
        (r"^(.+), (?:is|are) there\.$", rf"{_EXPRESSES}\1."),
        (
            r"^(?:The cell expresses )?(.+?),? (?:points? to|speaks? for|fits?|supports?) (?=an? )",
            rf"{_EXPRESSES}\1, markers of ",
        ),
        (
            r"^(?:The cell expresses )?(.+) (?:is expressed and marks|are expressed and mark) (?:the wider type, )?",
            rf"{_EXPRESSES}\1, markers of ",
        ),
        (r"\bmarks? (?:the wider type, )?", "are markers of "),
        (
            r"^(?:None of the known markers of (.+) is detected|No known marker of (.+) itself is expressed)\.$",
            r"The cell expresses no known marker of \1\2 itself.",
        ),
        # what is absent
        (
            rf"^(?:It lacks|It has no|It is without|Also missing is) (\S+), which (an? .+) would have with a "
            rf"probability of ({_PROBABILITY})\.$",
            r"\1 is not detected. \2 of this depth would show it with a probability of \3.",
        ),
        (
            r"^Against (.+) speaks that (\S+) is not detected: such a cell would show it with a probability of (.+)$",
            r"\2 is not detected. A \1 of this depth would show it with a probability of \3",
        ),
        (
            r"^(\S+) is (?:missing, though|not detected, which) (an? .+) of this depth would show(?: it)? with a ",
            r"\1 is not detected. \2 of this depth would show it with a ",
        ),
        (
            r"^(An? .+) would show (\S+) with a probability of (.+), and it is not detected\.$",
            r"\2 is not detected. \1 of this depth would show it with a probability of \3.",
        ),
        # what is unusual, and states
        (r"^What is unusual: it expresses ", _EXPRESSES_UNUSUAL),
        (r"^It also expresses (.+); this is unusual\.$", rf"{_EXPRESSES_UNUSUAL}\1."),
        (
            r"^(.+) (?:is|are) unusual here, as (?:they are|it is) specific to ",
            rf"{_EXPRESSES_UNUSUAL}\1, which are specific to ",
        ),
        (r"^What is unusual: it has (.+)\.$", r"It has \1, which is unusual."),
        (r"^It has much haemoglobin, which is unusual\.$", "The cell has haemoglobin although it is no red cell."),
        (r"^It has many mitochondrial counts, which is unusual\.$", "The share of mitochondrial counts is high."),
        (
            r"^(?:Unusual|What does not fit) (?:is|are) (.+), specific to ",
            rf"{_EXPRESSES_UNUSUAL}\1, which are specific to ",
        ),
        (rf"^It shows ({_STATE}), by (.+)\.$", r"The cell shows \1. It expresses \2."),
        (rf"^(?!The cell|The cluster)(\S.+) shows? ({_STATE})\.$", r"The cell shows \2. It expresses \1."),
    )
)

_UNUSUAL_THEN = re.compile(r"\bexpresses (?=[^.]+\. This is unusual\b)")
_BEGINS_SMALL = re.compile(r"\. [a-z](?=[a-z]* )")


def plain(sentence: str) -> str:
    """The sentence in the words of the facts.

    Parameters
    ----------
    sentence
        Of an answer.
    """
    for pattern, instead in _SAID:
        sentence = pattern.sub(instead, sentence)
    return _BEGINS_SMALL.sub(lambda match: match[0].upper(), sentence)


def joined_up(text: str) -> str:
    """The text, in which genes are called unusual where a sentence behind says so.

    Parameters
    ----------
    text
        Of an answer or a fact.
    """
    return _UNUSUAL_THEN.sub("expresses the unusual ", text)
