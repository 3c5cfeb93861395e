"""A slot's process, as the executor on Ray starts it: the methods that the driver calls remotely."""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import replace
from typing import IO

from evaluator import key
from evaluator.evaluate import Evaluate, HarnessError
from evaluator.instant import Landscape
from evaluator.outcome import CurvePoint
from evo.core.records import Candidate
from evo.executor import SlotSpec, evaluate_and_file, hold
from evo.folder import Finished
from evo.machine import probe


class SlotActor:
    """A slot's process. Evaluates in one thread, or in two where evaluations overlap, and answers questions about them in others."""

    def __init__(self, spec: SlotSpec) -> None:
        self._spec = spec
        self._evaluate: Evaluate | None = None
        self._hold: IO[str] | None = None
        self._points: dict[int, CurvePoint] = {}
        self._trained: dict[int, threading.Event] = {}

    def evaluate(self, candidate: Candidate, text: str, ticket: int) -> Finished:
        """One evaluation, its outcome filed before it is returned.

        Args:
            ticket: number by which the other methods refer to it; a candidate may come twice.
        """
        trained = self._event(ticket) if self._spec.overlaps else threading.Event()  # else nobody waits for it

        def watch(point: CurvePoint) -> None:
            self._points[ticket] = point

        try:
            return evaluate_and_file(self._spec, self._evaluator(), candidate, text, watch, trained.set)
        finally:
            trained.set()
            self._points.pop(ticket, None)

    def started(self) -> None:
        """Returns once the process is up."""

    def point(self, ticket: int) -> CurvePoint | None:
        """The latest point of the running curve."""
        return self._points.get(ticket)

    def trained(self, ticket: int) -> None:
        """Returns when the slot can take another candidate beside this one, at the latest when this one ends. Called once per evaluation,
        where evaluations overlap."""
        self._event(ticket).wait()
        del self._trained[ticket]  # the evaluation, which was here first or has woken this, has its own reference to it

    def _evaluator(self) -> Evaluate:
        if self._hold is None:
            self._hold = hold(self._spec.run_dir)
        if self._evaluate is None:
            _require_comparable(self._spec)
            self._evaluate = _on_own_gpu(self._spec).make()
        return self._evaluate

    def _event(self, ticket: int) -> threading.Event:
        return self._trained.setdefault(ticket, threading.Event())  # whoever comes first makes it


def _require_comparable(spec: SlotSpec) -> None:
    """Raises HarnessError where this machine is of another kind than the run measures on: its scores would be compared all the same."""
    if not spec.comparable or isinstance(spec.evaluator, Landscape):
        return
    device, machine = spec.evaluator.device, probe()
    if device == "cuda" and not machine.gpus:
        raise HarnessError(f"{socket.gethostname()}: torch finds no GPU there; see to its driver, or keep that machine out of the cluster")
    here = key.comparable(device, machine.model(device))
    if here != spec.comparable:
        raise HarnessError(
            f"{socket.gethostname()} is {here}, but this run measures on {spec.comparable}, and their scores cannot be compared: "
            "keep that machine out of the cluster"
        )


def _on_own_gpu(spec: SlotSpec) -> SlotSpec:
    """The slot, on the GPU that Ray gave to this process."""
    if isinstance(spec.evaluator, Landscape) or spec.evaluator.device != "cuda":
        return spec
    return replace(spec, evaluator=replace(spec.evaluator, gpu=os.environ["CUDA_VISIBLE_DEVICES"]))
