import json
import shutil

import jax
import numpy as np
import pytest

import resnet_jax
from resnet_jax.diagnostics.run_diff import batches, compare, leaves
from resnet_jax.trained_model import load_run

KERNEL = np.array([[0.5, -0.25], [0.0, 3.0]], np.float32)


def notes(steps, examples):
    return [{"steps": [step], "examples": [examples], "pictures": [["0f", "a1"]]} for step in steps]


def test_what_is_the_same_does_not_differ():
    assert compare({"kernel": KERNEL, "count": np.array(3)}, {"kernel": KERNEL.copy(), "count": np.array(3)}) == []


@pytest.mark.parametrize("bit", range(32))
def test_any_flipped_bit_is_found(bit):
    other = KERNEL.copy()
    other.view(np.uint32)[1, 0] ^= np.uint32(1 << bit)
    (difference,) = compare({"kernel": KERNEL, "bias": KERNEL}, {"kernel": other, "bias": KERNEL})
    assert (difference.leaf, difference.elements, difference.differing) == ("kernel", 4, 1)
    assert difference.largest == abs(float(other[1, 0]))  # Of the sign of a zero: 0.


def test_the_largest_difference_is_told():
    other = KERNEL + np.array([[0.0, 0.5], [-2.0, 0.0]], np.float32)
    (difference,) = compare({"kernel": KERNEL}, {"kernel": other})
    assert (difference.differing, difference.largest) == (2, 2.0)


def test_leaves_of_one_run_only_and_of_another_type_are_found():
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


def test_another_example_and_another_picture_are_found_by_their_step():
    given, _ = batches([notes(range(4), [7, 9])])
    other, _ = batches([[*notes(range(3), [7, 9]), {"steps": [3], "examples": [[7, 8]], "pictures": [["0f", "a2"]]}]])
    examples, pictures = compare(given, other)
    assert (examples.leaf, examples.elements, examples.differing) == ("step 3/examples", 2, 1)
    assert (pictures.leaf, pictures.differing, pictures.remark) == ("step 3/pictures", 1, "digests")


def test_a_step_that_is_left_out_is_found():
    missing = compare(batches([notes(range(4), [7, 9])])[0], batches([notes([0, 1, 3], [7, 9])])[0])
    assert [difference.leaf for difference in missing] == ["step 2/examples", "step 2/pictures"]


def test_steps_that_a_later_process_took_again_were_in_vain():
    counting, in_vain = batches([notes(range(2), [1, 1]), notes(range(2, 6), [2, 2]), notes(range(4, 7), [3, 3])])
    assert {name: leaf[0, 0] for name, leaf in counting.items() if "examples" in name} == {
        f"step {step}/examples": process for step, process in enumerate([1, 1, 2, 2, 3, 3, 3])
    }
    assert {name: leaf[0, 0] for name, leaf in in_vain.items() if "examples" in name} == {
        "step 4/examples": 2,
        "step 5/examples": 2,
    }


def test_calls_of_several_steps_are_one_leaf():
    given, _ = batches([[{"steps": [3, 4], "examples": [[1, 2], [3, 4]], "pictures": [["a", "b"], ["c", "d"]]}]])
    assert {name: leaf.shape for name, leaf in given.items()} == {
        "steps 3 to 4/examples": (2, 2),
        "steps 3 to 4/pictures": (2, 2),
    }


class TestRuns:
    @pytest.fixture
    def runs(self, tiny_config, tmp_path):
        """A run and a copy of it."""
        tiny_config.ema_decay, tiny_config.num_epochs = 0.9, 1
        resnet_jax.train(tiny_config, str(tmp_path / "one"))
        shutil.copytree(tmp_path / "one", tmp_path / "other")
        return tmp_path / "one", tmp_path / "other"

    def test_all_of_a_run_is_compared_and_every_altered_record_is_found(self, runs):
        one, other = runs
        run = load_run(str(one))
        expected, provenance = leaves(str(one))
        assert compare(expected, leaves(str(other))[0]) == []
        assert provenance["device_count"] == 8
        parameters, statistics = (len(jax.tree.leaves(run.variables[name])) for name in ("params", "batch_stats"))
        counts = {part: sum(name.startswith(f"{part}/") for name in expected) for part in ("params", "opt_state")}
        assert counts == {"params": parameters, "opt_state": parameters + 1}  # Momentum, and the schedule's count.
        assert sum(name.startswith("batch_stats/") for name in expected) == statistics
        assert sum(name.startswith("ema/") for name in expected) == parameters + statistics
        assert expected["step"] == 5
        assert expected["metrics since the last report/loss"].shape == (1,)  # Step 5, of reports every two steps.

        path = other / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines[0]["train/images_per_second"] *= 2
        lines[1]["train/loss"] = float(np.nextafter(lines[1]["train/loss"], 9))
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        differing = compare(expected, leaves(str(other))[0])
        assert [difference.leaf for difference in differing] == ["metrics.jsonl/step 4/train/loss"]

        path.write_text("".join(json.dumps(line) + "\n" for line in [lines[0], *lines]))
        names = [difference.leaf for difference in compare(expected, leaves(str(other))[0])]
        assert names == ["metrics.jsonl/steps", "metrics.jsonl/step 4/train/loss"]

        path.write_text("".join(json.dumps(line) + "\n" for line in lines[:-1]))
        names = [difference.leaf for difference in compare(expected, leaves(str(other))[0])]
        assert "metrics.jsonl/step 5/validation/loss" in names
