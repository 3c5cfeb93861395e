"""Settings: what is given is taken, what is wrong is told with what is near, what is offered is read."""

from __future__ import annotations

import ast
import dataclasses
import pickle
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from evaluator.instant import Landscape
from evaluator.training import Limits
from evo.config import SECTIONS, Config, EvaluatorConfig, LlmConfig, RunConfig, flat, from_flat, load
from evo.core.policies import SearchConfig
from evo.errors import UserError
from evo.profiles import Head

ROOT = Path(__file__).resolve().parent.parent
OTHER = {"run.slots": 3, "run.hours": 1.5, "run.lab": "x", "search.policy": "greedy", "search.evals": 7, "instant.noise_sd": 0.1}


def test_nothing_given_means_the_defaults() -> None:
    assert load() == Config()


@for_all(st.sets(st.sampled_from(sorted(OTHER))))
def test_settings_survive_pickling_and_flattening(names: set[str]) -> None:
    config = from_flat({name: OTHER[name] for name in names})
    assert pickle.loads(pickle.dumps(config)) == config
    assert from_flat(flat(config)) == config


def test_later_sources_win(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[search]\nevals = 10\npopulation = 4\nseed = 1\n")
    config = load(file, ["search.evals=20", "search.seed=2"], {"search.evals": 30, "run.hours": None})
    assert (config.search.evals, config.search.seed, config.search.population, config.run.hours) == (30, 2, 4, None)


@pytest.mark.parametrize("name", ["data", "lab", "profile"])
def test_a_tilde_is_the_home_in_paths_wherever_they_are_given(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "run.toml"
    file.write_text(f'[run]\n{name} = "~/texts"\n')
    sources = load(file), load(assignments=[f"run.{name}=~/texts"]), load(flags={f"run.{name}": "~/texts"})
    assert {getattr(config.run, name) for config in sources} == {str(tmp_path / "texts")}


@pytest.mark.parametrize(
    ("text", "section", "key", "value"),
    [
        ("run.hours=2", "run", "hours", 2.0),  # a whole number may stand for a float
        ("run.lab=some/folder", "run", "lab", "some/folder"),  # a bare word is a text
        ('search.policy="random"', "search", "policy", "random"),
        ("evaluator.kind = instant", "evaluator", "kind", "instant"),
        ("run.lab=a=b", "run", "lab", "a=b"),
        pytest.param(f"run.lab={'[' * 5000}", "run", "lab", "[" * 5000, id="brackets"),
    ],
)
def test_set_takes_toml_values_and_bare_words(text: str, section: str, key: str, value: object) -> None:
    assert getattr(getattr(load(assignments=[text]), section), key) == value


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["serch.evals=1"], "nearest: search"),
        (["search.eval=1"], "nearest: search.evals"),
        (["search.pop=3"], "no key search.pop; nearest: search.population$"),
        (["search.evals=many"], "whole number"),
        (["search.evals=1.5"], "whole number"),
        (["search.evals=true"], "whole number"),
        (["search.evals=-1"], "must not be negative"),
        (["search.policy=gredy"], "greedy"),
        (["run.slots=0"], "at least 1"),
        (["run.hours=0"], "more than 0"),
        pytest.param([f"run.hours={'9' * 400}"], "fits in 64 bits, got one of 400 digits", id="400 digits"),
        pytest.param([f"search.seed={'9' * 5000}"], "whole number", id="5000 digits"),
        (["run.executor=dask"], "inline, ray"),
        (["evaluator.kind=mock"], "instant, slot"),
        (["llm.url=localhost:8000"], "http://localhost:8000/v1"),
        (["llm.url=http://"], "http://localhost:8000/v1"),
        (["llm.url=http://a b/v1"], "http://localhost:8000/v1"),
        (["llm.url=http://host:99999/v1"], "not an address"),
        (["llm.url=http://me:secret@host/v1"], "EVO_LLM_KEY"),
        (["llm.url=http://host/v1?key=secret"], "EVO_LLM_KEY"),
        (["llm.temperature=-1"], "must not be negative"),
        (["llm.model=a\udcffb"], "in UTF-8"),
        (["llm.timeout_seconds=0"], "more than 0"),
        (["llm.calls=0"], "at least 1"),
        (["instant.noise_sd=1e200"], "instant.noise_sd is 1e\\+200, must be at most 1000"),
        (["search"], "section.key=value"),
        (["=3"], "section.key=value"),
        (["search.=3"], "section.key=value"),
    ],
)
def test_wrong_assignments_are_told_in_one_line(assignments: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        load(assignments=assignments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"), [("[run", "not valid TOML"), ("evals = 3", "outside any section"), ("[run]\nslot = 3", "nearest: run.slots")]
)
def test_wrong_files_are_told_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(UserError, match=said):
        load(file)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.toml"):
        load(tmp_path / "nothing.toml")


OWNERS = {  # what an instance of the section is called where it is read
    RunConfig: {"run"},
    SearchConfig: {"config"},
    EvaluatorConfig: {"evaluator"},
    Landscape: {"landscape"},
    Head: {"head"},
    Limits: {"limits"},
    LlmConfig: {"llm"},
}


@cache
def accesses() -> set[tuple[str, str]]:
    """(owner, attribute) of every attribute that evo or evaluator reads: `config.run.hours` is ("run", "hours")."""
    found = set()
    for package in ("evo", "evaluator"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    owner = node.value
                    name = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
                    found.add((name.lstrip("_"), node.attr))
    return found


def test_every_section_is_looked_after() -> None:
    assert set(SECTIONS.values()) <= set(OWNERS)


@pytest.mark.parametrize("section", OWNERS, ids=lambda section: section.__name__)
def test_every_field_is_read_somewhere(section: type) -> None:
    """A field that nobody reads is a promise that nobody keeps."""
    read = {attribute for owner, attribute in accesses() if owner in OWNERS[section]}
    assert {field.name for field in dataclasses.fields(section)} - read == set()
