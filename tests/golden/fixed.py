"""The fixed numbers of align.py and ppo.py."""
import torch

torch.set_default_dtype(torch.float64)
LENGTHS = [3, 5, 4, 1, 2, 6, 3, 3]      # tokens of each sequence
N, T = len(LENGTHS), max(LENGTHS)
MASK = torch.tensor([[1 if t < n else 0 for t in range(T)] for n in LENGTHS])


def fill(seed, *shape):
    n = torch.Size(shape).numel()
    return (0.5 * torch.sin(1 + 0.7 * torch.arange(n) + 1.3 * seed)).reshape(shape)


LOGP = (-1.2 + fill(0, N, T)) * MASK
REF = (-1.3 + fill(1, N, T)) * MASK
OLD = LOGP + 0.3 * fill(2, N, T) * MASK
SCORE = fill(3, N) * 2
