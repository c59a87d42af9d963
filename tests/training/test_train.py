"""Whole runs of a tiny model, within this process, on eight devices."""

import contextlib
import dataclasses
import json
import shutil
import sys
from signal import SIGINT, SIGTERM

import jax
import numpy as np
import pytest

import resnet_jax
from resnet_jax import config as settings
from resnet_jax.data.sources import ArraySource, open_sources
from resnet_jax.errors import Preempted, UserError
from resnet_jax.evaluation.evaluate import score_run
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import load_run
from resnet_jax.training import experiment as experiments
from resnet_jax.training import loop as loops
from resnet_jax.training import train
from resnet_jax.training.train_step import compile_train_steps
from resnet_jax.workdir.workdir import WorkDir
from tests.end_to_end import image_files


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def workdir(tmp_path):
    return tmp_path / "run"


def test_train_leaves_a_complete_run_directory(tiny_config, workdir, capsys):
    result = resnet_jax.train(tiny_config, str(workdir))
    assert result["test"]["examples"] == 100  # The whole split, its partial last batch included.
    assert result["validation"]["examples"] == 40
    assert {"config.json", "classes.json", "checkpoints", "metrics.jsonl", "result.json"} <= {
        path.name for path in workdir.iterdir()
    }
    assert json.loads((workdir / "result.json").read_text()) == result
    assert sum(result["goodput"].values()) == pytest.approx(1)
    assert result["goodput"].keys() == {"training", "input", "evaluation", "saving", "compilation", "other"}
    assert [record["step"] for record in records(workdir) if "train/loss" in record] == [2, 4, 6, 8, 10]
    assert [record["step"] for record in records(workdir) if "validation/loss" in record] == [5, 10]
    output = capsys.readouterr().out
    for text in ("optimizer.learning_rate", "total", "Examples: 360 for training, 40 for validation.", str(workdir)):
        assert text in output


def test_train_completes_if_nobody_reads_its_output(tiny_config, workdir, monkeypatch):
    def write(text):
        raise BrokenPipeError

    monkeypatch.setattr(sys.stdout, "write", write)
    result = resnet_jax.train(tiny_config, str(workdir))
    assert json.loads((workdir / "result.json").read_text()) == result


def test_best_checkpoint_on_validation_is_scored(tiny_config, workdir):
    tiny_config.num_epochs, tiny_config.checkpoint.keep, tiny_config.schedule.name = 4, 1, "constant"
    result = resnet_jax.train(tiny_config, str(workdir))
    validation = {
        record["step"]: record["validation/top1"] for record in records(workdir) if "validation/top1" in record
    }
    best = max(validation.values())
    assert result["validation"]["top1"] == best
    assert result["checkpoint_step"] == max(step for step, top1 in validation.items() if top1 == best)
    assert load_run(str(workdir)).step == result["checkpoint_step"]


def test_finished_run_is_not_trained_again(tiny_config, tiny_run, capsys):
    before = (tiny_run / "metrics.jsonl").read_text()
    assert resnet_jax.train(tiny_config, str(tiny_run)) == WorkDir(str(tiny_run)).result()
    assert (tiny_run / "metrics.jsonl").read_text() == before
    assert "This run is finished." in capsys.readouterr().out


def test_finished_run_can_be_lengthened(tiny_config, tiny_run, workdir, capsys):
    shutil.copytree(tiny_run, workdir)
    tiny_config.num_epochs = 3
    resnet_jax.train(tiny_config, str(workdir))
    output = capsys.readouterr().out
    assert "The schedule now spans 3 epochs instead of 2." in output
    assert "Resuming from step 10 of 15" in output
    assert [record["step"] for record in records(workdir) if "validation/loss" in record] == [5, 10, 15]
    rates = {record["step"]: record["train/learning_rate"] for record in records(workdir) if "train/loss" in record}
    assert rates[14] == pytest.approx(0.1 * (1 + np.cos(np.pi * 13 / 15)) / 2, rel=1e-4)


class TestEarlyStopping:
    """Runs that do not improve, because their learning rate is almost zero."""

    @pytest.fixture
    def config(self, tiny_config):
        tiny_config.num_epochs = 9
        tiny_config.optimizer.learning_rate = 1e-20
        tiny_config.batch_norm.momentum = 0.0  # The statistics of the last batch improve nothing in the long run.
        tiny_config.early_stopping.update(patience=2, min_delta=0.5)
        return tiny_config

    def test_run_ends_after_evaluations_without_improvement(self, config, workdir, capsys):
        config.checkpoint.every_epochs = 9  # None is due before the run ends.
        result = resnet_jax.train(config, str(workdir))
        assert result["epochs"] == 3
        assert (workdir / "checkpoints" / "15").exists()
        assert [record["step"] for record in records(workdir) if "validation/loss" in record] == [5, 10, 15]
        assert "Stopping early after 3 epochs: validation top-1 has not improved for 2 evaluations." in (
            capsys.readouterr().out
        )
        assert result["test"]["examples"] == 100
        assert resnet_jax.train(config, str(workdir)) == result

    def test_resumed_run_stops_after_the_same_epoch(self, config, workdir, monkeypatch):
        """The second epoch is the first without improvement. The run stops after it, and is resumed."""

        def stop(experiment, step, num_steps, inputs):
            if step >= 10:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            resnet_jax.train(config, str(workdir), observe=stop)
        assert resnet_jax.train(config, str(workdir))["epochs"] == 3


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Directory of an uninterrupted run, trained by the first test that uses it."""
    return tmp_path_factory.mktemp("runs") / "uninterrupted"


def final_params(workdir):
    directory = WorkDir(str(workdir))
    run = load_run(str(workdir))
    wanted = {"params": parallel.abstract(run.variables["params"], parallel.replicated(run.mesh))}
    with directory.open_checkpoints(9, "top1", read_only=True) as checkpoints:
        items, _ = checkpoints.restore(checkpoints.latest_step(), wanted)
    return parallel.fetch(items)


@pytest.mark.parametrize(
    ("calls", "signum"),
    [
        pytest.param(0, SIGINT, id="within an epoch"),
        pytest.param(2, SIGTERM, id="in evaluation"),
        pytest.param(3, SIGTERM, marks=pytest.mark.slow, id="after evaluation"),
        pytest.param(6, SIGINT, marks=pytest.mark.slow, id="in the last evaluation"),
        pytest.param(8, SIGTERM, marks=pytest.mark.slow, id="at the end"),
    ],
)
def test_stopped_run_resumes_as_if_uninterrupted(tiny_config, uninterrupted, workdir, monkeypatch, calls, signum):
    """Calls take up to three steps, an epoch has five, and a checkpoint is saved after each call.

    The loop checks for a signal after each call within an epoch, and during and after each evaluation. The signal
    arrives after `calls` checks.
    """
    tiny_config.steps_per_call, tiny_config.checkpoint.every_minutes = 3, 1e-9
    if not (uninterrupted / "result.json").exists():
        resnet_jax.train(tiny_config, str(uninterrupted))
    num_checks = 0

    def received_signal():
        nonlocal num_checks
        num_checks += 1
        return signum if num_checks > calls else None

    @contextlib.contextmanager
    def receive_signal_later():
        yield received_signal

    with monkeypatch.context() as patch:
        patch.setattr(loops, "deferred_signals", receive_signal_later)
        with pytest.raises(KeyboardInterrupt if signum == SIGINT else Preempted):
            resnet_jax.train(tiny_config, str(workdir))
    assert WorkDir(str(workdir)).result() is None
    result, expected = resnet_jax.train(tiny_config, str(workdir)), WorkDir(str(uninterrupted)).result()
    assert (result["test"], result["checkpoint_step"]) == (expected["test"], expected["checkpoint_step"])
    jax.tree.map(np.testing.assert_array_equal, final_params(workdir), final_params(uninterrupted))
    untimed = [
        [{key: value for key, value in record.items() if "images_per_second" not in key} for record in records(path)]
        for path in (uninterrupted, workdir)
    ]
    assert untimed[0] == untimed[1]


def test_signal_of_another_process_after_the_last_epoch_is_obeyed(tiny_config, workdir, monkeypatch):
    """All processes learn of it only a few calls later, as they do here, and the run has few calls left."""

    class DelayedAgreement:
        def __init__(self, mesh):
            self.requests = [0] * parallel.CALLS_AHEAD

        def __call__(self, request):
            self.requests.append(request)
            return self.requests.pop(0)

    tiny_config.num_epochs = 1
    evaluating = False

    def make_validate(experiment):
        validate = make_original(experiment)

        def validate_and_receive(variables, interrupted):
            nonlocal evaluating
            result = validate(variables, interrupted)
            evaluating = True
            return result

        return validate_and_receive

    @contextlib.contextmanager
    def receive_after_validation():
        yield lambda: SIGTERM if evaluating else None

    make_original = loops._make_validate
    with monkeypatch.context() as patch:
        patch.setattr(loops, "_make_validate", make_validate)
        patch.setattr(loops, "deferred_signals", receive_after_validation)
        patch.setattr(loops.cluster, "Agreement", DelayedAgreement)
        with pytest.raises(Preempted):
            resnet_jax.train(tiny_config, str(workdir))
    assert WorkDir(str(workdir)).result() is None


def test_checkpoints_are_saved_when_due(tiny_config, workdir):
    """A checkpoint is due every other epoch, at the last step, and when the metrics are the best so far."""
    tiny_config.num_epochs, tiny_config.checkpoint.keep, tiny_config.checkpoint.every_epochs = 5, 9, 2
    tiny_config.evaluate_every_epochs, tiny_config.schedule.name = 3, "constant"
    resnet_jax.train(tiny_config, str(workdir))
    evaluated = [record["step"] for record in records(workdir) if "validation/loss" in record]
    assert evaluated == [15, 25]
    saved = {int(path.name) for path in (workdir / "checkpoints").iterdir()}
    assert saved == {10, 15, 20, 25}


def test_test_metrics_belong_to_the_chosen_checkpoint(tiny_config, workdir):
    """The last checkpoint is not chosen, because the learning rate is far too large in the last epoch."""
    tiny_config.num_epochs, tiny_config.checkpoint.best_metric = 4, "loss"
    tiny_config.schedule.name, tiny_config.schedule.step_epochs, tiny_config.schedule.step_factor = "step", (3,), 300.0
    result = resnet_jax.train(tiny_config, str(workdir))
    assert result["checkpoint_step"] < 20
    scores = score_run(
        load_run(str(workdir)), open_sources("digits"), "test[:100]", Reporter(active=False, max_unreadable=0)
    )
    assert result["test"] == scores


def test_run_on_other_data_is_refused(tiny_config, workdir):
    tiny_config.dataset.train_split = "train"
    digits = open_sources("digits")

    def source(split, size, classes):
        return ArraySource(digits[split].images[:size], digits[split].labels[:size], classes)

    def sources(size, classes=tuple("0123456789")):
        return {"train": source("train", size, classes), "test": source("test", 100, classes)}

    resnet_jax.train(tiny_config, str(workdir), sources(400))
    tiny_config.num_epochs = 3
    with pytest.raises(UserError, match="a run with other classes"):
        resnet_jax.train(tiny_config, str(workdir), sources(400, tuple("abcdefghij")))
    with pytest.raises(
        UserError, match=r"a run on other data \(stored: 360 training and 40 validation examples; now: 270 training"
    ):
        resnet_jax.train(tiny_config, str(workdir), sources(300))
    assert WorkDir(str(workdir)).result()  # Nothing was removed.


def test_changed_labels_are_refused(tiny_config, workdir):
    digits = open_sources("digits")

    def sources(**shift_of_labels):
        return {
            split: ArraySource(source.images, (source.labels + shift_of_labels.get(split, 0)) % 10, tuple("0123456789"))
            for split, source in digits.items()
        }

    tiny_config.dataset.test_split, tiny_config.dataset.validation_split = "none", "test"
    tiny_config.num_epochs = 1
    resnet_jax.train(tiny_config, str(workdir), sources())
    tiny_config.num_epochs = 2
    for changed, sentence in [
        ({"train": 1}, r"has changed since it was saved \(training examples\)\. Restore the data, or"),
        ({"test": 1}, r"has changed since it was saved \(validation examples\)\. Restore the data, or"),
    ]:
        with pytest.raises(UserError, match=sentence):
            resnet_jax.train(tiny_config, str(workdir), sources(**changed))
    assert WorkDir(str(workdir)).result()  # Nothing was removed.
    assert resnet_jax.train(tiny_config, str(workdir), sources())["checkpoint_step"]


@pytest.mark.slow
def test_changed_image_files_are_refused_but_may_be_moved(tiny_config, workdir, tmp_path):
    images = image_files.make_image_folder(tmp_path / "images", train=6, val=2)
    tiny_config.dataset = settings.default().dataset
    tiny_config.dataset.name, tiny_config.dataset.image_size = f"folder:{images}", 8
    tiny_config.dataset.mean = tiny_config.dataset.std = (0.5,) * 3
    tiny_config.dataset.num_workers = 0
    tiny_config.batch_size, tiny_config.num_epochs = 16, 1
    resnet_jax.train(tiny_config, str(workdir))
    images = images.rename(tmp_path / "moved")
    tiny_config.dataset.data_dir, tiny_config.num_epochs = str(images), 2
    resnet_jax.train(tiny_config, str(workdir))
    circle, cross = (images / "train" / name / "train0.jpg" for name in ("circle", "cross"))
    circle.rename(tmp_path / "circle.jpg")
    cross.rename(circle)
    (tmp_path / "circle.jpg").rename(cross)
    tiny_config.num_epochs = 3
    with pytest.raises(UserError, match=r"has changed since it was saved \(training examples\)"):
        resnet_jax.train(tiny_config, str(workdir))


@pytest.mark.slow
def test_changed_teacher_is_refused(tiny_config, tiny_run, workdir, tmp_path):
    teacher = shutil.copytree(tiny_run, tmp_path / "teacher")
    tiny_config.loss.distill_from, tiny_config.num_epochs = str(teacher), 1
    resnet_jax.train(tiny_config, str(workdir))
    shutil.rmtree(teacher / "checkpoints" / str(load_run(str(teacher)).step))
    tiny_config.num_epochs = 2
    with pytest.raises(UserError, match=r"has changed since it was saved \(teacher\)"):
        resnet_jax.train(tiny_config, str(workdir))


def test_damaged_best_checkpoint_is_set_aside_and_the_next_best_is_scored(tiny_config, workdir, capsys):
    """The learning rate is far too large in the last epoch, so the last checkpoint is not the best."""
    tiny_config.num_epochs, tiny_config.checkpoint.best_metric, tiny_config.checkpoint.keep = 4, "loss", 9
    tiny_config.schedule.name, tiny_config.schedule.step_epochs, tiny_config.schedule.step_factor = "step", (3,), 300.0
    best_first = []

    def damage_best(experiment, step, num_steps, inputs):
        if step == 19:  # The last step of the run.
            losses = {
                record["step"]: record["validation/loss"] for record in records(workdir) if "validation/loss" in record
            }
            best_first.extend(sorted(losses, key=losses.get))
            for path in (workdir / "checkpoints" / str(best_first[0]) / "params").rglob("*"):
                if path.is_file():
                    path.write_bytes(b"")

    result = resnet_jax.train(tiny_config, str(workdir), observe=damage_best)
    best, next_best, _ = best_first
    assert result["checkpoint_step"] == load_run(str(workdir)).step == next_best
    assert result["test"]["examples"] == 100
    assert (workdir / "damaged" / str(best)).exists()
    output = capsys.readouterr().out
    assert f"Checkpoint {best} is damaged" in output
    assert f"Checkpoint {next_best} is used instead" in output


def test_processes_with_different_data_are_refused(tiny_config, workdir, monkeypatch):
    """Another process may have the same data, or data with another digest."""
    experiment = experiments.build(tiny_config, parallel.make_mesh(), open_sources("digits"), Reporter(active=False))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    digests = []
    monkeypatch.setattr(parallel, "count_distinct", lambda names: digests.append(*names) or len({*digests}))
    train._check_equal_in_all_processes(experiment)
    train._check_equal_in_all_processes(experiment)
    other = dataclasses.replace(experiment, content_digests={"training examples": "another"})
    with pytest.raises(UserError, match="the processes of this run have different settings or data"):
        train._check_equal_in_all_processes(other)


def test_workdir_of_another_run_is_refused(tiny_config, tiny_run):
    tiny_config.optimizer.learning_rate = 0.05
    with pytest.raises(UserError, match=r"different settings: optimizer.learning_rate \(stored 0.1, now 0.05\)"):
        resnet_jax.train(tiny_config, str(tiny_run))


def test_last_checkpoint_is_scored_without_validation(tiny_config, workdir):
    tiny_config.dataset.validation_split = "none"
    result = resnet_jax.train(tiny_config, str(workdir))
    assert result["validation"] is None
    assert result["checkpoint_step"] == 2 * (400 // 64)
    assert not any("validation/loss" in record for record in records(workdir))


def test_test_split_can_be_left_out(tiny_config, workdir):
    tiny_config.dataset.test_split = "none"
    assert resnet_jax.train(tiny_config, str(workdir))["test"] is None
    assert WorkDir(str(workdir)).config().dataset.test_split == "none"


def test_non_finite_loss_stops_the_run_and_keeps_the_last_checkpoint(tiny_config, workdir):
    """The learning rate is harmless in the first epoch and far too large after it."""
    tiny_config.num_epochs = 4
    tiny_config.schedule.name, tiny_config.schedule.step_epochs = "step", (1.0,)
    tiny_config.schedule.step_factor = 1e20
    with pytest.raises(UserError, match=r"(loss|gradient norm) became (nan|inf) at step \d+"):
        resnet_jax.train(tiny_config, str(workdir))
    run = load_run(str(workdir))
    assert run.step == 5
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.variables))
    assert WorkDir(str(workdir)).result() is None


def test_train_accepts_own_sources(tiny_config, workdir):
    """The images of two classes differ in brightness, which any model learns."""
    generator = np.random.default_rng(0)

    def source(size):
        labels = np.arange(size) % 2
        images = generator.integers(0, 100, (size, 12, 12, 3)) + 120 * labels[:, None, None, None]
        return ArraySource(images.astype(np.uint8), labels, ("dark", "bright"))

    tiny_config.dataset.name = "brightness"
    tiny_config.dataset.train_split, tiny_config.dataset.test_split = "train", "test"
    tiny_config.num_epochs = 3
    result = resnet_jax.train(tiny_config, str(workdir), {"train": source(600), "test": source(130)})
    assert result["test"]["top1"] == 1.0
    assert result["test"]["examples"] == 130
    assert json.loads((workdir / "classes.json").read_text()) == ["dark", "bright"]


@pytest.mark.parametrize("steps_per_call", [1, 3])
def test_profiler_trace_is_written(tiny_config, workdir, steps_per_call):
    """With three steps per call, the call that contains the profiled steps begins before them."""
    tiny_config.profile_steps, tiny_config.steps_per_call = "1:3", steps_per_call
    resnet_jax.train(tiny_config, str(workdir))
    (trace,) = workdir.glob("plugins/profile/*/*.xplane.pb")
    assert trace.stat().st_size > 10_000


def test_every_call_forbids_implicit_transfers_and_is_annotated_with_its_step(tiny_config, workdir, monkeypatch):
    guards, annotated = [], []

    def compile_recording(*arguments):
        def record(step):
            def call(*arguments):
                guards.append(jax.config.jax_transfer_guard_host_to_device)
                return step(*arguments)

            return call

        return {call: record(step) for call, step in compile_train_steps(*arguments).items()}

    class RecordingAnnotation(jax.profiler.StepTraceAnnotation):
        def __init__(self, name, step_num):
            annotated.append((name, step_num))
            super().__init__(name, step_num=step_num)

    monkeypatch.setattr(loops, "compile_train_steps", compile_recording)
    monkeypatch.setattr(jax.profiler, "StepTraceAnnotation", RecordingAnnotation)
    resnet_jax.train(tiny_config, str(workdir))
    assert guards == ["disallow"] * 10
    assert annotated == [("train", step) for step in range(10)]
    assert jax.config.jax_transfer_guard_host_to_device != "disallow"


def test_nothing_is_fetched_between_reports(tiny_config, workdir, monkeypatch):
    """There are two epochs of six steps, and a report is due after every third step.

    The metrics of a report are fetched four calls after it is due, or when a checkpoint is saved.
    """
    tiny_config.dataset.validation_split, tiny_config.log_every_steps = "none", 3
    tiny_config.checkpoint.every_epochs = 2
    fetches, before_step, device_get = [], {}, jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: fetches.append(1) or device_get(tree))
    resnet_jax.train(
        tiny_config,
        str(workdir),
        observe=lambda experiment, step, steps, inputs: before_step.update({step: len(fetches)}),
    )
    # The number of fetches from the start of each step to the start of the next.
    fetched = {step: before_step[step + 1] - before_step[step] for step in range(11)}
    assert sorted(step for step, count in fetched.items() if count) == [6, 9]
