"""How experts that saw the same clip agree on its class."""

import torch

VOTES = ("maxlogit", "selector_weighted", "majority")


def vote(said: torch.Tensor, chosen: torch.Tensor, normaliser: torch.Tensor, method: str) -> torch.Tensor:
    """(B, k, K) logits of k experts, -inf where one says nothing -> (B, K) scores that rank the classes.

    Args:
        chosen: (B, k), the selector's logits of these experts' groups, the highest first.
        normaliser: (B,), logsumexp of the selector's logits of all groups.
        method: ``maxlogit``: the highest logit that any expert gives a class. ``selector_weighted``: the same of logits
            times the selector's probability of the expert's group. ``majority``: each expert has one vote, for its
            highest class; scores are votes, a tie going to the class that the expert with the higher selector score
            votes for.

    A class of which no expert says anything gets -inf; by majority every class without a vote gets 0.
    """
    if method == "maxlogit":
        return said.amax(dim=1)
    if method == "selector_weighted":
        weight = (chosen - normaliser[:, None]).exp().unsqueeze(2)  # (B, k, 1)
        return torch.where(said.isinf(), said, said * weight).amax(dim=1)
    if method == "majority":
        k = said.shape[1]
        ballots = torch.zeros_like(said).scatter(2, said.argmax(dim=2, keepdim=True), 1.0)
        # below 1 and falling with the expert's place, so that it decides between equally many votes and no others
        seniority = (torch.arange(k, 0, -1, device=said.device) / (k + 1)).to(said)
        return ballots.sum(dim=1) + (ballots * seniority[None, :, None]).amax(dim=1)
    raise ValueError(f"vote {method!r}: choose one of {', '.join(VOTES)}")
