import pytest

from resnet_jax import config as settings
from resnet_jax.errors import UserError
from resnet_jax.studies import search_space
from resnet_jax.studies.search_space import Choices, Range


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer.learning_rate=0.1,1", Choices((0.1, 1.0))),
        ("batch_size=32,64", Choices((32, 64))),
        ("optimizer.nesterov=true,False", Choices((True, False))),
        ("optimizer.name=sgd,muon", Choices(("sgd", "muon"))),
        ("augment.randaugment=(),(2, 9)", Choices(((), (2, 9)))),
        ("ema_decay=None,0.99", Choices((None, 0.99))),
        ("optimizer.momentum=0.8..0.99", Range(0.8, 0.99, log=False)),
        ("optimizer.learning_rate=1e-3..1:log", Range(0.001, 1.0, log=True)),
        ("batch_size=16..64", Range(16, 64, log=False)),
        ("optimizer.weight_decay=1e-5", Choices((1e-5,))),
    ],
)
def test_values_have_the_type_of_their_setting(text, expected):
    (values,) = search_space.parse([text]).values()
    assert repr(values) == repr(expected)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["optimizer.learning_rate"], "wrong form"),
        (["optimizer.learning_rate="], "wrong form"),
        (
            ["optimizer.learningrate=1"],
            "unknown setting 'optimizer.learningrate'. Did you mean optimizer.learning_rate",
        ),
        (["seed=0", "seed=1"], "gives seed twice"),
        (["optimizer.learning_rate=0.1,0.10"], "gives a value twice"),
        (["early_stopping.patience=None..5"], "needs two numbers"),
        (["seed=0.5,1"], "'0.5', which is not of type int"),
        (["batch_size=1.5..3"], "'1.5', which is not of type int"),
        (["optimizer.learning_rate=fast"], "'fast', which is not of type float"),
        (["optimizer.learning_rate=1..0.1"], "is empty"),
        (["optimizer.learning_rate=0..1:log"], "reaches zero"),
    ],
)
def test_mistakes_are_named(texts, message):
    with pytest.raises(UserError, match=message):
        search_space.parse(texts)


def test_grid_has_every_combination_once():
    space = search_space.parse(["seed=0,1,2", "optimizer.name=sgd,lars"])
    combinations = [tuple(changes.values()) for changes in search_space.grid(space)]
    assert combinations == [(0, "sgd"), (0, "lars"), (1, "sgd"), (1, "lars"), (2, "sgd"), (2, "lars")]


def test_names_of_runs_are_distinct_and_safe():
    space = search_space.parse(["augment.randaugment=(),(2, 9)", "freeze=(),('stem*',)"])
    names = [search_space.run_name(changes) for changes in search_space.grid(space)]
    assert len(set(names)) == 4
    assert not any(set(name) & set("/*?[\\'\" ") for name in names)


@pytest.mark.parametrize(
    "text", ["dataset.test_split=test", "dataset.train_split=train", "checkpoint.best_metric=top1,loss"]
)
def test_settings_that_would_spoil_the_comparison_are_rejected(text):
    with pytest.raises(UserError, match="would not be comparable"):
        search_space.check(search_space.parse([text]), settings.default())


def test_sweep_needs_a_setting_to_vary():
    with pytest.raises(UserError, match="nothing to vary"):
        search_space.check({}, settings.default())


def test_recipe_without_validation_is_rejected():
    config = settings.default()
    config.dataset.validation_split = "none"
    with pytest.raises(UserError, match="validation_split is 'none'"):
        search_space.check(search_space.parse(["seed=0,1"]), config)
