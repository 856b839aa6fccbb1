"""What a judge decides, and what it answered."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from patchlens.provenance import JSON

__all__ = ["INTERPRETABLE", "UNDECIDED", "VERDICTS", "Answer"]

VERDICTS = ("concrete", "abstract", "global", "unrelated")
"""How a candidate fits a region.

    concrete    it names what can be seen in the region
    abstract    it is about what is there, or about the scene as a whole
    global      it names what can be seen elsewhere in the image
    unrelated   none of these
"""

INTERPRETABLE = VERDICTS[:3]
"""A patch is interpretable when one of its candidates has one of these (arXiv 2602.00462, §3.3)."""

UNDECIDED = ("unreadable", "refused", "timeout", "failed", "skipped")
"""Why a judge did not decide. None of these is ever counted as "unrelated".

    unreadable   it replied, and the reply is not of the asked form
    refused      it, or the service that it runs at, would not answer
    timeout      no reply came in time
    failed       the service failed each time it was asked
    skipped      a person passed it over
"""


@dataclass(frozen=True)
class Answer:
    """What came of one question."""

    question: str
    """The question's id."""
    content: JSON
    """As the rubric reads it: for candidates a list of verdicts in the question's order. None when undecided."""
    undecided: str | None = None
    """One of `UNDECIDED`; None when decided."""
    detail: str = ""
    """Why it is undecided, in a sentence."""
    exchanges: tuple[Mapping[str, Any], ...] = ()
    """Every request and what came back, in order; pictures by their hash."""
    input_tokens: int = 0
    """Tokens that were sent, as the judge counted them."""
    output_tokens: int = 0
    """Tokens that came back."""
    seconds: float = 0.0
    """From the first request to the last reply."""

    def to_json(self) -> dict[str, JSON]:
        """The answer as plain JSON values."""
        return {**asdict(self), "exchanges": [dict(exchange) for exchange in self.exchanges]}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Answer":
        """Make the answer again from `to_json`; KeyError or TypeError if it is of another form."""
        return cls(**{**record, "exchanges": tuple(record["exchanges"])})
