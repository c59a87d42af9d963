import numpy as np
import pytest

from resnet_jax.config import default
from resnet_jax.errors import UserError
from resnet_jax.federated.participation import participation


def draw(number=0, seed=0, num_steps=(8,) * 20, **settings):
    federated = default().federated
    federated.update(settings)
    return participation(federated, seed, number, num_steps)


def test_all_clients_with_examples_take_all_of_their_steps():
    chosen = draw(num_steps=(3, 0, 5))
    assert (chosen.invited, chosen.steps) == (2, {0: 3, 2: 5})


def test_share_of_the_clients_is_invited_and_differs_by_round():
    rounds = [draw(number, share=0.25) for number in range(200)]
    assert {chosen.invited for chosen in rounds} == {5}
    counts = np.bincount(np.concatenate([list(chosen.steps) for chosen in rounds]), minlength=20)
    assert counts.min() > 25 and counts.max() < 80  # 50 on average, with a std of 6
    assert draw(7, share=0.25) == rounds[7] != rounds[8]
    assert draw(7, seed=1, share=0.25) != rounds[7]


def test_at_least_one_client_is_invited():
    assert draw(share=0.001).invited == 1


def test_with_noise_each_client_is_invited_independently():
    sizes = [draw(number, share=0.25, noise_multiplier=1.0).invited for number in range(400)]
    assert np.mean(sizes) == pytest.approx(5, abs=0.4)
    assert np.var(sizes) == pytest.approx(20 * 0.25 * 0.75, rel=0.3)


def test_clients_drop_out_and_straggle():
    rounds = [draw(number, dropout=0.2, straggling=0.5) for number in range(200)]
    steps = np.concatenate([list(chosen.steps.values()) for chosen in rounds])
    assert len(steps) / (200 * 20) == pytest.approx(0.8, abs=0.03)
    assert steps.min() == 1 and steps.max() == 8
    assert np.mean(steps == 8) == pytest.approx(0.5 + 0.5 / 8, abs=0.03)
    assert np.mean(steps) == pytest.approx(0.5 * 8 + 0.5 * 4.5, abs=0.15)


def test_round_without_answers_is_drawn_again_and_at_last_reported():
    assert all(draw(number, num_steps=(8, 8), dropout=0.9).steps for number in range(20))
    with pytest.raises(UserError, match="no client answers in round 4"):
        draw(3, num_steps=(0, 0), share=0.5)


def test_round_with_noise_may_be_without_clients():
    """If it were drawn again, clients would take part more often than the accounting assumes."""
    rounds = [draw(number, num_steps=(8,) * 5, share=0.1, noise_multiplier=1.0) for number in range(400)]
    assert np.mean([not chosen.steps for chosen in rounds]) == pytest.approx(0.9**5, abs=0.08)
