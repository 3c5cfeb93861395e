"""Slots on Ray: one actor each, on this machine or on a cluster. The only home of `ray`.

Ray's promises are not relied upon. No call waits without a limit; an evaluation has a deadline of its own; an actor that dies, hangs or
is out of reach is replaced, its candidate Interrupted (unless its outcome file is there: then it had finished). An actor gets work once
its process answers, so that a slot whose machine is gone takes none until there is another machine. What a slot runs on is reserved for it
from start to end (a placement group of its own): its next actor gets the same GPU, unless that machine is gone, and the GPU of a retired
slot goes to no other. Actors are never restarted and calls never retried by Ray, which would run a candidate twice behind the driver's
back. A killed driver takes its raylet and actors with it within seconds (watchdog.py sees to the rest); an actor's death closes the
lifeline of whatever it had started (evaluator/launch.py).

Not covered: machines that do not share the run folder with the driver (a kill between outcome and report loses that evaluation there).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluator.instant import Landscape
from evaluator.outcome import CurvePoint, Interrupted
from evaluator.scratch import sweep
from evo.actor import SlotActor
from evo.core.records import Candidate
from evo.errors import ClusterError, UserError
from evo.executor import UNABLE, Running, SlotSpec, cannot_work, check_submission
from evo.folder import Finished, read_outcomes

# Read when ray is imported: no telemetry, no uploads of the working folder by `uv run`, no restyled GPU masks for CPU actors, and 20 s
# instead of 60 until a driver whose Ray server was killed ends (Ray ends it: exit code 1, nothing finished is lost).
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Workers at the niceness of the driver: at Ray's 15 any other work on the machine would take the cores of a training.
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "20")
# Ray would end a slot's process when the machine's memory runs short, whoever has taken it; programs have limits of their own.
os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")

import ray
import ray.exceptions
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

PROJECT = str(Path(__file__).resolve().parent.parent)
OBJECT_STORE_BYTES = 100 * 2**20  # programs and outcomes are small
SHORT_PLACES = ("/tmp", "/var/tmp")
LONGEST_PLACE = 22  # bytes: a socket's name has room for 104 (macOS) or 107, and the folder, session and socket take the rest
ANSWER_SECONDS = 10.0  # longest wait for what Ray should answer at once
ALIVE_EVERY_SECONDS = 5.0
POINT_EVERY_SECONDS = 1.0
START_SECONDS = 30.0  # time that all slots get to start before the first of them is given work
NO_SLOT_SECONDS = 900.0  # time without any slot after which the run ends


@dataclass
class _Job:
    """A candidate on a slot."""

    candidate: Candidate
    ticket: int
    actor: Any
    result: Any  # reference of the evaluation's result
    trained: Any  # reference that is ready when the slot can take another candidate beside it; None once it is, or if it never will be
    patience_seconds: float  # time that it gets: twice as much if it waits for another
    deadline: float  # monotonic, when that time is up
    started: float  # seconds since the epoch
    point: CurvePoint | None = None
    asked: Any = None  # reference of a point asked for
    asked_at: float = 0.0

    @property
    def index(self) -> int:
        return self.candidate.index


@dataclass
class _Place:
    """A slot as the driver sees it: its actor, and what runs there, which is two candidates while the first of them is scored."""

    spec: SlotSpec
    reserved: PlacementGroup  # its GPU, or its core, as long as the run goes on
    actor: Any
    starts: Any  # reference that is ready when the actor's process answers; None once it has
    retired: bool = False
    jobs: list[_Job] = field(default_factory=list)

    @property
    def is_free(self) -> bool:
        if self.retired or self.starts is not None:
            return False
        return not self.jobs or (self.spec.overlaps and len(self.jobs) == 1 and self.jobs[0].trained is None)


class RayExecutor:
    """`Executor` on Ray. If Ray is up in this process already, it is used, and left running."""

    def __init__(self, specs: tuple[SlotSpec, ...], address: str = "") -> None:
        """
        Args:
            address: of a running cluster; "": RAY_ADDRESS, else a cluster of our own that ends with this process.
        Raises:
            UserError: no cluster at the address, or it has fewer GPUs or CPUs than slots.
            ClusterError: Ray does not start here.
        """
        self._gpus = 1 if _device(specs[0]) == "cuda" else 0
        self._kind = "GPU" if self._gpus else "CPU"
        self._owner = not ray.is_initialized()
        address = address or os.environ.get("RAY_ADDRESS", "")
        if self._owner and address:
            _require_listener(address)
        folder = _folder() if self._owner and not address else None
        self._watchdog = _watchdog(folder) if self._owner else None
        self._places: list[_Place] = []
        self._tickets = 0
        try:
            self._start(specs, address, folder)
        except BaseException:  # Ctrl-C too: a process that ends while Ray is up in it ends by a segmentation fault now and then
            self.close()
            raise

    def _start(self, specs: tuple[SlotSpec, ...], address: str, folder: str | None) -> None:
        if self._owner:
            connect(address, len(specs), self._gpus, folder)
        if self._watchdog is not None and self._watchdog.stdin is not None:
            self._watchdog.stdin.write(b"Ray is up\n")
            self._watchdog.stdin.flush()
        _check_size(len(specs), self._kind)
        self._alive_at = self._started_at = time.monotonic()
        reserved = [placement_group([{self._kind: 1}]) for _ in specs]
        self._places = [_Place(spec, group, *self._spawn(spec, group)) for spec, group in zip(specs, reserved, strict=True)]
        ray.wait([place.starts for place in self._places], num_returns=len(specs), timeout=START_SECONDS)

    @property
    def slots(self) -> int:
        return sum(not place.retired for place in self._places)

    @property
    def starting(self) -> int:
        self._see_starts()
        return sum(place.starts is not None for place in self._places)

    @property
    def free_slots(self) -> int:
        self._see_starts()
        return sum(place.is_free for place in self._places)

    def submit(self, candidate: Candidate, text: str) -> None:
        check_submission(self, candidate)
        place = min((p for p in self._places if p.is_free), key=lambda p: len(p.jobs))
        patience = place.spec.patience_seconds * (1 + len(place.jobs))
        self._tickets += 1
        place.jobs.append(
            _Job(
                candidate,
                self._tickets,
                place.actor,
                result=place.actor.evaluate.remote(candidate, text, self._tickets),
                trained=place.actor.trained.remote(self._tickets) if place.spec.overlaps else None,
                patience_seconds=patience,
                deadline=time.monotonic() + patience,
                started=time.time(),
            )
        )

    def next_finished(self, timeout_seconds: float) -> Finished | None:
        busy = [(place, job) for place in self._places for job in place.jobs]
        awaited = [reference for _, job in busy for reference in (job.result, job.trained) if reference is not None]
        awaited += [place.starts for place in self._places if place.starts is not None]
        if not awaited:
            return None
        ready, _ = ray.wait(awaited, num_returns=1, timeout=timeout_seconds)
        for place, job in busy:
            if job.result in ready:
                return self._collect(place, job)
        for place, job in busy:
            if job.trained in ready:
                job.trained = None
            if time.monotonic() > job.deadline:
                return self._lost(place, job, f"still running after {job.patience_seconds:g} s, longer than its limits allow")
            self._follow(job)
        self._see_starts()
        self._check_alive()
        return None

    def running(self) -> tuple[Running, ...]:
        busy = [(place, job) for place in self._places for job in place.jobs]
        return tuple(Running(j.index, p.spec.name, j.started, j.point) for p, j in sorted(busy, key=lambda both: both[1].started))

    def renew(self, slot: str) -> None:
        place = self._place(slot)
        if not place.retired:
            ray.kill(place.actor)
            place.actor, place.starts = self._spawn(place.spec, place.reserved)

    def retire(self, slot: str) -> bool:
        place = self._place(slot)
        if place.retired or self.slots == 1:
            return False
        place.retired, place.starts = True, None
        ray.kill(place.actor)
        return True

    def close(self) -> None:
        for place in self._places:
            ray.kill(place.actor)
            if not self._owner:  # else it ends with our connection
                remove_placement_group(place.reserved)
        self._places = []
        if self._owner:
            ray.shutdown()
        if self._watchdog is not None:
            self._watchdog.communicate()  # waits until all that was started here has ended, and its folder is gone
            self._watchdog = None
        sweep()  # what the slots' processes have left

    # ---- inside

    def _spawn(self, spec: SlotSpec, reserved: PlacementGroup) -> tuple[Any, Any]:
        """A fresh actor, and the reference that is ready when it has started. It has threads for two evaluations and two questions about
        them."""
        options: dict[str, Any] = {"num_gpus": self._gpus, "num_cpus": 1 - self._gpus}
        options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(reserved)
        actor: Any = ray.remote(SlotActor).options(max_restarts=0, max_task_retries=0, max_concurrency=4, **options).remote(spec)
        return actor, actor.started.remote()

    def _place(self, slot: str) -> _Place:
        return next(place for place in self._places if place.spec.name == slot)

    def _see_starts(self) -> None:
        """Notes which slots have started. One that cannot start counts as started: the failure shows when it is given work."""
        waiting = [place.starts for place in self._places if place.starts is not None]
        ready, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0) if waiting else ([], [])
        for place in self._places:
            if place.starts in ready:
                place.starts = None
        if any(place.starts is None and not place.retired for place in self._places):
            self._started_at = time.monotonic()
        elif time.monotonic() - self._started_at > NO_SLOT_SECONDS:
            raise ClusterError(f"none of the {self.slots} slots has had a machine for {NO_SLOT_SECONDS:g} s")

    def _collect(self, place: _Place, job: _Job) -> Finished:
        try:
            finished: Finished = ray.get(job.result, timeout=ANSWER_SECONDS)
        except ray.exceptions.RayTaskError as error:  # its text is a remote traceback
            if not isinstance(error.cause, UNABLE):
                raise
            present = place.actor is job.actor and not place.retired  # else it says nothing about the slot as it is now
            return self._given_back(place, job, cannot_work(place.spec.name, error.cause), unable=present)
        except ray.exceptions.RayError as error:
            return self._lost(place, job, f"the slot's process was lost ({type(error).__name__})")
        place.jobs.remove(job)
        return finished

    def _lost(self, place: _Place, job: _Job, why: str) -> Finished:
        """Replaces the actor. Whatever else ran there is found lost next."""
        if place.actor is job.actor:
            self.renew(place.spec.name)
        return self._given_back(place, job, f"{place.spec.name}: {why}")

    def _given_back(self, place: _Place, job: _Job, why: str, unable: bool = False) -> Finished:
        """Gives the candidate back as interrupted. If the slot has finished it all the same, the result is in its outcome file."""
        place.jobs.remove(job)
        filed = read_outcomes(place.spec.run_dir).get(job.index)
        return filed or Finished(job.index, Interrupted(why), place.spec.name, job.started, time.time(), unable)

    def _follow(self, job: _Job) -> None:
        """Asks the slot for the latest point, and takes an answer when there is one."""
        if job.asked is not None:
            ready, _ = ray.wait([job.asked], timeout=0)
            if not ready:
                return
            try:
                job.point = ray.get(job.asked, timeout=ANSWER_SECONDS)
            except ray.exceptions.RayError:
                job.point = None  # the loss of the actor shows in its result
            job.asked = None
        if time.monotonic() - job.asked_at > POINT_EVERY_SECONDS:
            job.asked, job.asked_at = job.actor.point.remote(job.ticket), time.monotonic()

    def _check_alive(self) -> None:
        """Asks whether a node is alive, since a dead raylet leaves results pending for good."""
        if time.monotonic() - self._alive_at < ALIVE_EVERY_SECONDS:
            return
        self._alive_at = time.monotonic()
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        if not any(node["Alive"] for node in nodes):
            raise ClusterError("Ray's node process (raylet) died during the run")


def connect(address: str, slots: int, gpus: int, folder: str | None = None) -> None:
    """Starts Ray in this process, quietly.

    Args:
        address: of a running cluster; "" starts one here, with room for `slots` actors of `gpus` GPUs each.
        folder: for Ray's files, if it is started here; None: where Ray usually has them.
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
            ray.init(address="local", _node_ip_address="127.0.0.1", include_dashboard=False, _temp_dir=folder, **size, **quiet)
    except (ConnectionError, ValueError) as error:
        token = Path.home() / ".ray" / "auth_token"  # Ray makes one at its first local start, and a cluster that finds it asks for it
        hint = (
            f"set RAY_AUTH_MODE=token if it asks for the token in {token}; " if token.exists() and "RAY_AUTH_MODE" not in os.environ else ""
        )
        raise UserError(f"no Ray cluster at {address}: {error}; {hint}start it, or leave run.ray_address and RAY_ADDRESS unset") from error
    except (ray.exceptions.RayError, RuntimeError, OSError) as error:
        raise ClusterError(f"Ray does not start here: {error}; `--set run.executor=inline` works without Ray") from error


def _folder() -> str:
    """A folder for Ray's files in the first place for temporary files that has room for the names of its sockets.

    Raises:
        UserError: there is none.
    """
    places = dict.fromkeys((os.environ.get("RAY_TMPDIR") or tempfile.gettempdir(), *SHORT_PLACES))
    for place in places:
        if len(os.fsencode(place)) <= LONGEST_PLACE:
            with contextlib.suppress(OSError):
                return tempfile.mkdtemp(prefix="evo-ray-", dir=place)
    raise UserError(
        f"Ray needs a folder that can be written to, of at most {LONGEST_PLACE} characters; none of {', '.join(places)} is one: "
        "set TMPDIR, or `--set run.executor=inline` does without Ray"
    )


def _require_listener(address: str) -> None:
    """Raises UserError where nothing listens at HOST:PORT: Ray would end this process after half a minute, without a message of ours."""
    found = re.fullmatch(r"(?:ray://)?\[?([^\[\]/]+?)\]?:(\d{1,5})", address)
    if found is None:  # "auto", or what Ray itself refuses
        return
    try:
        socket.create_connection((found[1], int(found[2])), timeout=ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster at {address}: {error}; start it, or leave run.ray_address and RAY_ADDRESS unset") from error


def _watchdog(folder: str | None) -> subprocess.Popen[bytes]:
    """Watches over the Ray processes that this process is about to start, and over the folder of their files."""
    command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("watchdog.py")), str(os.getpid()), *filter(None, [folder])]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def _check_size(slots: int, kind: str) -> None:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    have = resources.get(kind, 0)
    if slots > have:
        raise UserError(f"the Ray cluster has {have:g} {kind}s for {slots} slots, which need one each; ask for no more")


def _device(spec: SlotSpec) -> str:
    return "cpu" if isinstance(spec.evaluator, Landscape) else spec.evaluator.device
