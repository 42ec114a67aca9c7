"""``rag``: questions about documents that were looked up for them."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import ClassVar

from extproc.config.fault import Fault
from extproc.config.setting import setting
from extproc.simulation.loads.generators.base import FIRST_OWN_CONTENT, SESSIONS_AT_ONCE, BuiltInLoad, mean_rate
from extproc.simulation.loads.generators.draws import Zipf, lengths, poisson_starts
from extproc.simulation.loads.generators.prompt import beginnings
from extproc.simulation.loads.load import Session, Turn

SYSTEM_CONTENT = 0
FIRST_DOCUMENT = 1
MAX_DOCUMENT_TOKENS = 10_000
MAX_QUESTION_TOKENS = 1_000
MAX_ANSWER_TOKENS = 2_000


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rag(BuiltInLoad):
    """Single requests: a system prompt that all share, a few documents in any order, and a question.

    Documents are asked for by a Zipf law, none twice in a request. Only leading documents can be shared: a document
    after another one is another prefix. Keys are of users who ask once.
    """

    name: ClassVar[str] = "rag"

    rate: float = mean_rate(30.0)
    system_tokens: int = setting(200, "Length of the system prompt.", unit="tokens", low=1, high=100_000)
    corpus: int = setting(2_000, "Documents there are.", low=1, high=1_000_000)
    documents: int = setting(
        4, "Documents in a prompt; more than one only up to a tenth of the corpus.", low=1, high=50
    )
    document_tokens: int = setting(1_500, "Mean length of a document.", unit="tokens", low=1, high=5_000)
    exponent: float = setting(1.0, "Exponent of the Zipf law; 0 makes documents equally likely.", low=0, high=1.5)
    question_tokens: int = setting(60, "Mean length of a question.", unit="tokens", low=1, high=500)
    answer_tokens: int = setting(200, "Mean length of an answer.", unit="tokens", low=1, high=1_000)

    def _faults_between(self) -> list[Fault]:
        faults = super(Rag, self)._faults_between()  # a class with slots is made anew, and `super()` does not know it
        if self.documents > 1 and self.documents * 10 > self.corpus:
            faults.append(Fault("rag.documents", f"must be 1 or at most a tenth of rag.corpus ({self.corpus:,})"))
        return faults

    def sessions(self) -> Iterator[Session]:
        """Give a session for every request."""
        for_corpus, for_starts, rng = self._generators(3)
        sizes = lengths(
            for_corpus, self.corpus, mean=self.document_tokens, spread=0.4, cap=MAX_DOCUMENT_TOKENS
        ).tolist()
        popular = Zipf(self.corpus, exponent=self.exponent)
        (system,) = beginnings([self.system_tokens], first_content=SYSTEM_CONTENT)
        contents = itertools.count(FIRST_OWN_CONTENT)
        starts = poisson_starts(for_starts, self.requests, self.secs)
        for first in range(0, self.requests, SESSIONS_AT_ONCE):
            part = starts[first : first + SESSIONS_AT_ONCE]
            found = popular.draw_distinct(rng, len(part), each=self.documents)
            questions = lengths(rng, len(part), mean=self.question_tokens, spread=0.5, cap=MAX_QUESTION_TOKENS)
            answers = lengths(rng, len(part), mean=self.answer_tokens, spread=0.6, cap=MAX_ANSWER_TOKENS)
            rows = zip(part.tolist(), found.tolist(), questions.tolist(), answers.tolist(), strict=True)
            for number, (starts_at, documents, question, answer) in enumerate(rows, first):
                prompt = system.copy()
                for document in documents:
                    prompt.add(FIRST_DOCUMENT + document, sizes[document])
                prompt.add(next(contents), question)
                turn = Turn(prompt.tokens, answer, prompt.blocks(), 0.0)
                yield Session(starts_at, f"rag-{number}", (turn,))
