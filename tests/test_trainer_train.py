"""The genome at tiny settings: it trains over a real channel, with the test as the harness, and keeps its contract."""

from __future__ import annotations

import importlib
import io
import itertools
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

TRAINER = Path(__file__).parent.parent / "trainer"
T, VOCAB = 32, 400
CONSTANTS = {
    "MAX_SEQ_LEN": T,
    "EVAL_TOKENS": 128 * T,
    "VOCAB_SIZES": (VOCAB,),
    "READY_SIZES": (VOCAB,),
    "DEFAULT_VOCAB": VOCAB,
    "TIME_BUDGET": 1.0,
}
KNOBS = {
    "DEPTH": 3, "ASPECT_RATIO": 16, "HEAD_DIM": 16, "WINDOW_PATTERN": "SL", "SHORT_WINDOW_DIVISOR": 4, "GATE_CHANNELS": 8,
    "VOCAB_SIZE": VOCAB, "TOTAL_BATCH_SIZE": 16 * T, "DEVICE_BATCH_SIZE": 8, "MUON_RAMP_STEPS": 20,
    "PRECISION": "float32", "COMPILE": False, "ATTENTION": "sdpa",
}  # fmt: skip


def rendered(path: Path, values: dict[str, object]) -> str:
    text = path.read_text()
    for name, value in values.items():
        text, count = re.subn(rf"^{name} = [^#\n]*?(  #.*)?$", f"{name} = {value!r}\\1", text, flags=re.MULTILINE)
        assert count == 1, name
    return text


def write_lab(folder: Path, **knobs: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "prepare.py").write_text(rendered(TRAINER / "prepare.py", CONSTANTS))
    for path in TRAINER.glob("data_*.py"):
        shutil.copy(path, folder)
    (folder / "train.py").write_text(rendered(TRAINER / "train.py", {**KNOBS, **knobs}))
    return folder


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EVO_")}
    return {**kept, "OMP_NUM_THREADS": "1", "EVO_DEVICE": "cpu", **variables}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lab with its data, made of sources of the standard library."""
    folder = write_lab(tmp_path_factory.mktemp("lab"))
    texts = folder / "texts"
    texts.mkdir()
    for path in sorted(Path(sysconfig.get_path("stdlib"), "asyncio").glob("*.py")):
        (texts / f"{path.stem}.txt").write_text(path.read_text())
    command = [sys.executable, "prepare.py", "--from", "texts", "--out", "data", "--json"]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=True)
    (folder / "data.json").write_text(done.stdout.splitlines()[-1])
    return folder


@pytest.fixture
def modules(lab: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports `prepare` and `train` of a lab afresh, as `modules(folder) -> (prepare, train)`."""

    def load(folder: Path = lab) -> tuple[ModuleType, ModuleType]:
        for name in ("prepare", "train"):
            sys.modules.pop(name, None)
        monkeypatch.syspath_prepend(folder)
        return importlib.import_module("prepare"), importlib.import_module("train")

    monkeypatch.setenv("EVO_DEVICE", "cpu")
    yield load
    for name in ("prepare", "train"):
        sys.modules.pop(name, None)


@dataclass
class Run:
    """What the harness saw of one training process."""

    start: dict[str, Any]
    steps: list[dict[str, Any]]
    weights: dict[str, Any]
    state: dict[str, torch.Tensor]
    seconds: float
    code: int


def exactly(channel: socket.socket, count: int) -> bytes:
    content = b""
    while len(content) < count:
        part = channel.recv(min(count - len(content), 1 << 20))
        assert part, "the program closed the channel"
        content += part
    return content


def receive(channel: socket.socket) -> dict[str, Any]:
    return json.loads(exactly(channel, struct.unpack(">I", exactly(channel, 4))[0]))


def framed(message: dict[str, Any]) -> bytes:
    text = json.dumps(message).encode()
    return struct.pack(">I", len(text)) + text


def harness(lab: Path, budget: float, seed: int = 1) -> Run:
    """The parent's side of the protocol."""
    data = json.loads((lab / "data.json").read_text())
    entry = data["manifest"]["vocabularies"][str(VOCAB)]["train"]
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    variables = environment(EVO_CHANNEL=str(theirs.fileno()), EVO_SEED=str(seed), EVO_DATA_DIR="/nonexistent")
    with ours, subprocess.Popen([sys.executable, "train.py"], cwd=lab, env=variables, pass_fds=[theirs.fileno()]) as process:
        theirs.close()
        start = receive(ours)
        with open(Path(data["data"]) / entry["file"], "rb") as rows:
            go = {"op": "go", "budget_seconds": budget, "rows": entry["rows"], "row_tokens": T + 1}
            socket.send_fds(ours, [framed(go)], [rows.fileno()])
        started, steps = time.monotonic(), []
        while (message := receive(ours))["op"] == "step":
            steps.append(message)
        content = exactly(ours, message["bytes"])
        seconds = time.monotonic() - started
        ours.sendall(framed({"op": "done"}))
        code = process.wait(30)
    return Run(start, steps, message, torch.load(io.BytesIO(content), weights_only=True), seconds, code)


@pytest.fixture(scope="module")
def run(lab: Path) -> Run:
    return harness(lab, budget=3.0)


def test_a_program_trains_over_the_channel(run: Run) -> None:
    assert run.code == 0
    assert run.start == {"op": "start", "batch_size": 8, "vocab_size": VOCAB}
    assert 3.0 <= run.seconds < 6.0
    assert run.steps[-1]["step"] == run.weights["steps"] > 10
    assert run.weights["tokens"] == run.weights["steps"] * 16 * T or run.weights["tokens"] == run.weights["steps"] * 16 * T + 8 * T
    assert run.weights["peak_memory_gib"] > 0.05
    assert [point["step"] for point in run.steps] == sorted({point["step"] for point in run.steps})
    assert len(run.steps) <= 3.0 / 0.2 + 2, "at most five a second"


BARE = """
import prepare, torch
model = torch.nn.Linear(1, 1)
for x, y in prepare.batches(4, prepare.DEFAULT_VOCAB):
    torch.sin(torch.ones(300, 300))
prepare.save(model)
"""


def test_a_program_without_rehearsal_and_reports_counts_batches(lab: Path, tmp_path: Path) -> None:
    for name in ("prepare.py", "data.json"):
        (tmp_path / name).write_text((lab / name).read_text())
    (tmp_path / "train.py").write_text(BARE)
    run = harness(tmp_path, budget=1.0)
    assert run.code == 0
    assert run.weights["tokens"] == run.weights["steps"] * 4 * T
    assert run.steps[-1] == {"op": "step", "step": run.weights["steps"], "tokens": run.weights["tokens"], "loss": None}
    assert [point["step"] for point in run.steps] == sorted({point["step"] for point in run.steps})


def test_the_loss_falls(run: Run) -> None:
    assert run.steps[0]["loss"] < 6.1
    assert run.steps[-1]["loss"] < 4.5


def test_the_weights_load_into_build_model_and_are_causal(run: Run, modules: Any) -> None:
    _, train = modules()
    model = train.build_model()
    model.load_state_dict(run.state)
    assert run.weights["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    tokens = torch.randint(VOCAB, (2, T), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % VOCAB
    with torch.no_grad():
        logits, other, alone = model(tokens), model(changed), model(tokens[:1])
    assert logits.shape == (2, T, VOCAB)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits[:, :20], other[:, :20])
    torch.testing.assert_close(logits[:1], alone)
    assert not torch.allclose(logits[:, 20:], other[:, 20:])


def steps_of(lab: Path, modules: Any, monkeypatch: pytest.MonkeyPatch, seed: int, count: int = 6) -> list[float]:
    """Losses of the first steps on real text, without a clock."""
    prepare, train = modules()
    monkeypatch.setattr(prepare, "progress", lambda: 0.25)
    prepare._run.budget = 600.0  # never spent, however busy the machine is
    monkeypatch.setenv("EVO_SEED", str(seed))
    monkeypatch.setenv("EVO_DATA_DIR", str(lab / "data"))
    torch.manual_seed(prepare.seed())
    model = train.build_model()
    optimisers = train.build_optimisers(model)
    losses = []

    def loss_of(*arguments: Any) -> torch.Tensor:
        loss = train.mean_loss(*arguments)
        losses.append(loss.item())
        return loss

    train.train(model, optimisers, loss_of, itertools.islice(prepare.batches(8, VOCAB), 2 * count))
    return losses


def test_the_seed_decides_the_losses(lab: Path, modules: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = steps_of(lab, modules, monkeypatch, seed=1)
    assert one == steps_of(lab, modules, monkeypatch, seed=1)
    assert one != steps_of(lab, modules, monkeypatch, seed=2)


def test_the_rehearsal_leaves_no_trace(modules: Any) -> None:
    """State before the first real batch equals the initial state bit for bit, and so does what training makes of it."""
    prepare, train = modules()
    batches = [pair for pair, _ in zip(prepare.warmup_batches(8, VOCAB), range(8), strict=False)]
    results = []
    for rehearse in (True, False):
        torch.manual_seed(3)
        model = train.build_model()
        initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        optimisers = train.build_optimisers(model)
        randomness = torch.get_rng_state()
        if rehearse:
            train.rehearse(model, optimisers, train.mean_loss)
        assert torch.equal(randomness, torch.get_rng_state())
        assert all(torch.equal(initial[name], tensor) for name, tensor in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not any(tensor.any() for optimiser in optimisers for state in optimiser.state.values() for tensor in state.values())
        train.train(model, optimisers, train.mean_loss, iter(batches))
        results.append(model.state_dict())
    assert all(torch.equal(tensor, results[1][name]) for name, tensor in results[0].items())
    assert any(not torch.equal(tensor, initial[name]) for name, tensor in results[0].items())


def reference_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, size: int) -> torch.Tensor:
    scores = q @ k.mT / q.size(-1) ** 0.5
    for i, j in itertools.product(range(q.size(-2)), repeat=2):
        if not 0 <= i - j <= size:
            scores[..., i, j] = -torch.inf
    return scores.softmax(-1) @ v


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("size", [4, T])
def test_attention_paths_agree_with_an_explicit_mask(modules: Any, size: int) -> None:
    _, train = modules()
    q, k, v = torch.randn(3, 2, 3, T, 16, generator=torch.Generator().manual_seed(0))
    expected = reference_attention(q, k, v, size)
    for path in (train.sdpa_attention, train.flex_attention):
        torch.testing.assert_close(path(T, size, q.device)(q, k, v), expected)


def gradients(attend: Any, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """Of q, k and v, and the values before them, in float32."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = attend(*leaves)
    toward = torch.randn(out.shape, device=out.device, generator=torch.Generator(out.device).manual_seed(1))
    return [x.float() for x in (out.detach(), *torch.autograd.grad(out, leaves, toward.to(out.dtype)))]


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("package", [True, False], ids=["cudnn-frontend", "torch-alone"])
@pytest.mark.parametrize("size", [300, 512, 1024])
def test_attention_paths_agree_on_a_gpu_in_its_number_format(
    modules: Any, monkeypatch: pytest.MonkeyPatch, size: int, package: bool
) -> None:
    """Compiled, forward and backward, with windows of several blocks: options of a kernel that are wrong show nowhere else."""
    _, train = modules()
    if not package:
        monkeypatch.setitem(sys.modules, "cudnn", None)  # imports of it fail
    elif size < 1024:
        pytest.importorskip("cudnn.sdpa.fwd.torch_op", reason="nvidia-cudnn-frontend is not installed here")
    monkeypatch.setattr(train, "PRECISION", "bfloat16")
    monkeypatch.setattr(train, "COMPILE", True)
    monkeypatch.setattr(train, "HEAD_DIM", 64)
    length = 1024
    q, k, v = torch.randn(3, 2, length, 3, 64, device="cuda", dtype=torch.bfloat16).transpose(2, 3).unbind()
    expected = gradients(train.sdpa_attention(length, size, q.device), q.float(), k.float(), v.float())
    for got, right in zip(gradients(train.flex_attention(length, size, q.device), q, k, v), expected, strict=True):
        torch.testing.assert_close(got, right, atol=4e-2, rtol=2e-2)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_pytorchs_cross_entropy(modules: Any, smoothing: float) -> None:
    _, train = modules()
    logits = (30 * torch.rand(4 * T, VOCAB, generator=torch.Generator().manual_seed(0)) - 15).requires_grad_()
    targets = torch.randint(VOCAB, (4 * T,), generator=torch.Generator().manual_seed(1))
    expected = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=smoothing)
    loss = train.cross_entropy(logits, targets, label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits))


def test_windows_follow_the_pattern_and_the_last_block_sees_everything(modules: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, train = modules()
    assert [train.window(layer) for layer in range(3)] == [T // 4, T, T]
    monkeypatch.setattr(train, "WINDOW_PATTERN", "S")
    assert [train.window(layer) for layer in range(3)] == [T // 4, T // 4, T]


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 64, 16), (2, 16, 64), (1, 1, 8)])
def test_orthogonalise_sends_singular_values_near_one(modules: Any, shape: tuple[int, ...]) -> None:
    _, train = modules()
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(train.orthogonalise(matrices))
    assert values.min() > 0.6
    assert values.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    torch.testing.assert_close(train.orthogonalise(matrices), left @ right, atol=0.4, rtol=0)


def test_muon_decays_only_where_it_agrees(modules: Any) -> None:
    _, train = modules()
    generator = torch.Generator().manual_seed(0)
    weights, grads = torch.randn(2, 1, 8, 8, generator=generator)
    results = []
    for decay in (0.0, 0.5):
        mean, squares, changed = torch.zeros_like(grads), torch.zeros(1, 8, 1), weights.clone()
        train.muon_update(grads, changed, mean, squares, torch.tensor(0.1), torch.tensor(0.9), torch.tensor(decay))
        results.append(changed)
    plain, decayed = results
    agrees = (weights - plain) * weights >= 0
    torch.testing.assert_close(decayed, torch.where(agrees, plain - 0.05 * weights, plain))
    assert torch.linalg.matrix_norm(weights - plain).item() == pytest.approx(0.1 * 8**0.5, rel=0.15), "the norm of an orthogonal matrix"


def test_rates_rise_stay_and_fall(modules: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, train = modules()
    for name, value in {"WARMUP_RATIO": 0.1, "WARMDOWN_RATIO": 0.4, "FINAL_LR_FRAC": 0.1}.items():
        monkeypatch.setattr(train, name, value)
    found = [train.rate_factor(progress) for progress in (0.0, 0.05, 0.1, 0.6, 0.8, 1.0)]
    assert found == pytest.approx([0.0, 0.5, 1.0, 1.0, 0.55, 0.1])
    for name in ("WARMUP_RATIO", "WARMDOWN_RATIO"):
        monkeypatch.setattr(train, name, 0.0)
    assert [train.rate_factor(progress) for progress in (0.0, 0.5, 1.0)] == [1.0, 1.0, 1.0]


def test_an_exploding_loss_ends_the_run(lab: Path, tmp_path: Path) -> None:
    write_lab(tmp_path, MAX_LOSS=0.1)
    (tmp_path / "data.json").write_text((lab / "data.json").read_text())
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, env=environment(EVO_DATA_DIR=str(lab / "data")), capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "FloatingPointError: the loss is" in done.stderr


def test_a_total_batch_that_does_not_divide_is_named(modules: Any, tmp_path: Path) -> None:
    _, train = modules(write_lab(tmp_path, TOTAL_BATCH_SIZE=1000))
    with pytest.raises(ValueError, match="1000 is no multiple of 8 rows of 32 = 256 tokens"):
        train.accumulation()


def test_importing_has_no_side_effects(lab: Path, tmp_path: Path) -> None:
    code = (
        "import os, sys, torch; before = torch.get_rng_state(), torch.get_num_threads(), dict(os.environ); import train;"
        "assert torch.equal(before[0], torch.get_rng_state()) and before[1:] == (torch.get_num_threads(), dict(os.environ));"
        "assert not {'torch._dynamo', 'torch._inductor', 'pyarrow', 'tiktoken'} & set(sys.modules)"
    )
    variables = environment(PYTHONPATH=str(lab), PYTHONDONTWRITEBYTECODE="1", EVO_DATA_DIR=str(tmp_path / "data"))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_alone_it_trains_scores_itself_and_says_so(lab: Path) -> None:
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=lab, env=environment(EVO_DATA_DIR=str(lab / "data")), capture_output=True, text=True, check=True
    )
    summary = dict(re.findall(r"^(\w+): +([\d.]+)$", done.stdout.split("---\n")[1], flags=re.MULTILINE))
    assert {"val_bpb", "training_seconds", "total_seconds", "peak_vram_mb", "num_steps", "num_params_M"} <= set(summary)
    assert 1.0 < float(summary["val_bpb"]) < 6.0
    assert 1.0 <= float(summary["training_seconds"]) < 3.0
    assert "evo.evaluate" in done.stdout
    assert (lab / "model.pt").is_file()


def failing(folder: Path, **variables: str) -> str:
    done = subprocess.run([sys.executable, "train.py"], cwd=folder, env=environment(**variables), capture_output=True, text=True)
    assert done.returncode == 1
    return done.stderr


def test_without_data_it_says_what_to_run(lab: Path, tmp_path: Path) -> None:
    message = failing(lab, EVO_DATA_DIR=str(tmp_path / "nothing"))
    assert "python prepare.py" in message
    assert message.count("\n") == 1


def test_the_h100_seed_elsewhere_says_how_to_render_it(tmp_path: Path) -> None:
    for name in ("prepare.py", "train.py"):
        (tmp_path / name).write_text((TRAINER / name).read_text())
    message = failing(tmp_path)
    assert "python -m evo.evaluate FILE --render" in message
    assert message.count("\n") == 1


def test_a_refusal_reaches_the_program(lab: Path) -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    variables = environment(EVO_CHANNEL=str(theirs.fileno()))
    command = [sys.executable, "train.py"]
    with ours, subprocess.Popen(command, cwd=lab, env=variables, pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, text=True) as process:
        theirs.close()
        receive(ours)
        ours.sendall(framed({"op": "refuse", "message": "vocabulary 400 is not prepared"}))
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "RuntimeError: the harness answers: vocabulary 400 is not prepared" in errors
