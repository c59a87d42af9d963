import json
import shutil

import jax
import numpy as np
import pytest

import resnet_jax
from resnet_jax.diagnostics.run_diff import compare, effective_inputs, read_run
from resnet_jax.trained_model import load_run

KERNEL = np.array([[0.5, -0.25], [0.0, 3.0]], np.float32)


def notes(steps, examples):
    return [{"steps": [step], "examples": [examples], "images": [["0f", "a1"]]} for step in steps]


def test_compare_finds_no_difference_between_equal_leaves():
    assert compare({"kernel": KERNEL, "count": np.array(3)}, {"kernel": KERNEL.copy(), "count": np.array(3)}) == []


@pytest.mark.parametrize("bit", range(32))
def test_compare_finds_every_flipped_bit(bit):
    flipped = KERNEL.copy()
    flipped.view(np.uint32)[1, 0] ^= np.uint32(1 << bit)
    (difference,) = compare({"kernel": KERNEL, "bias": KERNEL}, {"kernel": flipped, "bias": KERNEL})
    assert (difference.leaf, difference.elements, difference.differing) == ("kernel", 4, 1)
    assert difference.largest == abs(float(flipped[1, 0]))  # 0 if the flipped bit is the sign of the zero.


def test_compare_reports_the_largest_difference():
    changed = KERNEL + np.array([[0.0, 0.5], [-2.0, 0.0]], np.float32)
    (difference,) = compare({"kernel": KERNEL}, {"kernel": changed})
    assert (difference.differing, difference.largest) == (2, 2.0)


def test_compare_finds_leaves_that_are_missing_added_or_of_another_type():
    differences = compare(
        {"lost": KERNEL, "kept": KERNEL, "cut": KERNEL, "cast": KERNEL},
        {"kept": KERNEL, "cut": KERNEL[0], "cast": KERNEL.astype(np.float64), "new": KERNEL},
    )
    assert {difference.leaf: difference.remark for difference in differences} == {
        "lost": "missing in the interrupted run",
        "cut": "float32 [2, 2], interrupted float32 [2]",
        "cast": "float32 [2, 2], interrupted float64 [2, 2]",
        "new": "only in the interrupted run",
    }


def test_compare_finds_a_changed_example_and_a_changed_image_by_step():
    expected, _ = effective_inputs([notes(range(4), [7, 9])])
    changed = [*notes(range(3), [7, 9]), {"steps": [3], "examples": [[7, 8]], "images": [["0f", "a2"]]}]
    actual, _ = effective_inputs([changed])
    examples, images = compare(expected, actual)
    assert (examples.leaf, examples.elements, examples.differing) == ("step 3/examples", 2, 1)
    assert (images.leaf, images.differing, images.remark) == ("step 3/images", 1, "digests")


def test_compare_finds_an_omitted_step():
    expected, _ = effective_inputs([notes(range(4), [7, 9])])
    actual, _ = effective_inputs([notes([0, 1, 3], [7, 9])])
    assert [difference.leaf for difference in compare(expected, actual)] == ["step 2/examples", "step 2/images"]


def test_effective_inputs_separates_steps_that_a_later_process_repeated():
    processes = [notes(range(2), [1, 1]), notes(range(2, 6), [2, 2]), notes(range(4, 7), [3, 3])]
    effective, lost = effective_inputs(processes)
    assert {name: leaf[0, 0] for name, leaf in effective.items() if "examples" in name} == {
        f"step {step}/examples": process for step, process in enumerate([1, 1, 2, 2, 3, 3, 3])
    }
    assert {name: leaf[0, 0] for name, leaf in lost.items() if "examples" in name} == {
        "step 4/examples": 2,
        "step 5/examples": 2,
    }


def test_effective_inputs_keeps_a_call_of_several_steps_as_one_leaf():
    call = {"steps": [3, 4], "examples": [[1, 2], [3, 4]], "images": [["a", "b"], ["c", "d"]]}
    effective, _ = effective_inputs([[call]])
    assert {name: leaf.shape for name, leaf in effective.items()} == {
        "steps 3 to 4/examples": (2, 2),
        "steps 3 to 4/images": (2, 2),
    }


class TestReadRun:
    @pytest.fixture
    def runs(self, tiny_config, tmp_path):
        """A run and a copy of it."""
        tiny_config.ema_decay = 0.9
        tiny_config.num_epochs = 1
        resnet_jax.train(tiny_config, str(tmp_path / "original"))
        shutil.copytree(tmp_path / "original", tmp_path / "copy")
        return tmp_path / "original", tmp_path / "copy"

    def test_read_run_covers_the_whole_run_and_compare_finds_every_altered_metric(self, runs):
        original, copy = runs
        expected, provenance = read_run(str(original))
        assert compare(expected, read_run(str(copy))[0]) == []
        assert provenance["device_count"] == 8

        run = load_run(str(original))
        parameters, statistics = (len(jax.tree.leaves(run.variables[name])) for name in ("params", "batch_stats"))
        counts = {item: sum(name.startswith(f"{item}/") for name in expected) for item in ("params", "opt_state")}
        assert counts == {"params": parameters, "opt_state": parameters + 1}  # Momentum, and the schedule's count.
        assert sum(name.startswith("batch_stats/") for name in expected) == statistics
        assert sum(name.startswith("ema/") for name in expected) == parameters + statistics
        assert expected["step"] == 5
        # The run logs every two steps, so the metrics of step 5 have not been logged yet.
        assert expected["metrics not yet logged/loss"].shape == (1,)

        def write(lines):
            (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

        def differing_leaves():
            return [difference.leaf for difference in compare(expected, read_run(str(copy))[0])]

        lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
        lines[0]["train/images_per_second"] *= 2
        lines[1]["train/loss"] = float(np.nextafter(lines[1]["train/loss"], 9))
        write(lines)
        assert differing_leaves() == ["metrics.jsonl/step 4/train/loss"]

        write([lines[0], *lines])
        assert differing_leaves() == ["metrics.jsonl/steps", "metrics.jsonl/step 4/train/loss"]

        write(lines[:-1])
        assert "metrics.jsonl/step 5/validation/loss" in differing_leaves()
