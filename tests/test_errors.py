import pytest

from resnet_jax.errors import UserError, needs_extra, unknown_name


def test_unknown_name_suggests_the_nearest():
    assert str(unknown_name("model", "resnet19", ["resnet18", "vgg"])) == (
        "unknown model 'resnet19'. Did you mean resnet18?"
    )


def test_unknown_name_ignores_case():
    assert "Did you mean cifar10" in str(unknown_name("dataset", "CIFAR-10", ["cifar10", "mnist"]))


def test_unknown_name_lists_all_names_if_none_is_near():
    assert str(unknown_name("loss", "zzz", ["b", "a"])) == "unknown loss 'zzz'. Choose one of a, b."


def test_missing_package_is_reported_with_its_extra(hide_package):
    hide_package("plotly")
    sentence = r'the report needs plotly, which is not installed\. .* pip install "\.\[report\]"'
    with pytest.raises(UserError, match=sentence), needs_extra("the report", "plotly", "report"):
        import plotly  # noqa: F401  Only the attempt matters.
