import numpy as np
import pytest

from resnet_jax.errors import UserError
from resnet_jax.inference import features, predict
from resnet_jax.inference.features import Features
from resnet_jax.terminal import Reporter

REPORTER = Reporter(active=False)


def test_features_are_the_input_of_the_head(trained, images, write, tmp_path):
    paths = write({"a.png": 0, "odd\udcff.png": 1, "bad.png": b"", **{f"{number}.png": number for number in range(90)}})
    collected = Features.collect(predict.model_outputs(trained, paths, REPORTER))
    assert collected.problems == {paths[2]: "the file is empty"}
    collected.write(str(tmp_path / "out.npz"), trained.classes)
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        written = dict(file)
    assert written.keys() == {"features", "names", "classes"}
    assert written["names"].tolist() == [path for path in paths if "bad" not in path]
    assert tuple(written["classes"]) == trained.classes
    assert (written["features"].shape, written["features"].dtype) == ((92, 16), np.float32)
    head = trained.variables["params"]["head"]
    logits = written["features"] @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    expected = trained.predict(images[np.r_[0, 1, 0:90]]).probabilities
    powers = np.exp(logits)
    np.testing.assert_allclose(powers / powers.sum(axis=-1, keepdims=True), expected, rtol=1e-4)


def test_features_without_readable_images_are_empty(trained, tmp_path):
    collected = Features.collect(predict.model_outputs(trained, ["/nowhere/a.png"], REPORTER))
    collected.write(str(tmp_path / "out.npz"), trained.classes)
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        assert file["features"].shape == (0, 16)
        assert file["names"].shape == (0,)


def test_write_to_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "out.npz").write_text("old")

    def raise_disk_full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("resnet_jax.files.sync_to_disk", raise_disk_full)
    collected = Features()
    collected._batches.append(np.zeros((0, 2), np.float32))
    with pytest.raises(UserError, match=r"cannot write features to .*out\.npz .*No space left"):
        collected.write(str(tmp_path / "out.npz"), ("a",))
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("out.npz", "old")]


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("out.txt", "ends in .npz"),
        ("none/out.npz", "Create the directory .*none first"),
        ("folder.npz", "it is a directory"),
    ],
)
def test_check_target_rejects_an_unusable_path(tmp_path, path, remedy):
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(UserError, match=f"cannot write features to .*{remedy}"):
        features.check_target(str(tmp_path / path))
