"""From settings to a model at its desk: its endpoint, the dry run of what it writes, what it is told about where programs are trained."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from evaluator.compat import CompatConfig
from evaluator.slot import SlotConfig
from evo.assembly import Assembly
from evo.config import LlmConfig
from evo.folder import tokens_spent
from evo.lab import offers
from evo.llm.brief import Setting
from evo.llm.desk import Aside, Desk, NoDesk
from evo.llm.writer import ModelWriter, settings_of
from evo.preflight import Preflight, for_slot, trouble

if TYPE_CHECKING:
    from evo.llm.endpoint import Model


def connected(llm: LlmConfig) -> Model | None:
    """The model that the settings name; None if they name none.

    Raises:
        UserError: it cannot be asked as things are.
    """
    if not llm.writes:
        return None
    from evo.llm.endpoint import connect  # its client takes a second to import, and few runs need it

    return connect(llm, os.environ)


@contextlib.contextmanager
def desk(llm: LlmConfig, assembled: Assembly, model: Model | None, doubt: Aside | None, run_dir: Path) -> Iterator[Desk]:
    """Where the model writes; a desk that is never open if there is none.

    Args:
        doubt: asks why the first call may fail.
    """
    if model is None:
        yield NoDesk()
        return
    with preflight(llm, assembled) as dry_run:
        asked = settings_of(assembled.lab.folder, _setting(assembled))
        writer = ModelWriter(model, asked, llm.prompt_bytes, None if dry_run is None else lambda program: trouble(dry_run(program)))
        yield Desk(writer, llm.calls or len(assembled.evaluators), llm.token_limit, tokens_spent(run_dir), doubt)


@contextlib.contextmanager
def preflight(llm: LlmConfig, assembled: Assembly) -> Iterator[Preflight | None]:
    """The dry run of what a model writes, as `llm.dry_run` says. None on CPU slots by default, whose trainings it would take time from;
    always None in compat mode and on the instant lab."""
    slot, wanted = assembled.evaluators[0], llm.dry_run == "always" or (llm.dry_run == "auto" and assembled.device != "cpu")
    if not (wanted and isinstance(slot, SlotConfig)):
        yield None
        return
    with contextlib.closing(for_slot(slot)) as made:
        yield made


def _setting(assembled: Assembly) -> Setting:
    """What the model is told about where its programs are trained."""
    slot = assembled.evaluators[0]
    return Setting(
        agenda=assembled.lab.program,
        profile=assembled.profile,
        budget_seconds=assembled.rendered.budget_seconds,
        device=assembled.device,
        threads=slot.threads if isinstance(slot, SlotConfig | CompatConfig) else 0,
        memory_gib=assembled.memory_gib,
        offers=offers(assembled.rendered),
    )
