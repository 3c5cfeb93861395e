"""The data folder, its bytes, and what prepare.py offers: real text, real tokenisers, no mocks."""

from __future__ import annotations

import gzip
import importlib.util
import json
import math
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from functools import partial
from pathlib import Path
from random import Random
from types import ModuleType

import data_folder
import data_tokens
import numpy as np
import pyarrow
import pytest
import torch
from data_texts import embedded_source
from hypothesis import given
from hypothesis import strategies as st

from evaluator import data as evaluator_data
from evaluator.evaluate import HarnessError

TRAINER = Path(__file__).parent.parent / "trainer"
T = 64
SMALL = {
    "MAX_SEQ_LEN": T, "EVAL_TOKENS": 64 * T, "VOCAB_SIZES": (256, 400, 700, 900), "READY_SIZES": (256, 400, 700), "DEFAULT_VOCAB": 700,
    "TRAIN_BYTES": 1_500_000,
}  # fmt: skip
CHINESE = "训练程序的演化：每一个字节都算数。“引号”—and dashes…\n" * 40


def load(folder: Path, **constants: object) -> ModuleType:
    """prepare.py with other constants, written as text as the harness does, imported from `folder`."""
    text = (TRAINER / "prepare.py").read_text()
    for name, value in {**SMALL, **constants}.items():
        text, count = re.subn(rf"^{name} = [^#\n]*?(  #.*)?$", f"{name} = {value!r}\\1", text, flags=re.MULTILINE)
        assert count == 1, name
    (folder / "prepare.py").write_text(text)
    spec = importlib.util.spec_from_file_location(f"prepare_{folder.name}", folder / "prepare.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def prepared(module: ModuleType, root: Path, *paths: Path) -> tuple[Path, dict]:
    return data_folder.prepare_data(list(paths), root, module._settings())


@pytest.fixture
def prepare(tmp_path: Path) -> ModuleType:
    return load(tmp_path)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModuleType, Path, dict]:
    folder = tmp_path_factory.mktemp("embedded")
    module = load(folder)
    data, manifest = prepared(module, folder / "data")
    return module, data, manifest


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder of real text files, with one of Chinese and typographic text in the validation part."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for path in sorted(Path(sysconfig.get_path("stdlib"), "json").glob("*.py")):
        (folder / f"{path.stem}.txt").write_text(path.read_text())
    (folder / "zz.md").write_text(CHINESE * 12)
    return folder


def rows_of(data: Path, manifest: dict, vocab: int, part: str) -> np.ndarray:
    entry = manifest["vocabularies"][str(vocab)][part]
    return np.fromfile(data / entry["file"], "<u2").reshape(entry["rows"], T + 1)


def token_strings(data: Path, vocab: int) -> list[bytes]:
    return data_tokens.tokeniser(data_tokens.read_merges(data / "merges.json"), vocab).tokens


def test_embedded_text_comes_from_packages_that_training_never_imports(embedded: tuple[ModuleType, Path, dict]) -> None:
    _, _, manifest = embedded
    assert manifest["source"] == "embedded"
    assert all(Path(path).is_absolute() and Path(path).is_dir() for path in manifest["masked"])
    names = {Path(path).name for path in manifest["masked"]}
    assert "idlelib" in names
    loaded = subprocess.run(
        [sys.executable, "-c", "import torch, numpy, torch._dynamo, sys; print(*{name.split('.')[0] for name in sys.modules})"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert not names & set(loaded)


def test_each_validation_token_is_a_target_exactly_once(embedded: tuple[ModuleType, Path, dict]) -> None:
    _, data, manifest = embedded
    rows = rows_of(data, manifest, 700, "val")
    assert rows.shape[0] == 64, "EVAL_TOKENS counts exactly"
    assert manifest["scored"]["val_targets"] == 64 * T
    assert (rows[:, 0] == 699).all(), "each row starts with BOS, as in training"
    strings = token_strings(data, 700)
    text = b"".join(strings[token] for token in rows[:, 1:].ravel())
    assert text.decode() == "".join(json.loads((data / "slices.json").read_text())["val"])
    assert len(text) == manifest["scored"]["val_bytes"]


@pytest.mark.parametrize("part", ["val", "heldout"])
def test_each_vocabulary_scores_the_same_bytes(embedded: tuple[ModuleType, Path, dict], part: str) -> None:
    _, data, manifest = embedded
    texts = set()
    for vocab in SMALL["READY_SIZES"]:
        strings = token_strings(data, vocab)
        texts.add(b"".join(strings[token] for token in rows_of(data, manifest, vocab, part)[:, 1:].ravel()))
        sizes = np.fromfile(data / f"v{vocab}" / "token_bytes.bin", "<i4")
        assert sizes.tolist() == [len(string) for string in strings]
        assert sizes[vocab - 1] == 0
    assert len(texts) == 1


@pytest.mark.parametrize("vocab", [256, 700])
def test_training_rows_start_with_bos_and_lose_only_what_is_counted(embedded: tuple[ModuleType, Path, dict], vocab: int) -> None:
    module, data, manifest = embedded
    rows, strings = rows_of(data, manifest, vocab, "train"), token_strings(data, vocab)
    tokeniser = data_tokens.Tokeniser(strings)
    assert (rows[:, 0] == tokeniser.bos).all()
    documents = list(embedded_source(module._settings()).read()[2]())
    encoded = [tuple(tokeniser.encode(text).tolist()) for text in documents]
    cut = {tokens[begin : begin + T] for tokens in encoded for begin in range(0, len(tokens), T)}
    starts = sum(-(-len(tokens) // T) for tokens in encoded)  # a document goes on in as many pieces as it needs
    assert rows.size + manifest["vocabularies"][str(vocab)]["train"]["cropped"] == sum(map(len, encoded)) + starts
    for row in rows[:: len(rows) // 50]:
        found = [tuple(piece[1:].tolist()) for piece in np.split(row, np.flatnonzero(row == tokeniser.bos))[1:]]
        assert all(piece in cut for piece in found[:-1]), "whole pieces"
        assert any(piece[: len(found[-1])] == found[-1] for piece in cut), "the last one may be cropped"


@given(st.lists(st.integers(1, 40), min_size=1, max_size=300), st.integers(4, 17))
def test_packing_fills_rows_and_accounts_for_every_token(lengths: list[int], width: int) -> None:
    documents = [np.arange(1, length + 1, dtype="<u2") for length in lengths]
    cut = list(data_tokens.pieces(documents, 0, width))
    packing = data_tokens.Packing()
    rows = list(data_tokens.packed(iter(cut), width, packing))
    assert all(len(piece) <= width for piece in cut)
    assert sum(len(piece) - 1 for piece in cut) == sum(lengths)
    assert all(len(row) == width and row[0] == 0 for row in rows)
    assert packing.rows == len(rows)
    assert packing.cropped == sum(map(len, cut)) - len(rows) * width


class ByteModel(torch.nn.Module):
    """Predicts each byte on its own: a token's probability is the product over its bytes, and BOS gets what is left of 1.

    The probabilities of single bytes add up to 1/2, so those of all strings of n bytes to 2**-n, and no set of tokens exceeds 1.
    """

    def __init__(self, tokens: list[bytes], counts: Counter[int]) -> None:
        super().__init__()
        total = 2 * (sum(counts.values()) + 256)
        logs = [sum(math.log((counts[byte] + 1) / total) for byte in token) if token else -math.inf for token in tokens]
        logs[-1] = math.log1p(-sum(map(math.exp, logs)))
        self.logits = torch.tensor(logs)
        self.bits = {byte: -math.log2((counts[byte] + 1) / total) for byte in range(256)}

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(*tokens.shape, -1)


@pytest.mark.parametrize("language", ["library", "chinese"])
def test_a_fixed_predictor_has_the_same_bits_per_byte_under_each_vocabulary(
    prepare: ModuleType, embedded: tuple[ModuleType, Path, dict], texts: Path, tmp_path: Path, language: str
) -> None:
    data = embedded[1] if language == "library" else prepared(prepare, tmp_path / "data", texts)[0]
    scored = "".join(json.loads((data / "slices.json").read_text())["val"]).encode()
    assert ("训练".encode() in scored) == (language == "chinese"), "Chinese with typographic marks"
    counts = Counter(scored[::2])
    for vocab in SMALL["READY_SIZES"]:
        model = ByteModel(token_strings(data, vocab), counts)
        expected = sum(model.bits[byte] for byte in scored) / len(scored)
        assert prepare.evaluate(model, data, vocab) == pytest.approx(expected, rel=1e-6)


def test_bits_per_byte_of_a_hand_computed_text(prepare: ModuleType, tmp_path: Path) -> None:
    """Two documents, "ab" and "é": BOS a b BOS é₁ é₂. Uniform over 256 tokens: each byte costs 8 bits, BOS is free."""
    tokeniser = data_tokens.Tokeniser([bytes([i]) for i in range(255)] + [b""])
    inside = tmp_path / "v256"
    inside.mkdir()
    rows = data_tokens.write_scored_rows(inside / "val.bin", tokeniser.stream(["ab", "é"]), tokeniser.bos, T)
    (inside / "token_bytes.bin").write_bytes(tokeniser.token_bytes.tobytes())
    entry = {"val": {"file": "v256/val.bin", "rows": rows}, "token_bytes": {"file": "v256/token_bytes.bin"}}
    (tmp_path / "manifest.json").write_text(json.dumps({"vocabularies": {"256": entry}}))
    assert np.fromfile(inside / "val.bin", "<u2")[:8].tolist() == [255, 97, 98, 255, 0xC3, 0xA9, 255, 255]

    class Favours(torch.nn.Module):
        """Logit 1 for byte "a", 0 for all others."""

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(*tokens.shape, 256)
            logits[..., 97] = 1.0
            return logits

    normaliser = math.log(255 + math.e)
    expected = (4 * normaliser - 1) / (4 * math.log(2))  # four bytes, one of them "a"
    assert prepare.evaluate(Favours(), tmp_path, 256) == pytest.approx(expected, rel=1e-6)


def test_encoding_keeps_the_bytes_of_any_text(embedded: tuple[ModuleType, Path, dict]) -> None:
    _, data, _ = embedded
    for vocab in SMALL["READY_SIZES"]:
        strings = token_strings(data, vocab)
        for text in (CHINESE, "plain\n\n  text\t12345", "<|bos|>", "\x00\U0001f600", ""):
            assert b"".join(strings[token] for token in data_tokens.Tokeniser(strings).encode(text)) == text.encode()


def test_a_second_run_checks_and_builds_nothing(prepare: ModuleType, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["--from", str(texts), "--out", str(tmp_path / "data"), "--json"]
    assert prepare.main(arguments) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    stamps = {path: path.stat().st_mtime_ns for path in Path(first["data"]).rglob("*")}
    assert prepare.main(arguments) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == first
    assert stamps == {path: path.stat().st_mtime_ns for path in Path(first["data"]).rglob("*")}
    assert first["manifest"]["masked"] == [str(texts)]


def test_other_constants_or_text_get_a_folder_of_their_own(texts: Path, tmp_path: Path) -> None:
    folders = set()
    for name, constants in {"a": {}, "b": {"MAX_SEQ_LEN": 32}, "c": {"VOCAB_SIZES": (256, 400, 700, 901)}}.items():
        (tmp_path / name).mkdir()
        folders.add(prepared(load(tmp_path / name, **constants), tmp_path / "data", texts)[0])
    (texts / "json.txt").write_text("changed\n" * 900)
    folders.add(prepared(load(tmp_path / "a"), tmp_path / "data", texts)[0])
    assert len(folders) == 4


def test_a_vocabulary_is_packed_when_it_is_first_asked_for(prepare: ModuleType, texts: Path, tmp_path: Path) -> None:
    settings = prepare._settings()
    data, before = prepared(prepare, tmp_path / "data", texts)
    after = data_folder.add_vocabulary(data, 900, settings)
    assert set(after["vocabularies"]) == {*before["vocabularies"], "900"}
    assert {name: after[name] for name in before if name != "vocabularies"} == {n: before[n] for n in before if n != "vocabularies"}
    stamp = (data / "manifest.json").stat().st_mtime_ns
    assert data_folder.add_vocabulary(data, 900, settings) == after
    assert (data / "manifest.json").stat().st_mtime_ns == stamp, "the second time nothing is done"
    (tmp_path / "other").mkdir()
    at_once, whole = prepared(load(tmp_path / "other", READY_SIZES=SMALL["VOCAB_SIZES"]), tmp_path / "elsewhere", texts)
    hashes = [{n: e["sha256"] for n, e in manifest["vocabularies"]["900"].items()} for manifest in (after, whole)]
    assert hashes[0] == hashes[1], "the same as packed beforehand"
    assert at_once.name == data.name
    with pytest.raises(data_folder.DataError, match="901 is none of VOCAB_SIZES: 256, 400, 700, 900"):
        data_folder.add_vocabulary(data, 901, settings)


def test_a_vocabulary_is_not_packed_from_another_text(prepare: ModuleType, texts: Path, tmp_path: Path) -> None:
    data, before = prepared(prepare, tmp_path / "data", texts)
    (texts / "json.txt").write_text("changed\n" * 900)
    with pytest.raises(data_folder.DataError, match="has changed since"):
        data_folder.add_vocabulary(data, 900, prepare._settings())
    assert data_folder.verify(data) == before


def test_processes_that_ask_for_one_vocabulary_at_once_pack_it_once(prepare: ModuleType, texts: Path, tmp_path: Path) -> None:
    for path in TRAINER.glob("data_*.py"):
        shutil.copy(path, tmp_path)
    command = [sys.executable, "prepare.py", "--from", str(texts), "--out", str(tmp_path / "data"), "--vocabulary", "900", "--json"]
    running = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate()[0].splitlines()[-1] for process in running]
    assert len(set(said)) == 1
    assert "900" in json.loads(said[0])["manifest"]["vocabularies"]


def test_folders_of_another_format_are_refused_with_what_to_do(
    prepare: ModuleType, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data, manifest = prepared(prepare, tmp_path / "data", texts)
    old = tmp_path / "data" / "data-0-0"
    old.mkdir()
    for folder in (data, old):
        (folder / "manifest.json").write_text(json.dumps({**manifest, "version": 1}))
    with pytest.raises(data_folder.DataError, match=r"has format 1, this prepare\.py writes format 2: delete it"):
        prepared(prepare, tmp_path / "data", texts)
    with pytest.raises(HarnessError, match="has format 1, expected 2: delete it"):
        evaluator_data.load(str(data))
    shutil.rmtree(data)
    assert prepare.main(["--from", str(texts), "--out", str(tmp_path / "data")]) == 0
    assert f"{old} has format 1" in capsys.readouterr().out, "what is no longer used is named"


def test_a_short_validation_text_is_scored_once_and_whole_and_that_is_said(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    said = {}
    for tokens in (64 * T, 10**6):
        (tmp_path / str(tokens)).mkdir()
        module = load(tmp_path / str(tokens), EVAL_TOKENS=tokens)
        assert module.main(["--from", str(texts), "--out", str(tmp_path / "data"), "--json"]) == 0
        *lines, last = capsys.readouterr().out.splitlines()
        said[tokens] = next(line for line in lines if line.startswith("validation: ")), json.loads(last)["manifest"]["scored"]
    line, scored = said[64 * T]
    assert (scored["val_targets"], scored["val_whole"]) == (64 * T, False)
    assert line == f"validation: {64 * T} tokens at vocabulary 700, {scored['val_bytes']} bytes"
    line, scored = said[10**6]
    assert scored["val_whole"]
    assert f"validation: {scored['val_targets']} tokens" in line
    assert "fewer than EVAL_TOKENS = 1000000: scored once, whole" in line


def test_the_budget_does_not_change_the_folder(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, _ = prepared(load(tmp_path / "a"), tmp_path / "data", texts)
    assert prepared(load(tmp_path / "b", TIME_BUDGET=7), tmp_path / "data", texts)[0] == one


def test_a_changed_file_is_named(prepare: ModuleType, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data, _ = prepared(prepare, tmp_path / "data", texts)
    rows = np.fromfile(data / "v256" / "val.bin", "<u2")
    rows[3] ^= 1
    rows.tofile(data / "v256" / "val.bin")
    assert prepare.main(["--from", str(texts), "--out", str(tmp_path / "data")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "v256/val.bin" in message
    assert "delete" in message


def test_an_interrupted_build_leaves_no_folder(prepare: ModuleType, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(data_tokens, "write_scored_rows", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepared(prepare, tmp_path / "data", texts)
    assert [path.name for path in (tmp_path / "data").iterdir() if path.is_dir()] == []
    killed = tmp_path / "data" / "leftover"
    data, _ = prepared(prepare, tmp_path / "data", texts)
    data.rename(killed)  # what a kill leaves: a building folder that is half full
    (killed / "manifest.json").unlink()
    killed.rename(tmp_path / "data" / f".{data.name}.building")
    assert data_folder.verify(prepared(prepare, tmp_path / "data", texts)[0], thorough=True)


def write_parquet(path: Path, columns: dict[str, list]) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def test_parquet_shards_and_jsonl_hold_the_same_text(prepare: ModuleType, tmp_path: Path) -> None:
    random = Random(0)
    documents = [f"document {i}: {CHINESE[:40]} {random.randbytes(100).hex()} {'words and more words ' * (i % 7)}" for i in range(200)]
    digests = set()
    for kind in ("parquet", "jsonl", "jsonl.gz", "jsonl.zst"):
        folder = tmp_path / kind
        folder.mkdir()
        for shard, part in enumerate((documents[:190], documents[190:])):
            path = folder / f"shard_{shard:05d}.{kind}"
            if kind == "parquet":
                write_parquet(path, {"text": part})
            else:
                lines = "".join(json.dumps({"text": text}) + "\n" for text in part).encode()
                pack = {"jsonl": bytes, "jsonl.gz": gzip.compress, "jsonl.zst": partial(pyarrow.compress, codec="zstd", asbytes=True)}
                path.write_bytes(pack[kind](lines))
        data, manifest = prepared(prepare, tmp_path / "data", folder)
        digests.add(manifest["data_sha256"])
        strings = token_strings(data, 256)
        train = b"".join(strings[token] for token in rows_of(data, manifest, 256, "train").ravel()).decode(errors="ignore")
        assert "document 189" in train
        assert "document 190" not in train
    assert len(digests) == 1


@pytest.mark.parametrize(("small", "large"), [("a.txt", "b.txt"), ("b.txt", "a.txt"), ("a.txt", "b.jsonl")])
def test_of_files_that_are_unlike_none_is_given_up_for_validation(tmp_path: Path, small: str, large: str) -> None:
    prepare, folder = load(tmp_path, TRAIN_BYTES=20_000_000), tmp_path / "texts"
    folder.mkdir()
    for name, count in ((small, 100), (large, 300)):
        lines = (f"{name} document {i}: {CHINESE[:40]} {'words and more words ' * (150 + i % 7)}" for i in range(count))
        (folder / name).write_text("".join(json.dumps({"text": line}) + "\n" if name.endswith("jsonl") else f"{line}\n" for line in lines))
    data, manifest = prepared(prepare, tmp_path / "data", folder)
    held = json.loads((data / "slices.json").read_text())
    texts = [text for part in ("val", "heldout") for text in held[part]]
    assert len({text.partition(" ")[0] for text in texts}) == 2  # of both
    strings = token_strings(data, 256)
    train = b"".join(strings[token] for token in rows_of(data, manifest, 256, "train").ravel()).decode(errors="ignore")
    assert not any(text[:60] in train for text in texts)
    assert sum(map(len, texts)) < 0.04 * sum(path.stat().st_size for path in folder.iterdir())
    assert f"{small} document" in train
    assert f"{large} document" in train


def test_many_small_files_beside_a_large_one_are_in_the_validation_text_too(prepare: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, kilobytes in [*((f"a{i:02}.txt", 30) for i in range(30)), ("b.txt", 240)]:
        (folder / name).write_text("".join(f"{name} line {i}: {'words and more words ' * 12}\n" for i in range(4 * kilobytes)))
    data, _ = prepared(prepare, tmp_path / "data", folder)
    held = json.loads((data / "slices.json").read_text())
    assert len({text.partition(" ")[0] for part in ("val", "heldout") for text in held[part]}) > 5


def test_a_single_file_gives_all_three_parts(prepare: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "one.txt"
    path.write_text("".join(f"{i} squared is {i * i}\n" for i in range(40_000)))
    data, manifest = prepared(prepare, tmp_path / "data", path)
    for part in ("val", "heldout"):
        strings = token_strings(data, 256)
        text = b"".join(strings[token] for token in rows_of(data, manifest, 256, part)[:, 1:].ravel()).decode()
        assert len(text) > 4000
        packed = b"".join(strings[token] for token in rows_of(data, manifest, 256, "train").ravel()).decode(errors="ignore")
        assert text[:1000] not in packed


BAD = {
    "cut.jsonl.gz": gzip.compress(b'{"text": "fine"}\n' * 999)[:-20],
    "missing.txt": None,
    "empty_folder": {},
    "broken.parquet": b"PAR1 but not really",
    "latin.txt": "Zürich\n".encode("latin-1") * 2000,
    "bad.jsonl": b'{"text": "fine"}\n{"text": \n',
    "wrong.jsonl": b'{"body": "no text"}\n',
    "short.txt": b"too short\n",
    "picture.png": b"\x89PNG",
}


@pytest.mark.parametrize("name", BAD)
def test_unreadable_input_gives_one_line_and_builds_nothing(
    prepare: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture, name: str
) -> None:
    path, content = tmp_path / name, BAD[name]
    if content == {}:
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    assert prepare.main(["--from", str(path), "--out", str(tmp_path / "data")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("prepare: ")
    assert message.count("\n") == 1
    assert name in message
    assert not any(path.is_dir() for path in (tmp_path / "data").glob("*"))


@pytest.mark.parametrize(("counts", "said"), [((50,), "50 found, 99 needed in a single"), ((9, 1), "1 found, 3 needed in the last of 2")])
def test_too_few_documents_are_counted_and_said_to_be_what(
    prepare: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture, counts: tuple[int, ...], said: str
) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number, count in enumerate(counts):
        (folder / f"{number}.jsonl").write_text("".join(f'{{"text": "document {i} of {number}"}}\n' for i in range(count)))
    assert prepare.main(["--from", str(folder), "--out", str(tmp_path / "data")]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert "a document is a row of Parquet or JSONL, or 4 KB of a text file" in message


def test_halves_of_characters_and_endless_documents_are_text_all_the_same(prepare: ModuleType, tmp_path: Path) -> None:
    path, plain = tmp_path / "odd.jsonl", [f"document {i}: {'words and more words ' * (20 + i % 7)}" for i in range(300)]
    odd = ["half \ud800 of one", "a" * 600_000, "x" + " " * 1_200_000 + "y", ""]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*plain[:50], *odd, *plain[50:]]))
    data, manifest = prepared(prepare, tmp_path / "data", path)
    strings = token_strings(data, 256)
    train = b"".join(strings[token] for token in rows_of(data, manifest, 256, "train").ravel()).decode(errors="ignore")
    assert "half ? of one" in train
    assert "a" * 1000 in train


def test_prepared_data_are_no_text(prepare: ModuleType, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data, _ = prepared(prepare, tmp_path / "data", texts)
    assert prepare.main(["--from", str(data), "--out", str(tmp_path / "data")]) == 2
    assert "a folder of prepared data; name the texts" in capsys.readouterr().err


def test_a_parquet_file_without_text_is_refused(prepare: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_parquet(tmp_path / "other.parquet", {"body": ["a"]})
    assert prepare.main(["--from", str(tmp_path / "other.parquet"), "--out", str(tmp_path / "data")]) == 2
    assert "no column `text`" in capsys.readouterr().err
    write_parquet(tmp_path / "bytes.parquet", {"text": [b"a"]})
    assert prepare.main(["--from", str(tmp_path / "bytes.parquet"), "--out", str(tmp_path / "data")]) == 2
    assert "its column `text` holds binary" in capsys.readouterr().err


def test_rows_are_dealt_once_an_epoch_in_an_order_fixed_by_the_seed(prepare: ModuleType) -> None:
    def first(count: int, seed: int) -> np.ndarray:
        order = prepare.row_order(10, 4, seed)
        return np.concatenate([next(order) for _ in range(count)])

    assert (first(5, 1) == first(5, 1)).all()
    assert (first(5, 1) != first(5, 2)).any()
    twenty = first(5, 1)
    assert sorted(twenty[:10]) == sorted(twenty[10:]) == list(range(10))
    assert (twenty[:10] != twenty[10:]).any(), "each epoch has its own order"
    assert len(next(prepare.row_order(3, 8, 1))) == 8, "a batch may be larger than the data"


def test_misuse_is_named(prepare: ModuleType) -> None:
    with pytest.raises(ValueError, match="positive int, got 0"):
        prepare.batches(0, 700)
    with pytest.raises(ValueError, match=r"vocab_size 512 is none of prepare\.VOCAB_SIZES: 256, 400, 700"):
        prepare.warmup_batches(4, 512)
    with pytest.raises(RuntimeError, match="after the first batch"):
        prepare.save(torch.nn.Linear(1, 1))
    prepare.batches(4, 700)
    with pytest.raises(RuntimeError, match="once"):
        prepare.batches(4, 700)


def test_the_loss_that_is_sent_is_the_mean_of_all_steps_since_the_last(prepare: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    run = prepare._Run(reporting=True, started=now, announced_at=now, budget=1000.0)
    monkeypatch.setattr(prepare, "_run", run)
    loss = torch.tensor(4.0)
    assert prepare.report(loss) is None
    loss.fill_(3.0)  # a program may add up in place
    assert [prepare.report(loss), prepare.report(torch.tensor(2.0))] == [None, None], "not more than so many a second"
    run.announced_at = 0.0
    assert prepare.report(torch.tensor(7.0)) == 3.0
    assert run.announced == 3
    assert prepare.report(torch.tensor(8.0)) == 3.0, "the newest that was sent"
    run.announced_at = 0.0
    assert prepare.report(torch.tensor(math.nan)) == 7.5
    prepare._announce(run.newest, last=True)
    assert math.isnan(run.loss)


def test_warmup_batches_leave_the_random_state_alone(prepare: ModuleType) -> None:
    before = torch.get_rng_state()
    x, y = next(prepare.warmup_batches(3, 400))
    assert x.shape == y.shape == (3, T)
    assert x.dtype == y.dtype == torch.int64
    assert x.is_contiguous()
    assert y.is_contiguous()
    assert 0 <= int(x.min()) <= int(x.max()) < 400
    assert (x[:, 1:] == y[:, :-1]).all()
    assert torch.equal(before, torch.get_rng_state())


def test_importing_prepare_is_light_and_writes_nothing(tmp_path: Path) -> None:
    load(tmp_path)
    code = "import sys, prepare; print(*{'torch', 'pyarrow', 'tiktoken', 'rustbpe', 'data_folder'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["prepare.py"]
