"""Candidates, texts and records as a driver keeps them, for tests of what is written from them."""

from __future__ import annotations

from dataclasses import replace

from simulated import scored

import genomes
from evaluator.outcome import Failed, Phase, Reason
from evo.core.belief import believe
from evo.core.history import fold
from evo.core.records import CALIBRATE, CONFIRM, MUTATE, Candidate, Proposal, Record
from evo.operators import Library, Written, describe_seed, write


class Shelf:
    """Candidates and texts as a driver would keep them."""

    def __init__(self, seed_text: str, seed: int = 0) -> None:
        self.founder = describe_seed(seed_text)
        self.texts = {self.founder.genome: seed_text}
        self.known = {self.founder.genome: Candidate(Proposal(0, CALIBRATE, (), 1), *self._rest(self.founder))}
        self.seed = seed
        self.records: list[Record] = []

    def score(self, genome: str, *draws: float | None) -> None:
        """The genome's evaluations came to these, the later ones under the indices from 1000 on; None: it failed."""
        for draw in draws:
            outcome = scored(draw) if draw is not None else Failed(Reason.CRASH, Phase.TRAIN, "boom")
            candidate = self.known[genome]
            if any(record.candidate == candidate for record in self.records):
                candidate = replace(candidate, proposal=Proposal(1000 + len(self.records), CONFIRM, (genome,), 1))
            self.records.append(Record(candidate, outcome))

    def fail(self, genome: str, failed: Failed) -> None:
        self.records.append(Record(self.known[genome], failed))

    def library(self) -> Library:
        history = fold(self.records)
        return Library(
            founder=self.founder,
            texts=self.texts.__getitem__,
            known=self.known,
            seed=self.seed,
            history=history,
            belief=believe(history.genomes),
        )

    def add(self, index: int, text: str, *parents: str) -> str:
        id_ = genomes.identity(text)
        self.texts[id_] = text
        proposal = Proposal(index, MUTATE, parents or (self.founder.genome,), index)
        self.known[id_] = Candidate(proposal, id_, genomes.species(text), genomes.size(text), "")
        return id_

    def write(self, index: int, operator: str, *parents: str) -> Written:
        return write(Proposal(index, operator, parents, 7), self.library())

    @staticmethod
    def _rest(candidate: Candidate) -> tuple[str, str, int, str]:
        return candidate.genome, candidate.species, candidate.size, candidate.note
