"""The command line: what it prints, its exit status, and that whatever goes wrong is one line on stderr."""

import configparser
import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import minicnn
from minicnn import cli, cuda, doctor, threads, train, weights
from minicnn.data import MNIST

ROOT = Path(__file__).parents[1]
QUICK = ["--images", "128", "--epochs", "2"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder, MNIST of a few images, and the number of threads put back at the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(threads, "_requested", None)

    class Small(MNIST):
        def __init__(self, train=True):
            super().__init__(train)
            self.images, self.labels = self.images[:300], self.labels[:300]

    monkeypatch.setitem(train.SETS, "mnist", Small)
    return tmp_path


def run_process(*argv, **options):
    return subprocess.run(
        [sys.executable, "-m", "minicnn", *argv], cwd=ROOT, capture_output=True, text=True, check=False, **options
    )


# --------------------------------------------------------------------------------------------------- demo and train

def test_demo(here, capsys):
    """In a pipe: plain lines, the confusions, and last the accuracy and nothing else."""
    pytest.importorskip("matplotlib")
    assert cli.main(["demo", *QUICK]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "\r" not in out and "\x1b" not in out
    lines = out.splitlines()
    pattern = (
        r"epoch \d/2  loss \d\.\d{4}  accuracy [ \d]\d\.\d\d %  [\d,]+ images/s  test images: "
        r"loss \d\.\d{4}  accuracy [ \d]\d\.\d\d %  top-5 error \d\d?\.\d\d %"
    )
    assert [line[:9] for line in lines if re.fullmatch(pattern, line)] == ["epoch 1/2", "epoch 2/2"]
    result = train.run(train.Recipe(images=128, epochs=2)).result
    top = train.top_confusions(train.confusion_matrix(result.labels, result.predictions, 10))
    start = lines.index("most frequent mistakes (true → predicted: how often)") + 1
    assert f"test top-5 error {100 * result.top5_error:.2f} %" in lines[:start]
    assert lines[start : start + 5] == [f"    {t} → {p}: {n}" for t, p, n in top]
    assert lines[-2] == "page of pictures: minicnn-demo.png"
    assert lines[-1] == f"test accuracy {100 * result.accuracy:.2f} %"
    assert (here / "minicnn-demo.png").read_bytes().startswith(b"\x89PNG")


def test_demo_as_a_process(tmp_path):
    """From the outside, tested on all the test images, where there is no letter but ASCII's."""
    pytest.importorskip("matplotlib")
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    output = str(tmp_path / "page.png")
    done = run_process("demo", "--images", "1280", "--epochs", "1", "--output", output, env=ascii_only)
    assert "(true ? predicted: how often)" in done.stdout
    assert (done.returncode, done.stderr) == (0, "")
    accuracy = re.search(r"\ntest accuracy (\d\d\.\d\d) %\n\Z", done.stdout)
    assert 30 < float(accuracy[1]) < 90  # twenty steps are a beginning
    assert (tmp_path / "page.png").is_file()


def test_demo_without_matplotlib(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["demo", *QUICK]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "no page of pictures: pictures need matplotlib: pip install -e '.[viz]' (in minicnn's folder)"
    assert re.fullmatch(r"test accuracy \d\d?\.\d\d %", lines[-1])
    assert not list(here.iterdir())


def test_demo_that_cannot_write_its_page_still_tells_the_accuracy(here, capsys, monkeypatch):
    def disk_full(run, path):
        raise OSError(28, "No space left on device", str(path))

    pytest.importorskip("matplotlib")
    monkeypatch.setattr(train, "draw", disk_full)
    assert cli.main(["demo", *QUICK]) == 1
    out, err = capsys.readouterr()
    assert re.fullmatch(r"test accuracy \d\d?\.\d\d %", out.splitlines()[-1])
    assert err == "minicnn: error: no page of pictures: [Errno 28] No space left on device: 'minicnn-demo.png'\n"


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def display(monkeypatch, stream, columns="80"):
    """A `Display` on `stream`, and a function that lets `seconds` pass before each of some steps."""
    clock = [100.0]
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(cli.time, "monotonic", lambda: clock[0])
    monkeypatch.setenv("COLUMNS", columns)
    shown = cli.Display(train.Recipe(epochs=5))

    def steps(numbers, seconds):
        for step in numbers:
            clock[0] += seconds
            shown.step(train.Progress(2, 5, step, 40, 0.25, 0.5, 6543.2, 61.6))

    return shown, steps


def test_on_a_terminal_one_line_changes_in_place(monkeypatch):
    stream = Terminal()
    shown, steps = display(monkeypatch, stream, "120")
    steps(range(1, 41), 0.0625)
    entry = {"epoch": 2, "loss": 0.5, "accuracy": 0.9, "images_per_second": 1e4}
    shown.epoch(entry | {"test_loss": 1, "test_accuracy": 1})
    shown.epoch(entry | {"test_loss": 1, "test_accuracy": 1, "top5_error": 0.5, "test_top5_error": 0.0625})
    *screens, last = stream.getvalue().split("\r")
    assert last.endswith("test images: loss 1.0000  accuracy 100.00 %  top-5 error 6.25 %\n")
    del screens[-2:]  # of that line
    screens = stream.getvalue().split("\r")[:-2]
    assert len(screens) == 1 + 20 + 2  # every second step, and the line that wipes
    assert screens[10].rstrip() == (
        "epoch 2/5 ━━━━━━━━━━────────── 20/40  loss 0.2500  accuracy 50.00 %  6,543 images/s  1:02 left"
    )
    assert {len(screen) for screen in screens[1:-1]} == {119}
    assert screens[-2].strip() == ""
    assert screens[-1] == (
        "epoch 2/5  loss 0.5000  accuracy 90.00 %  10,000 images/s  test images: loss 1.0000  accuracy 100.00 %\n"
    )


def test_on_a_narrow_terminal_the_line_does_not_wrap(monkeypatch):
    stream = Terminal()
    _, steps = display(monkeypatch, stream, "40")
    steps([1], 1)
    assert len(stream.getvalue()) == 1 + 39


def test_a_terminal_without_the_characters_gets_others(monkeypatch):
    stream = Terminal()
    stream.encoding = "ascii"
    _, steps = display(monkeypatch, stream)
    steps([20], 1)
    assert "##########----------" in stream.getvalue()


def test_elsewhere_a_plain_line_every_ten_seconds(monkeypatch):
    stream = io.StringIO()
    _, steps = display(monkeypatch, stream)
    steps(range(1, 41), 1)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "epoch 2/5  step 10/40  loss 0.2500  accuracy 50.00 %  6,543 images/s  1:02 left"
    assert len(lines) == 4 and "\r" not in stream.getvalue()


def test_train(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    options = ["--batch-size", "32", "--lr", "0.02", "--optimizer", "sgd", "--seed", "7", "--hold-back", "100"]
    assert cli.main(["train", "lenet5", *QUICK, *options, "--threads", "2", "--output", "results"]) == 0
    assert threads.get_num_threads() == 2
    out = capsys.readouterr().out.splitlines()
    assert [str(Path("results", name)) in "".join(out) for name in ("weights.npz", "history.json")] == [True, True]
    kept = json.loads((here / "results" / "history.json").read_text())
    assert train.Recipe(**kept["recipe"]) == train.Recipe(
        model="lenet5", epochs=2, batch_size=32, optimizer="sgd", lr=0.02, seed=7, images=128, hold_back=100
    )
    assert train.read_config(here / "results" / "config.json") == train.Recipe(**kept["recipe"])
    assert out[-1] == f"held-back accuracy {100 * kept['accuracy']:.2f} %"
    arrays, facts = weights.read(here / "results" / "weights.npz")
    assert set(arrays) == set(minicnn.models.lenet5().state_dict()) and facts["architecture"] == "lenet5"


def test_train_takes_a_new_folder_each_time(here, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    files = {
        ".lock", "config.json", "environment.json", "log.jsonl", "log.csv", "checkpoints", "best.npz", "weights.npz",
        "history.json", "page.png",
    }  # fmt: skip
    for n, expected in ((1, files), (2, files - {"page.png"})):
        assert cli.main(["train", "lenet5", "--images", "64", "--epochs", "1"]) == 0
        assert {path.name for path in (here / "runs" / f"lenet5-{n}").iterdir()} == expected
        monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert cli.main(["train", "lenet5", "--output", "runs/lenet5-1"]) == 2
    assert "not written over" in capsys.readouterr().err


def test_what_is_left_out_is_as_in_the_recipe():
    assert cli._given(cli.parse(["train", "lenet5"])) == {"model": "lenet5"}
    assert cli._given(cli.parse(["demo", "--seed", "0"])) == {"seed": 0}


def test_every_entry_of_a_recipe_can_be_given():
    known = set(vars(cli.parse(["train", "lenet5"]))) | {"options", "shift", "pixels", "pad"}  # these by presets
    assert {field.name for field in dataclasses.fields(train.Recipe)} <= known


def test_options_change_a_preset_or_a_config(here, capsys):
    assert cli.main(["train", "--list-presets"]) == 0
    out = capsys.readouterr().out
    assert all(f"{name}: {preset.recipe.model} on " in out for name, preset in train.PRESETS.items())
    argv = ["train", "resnet32", "--preset", "plain-cifar-2015", "--data", "mnist", *QUICK, "--batch-size", "64"]
    argv += ["--option", "width=0.1", "--steps", "2", "--input-size", "8"]
    assert cli.main([*argv, "--output", "first"]) == 0
    recipe = train.read_config(here / "first" / "config.json")
    paper = train.PRESETS["plain-cifar-2015"].recipe
    assert recipe == dataclasses.replace(
        paper, model="resnet32", data="mnist", images=128, epochs=2, batch_size=64, steps=2, input_size=8,
        options={"shortcut": False, "width": 0.1},
    )  # fmt: skip
    assert cli.main(["train", "--config", "first/config.json", "--lr", "0.5", "--output", "second"]) == 0
    assert train.read_config(here / "second" / "config.json") == dataclasses.replace(recipe, lr=0.5)
    assert "stopped early: 2 steps are done" in capsys.readouterr().out


def test_resume_says_that_nothing_was_left_when_it_is_known(here, capsys):
    """Not of a run that it refuses to go on with."""
    assert cli.main(["train", "lenet5", "--images", "64", "--epochs", "1", "--output", "run"]) == 0
    assert "nothing was left" not in capsys.readouterr().out
    assert cli.main(["resume", "run"]) == 0
    assert "\nnothing was left to train\ntested in " in capsys.readouterr().out
    config = here / "run" / "config.json"
    config.write_text(config.read_text().replace('"epochs": 1', '"epochs": 2'))
    assert cli.main(["resume", "run"]) == 1
    out, err = capsys.readouterr()
    assert "nothing" not in out and "epochs is 2, and was 1 when this run began" in err


def test_resume_has_checkpoints_as_when_the_run_began(here, capsys, monkeypatch):
    """Unless it is told otherwise."""

    class Stop(train.Callback):
        def step(self, training, progress):
            if training.updates == self.at:
                raise RuntimeError("stop")

    stop, training = Stop(), train.runs.Training
    monkeypatch.setattr(
        train.runs, "Training", lambda *a, **k: training(*a, **{**k, "callbacks": [stop, *k["callbacks"]]})
    )

    def steps():
        return [int(path.stem[5:]) for path in train.Checkpoints(here / "run" / "checkpoints").paths()]

    stop.at = 6
    argv = ["train", "lenet5", "--images", "160", "--batch-size", "16", "--epochs", "1", "--output", "run"]
    assert cli.main([*argv, "--checkpoint-every", "1", "--keep", "5"]) == 1
    assert steps() == [5, 4, 3, 2, 1]
    stop.at = 8
    assert cli.main(["resume", "run"]) == 1
    assert steps() == [7, 6, 5, 4, 3]
    stop.at = 10
    assert cli.main(["resume", "run", "--checkpoint-every", "2", "--keep", "2"]) == 1
    assert steps() == [8, 7]
    assert cli.main(["resume", "run", "--checkpoint-every", "3"]) == 1
    assert steps() == [9, 8, 7]
    facts = here / "run" / "environment.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"every": "1", "keep": -1}))  # as if it said nothing
    stop.at = 0
    assert cli.main(["resume", "run"]) == 0
    assert steps() == [10, 9, 8]


def test_resume_from_the_command_line(here, capsys):
    assert cli.main(["train", "lenet5", "--images", "64", "--epochs", "1", "--output", "run"]) == 0
    before = (here / "run" / "weights.npz").read_bytes()
    (here / "run" / "weights.npz").unlink()
    assert cli.main(["resume", "run"]) == 0
    assert (here / "run" / "weights.npz").read_bytes() == before
    capsys.readouterr()
    assert cli.main(["resume", "nowhere"]) == 1
    assert capsys.readouterr().err.startswith("minicnn: error: nowhere: no run that can go on: there is no config.json")
    assert not (here / "nowhere").exists()


# ------------------------------------------------------------------------------------------------------- what is wrong

@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("", f"minicnn: a command is missing. There are {', '.join(cli.COMMANDS)}"),
        ("trian", "unknown command 'trian'. Did you mean 'train'?"),
        ("--hlp", "unknown option '--hlp'. Did you mean '--help'?"),
        ("-x", "unknown option '-x'"),
        ("demo extra", "what is 'extra' for"),
        ("demo --epohcs 3", "minicnn demo: unknown option '--epohcs'. Did you mean '--epochs'?"),
        ("demo --epochs=", "argument --epochs: must be a whole number, 1 or more, got ''"),
        ("demo --epochs 0", "argument --epochs: must be a whole number, 1 or more, got '0'"),
        ("demo --epochs 2.5", "got '2.5'"),
        ("demo --epochs", "argument --epochs: expected one argument"),
        ("demo --seed -1", "argument --seed: must be a whole number, 0 or more, got '-1'"),
        ("demo --threads 0", "argument --threads: must be a whole number, 1 or more, got '0'"),
        ("demo --device gpu", "unknown device 'gpu': use 'cpu', 'cuda' or 'cuda:N'"),
        ("demo --output page.jpg", "must be the name of a file that ends in .png, got 'page.jpg'"),
        ("demo --output no/such/page.png", "'no/such/page.png' cannot be written: no/such must be a folder"),
        ("train", "the following arguments are required: MODEL"),
        ("train lenet", "unknown model 'lenet'. Did you mean 'lenet5'? There are alexnet, "),
        ("train lenet5 --optimizer adm", "unknown optimizer 'adm'. Did you mean 'adam'? There are adam, "),
        ("train lenet5 --lr 0", "argument --lr: must be a number above 0, got '0'"),
        ("train lenet5 --lr nan", "must be a number above 0, got 'nan'"),
        ("train lenet5 --lr fast", "must be a number above 0, got 'fast'"),
        ("train lenet5 --data mnits --preset x", "unknown preset 'x'. There are alexnet-2012, "),
        ("train --preset lenet5-1998 --config c.json", "--preset and --config are two recipes to begin with"),
        ("train lenet5 --option width", "argument --option: must be NAME=VALUE, for instance variant=1998, got"),
        ("train lenet5 --schedule linear", "argument --schedule: invalid choice: 'linear'"),
        ("train lenet5 --factors 1,x", "argument --factors: must be a number from 0 up, got 'x'"),
        ("resume", "the following arguments are required: RUN"),
        ("gradcheck", "the following arguments are required: FILE.py:NAME, --input"),
        ("gradcheck layers.py --input 2", "must be FILE.py:NAME, for instance mylayers.py:MyLayer, got 'layers.py'"),
        ("gradcheck layers.py:Layer --input 2", "there is no file layers.py"),
        ("gradcheck a.py:b --seed -1", "argument FILE.py:NAME: there is no file a.py"),
        (f"gradcheck {__file__}:b --input 2x3", "argument --input: must be whole numbers with commas"),
        ("doctor now", "what is 'now' for"),
        ("selfcheck --device gpu", "unknown device 'gpu': use 'cpu', 'cuda' or 'cuda:N'"),
        ("selfcheck --device cpu", "argument --device: must be cuda or cuda:N, got 'cpu': NumPy on the CPU is what a"),
        ("selfcheck --quik", "minicnn selfcheck: unknown option '--quik'. Did you mean '--quick'?"),
    ],
)  # fmt: skip
def test_command_lines_that_make_no_sense(here, capsys, argv, message):
    assert cli.main(argv.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert message in err and re.search(r"\(see: minicnn( \w+)? --help\)\n$", err)


def test_a_device_that_does_not_work_here(here, capsys, monkeypatch):
    monkeypatch.setattr(cli.backend, "cuda_problem", lambda: "no driver")
    assert cli.main(["demo", "--device", "cuda:1"]) == 2
    assert "cuda:1 does not work here: no driver" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("demo --images 301", "images is 301: it must be from 1 to 300, the images there are to train on"),
        ("train lenet5 --hold-back 300", "hold_back is 300: some of 300 images must be left to train on"),
        ("train lenet5 --optimizer sgd --lr 1e38 --images 256", "fit: the loss is inf at step 2 of epoch 1"),
        ("train lenet5 --output file/results", "Not a directory"),
        ("train lenet5 --data mnits", "unknown data set (and there is no such folder) 'mnits'. Did you mean 'mnist'?"),
        ("train lenet5 --option width=-1", "lenet5: width is -1, and must be a number above 0"),
        ("train lenet5 --option shortcut=A", "unknown option of lenet5 'shortcut'. There are variant, width"),
        ("train lenet5 --momentum 0.5", "momentum is 0.5, and adam has none: leave it out"),
        ("train lenet5 --milestones 0.5", "there must be one factor for each milestone"),
        ("train --config file", "file: no config, or damaged: "),
    ],
)  # fmt: skip
def test_what_goes_wrong_later_is_one_line_too(here, capsys, argv, message):
    (here / "file").write_text("")
    assert cli.main(argv.split()) == 1
    err = capsys.readouterr().err
    assert err.startswith("minicnn: error: ") and message in err and err.count("\n") == 1


def test_a_wrong_number_of_threads_in_the_environment(here, capsys, monkeypatch):
    monkeypatch.setenv("MINICNN_NUM_THREADS", "many")
    assert cli.main(["demo"]) == 1
    assert capsys.readouterr().err == (
        "minicnn: error: MINICNN_NUM_THREADS is 'many': it must be a whole number from 1 up, or unset\n"
    )


def test_warnings_are_one_line(here, capsys, monkeypatch):
    monkeypatch.setattr(cli.threads, "_blas_held", False)
    monkeypatch.setattr(cli, "_doctor", lambda arguments: threads.set_num_threads(1) or 0)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert cli.main(["doctor"]) == 0
    err = capsys.readouterr().err
    assert err.startswith("minicnn: note: set_num_threads(1): BLAS keeps its own number") and err.count("\n") == 1


def test_our_own_mistakes_keep_their_traceback(here, monkeypatch):
    def mistaken(*_):
        raise AssertionError("ours")

    monkeypatch.setattr(train, "run", mistaken)
    with pytest.raises(AssertionError, match="ours"):
        cli.main(["demo"])


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_exits_with_130():
    command, pipes = [sys.executable, "-m", "minicnn", "demo"], dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)

    def heed() -> None:  # a shell has what it runs in the background ignore it
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(command, cwd=ROOT, text=True, preexec_fn=heed, **pipes) as process:
        assert process.stdout.readline().startswith("training lenet5")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "minicnn: interrupted\n")


@pytest.mark.skipif(os.name == "nt", reason="pipes")
def test_a_reader_that_leaves_early_gets_no_traceback():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "minicnn", "doctor"]
    process = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (process.returncode, process.stderr) == (1, "")


def test_version_and_help(capsys):
    assert run_process("--version").stdout == f"minicnn {minicnn.__version__}\n"
    for argv in ([], ["demo"], ["train"], ["gradcheck"], ["doctor"]):
        with pytest.raises(SystemExit) as exit:
            cli.main([*argv, "--help"])
        assert exit.value.code == 0
        assert capsys.readouterr().out.startswith(" ".join(["usage: minicnn", *argv]))


# -------------------------------------------------------------------------------------------------------- selfcheck

@pytest.mark.parametrize("more", [[], ["--json"], ["--device", "cuda:1", "--quick"]])
def test_selfcheck_without_a_device(monkeypatch, capsys, more):
    monkeypatch.setattr(cli.backend, "cuda_problem", lambda: "no driver")
    monkeypatch.setattr(doctor, "_driver", lambda: None)
    assert cli.main(["selfcheck", *more]) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert "no driver" in json.dumps(json.loads(out)) if more == ["--json"] else out == ""
    device = "cuda:1" if "cuda:1" in more else "cuda:0"
    assert err.startswith(f"minicnn selfcheck: {device} does not work here: no driver. GPU: ")


def test_selfcheck_says_on_a_terminal_what_it_is_at(monkeypatch, capsys):
    check = cli.selfcheck.Check("files", False, "other bits", 0.1, {})
    properties = cuda.Properties("some device", False, 1, "1", "2", "3")
    report = cli.selfcheck.Report("cuda:0", properties, False, "today", (check,))

    def run(device, quick, begin, done):
        begin("files")
        done(check)
        return report

    monkeypatch.setattr(cli.selfcheck, "run", run)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert cli.main(["selfcheck"]) == 1
    out, err = capsys.readouterr()
    assert out == "FAILED  files          other bits\nFAILED: files\n"
    assert "checking: files" in err and err.endswith("\r")


# ----------------------------------------------------------------------------------------------------------- doctor

def test_doctor(capsys):
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"minicnn {minicnn.__version__}"
    facts = {line[:16].strip(): line[16:] for line in lines[1:]}
    assert list(facts)[:8] == ["Python", "NumPy", "BLAS", "processors", "threads", "equal bits", "memory", "GPU"]
    assert facts["Python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert facts["NumPy"] == np.__version__
    assert facts["threads"].startswith(f"{threads.get_num_threads()} (")
    assert set(facts) >= {f"extra {name}" for name in doctor.EXTRAS}


@pytest.mark.parametrize(
    ("is_gpu", "told"),
    [(True, "works: its name, driver 570.1, through CuPy 14.2.0"),
     (False, "none: CuPy 14.2.0 works, on a device that is no GPU: its name")],
)  # fmt: skip
def test_doctor_takes_no_emulated_device_for_a_gpu(monkeypatch, is_gpu, told):
    properties = cuda.Properties("its name", is_gpu, 1 << 30, "570.1", "12.9", "14.2.0")
    monkeypatch.setattr(doctor.backend, "cuda_problem", lambda: None)
    monkeypatch.setattr(doctor.cuda, "properties", lambda device: properties)
    assert dict(doctor.examine())["GPU"] == told


def test_doctor_knows_the_extras_of_setup_cfg():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = {}
    for name, lines in config["options.extras_require"].items():
        needs = [re.match(r"[\w-]+", line)[0] for line in lines.split("\n") if line.strip()]
        extras[name] = tuple(need for need in needs if need != config["metadata"]["name"])
    del extras["all"]  # the others together
    assert doctor.EXTRAS == extras


def test_doctor_says_what_is_missing_and_how_to_add_it(monkeypatch):
    monkeypatch.setattr(doctor, "version", {"matplotlib": "3.9"}.__getitem__)
    monkeypatch.setattr(doctor, "PackageNotFoundError", KeyError)
    facts = dict(doctor.examine())
    assert facts["extra viz"] == "present: matplotlib 3.9"
    assert facts["extra bench"] == "missing: threadpoolctl. Add with: pip install -e '.[bench]'"
    assert all("pip install minicnn" not in line for line in facts.values())


def test_doctor_says_what_blas_computes_for_and_what_holds_it_back(monkeypatch):
    blas = {"internal_api": "openblas", "version": "0.3", "architecture": "Haswell", "num_threads": 1}
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    assert doctor._library(blas) == "openblas 0.3, for Haswell processors, held at 1 thread"
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    assert "as OPENBLAS_CORETYPE is Haswell: unset, it takes what this one has" in doctor._library(blas)


def test_doctor_withdraws_the_promise_of_equal_bits_without_threadpoolctl(monkeypatch):
    pytest.importorskip("threadpoolctl")
    assert dict(doctor.examine())["equal bits"] == "one seed gives the same bits on every run and any number of threads"
    monkeypatch.setattr(threads, "_blas_held", None)
    monkeypatch.setattr(threads, "find_spec", lambda name: None)
    facts = dict(doctor.examine())
    assert facts["equal bits"].startswith("promise WITHDRAWN: without threadpoolctl")
    assert facts["equal bits"].endswith("Add with: pip install -e '.[fast]'")
    assert facts["BLAS"].endswith("on as many threads as it likes")


@pytest.mark.parametrize(
    ("driver", "cupy", "problem", "told"),
    [
        (None, None, "x", "none: CuPy is missing, and an NVIDIA driver (libcuda) is missing. Everything else works"),
        (None, "cupy-cuda12x", "x", "none: CuPy 14.2.0 is there, and an NVIDIA driver (libcuda) is missing."),
        ("11.8", None, "x", "not in use: there is a driver for CUDA 11.8, and CuPy's wheels need one for 12.0: update"),
        ("12.4", None, "x", "driver for CUDA 12.4, CuPy is missing. Add with: pip install -e '.[cuda12]'"),
        ("13.1", None, "x", "Add with: pip install -e '.[cuda13]'"),
        ("12.4", "cupy-cuda12x", "no libcublas", "does not work: there is a driver for CUDA 12.4, CuPy 14.2.0 is "
         "there, and no libcublas. Add with: pip install -e '.[cuda12]'"),
        ("13.1", "cupy-cuda12x", "no libcublas", "no libcublas. Add with: pip install -e '.[cuda12]'"),
        ("13.1", "cupy-cuda13x", "no libcublas", "no libcublas. Add with: pip install -e '.[cuda13]'"),
        ("12.4", "cupy-cuda13x", "it is too old", "First: pip uninstall cupy-cuda13x. Add with: pip install "
         "-e '.[cuda12]'"),
        ("13.1", "cupy", "x", "and x. First: pip uninstall cupy. Add with: pip install -e '.[cuda13]'"),
        ("12.4", "cupy-cuda12x cupy-cuda13x", "x", "First: pip uninstall cupy-cuda12x cupy-cuda13x. Add with: pip "
         "install -e '.[cuda12]'"),
    ],
)  # fmt: skip
def test_doctor_reports_a_gpu_or_what_is_missing(monkeypatch, driver, cupy, problem, told):
    monkeypatch.setattr(doctor.backend, "cuda_problem", lambda: problem)
    monkeypatch.setattr(doctor, "_driver", lambda: driver)
    monkeypatch.setattr(doctor, "_version", lambda name: "14.2.0" if name in (cupy or "").split() else None)
    assert told in dict(doctor.examine())["GPU"]


# -------------------------------------------------------------------------------------------------------- gradcheck

LAYERS = '''
import numpy as np
import helper
from minicnn import Op, apply, nn
from minicnn import functional as F

def scale_forward(x):
    return helper.FACTOR * x, None

SCALE = Op("scale", scale_forward, lambda g, saved, needs: (helper.FACTOR * g,), smooth=True)
WRONG = Op("scale", scale_forward, lambda g, saved, needs: (1.001 * helper.FACTOR * g,), smooth=True)

class Scaled(nn.Module):
    def __init__(self, features, right=True):
        super().__init__()
        self.linear, self.right = nn.Linear(features, 2), right

    def forward(self, x):
        return apply(SCALE if self.right else WRONG, self.linear(x))

def product(a, b):
    return F.tanh(a * b)

class Broken(nn.Module):
    def forward(self, x):
        return x + self.weight
'''


@pytest.fixture
def layers(tmp_path):
    (tmp_path / "mylayers.py").write_text(LAYERS)
    (tmp_path / "helper.py").write_text("FACTOR = 3.0\n")
    (tmp_path / "mistyped.py").write_text("x = 1\ndef f(:\n")
    yield tmp_path
    sys.modules.pop("helper", None)


def test_gradcheck_of_what_is_right(layers, capsys):
    for target, *options in (
        ("Scaled", "--input", "4,3", "--args", "3"),
        ("Scaled", "--input", "4,5", "--args", "features=5, right=True", "--seed", "3"),
        ("product", "--input", "2,3", "--input", "3"),
    ):
        assert cli.main(["gradcheck", f"{layers}/mylayers.py:{target}", *options]) == 0
        out, err = capsys.readouterr()
        assert out.strip() and err == ""
    assert str(layers) not in sys.path


def test_gradcheck_of_what_is_wrong(layers, capsys):
    assert cli.main(["gradcheck", f"{layers}/mylayers.py:Scaled", "--input", "4,3", "--args", "3, right=False"]) == 1
    out, err = capsys.readouterr()
    assert "scale" in out and err == ""


@pytest.mark.parametrize(
    ("target", "args", "message"),
    [
        ("mylayers.py:Scalde", "3", "unknown class or function 'Scalde'. Did you mean 'Scaled'?"),
        ("mylayers.py:Scaled", "", "mylayers.py: TypeError: Scaled.__init__() missing 1 required positional argument"),
        ("mylayers.py:Broken", "", "mylayers.py, line 26: AttributeError: Broken has no attribute 'weight'"),
        ("mistyped.py:f", "", "mistyped.py, line 2: SyntaxError: "),
    ],
)  # fmt: skip
def test_gradcheck_of_what_does_not_run(layers, capsys, target, args, message):
    assert cli.main(["gradcheck", f"{layers}/{target}", "--input", "4,3", "--args", args]) == 1
    err = capsys.readouterr().err
    assert err.startswith("minicnn: error: ") and message in err and err.count("\n") == 1


@pytest.mark.parametrize("text", ["3, (", "3) + f(4", "open('x')", "*[3]", "**{'a': 1}", "3, a=b"])
def test_gradcheck_arguments_are_literals(layers, capsys, text):
    assert cli.main(["gradcheck", f"{layers}/mylayers.py:Scaled", "--input", "4,3", "--args", text]) == 2
    assert "argument --args: must be written as in a call" in capsys.readouterr().err
