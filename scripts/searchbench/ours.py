"""The real search core as a proposer: Search.ask and tell, the operators that write programs, their tuner and species."""

from __future__ import annotations

from dataclasses import replace

from evaluator.outcome import Failed, Outcome, Phase, Reason, Scored
from evo import operators
from evo.core.records import Candidate, Record
from evo.search import Search, SearchConfig
from evo.species import Shelf
from searchbench.course import Job, run
from searchbench.problem import Problem, Truth

FRUITLESS = 500  # proposals in a row without a program, after which the policy has come to its end


class Core:
    """One run of `search.policy`, whose first wave repeats the seed on every slot, as a run's does (evo/session.py)."""

    def __init__(self, problem: Problem, policy: str, seed: int, slots: int, **settings: object) -> None:
        self.problem = problem
        self.text = problem.text
        self.founder = operators.describe_seed(self.text)
        self.seed = seed
        config = SearchConfig(policy=policy, seed=seed, **settings)  # type: ignore[arg-type]
        config = replace(config, calibrations=max(config.calibrations, slots))
        self.texts = {self.founder.genome: self.text}
        self.shelf = Shelf(self.texts.__getitem__)
        self.search = Search(config, self.founder.genome, self.shelf)
        self.known: dict[str, Candidate] = {}

    def ask(self) -> Job | None:
        for _ in range(FRUITLESS):
            proposals = self.search.ask(1)
            if not proposals:
                return None
            written = operators.write(proposals[0], self.library())
            if written.outcome is None:
                candidate = written.candidate
                self.remember(candidate, written.text)
                return Job(candidate, written.text, f"noise/{self.seed}/{candidate.proposal.seed}")
            self.search.tell(Record(written.candidate, written.outcome))
        return None

    def tell(self, job: Job, truth: Truth, val_bpb: float) -> None:
        self.search.tell(Record(job.key, outcome(truth, val_bpb)))

    def claim(self) -> tuple[str, float]:
        champion = self.search.champion or self.founder.genome
        estimate = self.search.belief.of.get(champion)
        return self.texts[champion], estimate.mean if estimate else float("nan")

    def remember(self, candidate: Candidate, text: str) -> None:
        """Notes a program that is under way."""
        self.texts[candidate.genome] = text
        self.known.setdefault(candidate.genome, candidate)

    def library(self) -> operators.Library:
        """What is known when a proposal is written."""
        search = self.search
        return operators.Library(
            founder=self.founder,
            texts=self.texts.__getitem__,
            known=self.known,
            seed=self.seed,
            history=search.history,
            belief=search.belief,
            numbers_apart=search.policy.numbers_apart,
            shelf=self.shelf,
        )


def announced(problem: Problem, evals: int, slots: int, seed: int) -> bool:
    """Does a whole run, final draws and all, announce a gain?"""
    core = Core(problem, "evo", seed, slots, evals=evals)
    run(core, problem, slots, [10 * evals], seed)
    said = core.search.announcement
    return said is not None and said.proven


def outcome(truth: Truth, val_bpb: float) -> Outcome:
    """The truth as an evaluator's outcome."""
    if not truth.feasible:
        return Failed(Reason.OUT_OF_MEMORY, Phase.TRAIN, "OutOfMemoryError: out of memory", total_seconds=40.0)
    return Scored(val_bpb, 300.0, 330.0, 1000, 10**9, 5 * 10**7, truth.memory_gib, "surrogate", "surrogate")
