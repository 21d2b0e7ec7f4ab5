import random

import numpy as np
import torch

from dust.utils.rng import derive_seed, numpy_rng, torch_generator

SEED = 4770629671863177614
DRAWS = [934, 71, 148, 313]


def test_a_seed_depends_on_every_word_and_their_order():
    seeds = {derive_seed(*words) for words in [(1, 2, 3), (1, 3, 2), (1, 2), (1, 23), (12, 3), ("1", 2, 3), (1, 2, 4)]}
    assert len(seeds) == 7


def test_seeds_are_the_same_on_every_machine():
    assert derive_seed(0, "augment", 3, 17) == SEED
    assert numpy_rng(5, "x").randint(0, 1000, 4).tolist() == DRAWS


def test_nothing_global_moves():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    numpy_rng(1).rand(10)
    torch.rand(3, generator=torch_generator(1))
    assert random.getstate() == before[0]
    assert (np.random.get_state()[1] == before[1]).all()
    assert torch.equal(torch.get_rng_state(), before[2])
