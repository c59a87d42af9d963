"""The command `models`."""

import json

from tests.end_to_end.program import run


def test_json_output_has_published_and_computed_values():
    finished = run("models", "--filter=resnet50", "--format=json")
    assert finished.returncode == 0, finished.stderr
    (line,) = finished.stdout.splitlines()
    models = {model.pop("name"): model for model in json.loads(line)["models"]}
    assert {"resnet50", "wide_resnet50_2", "seresnet50", "fixup_resnet50"} < models.keys()
    assert models["resnet50"] == {
        "parameters": 25_557_032,
        "multiply_adds": 4_089_184_256,
        "paper": "He et al. 2015, Deep Residual Learning, arXiv:1512.03385; v1.5: Goyal et al. 2017, arXiv:1706.02677",
        "dataset": "ImageNet-1k",
        "image_size": 224,
        "num_classes": 1000,
        "top1": 0.7613,
        "top1_source": "torchvision, IMAGENET1K_V1",
    }


def test_table_names_each_paper_once():
    lines = run("models", "--filter=resnet20").stdout.splitlines()
    assert [line.split() for line in lines[:1] + lines[-1:]] == [
        ["model", "parameters", "million", "multiply-adds", "top-1", "as", "published", "by"],
        ["resnet20", "269,722", "41", "91.25%", "the", "paper"],
    ]
    assert sum("arXiv:1512.03385 (CIFAR-10, 32 x 32 pixels)" in line for line in lines) == 1


def test_unknown_model_is_reported():
    finished = run("models", "--filter=resnet51")
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr.startswith("error: unknown model 'resnet51'. Did you mean resnet")


def test_models_command_lists_public_weights():
    finished = run("models", "--pretrained", "--filter=resnet101d", "--format=json")
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["weights"][0] == {
        "model": "resnet101d",
        "tag": "ra2_in1k",
        "hub_id": "timm/resnet101d.ra2_in1k",
        "top1": 0.83016,
        "image_size": 320,
        "eval_resize": 320,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "license": "apache-2.0",
        "num_classes": 1000,
    }
    lines = run("models", "--pretrained", "--filter=resnet101d").stdout.splitlines()
    assert lines[2].split() == [
        "resnet101d",
        "ra2_in1k",
        "83.02%",
        "320",
        "320",
        "apache-2.0",
        "timm/resnet101d.ra2_in1k",
    ]
