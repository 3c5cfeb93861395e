"""The real optuna-dashboard on a run's study: its JSON API and, where there is a browser, the page itself."""

from __future__ import annotations

import html
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from small_run import PROGRAM
from study_facts import facts, make_studied_run, opened, standing, tuned_run

from evo.core.standing import assess
from evo.operators import describe_seed
from evo.store import snapshot
from evo.views.study import FILE, OVERVIEW, StudyView, species_study

BROWSER = shutil.which("chromium")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
FLAGS += ("--disable-component-update", "--disable-sync", "--window-size=1400,2400", "--virtual-time-budget=20000")


@contextmanager
def dashboard(run_dir: Path) -> Iterator[str]:
    """The server's address while it runs on the study of a run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("optuna-dashboard")), str(run_dir / FILE), "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            address = f"http://127.0.0.1:{port}"
            until = time.monotonic() + 60
            while not answers(address):
                assert server.poll() is None
                assert time.monotonic() < until
                time.sleep(0.05)
            yield address
        finally:
            server.kill()


def answers(address: str) -> bool:
    try:
        ask(address, "meta")
    except (urllib.error.URLError, ConnectionError):
        return False
    return True


def ask(address: str, what: str) -> Any:
    with urllib.request.urlopen(f"{address}/api/{what}", timeout=30) as answer:
        return json.loads(answer.read())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_studied_run(tmp_path_factory.mktemp("dashboard") / "run")


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[str]:
    """The server on that run, for all that only read."""
    with dashboard(run) as served:
        yield served


def test_the_api_serves_trials_notes_curves_and_importances(run: Path, address: str) -> None:
    said = facts(run)
    (summary,) = (s for s in ask(address, "studies")["study_summaries"] if s["study_name"] == OVERVIEW)
    detail = ask(address, f"studies/{summary['study_id']}")
    (importances,) = ask(address, f"studies/{summary['study_id']}/param_importances")["param_importances"]
    assert detail["objective_names"] == ["val_bpb"]
    assert standing(run).champion in detail["note"]["body"]
    shown = {int(next(a["value"] for a in t["user_attrs"] if a["key"] == "index")): t for t in detail["trials"]}
    assert set(shown) == set(said)
    for index, trial in shown.items():
        assert trial["state"].upper() == said[index]["state"]
        assert trial.get("values") == (None if said[index]["value"] is None else [said[index]["value"]])
        assert trial["note"]["body"] == said[index]["note"]
        assert [p["value"] for p in trial["intermediate_values"]] == list(said[index]["curve"].values())
    assert {i["name"] for i in importances} == {"DEPTH", "MATRIX_LR", "WARMDOWN"}
    assert sum(i["importance"] for i in importances) == pytest.approx(1.0)


def test_the_api_serves_importances_before_anything_has_moved(tmp_path: Path) -> None:
    """While the seed is calibrated, and as long as only the code differs: it divides by how many parameters there are."""
    tuned_run(tmp_path / "run", [{}, {}])
    StudyView(tmp_path / "run").refresh(standing(tmp_path / "run"), whole=False)
    with dashboard(tmp_path / "run") as address:
        (summary,) = ask(address, "studies")["study_summaries"]
        (importances,) = ask(address, f"studies/{summary['study_id']}/param_importances")["param_importances"]
    assert len(importances) == 1


def test_an_open_dashboard_follows_the_run_also_when_a_species_study_is_made_anew(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    tuned_run(run_dir, [{"MATRIX_LR": 0.05}, {"MATRIX_LR": 0.06}, {"DEPTH": 6}, {"DEPTH": 5}, {"MATRIX_LR": 0.03, "DEPTH": 3}])
    records, view = snapshot(run_dir).records, StudyView(run_dir)
    view.refresh(assess(records[:3]), whole=True)
    with dashboard(run_dir) as address:
        assert {name: len(params) for name, params in spaces(address).items()} == {OVERVIEW: 1, tuned(): 1}
        view.refresh(assess(records), whole=True)
        assert len(spaces(address)[tuned()]) == 2
        names = {s["study_name"]: s["study_id"] for s in ask(address, "studies")["study_summaries"]}
        detail = ask(address, f"studies/{names[tuned()]}")
        assert len(detail["trials"]) == len(records)
        assert "`MATRIX_LR`" in detail["note"]["body"]
        assert "`DEPTH`" in detail["note"]["body"]


def tuned() -> str:
    return species_study(describe_seed(PROGRAM).species)


def spaces(address: str) -> dict[str, list[str]]:
    """Study -> its parameters."""
    studies = ask(address, "studies")["study_summaries"]
    return {s["study_name"]: [p["name"] for p in ask(address, f"studies/{s['study_id']}")["union_search_space"]] for s in studies}


@pytest.mark.skipif(BROWSER is None, reason="needs chromium, which this machine lacks: the page is rendered by a browser")
def test_the_page_shows_history_importances_curves_and_notes(run: Path, address: str, tmp_path: Path) -> None:
    study_id = opened(run).get_study_id_from_name(OVERVIEW)
    failed = next(trial for trial in opened(run).get_all_trials(study_id) if trial.state.name == "FAIL")
    champion = standing(run).champion
    assert champion is not None
    first = rendered(f"{address}/dashboard/studies/{study_id}", tmp_path)
    note = rendered(f"{address}/dashboard/studies/{study_id}/note", tmp_path)
    trial = rendered(f"{address}/dashboard/studies/{study_id}/trials?numbers={failed.number}", tmp_path)
    for text in ("History", "Hyperparameter Importance", "MATRIX_LR", "Intermediate values", "Best Trial", champion):
        assert text in first
    for text in ("Every evaluation of this run", "luckiest draw", champion):
        assert text in note
    removed = [line for line in facts(run)[failed.user_attrs["index"]]["note"].splitlines() if line.startswith("-")]
    assert len(removed) > 1
    for text in ("Fail", "crashes in the instant lab", failed.user_attrs["genome"], *removed):
        assert text in trial
    assert "```" not in trial  # rendered, not shown as it is written


def rendered(address: str, folder: Path) -> str:
    """The text of the page after its scripts have run."""
    assert BROWSER is not None
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'browser'}", "--dump-dom", address]
    page = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    return html.unescape(re.sub(r"<[^>]*>", "", page))
