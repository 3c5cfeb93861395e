"""Programs as data: what a training program is, what differs between two, and how a new one is made of old ones.

    identity, species, size    a hash of the program; the same with its knobs blanked; how large it is
    loss_code                  equal for programs whose reported losses mean the same
    measure                    what a script computes its own score with: equal for scripts whose scores mean the same
    folded, effective          a hash of what can run; which new values of knobs change it
    knobs, set_knobs           every literal by name
    Reader, constants          values of many programs that are alike, without parsing each
    diff, apply, describe      edits between two programs; shortened: such a line, cut where it can be
    match                      which knobs of two programs are the same
    distance                   how different two programs are, in [0, 1]
    merge                      three-way merge on the tree
    patch, prose               what a model answers: its edits, applied; and what it says around them
    without_reasoning          an answer without what its model thought before
    mutate, MUTATIONS          children without a model
    definitions                functions and methods, as text
    check                      parse, contract and certain mistakes: problems as values
    mend, repair               without a model: what check finds, and what made an evaluation fail
    contract_of                which contract a lab's seed genome is under

All pure: no files, no clock, randomness only from the `rng` handed in. This package imports no other of this project.
"""

from genomes.canonical import identity, size, species
from genomes.checks.problem import Problem
from genomes.contract import Contract, check, contract_of
from genomes.distance import distance
from genomes.edits import Edit, apply, describe, diff
from genomes.errors import EditError, GenomeError, KnobError, MutationError, ParseError
from genomes.folded import effective, folded
from genomes.knobs import Knob, knobs, set_knobs
from genomes.literals import Value
from genomes.losscode import loss_code
from genomes.match import match
from genomes.merge import Merge, merge, prefer, seeded
from genomes.merging.ledger import Conflict, Settle
from genomes.mutations import MUTATIONS, STRUCTURAL_MUTATIONS, Mutant, mutate
from genomes.mutations.measure import measure
from genomes.mutations.mutation import Mutation
from genomes.readings import Reader, constants
from genomes.repairs import Failure, Repaired, mend, repair
from genomes.replies import patch, prose, without_reasoning
from genomes.units import definitions
from genomes.wording import shortened

__all__ = [
    "MUTATIONS",
    "STRUCTURAL_MUTATIONS",
    "Conflict",
    "Contract",
    "Edit",
    "EditError",
    "Failure",
    "GenomeError",
    "Knob",
    "KnobError",
    "Merge",
    "Mutant",
    "Mutation",
    "MutationError",
    "ParseError",
    "Problem",
    "Reader",
    "Repaired",
    "Settle",
    "Value",
    "apply",
    "check",
    "constants",
    "contract_of",
    "definitions",
    "describe",
    "diff",
    "distance",
    "effective",
    "folded",
    "identity",
    "knobs",
    "loss_code",
    "match",
    "measure",
    "mend",
    "merge",
    "mutate",
    "patch",
    "prefer",
    "prose",
    "repair",
    "seeded",
    "set_knobs",
    "shortened",
    "size",
    "species",
    "without_reasoning",
]
