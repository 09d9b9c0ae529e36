"""Sampling of codes with temperature and top-k, by the Gumbel-max method with counter-based noise.

A noise number is a hash of (seed, frame, codebook, rank) alone, so an utterance gets the same codes in any batch and
any order of work. The noise of rank r is added to the r-th likeliest code: the numbers are independent and identically
distributed, so this does not change the distribution, and only the top k codes need noise.
"""

from __future__ import annotations

import torch

_MAX_RANKS = 4096
_GROUP = 8
"""Codes of a group in the first stage of `likeliest`."""
_WORTH_TWO_STAGES = 4
"""Rows below which one stage is as fast."""
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def gumbel_noise(seeds: torch.Tensor, frames: torch.Tensor, codebooks: int, ranks: int) -> torch.Tensor:
    """Return Gumbel noise float32 [n, codebooks, ranks] for frame number `frames` [n] of requests with `seeds` [n]
    (int64).

    SplitMix64 (Steele, Lea, Flood 2014) starts at the mixed seed; the top 23 bits give a uniform u in (0, 1), and
    -log(-log u) has the Gumbel distribution. The largest sum of logits / temperature and noise is a sample.
    """
    device = seeds.device
    codebook = torch.arange(codebooks, device=device).view(1, -1, 1)
    rank = torch.arange(ranks, device=device)
    counter = (frames.view(-1, 1, 1) * codebooks + codebook) * _MAX_RANKS + rank + 1
    bits = _mix(_mix(seeds).view(-1, 1, 1) + counter * _GOLDEN)
    uniform = ((bits >> 41 & 0x7FFFFF).to(torch.float32) + 0.5) * 2.0**-23
    return -(-uniform.log()).log()


def _mix(x: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finaliser on int64 bits (shifts are arithmetic in torch, hence the masks)."""
    x = (x ^ (x >> 30 & (1 << 34) - 1)) * _MIX_1
    x = (x ^ (x >> 27 & (1 << 37) - 1)) * _MIX_2
    return x ^ (x >> 31 & (1 << 33) - 1)


def likeliest(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the `count` largest of each row of logits [n, codes], largest first, and their codes: two tensors [n,
    count].

    Two stages halve the time of several rows on the CPU: if the codes are divided into groups, the `count` groups with
    the largest maxima contain the `count` largest codes.
    """
    rows, codes = logits.shape
    groups = codes // _GROUP
    if rows < _WORTH_TWO_STAGES or codes % _GROUP or count > groups // 2:
        return logits.topk(count, dim=-1)
    members = logits.view(rows, _GROUP, groups)
    best = members.amax(dim=1).topk(count, dim=-1, sorted=False).indices
    values, place = members.gather(2, best.unsqueeze(1).expand(-1, _GROUP, -1)).flatten(1).topk(count, dim=-1)
    return values, place // count * groups + best.gather(1, place % count)


def sample(logits: torch.Tensor, temperature: torch.Tensor, top_k: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Sample one code for each row of logits [n, codes] → int64 [n].

    temperature float32 [n] above 0; top_k int64 [n] from 1 to the noise's ranks; noise float32 [n, ranks].
    """
    values, codes = likeliest(logits.float(), noise.shape[1])
    score = values / temperature.unsqueeze(1) + noise
    dropped = torch.arange(noise.shape[1], device=logits.device) >= top_k.unsqueeze(1)
    winner = score.masked_fill_(dropped, -torch.inf).argmax(dim=-1, keepdim=True)
    return codes.gather(1, winner).squeeze(1)
