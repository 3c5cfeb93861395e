"""Slots on Ray: one actor each, on this machine or on a cluster. The only home of `ray`.

Ray's promises are not relied upon. No call waits without a limit; an evaluation has a deadline of its own; an actor that dies, hangs or
is out of reach is replaced, its candidate Interrupted (unless its outcome file is there: then it had finished). Actors are never
restarted and calls never retried by Ray, which would run a candidate twice behind the driver's back. A killed driver takes its
raylet and actors with it within seconds (watchdog.py sees to the rest); an actor's death closes the lifeline of whatever it had started
(evaluator/launch.py).

Not covered: machines that do not share the run folder with the driver (a kill between outcome and report loses that evaluation there).
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from evaluator.evaluate import Evaluate, HarnessError
from evaluator.instant import Landscape
from evaluator.outcome import CurvePoint, Interrupted
from evo.errors import ClusterError, UserError
from evo.executor import Finished, Running, SlotSpec, check_submission, evaluate_and_file, hold
from evo.folder import read_outcomes
from evo.records import Candidate

# Read when ray is imported: no telemetry, no uploads of the working folder by `uv run`, no restyled GPU masks for CPU actors, and 20 s
# instead of 60 until a driver whose Ray server was killed ends (Ray ends it: exit code 1, nothing finished is lost).
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Workers at the niceness of the driver: at Ray's 15 any other work on the machine would take the cores of a training.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "20")

import ray
import ray.exceptions

PROJECT = str(Path(__file__).resolve().parent.parent)
OBJECT_STORE_BYTES = 100 * 2**20  # programs and outcomes are small
ANSWER_SECONDS = 10.0  # for what Ray should answer at once
ALIVE_EVERY_SECONDS = 5.0
POINT_EVERY_SECONDS = 1.0


class SlotActor:
    """A slot's process. Evaluates in one thread and tells the latest point of its curve from another."""

    def __init__(self, spec: SlotSpec) -> None:
        self._spec = spec
        self._evaluate: Evaluate | None = None
        self._hold: IO[str] | None = None
        self._point: CurvePoint | None = None

    def evaluate(self, candidate: Candidate, text: str) -> Finished:
        """One evaluation, its outcome filed before it is returned."""
        if self._evaluate is None:
            self._hold = hold(self._spec.run_dir)
            self._evaluate = _on_own_gpu(self._spec).make()
        self._point = None
        return evaluate_and_file(self._spec, self._evaluate, candidate, text, self._watch)

    def point(self) -> CurvePoint | None:
        """The latest point of the running curve."""
        return self._point

    def _watch(self, point: CurvePoint) -> str | None:
        self._point = point
        return None


@dataclass
class _Place:
    """A slot as the driver sees it: its actor, and what runs there."""

    spec: SlotSpec
    actor: Any
    candidate: Candidate | None = None
    result: Any = None  # reference of the evaluation's result
    started: float = 0.0
    deadline: float = 0.0  # monotonic
    point: CurvePoint | None = None
    asked: Any = None  # reference of a point asked for
    asked_at: float = 0.0


class RayExecutor:
    """`Executor` on Ray; where Ray is up in this process already, that is used, and left running."""

    def __init__(self, specs: tuple[SlotSpec, ...], address: str = "") -> None:
        """
        Args:
            address: of a running cluster; "": RAY_ADDRESS, else a cluster of our own that ends with this process.
        Raises:
            UserError: no cluster at the address, or it has fewer GPUs than slots.
            ClusterError: Ray does not start here.
        """
        self._gpus = 1 if _device(specs[0]) == "cuda" else 0
        self._owner = not ray.is_initialized()
        self._watchdog = _watchdog() if self._owner else None
        if self._owner:
            connect(address or os.environ.get("RAY_ADDRESS", ""), len(specs), self._gpus)
        if self._watchdog is not None and self._watchdog.stdin is not None:
            self._watchdog.stdin.write(b"Ray is up\n")
            self._watchdog.stdin.flush()
        _check_gpus(len(specs) * self._gpus, leave=self._owner)
        self._alive_at = time.monotonic()
        self._places = [_Place(spec, self._spawn(spec)) for spec in specs]

    @property
    def slots(self) -> int:
        return len(self._places)

    @property
    def free_slots(self) -> int:
        return sum(1 for place in self._places if place.candidate is None)

    def submit(self, candidate: Candidate, text: str) -> None:
        check_submission(self, candidate)
        place = next(p for p in self._places if p.candidate is None)
        place.candidate, place.started, place.point = candidate, time.time(), None
        place.deadline = time.monotonic() + place.spec.patience_seconds
        place.result = place.actor.evaluate.remote(candidate, text)

    def next_finished(self, timeout_seconds: float) -> Finished | None:
        busy = [place for place in self._places if place.candidate is not None]
        if not busy:
            return None
        ready, _ = ray.wait([place.result for place in busy], num_returns=1, timeout=timeout_seconds)
        for place in busy:
            if place.result in ready:
                return self._collect(place)
        for place in busy:
            if time.monotonic() > place.deadline:
                return self._lost(place, f"no end after {place.spec.patience_seconds:g} s, its limits are less")
            self._follow(place)
        self._check_alive()
        return None

    def running(self) -> tuple[Running, ...]:
        busy = sorted((p for p in self._places if p.candidate is not None), key=lambda p: p.started)
        return tuple(Running(p.candidate.proposal.index, p.spec.name, p.started, p.point) for p in busy if p.candidate is not None)

    def close(self) -> None:
        for place in self._places:
            ray.kill(place.actor)
        self._places = []
        if self._owner:
            ray.shutdown()
        if self._watchdog is not None:
            self._watchdog.communicate()
            self._watchdog = None

    # ---- inside

    def _spawn(self, spec: SlotSpec) -> Any:
        """A fresh actor. Two threads: the evaluation, and questions about it."""
        options = {"num_gpus": 1} if self._gpus else {"num_cpus": 1}
        return ray.remote(SlotActor).options(max_restarts=0, max_task_retries=0, max_concurrency=2, **options).remote(spec)

    def _collect(self, place: _Place) -> Finished:
        try:
            finished: Finished = ray.get(place.result, timeout=ANSWER_SECONDS)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError, ray.exceptions.ObjectLostError) as error:
            return self._lost(place, f"the slot's process was lost ({type(error).__name__})")
        except ray.exceptions.RayTaskError as error:  # its text is a remote traceback
            raise _cause(place.spec.name, error) from error
        _release(place)
        return finished

    def _lost(self, place: _Place, why: str) -> Finished:
        """Replaces the actor. What it may have finished all the same is in its outcome file."""
        assert place.candidate is not None
        index, started = place.candidate.proposal.index, place.started
        ray.kill(place.actor)
        report = read_outcomes(place.spec.run_dir).get(index)
        place.actor = self._spawn(place.spec)
        _release(place)
        if report is not None:
            return Finished(index, report.outcome, report.slot, report.started, report.finished)
        return Finished(index, Interrupted(f"{place.spec.name}: {why}"), place.spec.name, started, time.time())

    def _follow(self, place: _Place) -> None:
        """Asks the slot for the latest point, and takes an answer when there is one."""
        if place.asked is not None:
            ready, _ = ray.wait([place.asked], timeout=0)
            if not ready:
                return
            try:
                place.point = ray.get(place.asked, timeout=ANSWER_SECONDS)
            except ray.exceptions.RayError:
                place.point = None  # the loss of the actor shows in its result
            place.asked = None
        if time.monotonic() - place.asked_at > POINT_EVERY_SECONDS:
            place.asked, place.asked_at = place.actor.point.remote(), time.monotonic()

    def _check_alive(self) -> None:
        """A dead raylet leaves results pending for good, so its node is asked about."""
        if time.monotonic() - self._alive_at < ALIVE_EVERY_SECONDS:
            return
        self._alive_at = time.monotonic()
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        if not any(node["Alive"] for node in nodes):
            raise ClusterError("Ray's node process (raylet) died under the run")


def connect(address: str, slots: int, gpus: int) -> None:
    """Starts Ray in this process, quietly.

    Args:
        address: of a running cluster; "" starts one here, with room for `slots` actors of `gpus` GPUs each.
    Raises:
        UserError: no cluster answers at the address.
        ClusterError: Ray does not start here.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": False}
    env = {"PYTHONPATH": os.pathsep.join(filter(None, (PROJECT, os.environ.get("PYTHONPATH", ""))))}
    if not address:
        os.environ["PYTHONPATH"] = env["PYTHONPATH"]  # the raylet's children inherit it
    try:
        if address:
            ray.init(address=address, runtime_env={"env_vars": env}, **quiet)
        else:
            size: dict[str, Any] = {"num_cpus": slots, "num_gpus": slots * gpus, "object_store_memory": OBJECT_STORE_BYTES}
            ray.init(address="local", _node_ip_address="127.0.0.1", include_dashboard=False, **size, **quiet)
    except (ConnectionError, ValueError) as error:
        raise UserError(f"no Ray cluster at {address}: {error}; start it, or leave run.ray_address and RAY_ADDRESS unset") from error
    except (ray.exceptions.RayError, RuntimeError, OSError) as error:
        raise ClusterError(f"Ray does not start here: {error}; `--set run.executor=inline` does without") from error


def _watchdog() -> subprocess.Popen[bytes]:
    """Watches over the Ray processes that this process is about to start."""
    command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("watchdog.py")), str(os.getpid())]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def _check_gpus(wanted: int, leave: bool) -> None:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    have = resources.get("GPU", 0)
    if wanted > have:
        if leave:
            ray.shutdown()
        raise UserError(f"the Ray cluster has {have:g} GPUs for {wanted} slots, which need one each; ask for no more")


def _device(spec: SlotSpec) -> str:
    return "cpu" if isinstance(spec.evaluator, Landscape) else spec.evaluator.device


def _on_own_gpu(spec: SlotSpec) -> SlotSpec:
    """The slot, on the GPU that Ray gave to this process."""
    if isinstance(spec.evaluator, Landscape) or spec.evaluator.device != "cuda":
        return spec
    return replace(spec, evaluator=replace(spec.evaluator, gpu=os.environ["CUDA_VISIBLE_DEVICES"]))


def _cause(slot: str, error: ray.exceptions.RayTaskError) -> BaseException:
    """What a slot raised, as it would be raised here."""
    if isinstance(error.cause, HarnessError):
        return HarnessError(f"{slot}: {error.cause}")
    if isinstance(error.cause, OSError):
        return HarnessError(f"{slot} cannot work: {error.cause}")
    return error


def _release(place: _Place) -> None:
    place.candidate = place.result = place.point = place.asked = None
