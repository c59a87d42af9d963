"""All recipes in configs/, with the variants that their docstrings name."""

import importlib.util
import re

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
def test_recipe_passes_all_checks_and_states_its_command(recipe, mesh):
    module = load(recipe)
    experiment.check(module.get_config(), mesh)
    assert re.search(rf"python main\.py (federate )?--config=configs/{recipe}\.py", module.__doc__)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_can_be_tried_for_one_epoch(recipe, mesh):
    config = load(recipe).get_config()
    config.num_epochs = 1
    experiment.check(config, mesh)


@pytest.mark.parametrize("model", ["resnet20", "resnet50", "resnet110"])
@pytest.mark.parametrize("recipe", ["cifar10", "cifar100"])
def test_cifar_recipe_accepts_any_model(recipe, model, mesh):
    config = load(recipe).get_config(model)
    experiment.check(config, mesh)
    assert (config.model.name, config.model.stem) == (model, "cifar")


@pytest.mark.parametrize(
    ("variant", "dataset", "frozen", "scale"),
    [("cifar10", "cifar10", (), 0.1), ("folder", "folder:", (), 0.1), ("head", "cifar10", ("stem*", "stage*"), 1.0)],
)
def test_finetune_recipe_has_variants_for_a_folder_and_for_the_head_only(variant, dataset, frozen, scale, mesh):
    config = load("finetune").get_config(variant)
    experiment.check(config, mesh)
    assert (config.model.name, config.dataset.image_size) == ("resnet50", 224)
    assert config.dataset.name == dataset
    assert (config.freeze, config.optimizer.backbone_scale) == (frozen, scale)


def test_mnist_recipe_with_adam_matches_the_keras_tutorials(mesh):
    config = load("mnist").get_config("adam")
    experiment.check(config, mesh)
    assert (config.optimizer.name, config.optimizer.learning_rate, config.schedule.name) == ("adam", 1e-3, "constant")
    assert (config.loss.name, config.batch_size, config.num_epochs) == ("softmax_cross_entropy_one_hot", 128, 10)
