"""The clients of a round: who takes part, who answers, and after how many steps. A function of (seed, round)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from resnet_jax import randomness
from resnet_jax.errors import UserError
from resnet_jax.randomness import Use

MAX_DRAWS = 100  # of the clients of a round, until one of them answers


class Participation(NamedTuple):
    """The clients of a round.

    Attributes:
      invited: how many clients receive the model of the server.
      steps: for each client whose update arrives at the server, the number of its local steps. Sorted by client.
    """

    invited: int
    steps: dict[int, int]


def participation(federated: ConfigDict, seed: int, round_index: int, num_steps: Sequence[int]) -> Participation:
    """Draw the clients of a round.

    `federated.share` of the clients that have examples are invited, at least one. With `federated.noise_multiplier`,
    each client is invited independently with this probability instead, because the accounting of privacy assumes it
    (McMahan et al. 2018, algorithm 1). An invited client does not answer with the probability `federated.dropout`. It
    is a straggler with the probability `federated.straggling`, and then takes a random number of its steps, at least
    one (Li et al. 2020, section 5.2). If no client would answer, the draw is repeated, except with
    `federated.noise_multiplier`: the accounting allows rounds without answers.

    Args:
      federated: the `federated` settings.
      seed: the seed of the run.
      round_index: the number of the round, from 0.
      num_steps: the number of steps per round of each client; 0 for a client without examples.

    Raises:
      UserError: if no client answers in any of `MAX_DRAWS` draws.

    Example:
      >>> from resnet_jax.config import default
      >>> participation(default().federated, seed=0, round_index=0, num_steps=[3, 0, 5])
      Participation(invited=2, steps={0: 3, 2: 5})
    """
    with_examples = np.flatnonzero(np.asarray(num_steps) > 0)
    for attempt in range(MAX_DRAWS):
        for_invitation, for_dropout, for_straggling, share_of_steps = (
            randomness.uniform(seed, Use.PARTICIPATION, (round_index, attempt, purpose), len(num_steps))
            for purpose in range(4)
        )
        if federated.noise_multiplier:
            invited = with_examples[for_invitation[with_examples] < federated.share]
        else:
            count = max(1, round(federated.share * len(with_examples)))
            first = np.argsort(for_invitation[with_examples], kind="stable")[:count]
            invited = np.sort(with_examples[first])
        steps = {}
        for client in invited[for_dropout[invited] >= federated.dropout].tolist():
            steps[client] = num_steps[client]
            if for_straggling[client] < federated.straggling:
                steps[client] = max(1, math.ceil(share_of_steps[client] * num_steps[client]))
        if steps or federated.noise_multiplier:
            return Participation(len(invited), steps)
    raise UserError(
        f"no client answers in round {round_index + 1}. Increase federated.share or federated.clients, or lower "
        "federated.dropout."
    )
