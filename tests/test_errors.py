from resnet_jax.errors import unknown_name


def test_names_the_nearest():
    assert str(unknown_name("model", "resnet19", ["resnet18", "vgg"])) == (
        "unknown model 'resnet19': did you mean resnet18?"
    )


def test_case_does_not_matter():
    assert "did you mean cifar10" in str(unknown_name("data set", "CIFAR-10", ["cifar10", "mnist"]))


def test_lists_all_where_none_is_near():
    assert str(unknown_name("loss", "zzz", ["b", "a"])) == "unknown loss 'zzz': choose one of a, b"
