"""`TrainedModel.predict` and `load_run`."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

import resnet_jax
from resnet_jax import config as settings
from resnet_jax.data import crops
from resnet_jax.data.dataset import open_evaluation_data
from resnet_jax.data.decode import ImageFile
from resnet_jax.data.host_batches import BatchInfo
from resnet_jax.data.preprocess import Preprocess
from resnet_jax.data.sources import open_sources
from resnet_jax.data.subset import Subset
from resnet_jax.errors import UserError
from resnet_jax.evaluation.evaluate import make_evaluate
from resnet_jax.export.weights import export_weights
from resnet_jax.models.factory import create_model
from resnet_jax.runtime import parallel
from resnet_jax.terminal import Reporter
from resnet_jax.trained_model import TrainedModel, load_run
from resnet_jax.workdir.workdir import WorkDir
from tests.end_to_end import image_files

CLASSES = tuple("abcd")


@pytest.fixture
def digits(tiny_run):
    return load_run(str(tiny_run))


@pytest.fixture
def make_model(mesh):
    """Return a function that makes an untrained `TrainedModel`. Keywords change its settings in `config.dataset`."""

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


def expected_probabilities(trained, images):
    """Return the softmax of the logits, computed for one image after another."""
    variables = jax.device_get(trained.variables)
    logits = [trained.model.apply(variables, trained.preprocess(image[None]), train=False)[0] for image in images]
    powers = np.exp(np.array(logits, np.float64))
    return powers / powers.sum(axis=-1, keepdims=True)


def noise(count, height=12, width=12, channels=3):
    return np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)


@pytest.mark.parametrize("count", [1, 8, 37])
def test_predict_returns_the_softmax_of_the_logits(make_model, count):
    """Padding makes no difference: there are eight devices, and up to 32 images per call."""
    trained, images = make_model(), noise(count)
    predictions = trained.predict(images)
    np.testing.assert_allclose(predictions.probabilities, expected_probabilities(trained, images), rtol=1e-4)
    assert predictions.probabilities.dtype == np.float32
    assert predictions.labels.tolist() == predictions.probabilities.argmax(-1).tolist()
    assert predictions.names == tuple(CLASSES[label] for label in predictions.labels)


def test_predict_equals_evaluation_for_images_of_the_training_size(digits):
    subset = Subset.from_split(open_sources("digits"), "test[:100]")
    examples = open_evaluation_data(digits.config.dataset, subset, Reporter(active=False, max_unreadable=0))
    metrics = make_evaluate(digits.model, digits.preprocess, 64, digits.mesh)(digits.variables, examples)
    predictions = digits.predict(examples.images)
    np.testing.assert_array_equal(predictions.labels, metrics.prediction)
    label_probabilities = predictions.probabilities[np.arange(100), examples.labels]
    np.testing.assert_allclose(-np.log(label_probabilities), metrics.loss, rtol=1e-4, atol=1e-6)


def test_predict_returns_the_same_for_files_and_their_pixels(digits, tmp_path):
    images = open_sources("digits")["test"].images[:10]
    paths = [tmp_path / f"{number}.png" for number in range(10)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image[..., 0]).save(path)
    np.testing.assert_array_equal(digits.predict(paths).probabilities, digits.predict(images).probabilities)
    single = digits.predict(str(paths[3]))
    np.testing.assert_allclose(single.probabilities[0], digits.predict(images).probabilities[3], rtol=1e-5)


def test_predict_resizes_the_central_square_of_images_of_other_sizes(make_model):
    images = noise(3, 30, 50)
    trained = make_model(image_size=12)
    resized = np.stack([crops.resize(image[:, 10:40], 12) for image in images])
    np.testing.assert_array_equal(trained.predict(images).probabilities, trained.predict(resized).probabilities)


def test_predict_crops_as_the_evaluation_of_a_streamed_run(make_model):
    images = noise(3, 40, 60)
    trained = make_model("streaming", 12, eval_resize=20, eval_crop=16)
    cut = np.stack([crops.resize(image[4:36, 14:46], 16) for image in images])
    np.testing.assert_allclose(trained.predict(images).probabilities, expected_probabilities(trained, cut), rtol=1e-4)


def test_predict_keeps_the_size_of_images_that_are_not_square(make_model, tmp_path):
    trained, images = make_model(image_size=None), noise(3, 10, 14)
    np.testing.assert_allclose(
        trained.predict(images).probabilities, expected_probabilities(trained, images), rtol=1e-4
    )
    for name, height in (("one.png", 10), ("other.png", 11)):
        Image.fromarray(noise(1, height, 14)[0]).save(tmp_path / name)
    with pytest.raises(
        UserError, match=r"other.png has shape \[11, 14, 3\], but other images have shape \[10, 14, 3\]"
    ):
        trained.predict([tmp_path / "one.png", tmp_path / "other.png"])


def test_predict_enlarges_smaller_images_as_evaluation_does_on_the_device(make_model):
    trained, images = make_model(image_size=24), noise(5, 12, 12)
    np.testing.assert_allclose(
        trained.predict(images).probabilities, expected_probabilities(trained, images), rtol=0.02
    )


def test_predict_converts_color_images_for_a_gray_model(make_model, tmp_path):
    trained, color = make_model(channels=1), image_files.random_image(0)
    color.save(tmp_path / "color.png")
    gray = ImageFile((tmp_path / "color.png").read_bytes()).pixels(channels=1)
    np.testing.assert_array_equal(
        trained.predict([tmp_path / "color.png"]).probabilities, trained.predict(gray[None]).probabilities
    )


def test_predict_repeats_gray_images_for_a_color_model(make_model):
    trained, gray = make_model(), noise(3, channels=1)
    expected = trained.predict(gray.repeat(3, axis=-1)).probabilities
    np.testing.assert_allclose(trained.predict(gray).probabilities, expected, rtol=1e-5)


def test_predict_compiles_few_programs_for_any_number_of_images(make_model, single_device):
    trained, traced = make_model(on=single_device), []

    def preprocess(images):
        traced.append(len(images))
        return images / 255

    trained = dataclasses.replace(trained, preprocess=preprocess)
    object.__setattr__(preprocess, "mean", (0.5,) * 3)
    for count in (1, 3, 4, 2, 30, 33, 100, 31, 3):
        assert len(trained.predict(noise(count)).labels) == count
    assert sorted(traced) == [1, 2, 4, 32]


def test_predict_accepts_no_images(digits):
    predictions = digits.predict(np.zeros((0, 8, 8, 1), np.uint8))
    assert predictions.probabilities.shape == (0, 10)
    assert (len(predictions.labels), predictions.names) == (0, ())
    assert digits.predict([]).probabilities.shape == (0, 10)


@pytest.mark.parametrize(
    ("images", "problem"),
    [
        (np.zeros((1, 8, 8, 1), np.float32), r"float32 \[1, 8, 8, 1\]"),
        (np.zeros((8, 8, 1), np.uint8), r"uint8 \[8, 8, 1\]"),
        (
            np.zeros((1, 8, 8, 3), np.uint8),
            r"wrong number of channels \(3\)\. This model takes gray images with 1 channel",
        ),
        (["/nowhere/cat.jpg"], "/nowhere/cat.jpg cannot be read: No such file or directory"),
    ],
)
def test_predict_rejects_unusable_images(digits, images, problem):
    with pytest.raises(UserError, match=problem):
        digits.predict(images)


def test_predict_names_the_first_unreadable_file(make_model, tmp_path):
    files = [*[tmp_path / f"{number}.jpg" for number in range(40)], tmp_path / "cut.jpg"]
    for number, file in enumerate(files):
        image_files.random_image(number).save(file)
    files[-1].write_bytes(image_files.unreadable_image_files()["cut.jpg"])
    with pytest.raises(UserError, match=r"cut.jpg cannot be read"):
        make_model().predict(files)


def test_predict_rejects_a_model_on_devices_of_other_processes(make_model):
    elsewhere = SimpleNamespace(size=16, local_devices=jax.local_devices())
    with pytest.raises(
        UserError, match=r"on the devices of several processes, but prediction runs in a single one\. Load it with"
    ):
        dataclasses.replace(make_model(), mesh=elsewhere).predict(noise(3))


class CountedBatches:
    """An endless sequence of black images that counts how many batches have been requested."""

    def __init__(self):
        self.requested = 0

    def __len__(self):
        return 10_000

    def batches(self, batch_size, rows):
        while True:
            self.requested += 1
            yield (
                np.zeros((batch_size, 12, 12, 3), np.uint8),
                BatchInfo(np.zeros(batch_size), np.arange(batch_size), []),
            )


def test_outputs_holds_the_images_of_few_batches(make_model):
    """A batch is read only when the results of earlier batches have been taken, so few batches are held at a time."""
    counted = CountedBatches()
    for number, _ in zip(range(1, 6), make_model().outputs(counted), strict=False):
        assert counted.requested == number + parallel.CALLS_AHEAD


def test_load_run_restores_averages_of_a_model_without_batch_statistics(tiny_config, tmp_path):
    tiny_config.model.norm, tiny_config.ema_decay, tiny_config.num_epochs = "group_norm", 0.9, 1
    resnet_jax.train(tiny_config, str(tmp_path / "run"))
    trained, directory = load_run(str(tmp_path / "run")), WorkDir(str(tmp_path / "run"))
    wanted = parallel.abstract({"params": trained.variables["params"]}, parallel.replicated(trained.mesh))
    with directory.open_checkpoints(2, "top1", read_only=True) as checkpoints:
        items, _ = checkpoints.restore(trained.step, {**wanted, "ema": {"batch_stats": {}, **wanted}})
    jax.tree.map(np.testing.assert_array_equal, trained.variables["params"], items["ema"]["params"])
    assert (trained.variables["params"]["head"]["kernel"] != items["params"]["head"]["kernel"]).any()
    export_weights(trained, str(tmp_path / "weights.safetensors"))
