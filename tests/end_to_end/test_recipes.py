"""Every shipped recipe, with every variant that its docstring names."""

import importlib.util

import pytest

from resnet_jax.training import experiment
from tests.conftest import ROOT

RECIPES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))


def load(recipe):
    spec = importlib.util.spec_from_file_location(recipe, ROOT / "configs" / f"{recipe}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("recipe", RECIPES)
def test_passes_all_checks_and_states_its_command(recipe, mesh):
    module = load(recipe)
    experiment.check(module.get_config(), mesh)
    assert f"python main.py --config=configs/{recipe}.py" in module.__doc__


@pytest.mark.parametrize("model", ["resnet20", "resnet50", "resnet110"])
@pytest.mark.parametrize("recipe", ["cifar10", "cifar100"])
def test_cifar_takes_any_model(recipe, model, mesh):
    config = load(recipe).get_config(model)
    experiment.check(config, mesh)
    assert (config.model.name, config.model.stem) == (model, "cifar")


@pytest.mark.parametrize(
    ("variant", "data", "frozen", "scale"),
    [("cifar10", "cifar10", (), 0.1), ("folder", "folder:", (), 0.1), ("head", "cifar10", ("stem*", "stage*"), 1.0)],
)
def test_fine_tuning_has_a_folder_and_a_head(variant, data, frozen, scale, mesh):
    config = load("finetune").get_config(variant)
    experiment.check(config, mesh)
    assert (config.model.name, config.dataset.image_size) == ("resnet50", 224)
    assert config.dataset.name == data
    assert (config.freeze, config.optimizer.backbone_scale) == (frozen, scale)


def test_adam_on_mnist_is_the_setting_of_the_keras_tutorials(mesh):
    config = load("mnist").get_config("adam")
    experiment.check(config, mesh)
    assert (config.optimizer.name, config.optimizer.learning_rate, config.schedule.name) == ("adam", 1e-3, "constant")
    assert (config.loss.name, config.batch_size, config.num_epochs) == ("softmax_cross_entropy_one_hot", 128, 10)
