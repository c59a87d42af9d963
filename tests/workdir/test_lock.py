from resnet_jax.workdir.lock import check_shared
from resnet_jax.workdir.workdir import WorkDir


def test_single_process_writes_no_token(tmp_path):
    check_shared(WorkDir(str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()
