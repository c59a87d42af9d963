import numpy as np
import pytest

from resnet_jax import config as settings
from resnet_jax.data.inspect.plan import make_plan
from resnet_jax.data.inspect.scan import scan_images
from resnet_jax.data.sources import ArraySource, open_sources
from resnet_jax.terminal import Reporter


@pytest.fixture
def plan_for(single_device):
    def plan(sources, mesh=single_device, batch_size=8, **changed):
        config = settings.default()
        config.batch_size = batch_size
        for name, value in changed.items():
            config.dataset[name] = value
        return make_plan(config, scan_images(sources, 0, Reporter(active=False)), mesh)

    return plan


def test_plan_holds_out_a_tenth_as_a_run_does(plan_for):
    plan = plan_for(open_sources("digits"))
    assert {purpose: len(positions) for purpose, positions in plan.subsets.items()} == {
        "training": 1295,
        "validation": 143,
        "test": 359,
    }
    assert plan.train.tolist() == list(range(1438))
    assert sorted([*plan.subsets["training"], *plan.subsets["validation"]]) == list(range(1438))
    assert [plan.split(purpose) for purpose in plan.subsets] == ["train", "10% of train", "test"]
    assert plan.problems == []


def test_memory_of_a_resident_feed(plan_for):
    memory = plan_for(open_sources("digits")).memory
    assert (memory.feed, memory.device_bytes, memory.host_bytes) == ("resident", 1295 * 64, 0)


def test_memory_of_small_images_that_are_resized_in_each_step(plan_for):
    memory = plan_for(open_sources("digits"), image_size=224).memory
    assert (memory.feed, memory.device_bytes, memory.host_bytes) == ("resident", 1295 * 64, 0)
    assert "resizes its images to 224 x 224" in memory.why


def test_memory_of_a_streaming_feed(plan_for, mesh):
    sources = {"train": ArraySource(np.zeros((90, 4, 6, 3), np.uint8), np.zeros(90, int), ("cat",))}
    settings = {"feed": "streaming", "num_workers": 2}
    memory = plan_for(sources, mesh, batch_size=16, **settings).memory
    assert memory.device_bytes == 2 * 4 * 6 * 3  # The batch is shared by eight devices.
    assert memory.host_bytes == (2 + 1) * 2 * 16 * 4 * 6 * 3
    assert plan_for(sources, batch_size=16, image_size=10, **settings).memory.device_bytes == 16 * 10 * 10 * 3


def test_plan_reports_every_invalid_split(plan_for):
    plan = plan_for(open_sources("digits"), validation_split="train[-10:]", test_split="tets")
    assert len(plan.problems) == 2
    assert "unknown split 'tets'" in plan.problems[0]
    assert "share 10 examples" in plan.problems[1]
    assert plan_for(open_sources("digits"), train_split="trian").memory is None


def test_plan_reports_too_few_examples_to_hold_out(plan_for):
    plan = plan_for({"train": ArraySource(np.zeros((4, 2, 2, 3), np.uint8), np.arange(4) % 2, ("a", "b"))})
    assert any("too few to hold out a tenth" in problem for problem in plan.problems)


def test_resident_plan_leaves_out_unreadable_images(plan_for, folder, noise):
    files = {f"train/cat/{number}.png": noise() for number in range(9)}
    sources = open_sources(folder({**files, "train/cat/x.png": b""}))
    assert len(plan_for(sources, validation_split="none").subsets["training"]) == 9
    assert len(plan_for(sources, validation_split="none", feed="streaming").subsets["training"]) == 10


def test_plan_reports_a_dataset_without_readable_images(plan_for, folder):
    plan = plan_for(open_sources(folder({"train/cat/x.png": b""})))
    assert plan.memory is None
    assert "none of the first 1 images can be read" in plan.problems[0]


def test_plan_reports_images_of_which_only_the_headers_can_be_read(plan_for, folder):
    plan = plan_for(open_sources(folder({"train/cat/x.tif": np.zeros((8, 8), np.float32)})))
    assert (plan.memory, plan.problems) == (None, ["none of the training images can be read."])
