"""Which programs report comparable losses: the hash sees all that a loss is made of, and nothing else."""

from __future__ import annotations

from random import Random

import pytest

from genomes import loss_code, mutate, set_knobs
from tests.corpus import SEED

LOSS = "return cross_entropy(model(x).flatten(0, 1), y.flatten())"


def changed(old: str, new: str) -> str:
    assert SEED.count(old) == 1, old
    return SEED.replace(old, new)


@pytest.mark.parametrize("mutation", ["smooth-labels", "z-loss", "token-after-next", "growing-batch"])
def test_mutations_of_the_loss_or_of_its_mean_make_another(mutation: str) -> None:
    assert loss_code(mutate(SEED, Random(1), [mutation]).text) != loss_code(SEED)


@pytest.mark.parametrize("mutation", ["activation", "u-net", "clip-gradients", "schedule-shape", "scale-rates", "lion", "average-weights"])
def test_what_only_learns_otherwise_reports_the_same(mutation: str) -> None:
    assert loss_code(mutate(SEED, Random(1), [mutation]).text) == loss_code(SEED)


def test_batch_sizes_count_for_nothing_and_the_vocabulary_does() -> None:
    assert loss_code(set_knobs(SEED, {"TOTAL_BATCH_SIZE": 2**18, "DEVICE_BATCH_SIZE": 64, "DEPTH": 4})) == loss_code(SEED)
    assert loss_code(set_knobs(SEED, {"VOCAB_SIZE": 4096})) != loss_code(SEED)


def test_a_number_that_the_loss_takes_from_elsewhere_counts_wherever_it_stands() -> None:
    smoothed = changed(LOSS, LOSS.replace("y.flatten())", "y.flatten(), label_smoothing=SMOOTHING)"))
    one, other = (smoothed.replace("EMBEDDING_STD = 1.0", f"EMBEDDING_STD = 1.0\nSMOOTHING = {share}") for share in (0.1, 0.2))
    assert len({loss_code(SEED), loss_code(one), loss_code(other)}) == 3


def test_a_function_behind_the_loss_counts_with_what_it_calls() -> None:
    helped = changed("def mean_loss", "def entropy(a, b):\n    return F.cross_entropy(a, b)\n\n\ndef mean_loss").replace(
        "return cross_entropy(model(x)", "return entropy(model(x)"
    )
    assert loss_code(helped.replace("F.cross_entropy(a, b)", "2 * F.cross_entropy(a, b)")) != loss_code(helped)


def test_a_model_that_returns_its_own_loss_is_part_of_it_and_one_that_returns_logits_is_not() -> None:
    own = changed(LOSS, "return model(x, y)").replace("def forward(self, tokens: torch.Tensor)", "def forward(self, tokens, targets=None)")
    cap = "return LOGIT_SOFTCAP * torch.tanh(logits.float() / LOGIT_SOFTCAP)"
    assert loss_code(own.replace(cap, "return logits.mean()")) != loss_code(own)
    assert loss_code(changed(cap, "return logits.float()")) == loss_code(SEED)


def test_comments_and_layout_count_for_nothing_and_a_program_that_reports_no_loss_has_none() -> None:
    assert loss_code(changed(LOSS, f"# in nats\n    {LOSS}").replace("    return cross", "\n    return cross")) == loss_code(SEED)
    assert loss_code(SEED.replace("prepare.report(total)", "None")) == ""
