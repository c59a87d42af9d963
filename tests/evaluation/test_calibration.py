import json
import pathlib
import shutil
import types

import numpy as np
import pytest
from scipy import optimize, special

from resnet_jax.data.sources import open_sources
from resnet_jax.errors import UserError
from resnet_jax.evaluation.calibration import calibrate_run, fit_temperature
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import load_run
from tests.end_to_end.program import run


def sample(temperature, size=20_000):
    """Return logits that are too large by a factor, and labels drawn from the probabilities of the right logits."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(size, 5))
    probabilities = special.softmax(logits, axis=-1)
    labels = (probabilities.cumsum(-1) > generator.uniform(size=(size, 1))).argmax(-1)
    return logits * temperature, labels


class TestFit:
    @pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
    def test_temperature_that_spoiled_the_logits_is_found(self, temperature):
        assert fit_temperature(*sample(temperature)) == pytest.approx(temperature, rel=0.05)

    def test_temperature_agrees_with_another_minimizer(self):
        logits, labels = sample(2.0, size=500)
        expected = optimize.minimize(
            lambda inverse: -special.log_softmax(logits * inverse, -1)[np.arange(500), labels].mean(), x0=[1.0]
        )
        assert fit_temperature(logits, labels) == pytest.approx(1 / expected.x[0], rel=1e-3)

    def test_temperature_is_one_if_the_search_finds_none_with_a_lower_loss(self, monkeypatch):
        monkeypatch.setattr(optimize, "minimize_scalar", lambda *_, **__: types.SimpleNamespace(x=np.log(5.0)))
        assert fit_temperature(*sample(1.0)) == 1


class TestRun:
    @pytest.fixture
    def workdir(self, tiny_run, tmp_path):
        return str(shutil.copytree(tiny_run, tmp_path / "run"))

    def test_calibrated_run_has_the_same_predictions_and_a_lower_validation_loss(self, workdir):
        images = np.stack([open_sources("digits")["test"][index][0] for index in range(100)])
        before = load_run(workdir).predict(images)
        calibration = calibrate_run(workdir, Reporter(active=False))
        assert calibration.loss_after <= calibration.loss_before
        assert calibration.examples == 40
        trained = load_run(workdir)
        after = trained.predict(images)
        assert trained.temperature == calibration.temperature != 1
        np.testing.assert_array_equal(after.labels, before.labels)
        expected = special.softmax(np.log(before.probabilities) / calibration.temperature, axis=-1)
        np.testing.assert_allclose(after.probabilities, expected, rtol=1e-3, atol=1e-6)

    def test_calibration_starts_from_the_uncalibrated_model(self, workdir):
        first = calibrate_run(workdir, Reporter(active=False))
        assert calibrate_run(workdir, Reporter(active=False)) == first

    def test_calibration_of_another_checkpoint_is_not_used(self, workdir, caplog):
        calibrate_run(workdir, Reporter(active=False))
        path = f"{workdir}/calibration.json"
        with open(path) as file:
            content = json.load(file)
        with open(path, "w") as file:
            json.dump({**content, "checkpoint_step": 3}, file)
        assert load_run(workdir).temperature == 1
        assert "is not used, because the checkpoint is of step" in caplog.text

    def test_command_stores_and_reports_the_temperature(self, workdir):
        finished = run("evaluate", f"--workdir={workdir}", "--calibrate")
        assert finished.returncode == 0, finished.stderr
        assert "which changes the validation loss from" in finished.stdout
        assert "(temperature " in finished.stdout.splitlines()[-1]

    def test_run_without_validation_examples_cannot_be_calibrated(self, workdir):
        path = pathlib.Path(workdir) / "config.json"
        config = json.loads(path.read_text())
        config["dataset"]["validation_split"] = "none"
        path.write_text(json.dumps(config))
        with pytest.raises(UserError, match="cannot be calibrated, because it has no validation split"):
            calibrate_run(workdir, Reporter(active=False))
