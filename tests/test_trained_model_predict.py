"""Prediction from Python: `TrainedModel.predict`."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from resnet_jax import config as settings
from resnet_jax.data import crops
from resnet_jax.data.dataset import open_split
from resnet_jax.data.decode import ImageFile
from resnet_jax.data.host_batches import BatchInfo
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.data.sources import open_sources
from resnet_jax.data.subset import Subset
from resnet_jax.errors import UserError
from resnet_jax.evaluation.evaluate import make_evaluate
from resnet_jax.models.factory import create_model
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import TrainedModel, load_run
from tests.end_to_end import image_files

CLASSES = tuple("abcd")


@pytest.fixture
def digits(tiny_run):
    return load_run(str(tiny_run))


@pytest.fixture
def run_of(mesh):
    """A function that makes an untrained network for pictures in colour, with `config.dataset` as a run stores it."""

    def make(feed="resident", image_size=12, on=mesh, channels=3, **dataset):
        config = settings.default()
        config.batch_size = 32
        config.dataset.feed, config.dataset.image_size = feed, image_size
        config.dataset.mean = config.dataset.std = (0.5,) * channels
        config.dataset.num_workers = 0
        config.dataset.update(dataset)
        model = create_model("tiny", 4, head_init=jax.nn.initializers.normal(1.0))
        variables = model.init(jax.random.key(0), np.zeros((1, 8, 8, channels)), train=False)
        variables = parallel.place(variables, parallel.replicated(on))
        return TrainedModel(config, CLASSES, model, variables, Preprocess.from_config(config.dataset), 0, on)

    return make


def by_hand(run, images):
    """Softmax of the logits, one picture after another."""
    variables = jax.device_get(run.variables)
    logits = [run.model.apply(variables, run.preprocess(image[None]), train=False)[0] for image in images]
    powers = np.exp(np.array(logits, np.float64))
    return powers / powers.sum(axis=-1, keepdims=True)


def noise(count, height=12, width=12, channels=3):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)


@pytest.mark.parametrize("count", [1, 8, 37])
def test_probabilities_are_the_softmax_of_the_logits(run_of, count):
    """Whatever is filled up: there are eight devices, and 32 pictures a call."""
    run, images = run_of(), noise(count)
    predictions = run.predict(images)
    np.testing.assert_allclose(predictions.probabilities, by_hand(run, images), rtol=1e-4)
    assert predictions.probabilities.dtype == np.float32
    assert predictions.labels.tolist() == predictions.probabilities.argmax(-1).tolist()
    assert predictions.names == tuple(CLASSES[label] for label in predictions.labels)


def test_pictures_of_the_size_of_the_run_are_judged_as_in_evaluation(digits):
    """The test pictures, handed over by the user and as examples that are scored."""
    selection = Subset.of(open_sources("digits"), "test[:100]")
    examples = open_split(digits.config.dataset, selection, Reporter(active=False, max_unreadable=0))
    outcomes = make_evaluate(digits.model, digits.preprocess, 64, digits.mesh)(digits.variables, examples)
    predictions = digits.predict(examples.images)
    np.testing.assert_array_equal(predictions.labels, outcomes.prediction)
    of_labels = predictions.probabilities[np.arange(100), examples.labels]
    np.testing.assert_allclose(-np.log(of_labels), outcomes.loss, rtol=1e-4, atol=1e-6)


def test_files_are_judged_as_their_pixels(digits, tmp_path):
    images = open_sources("digits")["test"].images[:10]
    paths = [tmp_path / f"{number}.png" for number in range(10)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image[..., 0]).save(path)
    np.testing.assert_array_equal(digits.predict(paths).probabilities, digits.predict(images).probabilities)
    one = digits.predict(str(paths[3]))
    np.testing.assert_allclose(one.probabilities[0], digits.predict(images).probabilities[3], rtol=1e-5)


def test_of_other_sizes_the_square_in_the_middle_is_resized(run_of):
    images = noise(3, 30, 50)
    run = run_of(image_size=12)
    resized = np.stack([crops.resize(image[:, 10:40], 12) for image in images])
    np.testing.assert_array_equal(run.predict(images).probabilities, run.predict(resized).probabilities)


def test_a_streamed_run_cuts_out_what_its_evaluation_does(run_of):
    images = noise(3, 40, 60)
    run = run_of("streaming", 12, eval_resize=20, eval_crop=16)
    cut = np.stack([crops.resize(image[4:36, 14:46], 16) for image in images])
    np.testing.assert_allclose(run.predict(images).probabilities, by_hand(run, cut), rtol=1e-4)


def test_pictures_that_are_no_squares_are_taken_as_they_are(run_of, tmp_path):
    run, images = run_of(image_size=None), noise(3, 10, 14)
    np.testing.assert_allclose(run.predict(images).probabilities, by_hand(run, images), rtol=1e-4)
    for name, height in (("one.png", 10), ("other.png", 11)):
        Image.fromarray(noise(1, height, 14)[0]).save(tmp_path / name)
    with pytest.raises(UserError, match=r"other.png has shape \[11, 14, 3\], others have \[10, 14, 3\]"):
        run.predict([tmp_path / "one.png", tmp_path / "other.png"])


def test_smaller_pictures_are_enlarged_as_evaluation_does_on_the_device(run_of):
    run, images = run_of(image_size=24), noise(5, 12, 12)
    np.testing.assert_allclose(run.predict(images).probabilities, by_hand(run, images), rtol=0.02)


def test_colours_become_grey_for_a_network_of_grey_pictures(run_of, tmp_path):
    run, colour = run_of(channels=1), image_files.random_image(0)
    colour.save(tmp_path / "colour.png")
    grey = ImageFile((tmp_path / "colour.png").read_bytes()).pixels(channels=1)
    np.testing.assert_array_equal(
        run.predict([tmp_path / "colour.png"]).probabilities, run.predict(grey[None]).probabilities
    )


def test_grey_pictures_are_three_equal_channels_where_the_network_sees_three(run_of):
    run, grey = run_of(), noise(3, channels=1)
    expected = run.predict(grey.repeat(3, axis=-1)).probabilities
    np.testing.assert_allclose(run.predict(grey).probabilities, expected, rtol=1e-5)


def test_few_programs_serve_any_number_of_pictures(run_of, single_device):
    run, traced = run_of(on=single_device), []

    def preprocess(images):
        traced.append(len(images))
        return images / 255

    run = dataclasses.replace(run, preprocess=preprocess)
    object.__setattr__(preprocess, "mean", (0.5,) * 3)
    for count in (1, 3, 4, 2, 30, 33, 100, 31, 3):
        assert len(run.predict(noise(count)).labels) == count
    assert sorted(traced) == [1, 2, 4, 32]


def test_no_pictures(digits):
    predictions = digits.predict(np.zeros((0, 8, 8, 1), np.uint8))
    assert predictions.probabilities.shape == (0, 10)
    assert (len(predictions.labels), predictions.names) == (0, ())
    assert digits.predict([]).probabilities.shape == (0, 10)


@pytest.mark.parametrize(
    ("images", "problem"),
    [
        (np.zeros((1, 8, 8, 1), np.float32), r"these are float32 \[1, 8, 8, 1\]"),
        (np.zeros((8, 8, 1), np.uint8), r"these are uint8 \[8, 8, 1\]"),
        (np.zeros((1, 8, 8, 3), np.uint8), "this network takes grey pictures, of 1 channel, and these have 3"),
        (["/nowhere/cat.jpg"], "/nowhere/cat.jpg cannot be read: No such file or directory"),
    ],
)
def test_what_cannot_be_predicted_is_told(digits, images, problem):
    with pytest.raises(UserError, match=problem):
        digits.predict(images)


def test_the_first_file_that_cannot_be_read_is_named(run_of, tmp_path):
    files = [*[tmp_path / f"{number}.jpg" for number in range(40)], tmp_path / "cut.jpg"]
    for number, file in enumerate(files):
        image_files.random_image(number).save(file)
    files[-1].write_bytes(image_files.unreadable_image_files()["cut.jpg"])
    with pytest.raises(UserError, match=r"cut.jpg cannot be read"):
        run_of().predict(files)


def test_a_network_on_devices_of_other_processes_is_refused(run_of):
    elsewhere = SimpleNamespace(size=16, local_devices=jax.local_devices())
    with pytest.raises(UserError, match=r"on the devices of several processes, and predicts in one: load it with"):
        dataclasses.replace(run_of(), mesh=elsewhere).predict(noise(3))


class CountedBatches:
    """Black pictures without end, which count how many batches of them have been asked for."""

    def __init__(self):
        self.asked = 0

    def __len__(self):
        return 10_000

    def batches(self, batch_size, rows):
        while True:
            self.asked += 1
            yield np.zeros((batch_size, 12, 12, 3), np.uint8), BatchInfo(np.zeros(batch_size), np.arange(batch_size), [])


def test_pixels_of_few_batches_are_held(run_of):
    """However many there are to come, none is read before results of earlier ones have been taken."""
    counted = CountedBatches()
    for number, _ in zip(range(1, 6), run_of().outputs(counted), strict=False):
        assert counted.asked == number + parallel.CALLS_AHEAD
