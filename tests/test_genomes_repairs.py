"""Repairs without a model: each mends what it is for, leaves a sound program, and finds nothing more to do."""

from __future__ import annotations

from pathlib import Path

import pytest

import genomes
from genomes import Failure
from genomes.repairs.names import one_edit

ROOT = Path(__file__).resolve().parent.parent
SEED = (ROOT / "trainer" / "train.py").read_text(encoding="utf-8")
PREPARE = (ROOT / "trainer" / "prepare.py").read_text(encoding="utf-8")
GROUPED = (ROOT / "tests" / "programs" / "grouped.py").read_text(encoding="utf-8")


def changed(text: str, old: str, new: str) -> str:
    assert text.count(old) >= 1, old
    return text.replace(old, new, 1)


def line_of(text: str, code: str) -> int:
    return text[: text.index(code)].count("\n") + 1


def repaired(text: str, reason: str, message: str, code: str = "") -> genomes.Repaired | None:
    lines = (line_of(text, code),) if code else ()
    failure = Failure(genomes.identity(text), reason, message, lines)
    found = genomes.repair(text, failure, prepare=PREPARE)
    if found is not None:
        assert genomes.identity(found.text) != genomes.identity(text)
        assert {p.message for p in genomes.check(found.text, prepare=PREPARE)} <= {p.message for p in genomes.check(text, prepare=PREPARE)}
        assert genomes.repair(found.text, failure, prepare=PREPARE) is None  # it is another program's failure
    return found


def value(text: str, name: str) -> object:
    return {knob.name: knob.value for knob in genomes.knobs(text)}[name]


# ---- before an evaluation


@pytest.mark.parametrize(
    ("old", "new", "note"),
    [
        ("import torch.nn.functional as F\n", "", "import torch.nn.functional as F"),
        ("return left + (1 - left)", "return math.cos(left) + (1 - left)", "import math"),
        ("self.down(F.relu(self.up(x)).square())", "self.down(F.relu(up(x)).square())", "up → self.up"),
        ("optimisers = build_optimisers(model)", "optimisers = build_optimizers(model)", "build_optimizers → build_optimisers"),
        ("prepare.batches(", "prepare.batchs(", "batchs → batches"),
        ("self.down(F.relu", "self.dwn(F.relu", "dwn → down"),
        ("DEVICE_BATCH_SIZE = 128", "DEVICE_BATCH_SIZE = 96", "TOTAL_BATCH_SIZE 524288 → 589824"),
        ("VOCAB_SIZE = 8192", "VOCAB_SIZE = 50304", "VOCAB_SIZE 50304 → 32768"),
        ("    prepare.save(model)\n", "", "prepare.save(model) at the end of main"),
        ("        super().__init__()\n        self.up", "        self.up", "super().__init__() first"),
        ("MATRIX_LR, WEIGHT_DECAY)]", "MATRIX_LR, weight_decy=WEIGHT_DECAY)]", "weight_decy → weight_decay"),
    ],
)
def test_what_check_finds_is_mended_where_a_rule_can(old, new, note):
    broken = changed(SEED, old, new)
    assert genomes.check(broken, prepare=PREPARE)
    found = genomes.mend(broken, prepare=PREPARE)
    assert found is not None
    assert found.note == note
    assert genomes.check(found.text, prepare=PREPARE) == ()
    assert genomes.mend(found.text, prepare=PREPARE) is None


def test_an_import_goes_below_the_others_and_changes_nothing_else():
    broken = changed(SEED, "return left + (1 - left)", "return math.cos(left) + (1 - left)")
    found = genomes.mend(broken)
    assert found is not None
    assert found.text.replace("import math\n", "") == broken
    assert found.text.index("import math\n") < found.text.index("# ---- Knobs")


def test_several_problems_are_mended_one_after_another():
    broken = changed(changed(SEED, "import gc\n", ""), "import copy\n", "")
    found = genomes.mend(broken)
    assert found is not None
    assert set(found.note.split(", ")) == {"import copy", "import gc"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("extra, rotary, attend)", "extra, rotary)"),
        ('ATTENTION = "flex"', 'ATTENTION = "flash"'),
        ("import gc\n", "import gc\nimport wandb\n"),
        ("rate_factor(progress)\n", "rate_of(progress)\n"),
    ],
)
def test_what_would_be_guessed_is_left_to_the_writer(old, new):
    broken = changed(SEED, old, new)
    assert genomes.check(broken)
    assert genomes.mend(broken) is None


def test_one_problem_that_stays_leaves_the_program_as_it_was():
    broken = changed(changed(SEED, "import gc\n", "import wandb\n"), 'ATTENTION = "flex"', 'ATTENTION = "flash"')
    assert genomes.mend(broken) is None
    allowed = [problem.message for problem in genomes.check(broken) if "gc" not in problem.message]
    found = genomes.mend(broken, accepted=allowed)
    assert found is not None
    assert found.note == "import gc"


def test_nothing_to_mend_is_nothing():
    assert genomes.mend(SEED, prepare=PREPARE) is None
    assert genomes.mend("def (", prepare=PREPARE) is None


# ---- after an evaluation


def test_out_of_memory_halves_the_device_batch_at_the_same_total_batch():
    found = repaired(SEED, "out_of_memory", "OutOfMemoryError: CUDA out of memory")
    assert found is not None
    assert value(found.text, "DEVICE_BATCH_SIZE") == 64
    assert found.text.replace("DEVICE_BATCH_SIZE = 64", "DEVICE_BATCH_SIZE = 128") == SEED
    assert "same total batch" in found.note


def test_out_of_memory_doubles_the_passes_where_they_are_a_constant():
    text = "import prepare\n\nROWS = 6\nGRAD_ACCUM = 3\n\n\ndef build_model():\n    pass\n\n\ndef main():\n    rows = ROWS\n"
    text += "    for x, y in prepare.batches(rows, 512):\n        GRAD_ACCUM\n"
    found = repaired(text, "out_of_memory", "MemoryError: ")
    assert found is not None
    assert (value(found.text, "ROWS"), value(found.text, "GRAD_ACCUM")) == (3, 6)
    again = repaired(found.text, "out_of_memory", "MemoryError: ")
    assert again is not None
    assert (value(again.text, "ROWS"), value(again.text, "GRAD_ACCUM")) == (1, 18)
    assert repaired(again.text, "out_of_memory", "MemoryError: ") is None


def test_out_of_memory_without_passes_says_that_the_total_batch_shrinks():
    text = (ROOT / "tests" / "programs" / "recurrent.py").read_text(encoding="utf-8")
    found = repaired(text, "out_of_memory", "MemoryError: ")
    assert found is not None
    assert value(found.text, "BATCH") == 8
    assert found.note == "BATCH 16 → 8; the total batch shrinks with it"


def test_a_loss_that_explodes_halves_the_named_rates():
    found = repaired(SEED, "not_finite", "FloatingPointError: the loss is nan after 3 steps: lower a rate")
    assert found is not None
    for name in ("EMBEDDING_LR", "UNEMBEDDING_LR", "MATRIX_LR", "SCALAR_LR"):
        assert value(found.text, name) == value(SEED, name) / 2
    for name in ("RESIDUAL_LR_FACTOR", "FINAL_LR_FRAC", "WEIGHT_DECAY"):
        assert value(found.text, name) == value(SEED, name)


def test_a_model_that_is_not_handed_over_is():
    text = changed(SEED, "    prepare.save(model)\n", "")
    found = repaired(text, "no_model", "main() returned without prepare.save(model)")
    assert found is not None
    assert found.text == SEED


@pytest.mark.parametrize(
    ("text", "old", "new", "message", "back"),
    [
        (
            SEED,
            "y.transpose(1, 2).reshape(B, T, C)",
            "y.transpose(1, 2).view(B, T, C)",
            "RuntimeError: view size is not compatible with input tensor's size and stride. Use .reshape(...) instead.",
            "y.transpose(1, 2).reshape(B, T, C)",
        ),
        (
            SEED,
            "nn.Linear(MLP_RATIO * width, width, bias=False)",
            "nn.Linear(width, MLP_RATIO * width, bias=False)",
            "RuntimeError: mat1 and mat2 shapes cannot be multiplied (1024x256 and 64x256)",
            "nn.Linear(MLP_RATIO * width, width, bias=False)",
        ),
        (
            SEED,
            "F.relu(self.up(x))",
            "F.relu(self.up(x), inplce=True)",
            "TypeError: relu() got an unexpected keyword argument 'inplce'",
            "F.relu(self.up(x))",
        ),
        (
            SEED,
            "    @torch.no_grad()\n    def initialise",
            "    def initialise",
            "RuntimeError: a leaf Variable that requires grad is being used in an in-place operation.",
            "    @torch.no_grad()\n    def initialise",
        ),
        (
            GROUPED,
            "(loss / passes).backward()",
            "(loss / passes).backward()  # per token",
            "RuntimeError: grad can be implicitly created only for scalar outputs",
            "(loss / passes).mean().backward()",
        ),
        (
            SEED,
            "weight_decay=0.0, fused=True)",
            "weight_decay=0.0, fused=True)  # quick",
            "RuntimeError: `fused=True` requires all the params to be floating point Tensors of supported devices",
            "weight_decay=0.0)  # quick",
        ),
        (
            SEED,
            "attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))",
            "F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))",
            "RuntimeError: Expected query, key, and value to have the same dtype, but got query.dtype: float key.dtype: float and "
            "value.dtype: c10::BFloat16 instead.",
            "F.scaled_dot_product_attention(q.transpose(1, 2).to(v.dtype), k.transpose(1, 2).to(v.dtype), v.transpose(1, 2))",
        ),
        (
            SEED,
            "logits = self.head(norm(x))",
            "logits = self.head(norm(x) * 1.0)",
            "RuntimeError: mat1 and mat2 must have the same dtype, but got Float and BFloat16",
            "logits = self.head((norm(x) * 1.0).to(self.head.weight.dtype))",
        ),
        (
            SEED,
            "    T = tokens.size(1)\n",
            "    T = tokens.size(1)\n        place = torch.arange(T)\n",
            "RuntimeError: Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!",
            "torch.arange(T, device=tokens.device)",
        ),
    ],
)
def test_a_slip_is_mended_at_the_line_of_the_failure(text, old, new, message, back):
    broken = changed(text, old, new)
    where = {"nn.Linear": "return self.down(", "    def initialise": "self.embedding.weight.normal_", "    T = tokens": "place = "}
    code = next((line for start, line in where.items() if new.startswith(start)), new)
    found = repaired(broken, "crash", message, code)
    assert found is not None
    assert back in found.text
    if text is SEED and old == back:
        assert found.text == SEED
    stamped = Failure(genomes.identity(found.text), "crash", message, (line_of(broken, code),))
    assert genomes.repair(found.text, stamped, prepare=PREPARE) is None


@pytest.mark.parametrize("message", ["RuntimeError: this tree crashes", "ValueError: 3", "", "AssertionError", "KeyError: 'x'"])
def test_a_failure_that_no_rule_knows_is_not_repaired(message):
    assert repaired(SEED, "crash", message, "y = attend(") is None


def test_a_failure_of_another_program_is_not_repaired():
    assert genomes.repair(SEED, Failure("0" * 16, "out_of_memory", "")) is None


def test_lines_that_are_not_there_do_no_harm():
    message = "RuntimeError: view size is not compatible with input tensor's size and stride"
    for lines in ((), (0,), (100_000,), (1, 2, 3)):
        genomes.repair(SEED, Failure(genomes.identity(SEED), "crash", message, lines))


@pytest.mark.parametrize(
    ("a", "b", "near"),
    [
        ("batchs", "batches", True),
        ("dwn", "down", True),
        ("lr", "rl", True),
        ("abc", "abd", True),
        ("abc", "abc", False),
        ("ab", "abcd", False),
    ],
)
def test_names_are_near_by_one_letter(a, b, near):
    assert one_edit(a, b) is near
    assert one_edit(b, a) is near
