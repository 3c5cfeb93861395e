"""What holds for every executor: candidates go in, each comes out once, its outcome on disk before it is reported."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for_all
from pathlib import Path

import pytest
from conftest import SmallLab
from simulated import finished
from small_run import PROGRAM
from tiny_lab import Silent, drive, spec

from evaluator import sandbox
from evaluator.compat import CompatConfig
from evaluator.evaluate import HarnessError, Watch
from evaluator.instant import Instant, Landscape
from evaluator.key import comparable
from evaluator.outcome import Failed, Interrupted, Outcome, Scored, Unwritten
from evaluator.slot import SlotConfig
from evo.actor import SlotActor
from evo.cluster import RayExecutor, connect
from evo.core.records import CALIBRATE, FINAL, Candidate, Proposal
from evo.drive import Driver
from evo.errors import ClusterError, UserError
from evo.executor import SLOTS_LOCK, Executor, InlineExecutor, SlotKind, SlotSpec, await_orphans, evaluate_and_file, hold
from evo.folder import FOLDERS, Finished, read_outcomes, write_outcome
from evo.machine import probe
from evo.watchdog import descendants

SLOTS = 2
ROOM = 2 * SLOTS  # CPUs that Ray is told of: for slots that are kept, and for those of one test
needs_namespaces = pytest.mark.skipif(sandbox.level()[0] != "namespaces", reason=f"no namespaces here: {sandbox.level()[1]}")
Make = Callable[..., Executor]
LAB = Landscape(noise_sd=0.1)


@pytest.fixture(scope="session")
def ray_is_up() -> Iterator[None]:
    import ray

    connect("", ROOM, 0)
    yield
    ray.shutdown()


def folders(run_dir: Path) -> Path:
    for folder in FOLDERS:
        (run_dir / folder).mkdir()
    return run_dir


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return folders(tmp_path)


@pytest.fixture(scope="session", params=["inline", "ray"])
def kind(request: pytest.FixtureRequest) -> type[InlineExecutor | RayExecutor]:
    if request.param == "inline":
        return InlineExecutor
    request.getfixturevalue("ray_is_up")
    return RayExecutor


@pytest.fixture
def make(kind: type[InlineExecutor | RayExecutor], run_dir: Path) -> Iterator[Make]:
    """Makes executors with one slot."""
    made: list[Executor] = []

    def make(evaluator: SlotKind) -> Executor:
        made.append(kind((SlotSpec("slot0", evaluator, run_dir, 1.0, 60.0),)))
        return made[-1]

    yield make
    for executor in made:
        executor.close()


@pytest.fixture(scope="module")
def kept(kind: type[InlineExecutor | RayExecutor], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Executor, Path]]:
    """Two slots on the instant lab, whose processes start once for all tests, and their run folder."""
    run_dir = folders(tmp_path_factory.mktemp("run"))
    with contextlib.closing(kind(tuple(SlotSpec(f"slot{i}", LAB, run_dir, 1.0, 60.0) for i in range(SLOTS)))) as made:
        yield made, run_dir


@pytest.fixture
def two(kept: tuple[Executor, Path]) -> Iterator[Executor]:
    """Both slots free, and no outcome filed."""
    executor, run_dir = kept
    until_free(executor, SLOTS)
    yield executor
    while executor.running():
        wait(executor)
    shutil.rmtree(run_dir / "outcomes", ignore_errors=True)
    (run_dir / "outcomes").mkdir()


SCRIPT = "import prepare\nmanual_seed = print\nmanual_seed(42)\nprint('---')\nprint('val_bpb: 0.9')\n"


def candidate(index: int, seed: int = 0) -> Candidate:
    return Candidate(Proposal(index, CALIBRATE, (), seed), "genome", "species", 1, "")


def wait(executor: Executor, seconds: float = 60.0) -> Finished:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        event = executor.next_finished(0.2)
        if event is not None:
            return event
    raise AssertionError(f"nothing finished in {seconds} s")


def test_a_slot_in_compat_mode_is_made_where_it_is_used(make: Make, tmp_path: Path) -> None:
    executor = make(CompatConfig(prepare="TIME_BUDGET = 1\n", measurement_key="own", home=str(tmp_path)))
    executor.submit(candidate(0), SCRIPT)
    outcome = wait(executor).outcome
    assert isinstance(outcome, Scored), outcome
    assert (outcome.val_bpb, outcome.self_reported, outcome.measurement_key) == (0.9, True, "own")


def test_an_outcome_is_the_evaluators_and_is_filed_before_it_is_reported(two: Executor, kept: tuple[Executor, Path]) -> None:
    run_dir, before = kept[1], time.time()
    two.submit(candidate(7, seed=5), PROGRAM)
    event = wait(two)
    expected = Instant(LAB)(PROGRAM, 5, 1.0)
    assert isinstance(event.outcome, Scored)
    assert isinstance(expected, Scored)
    assert event.index == 7
    assert event.outcome.val_bpb == expected.val_bpb
    assert before <= event.started <= event.finished <= time.time()
    assert read_outcomes(run_dir)[7].outcome == event.outcome
    assert read_outcomes(run_dir)[7].slot == event.slot


def test_final_draws_alone_are_scored_on_the_held_out_text(two: Executor) -> None:
    two.submit(candidate(0), PROGRAM)
    two.submit(Candidate(Proposal(1, FINAL, ("genome",), 0, group=1), "genome", "species", 1, ""), PROGRAM)
    outcomes = {event.index: event.outcome for event in (wait(two), wait(two))}
    assert [getattr(outcomes[index], "heldout_bpb", "") is None for index in (0, 1)] == [True, False]


def test_each_candidate_comes_out_once(two: Executor) -> None:
    seen, index = [], 0
    while len(seen) < 12:
        while two.free_slots and index < 12:
            two.submit(candidate(index), PROGRAM)
            index += 1
        seen.append(wait(two).index)
    assert sorted(seen) == list(range(12))
    assert two.next_finished(0.1) is None


def test_a_failing_program_is_an_outcome(two: Executor) -> None:
    two.submit(candidate(0), "def (:\n")
    two.submit(candidate(1), PROGRAM)
    outcomes = {event.index: event.outcome for event in (wait(two), wait(two))}
    assert isinstance(outcomes[0], Failed)
    assert isinstance(outcomes[1], Scored)


def test_slots_are_counted_and_never_shared(two: Executor) -> None:
    assert (two.slots, two.free_slots, two.running()) == (SLOTS, SLOTS, ())
    two.submit(candidate(0), PROGRAM)
    with pytest.raises(ValueError, match="already running"):
        two.submit(candidate(0), PROGRAM)
    two.submit(candidate(1), PROGRAM)
    assert [r.index for r in two.running()] == [0, 1]
    assert two.free_slots == 0
    with pytest.raises(ValueError, match="all 2 slots are taken"):
        two.submit(candidate(2), PROGRAM)
    wait(two)
    assert two.free_slots == 1


def test_a_slot_that_can_evaluate_nothing_says_so_and_blames_no_program(make: Make, run_dir: Path) -> None:
    executor = make(SlotConfig(prepare="", data="/nonexistent", measurement_key="test"))
    executor.submit(candidate(0), PROGRAM)
    event = wait(executor)
    assert event.unable
    assert isinstance(event.outcome, Interrupted)
    assert re.fullmatch(r"slot\d cannot work: no readable data in .*", event.outcome.why)
    assert read_outcomes(run_dir) == {}


def test_a_slot_goes_on_when_it_has_new_processes_and_what_it_lacked(two: Executor, kept: tuple[Executor, Path]) -> None:
    outcomes = kept[1] / "outcomes"
    outcomes.rmdir()
    two.submit(candidate(0), PROGRAM)
    event = wait(two)
    assert event.unable
    outcomes.mkdir()
    for index in (0, 1):  # new ones also take the place of such as have worked
        two.renew(event.slot)
        until_free(two, SLOTS)
        two.submit(candidate(index), PROGRAM)
        event = wait(two)
        assert isinstance(event.outcome, Scored)


class Broken:
    """An evaluator of ours with a bug that some program brings out."""

    measurement_key = "test"

    def __call__(
        self,
        program: str,
        seed: int,
        budget_seconds: float,
        watch: Watch | None = None,
        heldout: bool = False,
        trained: Callable[[], None] | None = None,
    ) -> Outcome:
        raise ZeroDivisionError("so it\ngoes")

    def close(self) -> None:
        """Nothing to end."""


def test_a_bug_of_ours_interrupts_the_program_that_brings_it_out(run_dir: Path) -> None:
    finished = evaluate_and_file(spec(run_dir), Broken(), candidate(3), PROGRAM)
    assert finished.outcome == Interrupted("ZeroDivisionError: so it goes")
    assert read_outcomes(run_dir) == {}


def test_an_outcome_that_cannot_be_written_is_the_harnesss_fault(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "outcomes")
    with pytest.raises(HarnessError, match=r"cannot write into .*: No such file"):
        evaluate_and_file(spec(run_dir), Instant(Landscape()), candidate(3), PROGRAM)


def test_a_start_that_is_interrupted_leaves_no_ray(run_dir: Path) -> None:
    """While Ray is up in it, a process may end by a segmentation fault instead of its exit code."""
    script = (
        "import sys, evo.cluster as cluster; from pathlib import Path\n"
        "from evaluator.instant import Landscape; from evo.executor import SlotSpec\n"
        "def interrupt(*_, **__): raise KeyboardInterrupt\n"
        "cluster.ray.wait = interrupt\n"
        "try: cluster.RayExecutor((SlotSpec('slot0', Landscape(), Path(sys.argv[1]), 1.0, 60.0),))\n"
        "except KeyboardInterrupt: print('up' if cluster.ray.is_initialized() else 'down')\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(run_dir)], capture_output=True, text=True, check=False, timeout=120)
    assert (ended.returncode, ended.stdout) == (0, "down\n")


def until_free(executor: Executor, slots: int = 1) -> None:
    deadline = time.monotonic() + 60
    while executor.free_slots < slots:
        assert time.monotonic() < deadline, "no slot has started"
        assert executor.next_finished(0.5) is None


def test_closing_abandons_what_runs_and_can_be_repeated(make: Make, run_dir: Path) -> None:
    executor = make(Landscape(seconds=30))
    executor.submit(candidate(0), PROGRAM)
    began = time.monotonic()
    executor.close()
    executor.close()
    assert time.monotonic() - began < 10
    assert read_outcomes(run_dir) == {}


# ---- a slot's process, here in the test's own


@pytest.mark.parametrize("asked", ["never", "first", "last"])
def test_a_slots_process_keeps_nothing_of_evaluations_that_have_ended(run_dir: Path, asked: str) -> None:
    """Where evaluations overlap, the driver asks once for each whether the next may come, and that call may begin first or last."""
    config = SlotConfig(prepare="", data="", measurement_key="test", early_start=asked != "never")
    actor = SlotActor(SlotSpec("slot0", config, run_dir, 1.0, 60.0))
    actor._evaluate, actor._hold = Broken(), hold(run_dir)
    with contextlib.closing(actor._hold), ThreadPoolExecutor() as pool:
        for ticket in range(3):
            asking = [pool.submit(actor.trained, ticket)] if asked == "first" else []
            actor.evaluate(candidate(ticket), PROGRAM, ticket)
            asking += [pool.submit(actor.trained, ticket)] if asked == "last" else []
            assert not wait_for_all(asking, timeout=10).not_done
    assert not actor._trained


# ---- Ray alone


@pytest.fixture
def ray_executor(ray_is_up: None, run_dir: Path) -> Iterator[Callable[[float, float], RayExecutor]]:
    made: list[RayExecutor] = []

    def make(seconds: float, patience_seconds: float) -> RayExecutor:
        made.append(RayExecutor((spec(run_dir, Landscape(seconds=seconds), patience_seconds),)))
        return made[-1]

    yield make
    for executor in made:
        executor.close()


def at_work() -> list[int]:
    """Processes of slots that evaluate, among ours; Ray names them after what they do."""
    found = []
    for pid in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::SlotActor.evaluate"):
                found.append(pid)
    return found


def evaluating() -> int:
    deadline = time.monotonic() + 60
    while not (pids := at_work()):
        assert time.monotonic() < deadline, "no slot began to evaluate"
        time.sleep(0.05)
    (pid,) = pids
    return pid


def test_a_killed_slot_interrupts_its_candidate_and_is_replaced_and_what_it_had_filed_counts(
    ray_executor: Callable[[float, float], RayExecutor], run_dir: Path
) -> None:
    executor = ray_executor(30, 60)
    executor.submit(candidate(0), PROGRAM)
    os.kill(evaluating(), signal.SIGKILL)
    event = wait(executor)
    assert isinstance(event.outcome, Interrupted)
    assert "lost" in event.outcome.why
    until_free(executor)
    executor.submit(candidate(0), PROGRAM)
    pid = evaluating()
    filed = Instant()(PROGRAM, 0, 1.0)
    write_outcome(run_dir, Finished(0, filed, "slot0", 1.0, 2.0))
    os.kill(pid, signal.SIGKILL)
    event = wait(executor)
    assert (event.outcome, event.started, event.finished) == (filed, 1.0, 2.0)


def test_a_hanging_slot_is_interrupted_at_its_deadline(ray_executor: Callable[[float, float], RayExecutor]) -> None:
    executor = ray_executor(600, 1.0)
    executor.submit(candidate(0), PROGRAM)
    event = wait(executor, seconds=20)
    assert isinstance(event.outcome, Interrupted)


def test_the_latest_point_of_a_running_curve_is_known(ray_executor: Callable[[float, float], RayExecutor]) -> None:
    executor = ray_executor(12, 60)
    executor.submit(candidate(0), PROGRAM)
    while executor.next_finished(0.2) is None:
        (running,) = executor.running()
        if running.point is not None:
            assert running.point.step > 0
            return
    raise AssertionError("finished before a point was seen")


@pytest.fixture
def overlapping(ray_is_up: None, run_dir: Path, small_lab: SmallLab) -> Iterator[RayExecutor]:
    config = SlotConfig(prepare=small_lab.prepare, data=small_lab.data, measurement_key="test", early_start=True)
    executor = RayExecutor((SlotSpec("slot0", config, run_dir, 1.0, 60.0),))
    yield executor
    executor.close()


def submit_two(executor: RayExecutor, text: str, first: int) -> list[int]:
    """The second as soon as the slot takes it, which is while it scores the first; their indexes."""
    executor.submit(candidate(first), text)
    assert executor.free_slots == 0
    while not executor.free_slots:
        assert executor.next_finished(5.0) is None
    executor.submit(candidate(first + 1), text)
    assert (executor.slots, executor.free_slots) == (1, 0)
    assert [running.index for running in executor.running()] == [first, first + 1]
    return [first, first + 1]


@needs_namespaces
def test_a_slot_takes_its_next_candidate_while_it_scores_the_one_before_and_a_killed_one_interrupts_both(
    overlapping: RayExecutor, small_lab: SmallLab, run_dir: Path
) -> None:
    import ray

    indexes = submit_two(overlapping, small_lab.genome, 0)
    events = [wait(overlapping), wait(overlapping)]
    assert [event.index for event in events] == indexes
    assert all(isinstance(event.outcome, Scored) for event in events)
    assert events[0].started < events[1].started < events[0].finished < events[1].finished
    assert sorted(read_outcomes(run_dir)) == indexes
    indexes = submit_two(overlapping, small_lab.genome, 2)
    os.kill(ray.get(overlapping._places[0].actor.__ray_call__.remote(lambda _: os.getpid()), timeout=60), signal.SIGKILL)
    events = [wait(overlapping), wait(overlapping)]
    assert sorted(event.index for event in events) == indexes
    assert all(isinstance(event.outcome, Interrupted) for event in events)
    until_free(overlapping)
    overlapping.submit(candidate(2), small_lab.genome)
    assert isinstance(wait(overlapping).outcome, Scored)


def test_a_retired_slot_gives_back_what_runs_there_and_takes_no_more(ray_is_up: None, run_dir: Path) -> None:
    specs = tuple(SlotSpec(f"slot{i}", Landscape(seconds=1.0), run_dir, 1.0, 60.0) for i in range(SLOTS))
    with contextlib.closing(RayExecutor(specs)) as executor:
        executor.submit(candidate(0), PROGRAM)
        executor.submit(candidate(1), PROGRAM)
        gone, kept = (running.slot for running in executor.running())
        assert executor.retire(gone)
        assert (executor.slots, executor.free_slots) == (1, 0)
        outcomes = {event.index: event.outcome for event in (wait(executor), wait(executor))}
        assert isinstance(outcomes[0], Interrupted)
        assert isinstance(outcomes[1], Scored)
        assert not executor.retire(kept)
        executor.submit(candidate(0), PROGRAM)
        assert executor.free_slots == 0
        assert wait(executor).slot == kept


def test_a_slot_that_cannot_start_says_why_in_one_line_and_that_is_not_held_against_new_processes(ray_is_up: None, run_dir: Path) -> None:
    import ray

    (run_dir / SLOTS_LOCK).mkdir()
    with contextlib.closing(RayExecutor((spec(run_dir),))) as executor:
        executor.submit(candidate(0), PROGRAM)
        event = wait(executor)
        assert event.unable
        assert isinstance(event.outcome, Interrupted)
        assert re.fullmatch("instant0 cannot work: .*Is a directory.*", event.outcome.why)
        executor.submit(candidate(0), PROGRAM)
        ray.wait([executor._places[0].jobs[0].result], timeout=60)
        executor.renew("instant0")
        event = wait(executor)
        assert isinstance(event.outcome, Interrupted)
        assert not event.unable


def two_slots(run_dir: Path, *kinds: SlotKind) -> RayExecutor:
    return RayExecutor(tuple(SlotSpec(f"slot{i}", kind, run_dir, 1.0, 60.0) for i, kind in enumerate(kinds)))


WITHOUT_DATA = SlotConfig(prepare="", data="/nonexistent", measurement_key="test")


class AwaitsStarts(Silent):
    """Lets no slot miss the run because its processes start."""

    def tick(self, driver: Driver) -> None:
        while driver.executor.starting:
            time.sleep(0.05)


def test_a_slot_without_its_data_does_not_end_the_run(ray_is_up: None, tmp_path: Path) -> None:
    with contextlib.closing(two_slots(tmp_path, Landscape(seconds=0.05), WITHOUT_DATA)) as executor:
        driver = drive(tmp_path, 10, executor, AwaitsStarts())
        records = driver.search.standing.records
        assert finished(driver.search)
        assert executor.slots == 1
    assert not any(isinstance(record.outcome, Unwritten) for record in records)
    assert {record.slot for record in records if record.slot} == {"slot0"}
    assert len(driver.notices) == 2
    assert all(notice.startswith("slot1 cannot work: no readable data") for notice in driver.notices)


def test_data_that_all_slots_lack_end_the_run_soon(ray_is_up: None, tmp_path: Path) -> None:
    with contextlib.closing(two_slots(tmp_path, WITHOUT_DATA, WITHOUT_DATA)) as executor:
        began = time.monotonic()
        with pytest.raises(HarnessError, match="no readable data"):
            drive(tmp_path, 10, executor)
        assert time.monotonic() - began < 60


def test_a_machine_of_a_cluster_that_is_another_one_gets_no_work(ray_is_up: None, run_dir: Path, small_lab: SmallLab) -> None:
    """A slot whose machine is not what the measurement key says: its scores would be compared with the others'."""
    here = comparable("cpu", probe().model("cpu"))
    config = SlotConfig(prepare=small_lab.prepare, data=small_lab.data, measurement_key="test")
    both = (SlotSpec(f"cpu{i}", config, run_dir, 1.0, 60.0, like) for i, like in enumerate((here, f"another {here}")))
    with contextlib.closing(RayExecutor(tuple(both))) as executor:
        until_free(executor, 2)
        for index in range(2):
            executor.submit(candidate(index), small_lab.genome)
        events = {event.slot: event for event in (wait(executor), wait(executor))}
    assert isinstance(events["cpu0"].outcome, Scored)
    refused = events["cpu1"]
    assert refused.unable
    assert isinstance(refused.outcome, Interrupted)
    assert f" is {here}, but this run measures on another {here}, " in refused.outcome.why


@pytest.mark.skipif(bool(probe().gpus), reason="this machine has a GPU")
def test_a_machine_of_a_cluster_where_torch_finds_no_gpu_says_so(run_dir: Path) -> None:
    slot = SlotActor(SlotSpec("cuda0", SlotConfig(prepare="", data="", measurement_key="", device="cuda"), run_dir, 1.0, 60.0, "H100"))
    with pytest.raises(HarnessError, match="torch finds no GPU there"):
        slot.evaluate(candidate(0), PROGRAM, 1)
    assert slot._hold is not None
    slot._hold.close()


def test_more_slots_than_the_cluster_has_room_for_are_refused(ray_is_up: None, run_dir: Path) -> None:
    with pytest.raises(UserError, match=f"has {ROOM} CPUs for {ROOM + 1} slots"):
        RayExecutor(tuple(spec(run_dir, Landscape()) for _ in range(ROOM + 1)))


NODE_DIES = """
import sys, time
from pathlib import Path
import evo.cluster  # sets what ray reads when it is imported
import ray
from ray.cluster_utils import Cluster
from evaluator.instant import Landscape
from evaluator.outcome import Scored
from evo.executor import SlotSpec
sys.path.insert(0, sys.argv[2])
from tiny_lab import Silent, drive

run_dir, size = Path(sys.argv[1]), dict(num_cpus=1, object_store_memory=100 * 2**20)
cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
node = cluster.add_node(**size)
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": sys.argv[3]}})

class Kills(Silent):
    gone = False
    def tick(self, driver):
        if driver.hours.evaluations >= 4 and not self.gone:
            self.gone = True
            cluster.remove_node(node, allow_graceful=False)

executor = evo.cluster.RayExecutor(tuple(SlotSpec(f"cpu{i}", Landscape(seconds=0.2), run_dir, 1.0, 8.0) for i in range(2)))
driver = drive(run_dir, 6, executor, Kills())
records = driver.search.standing.records
slots = [{r.slot for r in records[:3]}, {r.slot for r in records[-5:]}, {r.slot for r in records}]
Path(sys.argv[4]).write_text(str([len(found) for found in slots]))  # a slot of no name: given up
executor.close()
ray.shutdown()
cluster.shutdown()
"""


def test_a_slot_whose_machine_is_gone_takes_no_work(tmp_path: Path) -> None:
    """Two of Ray's node processes, of which one is killed. A slot that waits for a machine would hold a candidate to its deadline."""
    here, found = Path(__file__).parent, tmp_path / "found"
    arguments = [str(tmp_path / "run"), str(here), os.pathsep.join([str(here.parent), str(here)]), str(found)]
    env = {**os.environ, "PYTHONPATH": str(here.parent)}
    done = subprocess.run([sys.executable, "-c", NODE_DIES, *arguments], env=env, capture_output=True, text=True, timeout=150, check=False)
    assert found.exists(), done.stderr[-3000:]
    assert found.read_text() == "[2, 1, 2]"


GPUS = """
import os, sys, time
from pathlib import Path
import evo.cluster  # sets what ray reads when it is imported
import ray
from evaluator.slot import SlotConfig
from evo.executor import SlotSpec

config = SlotConfig(prepare="", data="", measurement_key="", device="cuda")
specs = tuple(SlotSpec(f"gpu{i}", config, Path(sys.argv[1]), 1.0, 8.0) for i in range(3))
evo.cluster.connect("", 3, 1)
executor = evo.cluster.RayExecutor(specs)

def gpus():
    while executor.starting:
        time.sleep(0.1)
    asked = [p.actor.__ray_call__.remote(lambda _: os.environ["CUDA_VISIBLE_DEVICES"]) for p in executor._places if not p.retired]
    return ray.get(asked, timeout=60)

found = [gpus()]
executor.renew("gpu0")
found.append(gpus())
executor.retire("gpu0")
executor.renew("gpu2")
found.append(gpus())
time.sleep(2)  # what Ray had taken back would have been given out by now
found.append(ray.available_resources().get("GPU", 0))
executor.close()
while ray.available_resources().get("GPU") != 3:
    time.sleep(0.1)
Path(sys.argv[2]).write_text(repr(found))
ray.shutdown()
"""


def test_a_slot_keeps_its_gpu_and_that_of_a_retired_slot_goes_to_no_other(tmp_path: Path) -> None:
    """GPUs by name alone: Ray takes our word for three, and masks them as it does real ones."""
    found = tmp_path / "found"
    command = [sys.executable, "-c", GPUS, str(tmp_path), str(found)]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=120, check=False)
    assert found.exists(), done.stderr[-3000:]
    at_first, renewed, retired, unused = ast.literal_eval(found.read_text())
    assert sorted(at_first) == ["0", "1", "2"]
    assert renewed == at_first
    assert retired == at_first[1:]
    assert unused == 0


# ---- slots that outlive their driver


def test_orphans_are_awaited(run_dir: Path) -> None:
    await_orphans(run_dir)  # nobody was ever here
    lock = hold(run_dir)
    with pytest.raises(ClusterError, match="earlier session"):
        await_orphans(run_dir, timeout_seconds=0.3)
    lock.close()
    await_orphans(run_dir, timeout_seconds=0.3)
