"""The catalogue of mutations that need no model, and how one is drawn."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from genomes.canonical import identity
from genomes.contract import Contract, check
from genomes.errors import MutationError, nearest
from genomes.mutations.attention import ATTENTION_MUTATIONS
from genomes.mutations.edges import EDGE_MUTATIONS
from genomes.mutations.initial import INITIAL_MUTATIONS
from genomes.mutations.joint import JOINT_MUTATIONS
from genomes.mutations.literal import LITERAL_MUTATIONS
from genomes.mutations.loop import LOOP_MUTATIONS
from genomes.mutations.measure import measure
from genomes.mutations.mlp import MLP_MUTATIONS
from genomes.mutations.model import MODEL_MUTATIONS
from genomes.mutations.muon import MUON_MUTATIONS
from genomes.mutations.mutation import LITERAL, STRUCTURAL, Mutation, Program, Rewrite, program
from genomes.mutations.norms import NORM_MUTATIONS
from genomes.mutations.objectives import OBJECTIVE_MUTATIONS
from genomes.mutations.optimisers import OPTIMISER_MUTATIONS
from genomes.mutations.schedules import SCHEDULE_MUTATIONS
from genomes.mutations.statements import STATEMENT_MUTATIONS
from genomes.mutations.stream import STREAM_MUTATIONS
from genomes.mutations.training import TRAINING_MUTATIONS
from genomes.mutations.values import VALUE_MUTATIONS

# What is new goes last: seeded draws depend on the order.
MUTATIONS: tuple[Mutation, ...] = (
    *LITERAL_MUTATIONS,
    *JOINT_MUTATIONS,
    *MODEL_MUTATIONS,
    *NORM_MUTATIONS,
    *MLP_MUTATIONS,
    *ATTENTION_MUTATIONS,
    *VALUE_MUTATIONS,
    *STREAM_MUTATIONS,
    *EDGE_MUTATIONS,
    *TRAINING_MUTATIONS,
    *SCHEDULE_MUTATIONS,
    *MUON_MUTATIONS,
    *OPTIMISER_MUTATIONS,
    *OBJECTIVE_MUTATIONS,
    *LOOP_MUTATIONS,
    *INITIAL_MUTATIONS,
    *STATEMENT_MUTATIONS,
)
_LITERAL_SHARE = 0.7
_NAMED = 8  # mutations that an error names
_TRIES = 3  # tries of one mutation, before the next is drawn


@dataclass(frozen=True)
class Mutant:
    """A child: its text, the name of the mutation, and one line on what it did."""

    text: str
    mutation: str
    note: str


STRUCTURAL_MUTATIONS = tuple(mutation.name for mutation in MUTATIONS if mutation.kind == STRUCTURAL)  # names, for `mutate`


def mutate(text: str, rng: random.Random, names: Iterable[str] | None = None, contract: Contract = Contract.LAB) -> Mutant:
    """One child of a program by a mutation drawn from the catalogue, or from the named part of it.

    The child parses, has no problem with the contract that the parent lacks, is scored by the same measure, and differs by identity.

    Raises:
        ParseError: the parent is no program.
        MutationError: a name is unknown, or none of the mutations applies.
    """
    catalogue = _named(names)
    parent = program(text)
    for mutation in _draws(catalogue, rng):
        for _ in range(_TRIES):
            child = mutation.apply(parent, rng)
            if child is None:
                break
            if _is_sound(parent, child, contract):
                return Mutant(child.text, mutation.name, child.note)
    tried = ", ".join(mutation.name for mutation in catalogue[:_NAMED])
    raise MutationError(f"none of {len(catalogue)} mutations applies: {tried}{', …' if len(catalogue) > _NAMED else ''}")


def _named(names: Iterable[str] | None) -> tuple[Mutation, ...]:
    if names is None:
        return MUTATIONS
    known = {mutation.name: mutation for mutation in MUTATIONS}
    wanted = list(names)
    for name in wanted:
        if name not in known:
            raise MutationError(f"no mutation {name!r} among {len(known)}; {nearest(name, known)}")
    return tuple(known[name] for name in wanted)


def _draws(catalogue: tuple[Mutation, ...], rng: random.Random) -> Iterable[Mutation]:
    """All of them once, in random order: a kind is drawn first, then one of it by weight; the other kind follows when it is used up."""
    kinds = [LITERAL, STRUCTURAL] if rng.random() < _LITERAL_SHARE else [STRUCTURAL, LITERAL]
    for kind in kinds:
        pool = [mutation for mutation in catalogue if mutation.kind == kind]
        while pool:
            mutation = rng.choices(pool, [mutation.weight for mutation in pool])[0]
            pool.remove(mutation)
            yield mutation


def _is_sound(parent: Program, child: Rewrite, contract: Contract) -> bool:
    problems = {problem.message for problem in check(child.text, contract)}
    if problems - {problem.message for problem in check(parent.text, contract)}:
        return False
    if contract is Contract.SCRIPT and measure(child.text) != measure(parent.text):
        return False
    return identity(child.text) != identity(parent.text)
