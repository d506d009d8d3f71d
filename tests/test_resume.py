"""Interruption: whatever ends a run, it goes on bit for bit, and nothing that was saved is lost."""

import copy
import dataclasses
import errno
import json
import math
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from minicnn import backend, cli, train, weights
from minicnn.train import checkpoint, sources
from tests import train_driver
from tests.data.memory import peak_of

pytestmark = pytest.mark.host

DRIVER = Path(__file__).with_name("train_driver.py")
TIMES = {"seconds", "images_per_second"}


def driver(*argv, die="", **options):
    env = {**os.environ, "DIE": die} if die else None
    return subprocess.run(
        [sys.executable, DRIVER, *map(str, argv)], capture_output=True, text=True, check=False, env=env, **options
    )


def without_times(entry):
    return {name: value for name, value in entry.items() if name not in TIMES}


def outcome(folder):
    """All that a run has left, times aside."""
    history = json.loads((folder / "history.json").read_text())
    history["history"]["epochs"] = list(map(without_times, history["history"]["epochs"]))
    header, *rows = (folder / "log.csv").read_text().splitlines()
    columns = header.split(",")
    table = [without_times(dict(zip(columns, row.split(","), strict=True))) for row in rows]
    lines = [without_times(json.loads(line)) for line in (folder / "log.jsonl").read_text().splitlines()]
    files = {name: (folder / name).read_bytes() for name in ("weights.npz", "best.npz", "config.json")}
    return history, table, lines, files


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run leaves that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = driver("start", folder)
    assert (done.returncode, done.stderr) == (0, "")
    return outcome(folder)


@pytest.fixture
def tiny(monkeypatch):
    """The driver's network and pictures, in this process."""
    monkeypatch.setitem(train.SETS, "dots", train_driver.Dots)
    monkeypatch.setitem(train.MODELS, "tiny", train_driver.tiny)
    return train_driver.RECIPE


def test_there_is_something_to_compare(whole):
    history, table, lines, files = whole
    events = [line["event"] for line in lines]
    assert [row["event"] for row in table] == events
    assert {event: events.count(event) for event in events} == {"step": 20, "evaluation": 6, "epoch": 4}
    assert len(history["history"]["steps"]["loss"]) == 20 and len(history["history"]["evaluations"]) == 6
    assert files["weights.npz"] != files["best.npz"]


# ------------------------------------------------------------------------------------------------------ kill -9

MORE = ("write,90", "write,301", "rename,9", "renamed,11", "log,1", "log,24")
DEATHS = [
    *("write,7", "rename,3", "renamed,2", "step,8"),
    *(pytest.param(die, marks=pytest.mark.long) for die in MORE),
]


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("die", DEATHS)
def test_killed_while_something_is_written(whole, tmp_path, die):
    """Killed there, and once more on the way, it ends as it would have."""
    folder = tmp_path / "run"
    assert driver("start", folder, die=die).returncode == -signal.SIGKILL
    again = driver("resume", folder, die="renamed,4")
    assert again.returncode == -signal.SIGKILL, again.stderr
    done = driver("resume", folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert outcome(folder) == whole
    assert not list(folder.rglob("*.part"))


def size(folder):
    log = folder / "log.jsonl"
    return log.stat().st_size if log.exists() else 0


def kill_at_random(folder, seed, kills, entries=()):
    """Start a run, and kill and resume it, each time a random time after its first line in the log; how often it was
    really killed."""
    draw, killed, verb = random.Random(seed), 0, "start"
    while True:
        argv = [sys.executable, DRIVER, verb, folder, *(entries if verb == "start" else ())]
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            least = size(folder)
            while size(folder) <= least and process.poll() is None:  # until something has been done
                time.sleep(0.002)
                least = min(least, size(folder))  # it is cut back to the checkpoint first
            if killed < kills:
                deadline = time.monotonic() + draw.uniform(0, 0.3)
                while time.monotonic() < deadline and process.poll() is None:
                    time.sleep(0.002)
                process.kill()
            _, err = process.communicate()
        if process.returncode != -signal.SIGKILL:
            assert (process.returncode, err) == (0, ""), err
            return killed
        killed, verb = killed + 1, "resume"


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize(
    "kills", [pytest.param(3, id="3"), pytest.param(20, marks=pytest.mark.long, id="20")]
)
def test_killed_at_random_moments(tmp_path, kills):
    """Always the weights, the history and the log of the run that was let alone."""
    entries = (f"epochs={12 if kills < 20 else 40}",)
    assert driver("start", tmp_path / "whole", *entries).returncode == 0
    expected, killed, run = outcome(tmp_path / "whole"), 0, 0
    while killed < kills:
        folder = tmp_path / f"run-{run}"
        killed += kill_at_random(folder, (kills, run).__hash__(), kills - killed, entries)
        assert outcome(folder) == expected
        run += 1


# ------------------------------------------------------------------------------------------------------- signals

@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_exits(tmp_path, number, status):
    entries = ("epochs=8",)
    folder = tmp_path / "run"
    argv = [sys.executable, DRIVER, "start", folder, *entries]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while not (folder / "log.csv").exists() or (folder / "log.csv").stat().st_size < 600:
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert err.startswith("minicnn: interrupted; saved at step ") and err.count("\n") == 1
    assert err.endswith(f"'minicnn resume {folder}' goes on\n")
    step = int(err.split("step ")[1].split(".")[0])
    newest = train.Checkpoints(folder / "checkpoints").paths()[0]
    assert newest.name == f"step-{step:09}.npz" and 0 < step <= 40
    assert driver("resume", folder).returncode == 0
    assert driver("start", tmp_path / "whole", *entries).returncode == 0
    assert outcome(folder) == outcome(tmp_path / "whole")


def test_a_signal_within_an_evaluation(tiny, whole, tmp_path, monkeypatch):
    """It does not wait for the end of the evaluation, which is done again, at an epoch's end and within one."""
    original = sources.Data.loaders

    def loaders(self, *how):  # the judge's batches are smaller, so that there are some
        first, judge = original(self, *how)
        return first, sources.DataLoader(judge.dataset, 7, seed=0, transform=judge.transform)

    class Impatient(train.Callback):
        left = 8

        def evaluating(self, training):
            Impatient.left -= 1
            if Impatient.left == 0:
                os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(sources.Data, "loaders", loaders)
    expected = train.run(tiny, folder=tmp_path / "whole")
    folder, result, interruptions = tmp_path / "run", None, 0
    while result is None:
        Impatient.left = 8
        try:
            exists = (folder / "config.json").exists()
            watch = {"callbacks": [Impatient()]}
            result = train.resume(folder, **watch) if exists else train.run(tiny, folder=folder, **watch)
        except train.Interrupted as interruption:
            assert interruption.signal == signal.SIGTERM
            interruptions += 1
    assert interruptions > 4
    for name, array in expected.model.state_dict().items():
        np.testing.assert_array_equal(array, result.model.state_dict()[name])
    assert result.history["evaluations"] == expected.history["evaluations"]
    assert list(map(without_times, result.history["epochs"])) == list(map(without_times, expected.history["epochs"]))


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_pictures_are_looked_at(tmp_path, number):
    """It ends at once, before anything has begun: no folder is left, and nobody is sent to resume it."""
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "photographs" / "red").mkdir(parents=True)
    (tmp_path / "photographs" / "blue").mkdir()
    image.new("RGB", (30, 20)).save(tmp_path / "photographs" / "blue" / "0.png")
    image.new("RGB", (3000, 2000)).save(tmp_path / "photographs" / "red" / "0.png")
    for i in range(1, 1500):
        os.link(tmp_path / "photographs" / "red" / "0.png", tmp_path / "photographs" / "red" / f"{i}.png")
    argv = [sys.executable, "-m", "minicnn", "train", "resnet20", "--data", "photographs", "--output", "runs/1"]
    env = {**os.environ, "PYTHONPATH": str(DRIVER.parents[1])}
    with subprocess.Popen(argv, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "runs" / "1" / ".lock").exists():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(0.5)
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert err == "minicnn: interrupted. Nothing has begun: start it again\n"
    assert [path.name for path in tmp_path.iterdir()] == ["photographs"]


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("when", ["rename,1", "renamed,1", "rename,2"])
def test_killed_before_it_has_begun_a_run_can_be_started_again(tmp_path, when):
    """By the same command, which takes the folder that is left for free."""
    command = [sys.executable, str(DRIVER), "start", "run", "epochs=1"]
    env = {**os.environ, "DIE": when}
    assert subprocess.run(command, cwd=tmp_path, env=env, check=False).returncode == -signal.SIGKILL
    assert (tmp_path / "run" / ".lock").exists() and not (tmp_path / "run" / "config.json").exists()
    assert cli._new_folder(str(tmp_path / "run")) == tmp_path / "run"
    assert not cli._is_free(tmp_path / "run")  # no number is given twice: another process may be about to begin there
    assert subprocess.run(command, cwd=tmp_path, check=False, capture_output=True).returncode == 0
    assert not list((tmp_path / "run").glob(".*.part")) and (tmp_path / "run" / "weights.npz").exists()
    with pytest.raises(ValueError, match="exists, and results are not written over others"):
        cli._new_folder(str(tmp_path / "run"))


def test_handlers_are_put_back(tiny, tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train.run(tiny, folder=tmp_path / "run")
    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


# ----------------------------------------------------------------------------------------- damage, and full disks

class Crash(train.Callback):
    def safe(self, training):
        if training.updates == 8:
            raise RuntimeError("crash")


def begun(recipe, tmp_path):
    """The folder of a run that ended in an exception after step 8, whose checkpoint is not there, and the others'."""
    folder = train.RunFolder(tmp_path / "run", every=1)
    with pytest.raises(RuntimeError, match="crash"):
        train.run(recipe, folder=folder, callbacks=[Crash()])
    paths = folder.checkpoints.paths()
    assert [path.name[-6:] for path in paths] == ["07.npz", "06.npz", "05.npz"]
    return folder.path, paths


@pytest.mark.parametrize("damage", ["cut off", "a bit", "empty", "digest", "other file"])
def test_a_broken_checkpoint_falls_back_to_the_one_before(tiny, whole, tmp_path, damage):
    folder, paths = begun(tiny, tmp_path)
    content = bytearray(paths[0].read_bytes())
    if damage == "a bit":
        content[len(content) // 3] ^= 4
    elif damage == "digest":
        content[-1] ^= 1
    damaged = {"cut off": content[:-5000], "empty": b"", "other file": b"PK\3\4" + b"?" * 999}
    paths[0].write_bytes(damaged.get(damage, content))
    with pytest.warns(UserWarning) as told:
        train.save(train.resume(folder), folder)
    assert [str(warning.message) for warning in told] == [
        f"{paths[0]}: damaged or cut off: its SHA-256 is not the one at its end. The one before is taken"
    ]
    assert outcome(folder) == whole


def test_without_any_whole_checkpoint_it_begins_anew(tiny, whole, tmp_path):
    folder, paths = begun(tiny, tmp_path)
    for path in paths:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning) as told:
        train.save(train.resume(folder), folder)
    assert [str(warning.message).rpartition(". ")[2] for warning in told[:3]] == [
        "The one before is taken", "The one before is taken", "It was the last of them"
    ]  # fmt: skip
    assert [str(warning.message) for warning in told[3:]] == [
        f"{folder}: no checkpoint is whole: the run begins anew, and so do its logs"
    ]
    assert outcome(folder) == whole


@pytest.mark.skipif(os.name == "nt", reason="limits")
def test_a_full_disk_loses_nothing(whole, tmp_path):
    """Here: no file may grow beyond what the first checkpoint takes, and the second is larger."""
    import resource

    driver("start", tmp_path / "first", die="renamed,3")  # environment, config, and the first checkpoint
    [first] = train.Checkpoints(tmp_path / "first" / "checkpoints").paths()
    size = first.stat().st_size + 100
    folder = tmp_path / "full"
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))}
    full = driver("start", folder, **limit)
    assert full.returncode == 1 and full.stderr.count("\n") == 1
    assert "the checkpoint of step 1 could not be written (File too large; " in full.stderr
    assert f"the last one is {folder / 'checkpoints' / 'step-000000000.npz'}" in full.stderr
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000000000.npz"]
    again = driver("resume", folder, **limit)
    assert again.returncode == 1 and "could not be written" in again.stderr
    assert driver("resume", folder).returncode == 0
    assert outcome(folder) == whole


def test_a_log_that_cannot_be_written(tiny, tmp_path, monkeypatch, capsys):
    """A device that is always full, as the log of a run."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    folder = train.RunFolder(tmp_path / "run", every=1)
    folder.begin(tiny, "cpu", 0, None)
    (tmp_path / "run" / "log.jsonl").symlink_to("/dev/full")
    monkeypatch.setattr(folder, "_cut", lambda *_: None)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # a device has none
    with pytest.raises(OSError, match=r"log\.jsonl could not be written \(No space left on device\)\. The checkpoints"):
        train.resume(folder)
    assert [path.name for path in folder.checkpoints.paths()] == ["step-000000000.npz"]


def test_a_folder_that_cannot_be_written(tiny, tmp_path, monkeypatch, capsys):
    """Before the work where it shows at once, and later with the checkpoints of before kept."""
    assert cli.main(["train", "lenet5", "--output", "/proc/run"]) == 1
    assert capsys.readouterr().err.startswith("minicnn: error: ")
    replacing = weights.replacing

    def read_only(path):
        if path.name == "step-000000004.npz":
            raise PermissionError(13, "Permission denied", str(path))
        return replacing(path)

    with monkeypatch.context() as patch:
        patch.setattr(weights, "replacing", read_only)
        with pytest.raises(OSError, match=r"step 4 could not be written \(Permission denied; .* is .*step-000000003"):
            train.run(tiny, folder=train.RunFolder(tmp_path / "run", every=1))
    done = train.resume(tmp_path / "run")
    assert len(done.history["steps"]["loss"]) == 20


@pytest.mark.parametrize("name", ["environment.json", "config.json", "best.npz", "weights.npz", "history.json"])
def test_a_full_disk_is_told_of_with_the_file_and_the_cure(tiny, whole, tmp_path, monkeypatch, capsys, name):
    """Whichever file it is that has no room."""
    fsync, where = os.fsync, []
    replacing = weights.replacing

    def full(handle):
        if where[-1] == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    def noting(path):
        where.append(Path(path).name)
        return replacing(path)

    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(weights, "replacing", noting)
        patch.setattr(os, "fsync", full)
        patch.setattr(cli.report, "missing", lambda: "no pictures here")
        patch.setattr(cli.train, "PRESETS", {"tiny": train.Preset(tiny, "", "")})
        assert cli.main(["train", "--preset", "tiny", "--output", str(folder), "--checkpoint-every", "1"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"{folder / name} could not be written, and what was there is kept: No space" in err
    assert "MB are free there): make room" in err
    if name in ("environment.json", "config.json"):
        assert not folder.exists()
        return
    assert f"'minicnn resume {folder}' " in err and not list(folder.rglob("*.part"))
    train.save(train.resume(folder), folder)
    assert outcome(folder) == whole


# ------------------------------------------------------------------------------------------------- what is refused

def test_the_latest_few_are_kept(tiny, tmp_path):
    folder = train.RunFolder(tmp_path / "run", every=1, keep=2)
    train.run(tiny, folder=folder)
    assert [path.name for path in folder.checkpoints.paths()] == ["step-000000020.npz", "step-000000019.npz"]
    with pytest.raises(ValueError, match="keep is 0, and must be at least 1"):
        train.RunFolder(tmp_path, keep=0)


def test_a_finished_run_goes_on_to_the_same_end(tiny, tmp_path):
    first = train.run(tiny, folder=tmp_path / "run")
    log = (tmp_path / "run" / "log.csv").read_bytes()
    again = train.resume(tmp_path / "run")
    assert again.history == first.history and again.result.loss == first.result.loss
    assert again.gradients == first.gradients and (tmp_path / "run" / "log.csv").read_bytes() == log


def test_a_run_is_not_written_over(tiny, tmp_path):
    train.run(tiny, folder=tmp_path / "run")
    before = outcome_files(tmp_path / "run")
    with pytest.raises(ValueError, match="has a run in it: go on with it by minicnn resume"):
        train.run(tiny, folder=tmp_path / "run")
    assert outcome_files(tmp_path / "run") == before


def test_where_the_best_weights_are_gone_the_best_since_are_kept(tiny, tmp_path):
    """Another rate is taken from a step before them. Those of before that step were better: they are gone too."""

    class Stop(train.Callback):
        def step(self, training, progress):
            if training.updates == 4:
                raise RuntimeError("stop")

    def best():
        _, facts = weights.read(run / "best.npz")
        return float(facts["test_loss"]), int(facts["step"])

    run, recipe = tmp_path / "run", dataclasses.replace(tiny, evaluate_every=1, epochs=2)
    folder = train.RunFolder(run, every=2)
    with pytest.raises(RuntimeError, match="stop"):
        train.run(recipe, folder=folder, callbacks=[Stop()])
    assert best()[1] == 3 and folder.checkpoints.paths()[0].name == "step-000000002.npz"
    done = train.resume(run, lr=100)  # which learns nothing any more
    judged = [(entry["test_loss"], entry["step"]) for entry in done.history["evaluations"]]
    assert min(judged[:2]) < min(judged[2:]) == best()


def outcome_files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_other_data_are_refused(tiny, tmp_path, monkeypatch):
    class Other(train_driver.Dots):
        def __init__(self, train=True):
            super().__init__(train)
            self.labels[3] = (self.labels[3] + 1) % 3

    train.run(tiny, folder=tmp_path / "run")
    monkeypatch.setitem(train.SETS, "dots", Other)
    with pytest.raises(ValueError, match="the data have changed since this run began"):
        train.resume(tmp_path / "run")


def test_a_config_that_was_changed_does_not_fit(tiny, tmp_path):
    train.run(tiny, folder=tmp_path / "run")
    config = tmp_path / "run" / "config.json"
    text = config.read_text()
    for before, after, message in (
        ('"batch_size": 8', '"batch_size": 10', "batch_size is 10, and was 8 when this run began. Put it back, or"),
        ('"lr": 0.01', '"lr": 0.001', "lr is 0.001, and was 0.01 when .*, or 'minicnn resume .*run --lr X', or"),
        ('"model": "tiny"', '"model": "resnet110"', "model is resnet110, and was tiny when"),
        ('"epochs": 4', '"epochs": 5', "epochs is 5, and was 4 when .*minicnn train --config .*config.json"),
    ):
        assert before in text
        config.write_text(text.replace(before, after))
        with pytest.raises(ValueError, match=message) as caught:
            train.resume(tmp_path / "run")
        assert len(str(caught.value)) < 1000


def test_two_processes_do_not_share_a_run(tiny, tmp_path):
    pytest.importorskip("fcntl")
    train.run(tiny, folder=tmp_path / "run")
    with train.RunFolder(tmp_path / "run").alone():
        with pytest.raises(ValueError, match="another process is at work on this run"):
            train.resume(tmp_path / "run")
        done = driver("resume", tmp_path / "run")
    assert done.returncode == 1 and done.stderr.count("\n") == 1


def test_a_device_that_the_run_began_on_and_is_not_here(tiny, tmp_path, monkeypatch, capsys):
    folder, _ = begun(tiny, tmp_path)
    facts = folder / "environment.json"
    facts.write_text(facts.read_text().replace('"device": "cpu"', '"device": "cuda:0"'))
    monkeypatch.setattr(backend, "cuda_problem", lambda: "no driver")
    assert cli.main(["resume", str(folder)]) == 1
    err = capsys.readouterr().err
    assert "the run began on cuda:0, which does not work here: no driver. On the processor" in err
    assert "--device cpu" in err and err.count("\n") == 1
    assert cli.main(["resume", str(folder), "--device", "cpu"]) == 0


def test_resume_can_do_what_its_errors_advise():
    """A data set that is gone is advised to be got by --download, and a run that diverged by --lr."""
    arguments = cli.parse(["resume", "run", "--download", "--lr", "0.5"])
    assert (arguments.download, arguments.lr) == (True, 0.5)


def test_what_is_not_finite_is_null(tiny, tmp_path, monkeypatch):
    """In the log and the history, which are JSON; the network does as well as it can, and its best is no NaN."""

    class Dots(train_driver.Dots):
        def __init__(self, train=True):
            super().__init__(train)
            self.images = self.images.astype(np.float32) / 255
            if not train:
                self.images[3] = np.inf

    def finite(text):
        return json.loads(text, parse_constant=pytest.fail)

    monkeypatch.setitem(train.SETS, "dots", Dots)
    run = train.run(tiny, folder=tmp_path / "run")
    train.save(run, tmp_path / "run")
    lines = list(map(finite, (tmp_path / "run" / "log.jsonl").read_text().splitlines()))
    judged = [line for line in lines if line["event"] in ("evaluation", "epoch")]
    assert [line["test_loss"] for line in judged] == [None] * 10
    table = (tmp_path / "run" / "log.csv").read_text()
    assert "nan" not in table and "inf" not in table
    history = finite((tmp_path / "run" / "history.json").read_text())
    assert history["loss"] is None and history["history"]["epochs"][0]["test_loss"] is None
    assert not (tmp_path / "run" / "best.npz").exists()
    assert train.resume(tmp_path / "run").history == run.history


def test_other_troubles_with_locks_are_no_other_process(tiny, tmp_path, monkeypatch):
    """A file system that has no locks, say: a note, and the run goes on."""
    fcntl = pytest.importorskip("fcntl")

    def without_locks(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", without_locks)
    with pytest.warns(UserWarning, match="run: cannot be locked there .No locks available.: see to it that no other"):
        train.run(tiny, folder=tmp_path / "run")


def test_time_goes_on(tiny, tmp_path):
    """The seconds of a log never go back where a run was interrupted."""
    folder, _ = begun(tiny, tmp_path)
    time.sleep(0.3)  # while nothing runs; this does not count
    lines = (folder / "log.jsonl").read_text().splitlines()
    before = [entry["seconds"] for entry in map(json.loads, lines)]
    train.resume(folder)
    after = [json.loads(line)["seconds"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert after == sorted(after) and len(after) > len(before)
    assert after[len(before)] < before[-1] + 0.3 and after[len(before)] >= before[-2]


def test_a_log_that_is_shorter_than_it_was(tiny, tmp_path):
    train.run(tiny, folder=tmp_path / "run")
    (tmp_path / "run" / "log.csv").write_text("")
    with pytest.warns(UserWarning, match=r"log\.csv: shorter than it was at the checkpoint"):
        train.resume(tmp_path / "run")


def test_another_numpy_is_told_of(tiny, tmp_path):
    train.run(tiny, folder=tmp_path / "run")
    facts = tmp_path / "run" / "environment.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"numpy": "1.0"}))
    with pytest.warns(UserWarning, match=r"the run began with NumPy 1\.0, this is "):
        train.resume(tmp_path / "run")
    facts.write_text("[" * 100_000)
    train.resume(tmp_path / "run")


def test_the_random_generator_and_its_children_go_on(tiny, tmp_path):
    """Also what is spawned from minicnn's generator after a resumption."""
    train.run(tiny, folder=tmp_path / "run")
    backend.generator().spawn(2)
    state = backend.generator().bit_generator.state
    train.resume(tmp_path / "run")
    assert backend.generator().bit_generator.state == state  # spawning draws nothing


# ------------------------------------------------------------------------------------------------------- fuzzing

CONFIG = train.Recipe(data="dots", options={"width": 0.5}).to_json().encode()
VALUES = (
    "null", "true", "-1", "0", "1e999", "NaN", '""', '"x"', "[]", "{}", "[1,2]", "1e-300", "9" * 30, "9" * 5000,
    '{"a": []}', "[" * 3000, '"\\ud800"', "-0.0", "1.5", "[null]", "[0.9, 0.1]", '{"width": NaN}', '"../../etc/passwd"',
)  # fmt: skip


def mangled(content, draw):
    """Some bytes changed, cut, doubled, or a value exchanged for another."""
    content = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(content) or 1)
        how = draw.randrange(6)
        if how == 0:
            content[at : at + 1] = bytes([draw.randrange(256)])
        elif how == 1:
            del content[at:]
        elif how == 2:
            content[at:at] = content[at : at + draw.randrange(200)]
        elif how == 3:
            del content[at : at + draw.randrange(20)]
        elif b":" in content:
            start = content.find(b":", at) + 1
            ends = (content.find(b",", start), content.find(b"}", start))
            end = min((i for i in ends if i >= 0), default=len(content))
            if start:
                content[start:end] = draw.choice(VALUES).encode()
    return bytes(content)


def accept_or_explain(content, partial, accepted):
    try:
        recipe = train.parse_config(content, partial=partial)
    except ValueError as error:
        assert len(str(error)) < 2000
    else:
        accepted.append(content)
        recipe.check()
        assert train.parse_config(recipe.to_json().encode()) == recipe


def fuzz_config(count, seed):
    draw, accepted = random.Random(seed), []
    for _ in range(count):
        content, partial = mangled(CONFIG, draw), draw.random() < 0.5
        assert peak_of(accept_or_explain, content, partial, accepted) < 1 << 20, content
    assert 0 < len(accepted) < count


def test_configs_that_are_damaged_or_hostile():
    fuzz_config(600, 1)


@pytest.mark.long
def test_ten_thousand_configs():
    fuzz_config(10_000, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no config, or damaged"),
        (b"[]", "it must be an object"),
        (b"{}", 'with "format": 1'),
        (b'{"format": 2}', 'with "format": 1'),
        (b'{"format": 1}', "damaged: it lacks accumulate, "),
        (b'{"format": 1, "epoch": 3}', "unknown entry 'epoch'. Did you mean 'epochs'?"),
        (CONFIG.replace(b'"epochs": 5', b'"epochs": "5"'), "epochs is '5', and must be of the type int"),
        (CONFIG.replace(b'"epochs": 5', b'"epochs": true'), "epochs is True, and must be of the type int"),
        (CONFIG.replace(b'"epochs": 5', b'"epochs": 0'), "epochs is 0, and must be from 1 to 1000000000"),
        (CONFIG.replace(b'"shift": 1', b'"shift": 257'), "shift is 257, and must be from 0 to 256"),
        (CONFIG.replace(b'"pad": 0', b'"pad": 100000'), "pad is 100000, and must be from 0 to 256"),
        (CONFIG.replace(b'"input_size": null', b'"input_size": 5000'), "is 5000, and must be from 1 to 2048"),
        (CONFIG.replace(b'"data": "dots"', b'"data": ""'), "data is '', of 0 characters, and must be"),
        (CONFIG.replace(b'"data": "dots"', b'"data": "' + b"a/" * 3000 + b'"'), "of 6000 characters, and must be"),
        (CONFIG.replace(b'"lr": null', b'"lr": NaN'), "lr is nan, and must be a number above 0"),
        (CONFIG.replace(b'"lr": null', b'"lr": 1' + b"0" * 400), "lr is too large a number"),
        (CONFIG.replace(b'"width": 0.5', b'"width": [1]'), "the option width is [1], and must be a text, a number"),
        (CONFIG.replace(b'"pixels": []', b'"pixels": [1, 1]'), "must be two numbers, for black and white"),
        (b"[" * 200_000, "no config, or damaged"),
        (b" " * (2 << 20), "larger than 1048576 bytes"),
        (b'{"format": 1, "seed": ' + b"9" * 5000 + b"}", "no config, or damaged"),
    ],
)
def test_configs_that_make_no_sense(content, message):
    with pytest.raises(ValueError, match=".") as caught:
        train.parse_config(content)
    assert message in str(caught.value)


def test_a_config_that_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a file"):
        train.read_config(tmp_path / "pipe")


def forged(content):
    """A checkpoint whose digest is right, whatever it holds."""
    import hashlib

    return content[:-64] + hashlib.sha256(content[:-64]).hexdigest().encode()


ODD = (
    None, True, -1, 0, 1e999, math.nan, "", "x", [], {}, [1, 2], 10**30, -(10**18), 0.5, [[[]]], {"a": []}, [None] * 50
)  # fmt: skip


def changed(facts, draw):
    """A copy of `facts` in which an entry, somewhere, is another one, missing, or under another name."""
    facts = here = copy.deepcopy(facts)
    while True:
        keys = list(here) if isinstance(here, dict) else range(len(here))
        key = draw.choice(keys)
        if isinstance(here[key], dict | list) and here[key] and draw.random() < 0.7:
            here = here[key]
            continue
        if isinstance(here, dict) and draw.random() < 0.2:
            here[draw.choice(("x", "", "0", "params"))] = here.pop(key)
        elif draw.random() < 0.2:
            del here[key]
        else:
            here[key] = draw.choice(ODD)
        return facts


def odd_array(array, draw):
    changes = (array[..., None], array.astype(np.int64), array.ravel()[:-1], np.array(math.nan), array[None] > 0)
    return draw.choice(changes)


def fuzz_checkpoint(tiny, tmp_path, count, seed):
    """Damaged ones, and forged ones whose digest is right: read, or refused in one line."""
    path, draw = tmp_path / "checkpoint.npz", random.Random(seed)
    model = train_driver.tiny()
    loader = sources.DataLoader(train_driver.Dots(), 8, seed=1)
    training = train.Training(model, loader, None, sources_optimizer(model), epochs=2)
    training.run()
    arrays, facts = training.state_dict()
    checkpoint.write(path, arrays, {"training": facts})
    content, kinds = path.read_bytes(), set()
    for _ in range(count):
        if draw.random() < 0.5:  # well-formed, with facts or arrays that make no sense
            some = {name: odd_array(array, draw) if draw.random() < 0.05 else array for name, array in arrays.items()}
            checkpoint.write(path, some, {"training": changed(facts, draw)})
        else:
            path.write_bytes(forged(mangled(content, draw)) if draw.random() < 0.8 else mangled(content, draw))
        try:
            found, other = checkpoint.read(path, 1 << 24)
            training.load_state_dict(found, other["training"])
            kinds.add("read")
        except (train.CheckpointError, ValueError, KeyError) as error:
            kinds.add(type(error).__name__)
            assert len(str(error)) < 5000
    assert kinds >= {"read", "CheckpointError"}


def sources_optimizer(model):
    from minicnn import optim

    return optim.Adam(model.parameters(), lr=0.01)


def test_checkpoints_that_are_damaged_or_hostile(tiny, tmp_path):
    fuzz_checkpoint(tiny, tmp_path, 200, 1)


@pytest.mark.long
def test_ten_thousand_checkpoints(tiny, tmp_path):
    fuzz_checkpoint(tiny, tmp_path, 10_000, 2)


def test_a_checkpoint_is_on_the_disk_before_its_name_and_its_name_before_anything_else(tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace

    def syncing(handle):
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        if calls[-1] == "folder":
            assert os.path.samestat(os.fstat(handle), tmp_path.stat())
        fsync(handle)

    def replacing(source, target):
        calls.append(f"replace {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "replace", replacing)
    kept = train.Checkpoints(tmp_path, keep=1)
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda self, **how: (calls.append(f"remove {self.name}"), unlink(self, **how)))
    for number in range(2):
        kept.save(number, {"a": np.zeros(3)}, {})
    removed = [call for call in calls if call == "folder" or "step-" in call or call == "file"]
    first, second = "step-000000000.npz", "step-000000001.npz"
    assert removed == [
        "file", f"replace {first}", "folder", "file", f"replace {second}", "folder", f"remove {first}"
    ]  # fmt: skip


def test_numbers_of_another_type_are_refused():
    """A cast would not give the bits of before."""
    model = train_driver.tiny()
    training = train.Training(model, sources.DataLoader(train_driver.Dots(), 8, seed=1), None, sources_optimizer(model))
    arrays, facts = training.state_dict()
    name, before = "model.conv.weight", model.state_dict()["conv.weight"].copy()
    other = {**arrays, name: arrays[name].astype(np.float64) + 1}
    with pytest.raises(ValueError, match=r"conv\.weight is float64, and the network's is float32"):
        training.load_state_dict(other, facts)
    np.testing.assert_array_equal(model.state_dict()["conv.weight"], before)
    training.load_state_dict(arrays, facts)


def test_a_checkpoint_says_what_was_written(tmp_path, rng):
    arrays = {"model.a": rng.standard_normal((3, 4)).astype(np.float32), "history.loss": np.zeros(0), "n": np.array(7)}
    facts = {"text": "ü", "number": 0.1, "large": 2**100, "none": None}
    checkpoint.write(tmp_path / "c.npz", arrays, facts)
    found, other = checkpoint.read(tmp_path / "c.npz")
    assert other == facts and set(found) == set(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    with np.load(tmp_path / "c.npz", allow_pickle=False) as plain:  # a file that NumPy reads too
        np.testing.assert_array_equal(plain["model.a"], arrays["model.a"])
