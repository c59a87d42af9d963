import pytest

from resnet_jax.errors import UserError
from resnet_jax.studies import device_shares
from resnet_jax.studies.device_shares import device_share, share_environment


def test_single_job_keeps_all_devices():
    assert device_share(0, 1) == {}


def test_gpus_are_divided_without_overlap():
    shares = [share_environment(job, 3, "gpu", 8, {})["CUDA_VISIBLE_DEVICES"] for job in range(3)]
    assert shares == ["0,1", "2,3", "4,5"]


def test_gpus_are_chosen_from_the_visible_ones():
    environment = {"CUDA_VISIBLE_DEVICES": "4,6"}
    assert share_environment(1, 2, "gpu", 2, environment) == {"CUDA_VISIBLE_DEVICES": "6"}


def test_each_job_gets_one_tpu_chip():
    shares = [share_environment(job, 4, "tpu", 4, {}) for job in range(4)]
    assert [share["TPU_VISIBLE_CHIPS"] for share in shares] == ["0", "1", "2", "3"]


def test_missing_device_is_reported_in_one_sentence(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    with pytest.raises(UserError, match=r"^JAX finds no device to use \(.*nonsense.*\)\. Unset JAX_PLATFORMS, or set"):
        device_shares._find_devices.__wrapped__()


def test_jobs_on_a_cpu_share_its_cores():
    assert share_environment(1, 8, "cpu", 1, {}) == {}


def test_simulated_devices_are_divided():
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    share = share_environment(0, 2, "cpu", 4, environment)["XLA_FLAGS"]
    assert share.split()[-1] == "--xla_force_host_platform_device_count=2"


def test_more_jobs_than_gpus_are_rejected():
    with pytest.raises(UserError, match="--jobs=3 needs 3 devices, but there are 2"):
        share_environment(0, 3, "gpu", 2, {})
