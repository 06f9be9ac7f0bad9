"""Deep Interest Network (Zhou et al., KDD 2018), vertically split: a bottom for each owner of history, one top.

Shapes: B samples, P positions of history, S genre slots, D = 24 features of a film.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

MOVIE_FEATURES, GENRE_FEATURES = 16, 8
FEATURES = MOVIE_FEATURES + GENRE_FEATURES
ATTENTION_WIDTH = 36
TOP_WIDTHS = (200, 80)


class Bottom(nn.Module):
    """From an owner's part of a history and the candidate to what the owner tells of them.

    The input is (B, P + 1, 1 + S) whole numbers: of each film in the history, and of the candidate last, its number and
    its genres, 0 for none. The outputs are (B, D) each: the history weighted by its likeness to the candidate, and the
    candidate.

    Args:
        movies: films are numbered below this.
        genres: and genres below this.
    """

    def __init__(self, movies: int, genres: int) -> None:
        super().__init__()
        self.vocabulary = min(movies, genres)
        """Numbers below it are valid in each place of a sample: for examples to trace with."""
        self.movie = nn.Embedding(movies, MOVIE_FEATURES, padding_idx=0)
        self.genre = nn.Embedding(genres, GENRE_FEATURES, padding_idx=0)
        self.attention = nn.Sequential(
            nn.Linear(3 * FEATURES, ATTENTION_WIDTH), nn.PReLU(), nn.Linear(ATTENTION_WIDTH, 1)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted history and candidate; an empty position has no weight, as all of its features are 0."""
        history, candidate = self._films(x[:, :-1]), self._films(x[:, -1])
        beside = candidate.unsqueeze(1).expand_as(history)
        # Without softmax, so that how much the user likes such films is kept (Zhou et al., 4.3).
        weights = self.attention(torch.cat([history, beside, history * beside], 2))
        return (weights * history).sum(1), candidate

    def _films(self, x: Tensor) -> Tensor:
        """Features (..., D) of films (..., 1 + S): of the number, and the mean of the genres that there are."""
        slots = x[..., 1:]
        named = (slots > 0).sum(-1, keepdim=True).clamp(min=1)
        return torch.cat([self.movie(x[..., 0]), self.genre(slots).sum(-2) / named], -1)


class Top(nn.Module):
    """From all owners' outputs, (B, D) twice each, to logits (B, 2) of not liking and liking."""

    def __init__(self) -> None:
        super().__init__()
        first, second = TOP_WIDTHS
        self.layers = nn.Sequential(
            nn.Linear(2 * FEATURES, first),
            nn.BatchNorm1d(first),
            nn.PReLU(),
            nn.Linear(first, second),
            nn.BatchNorm1d(second),
            nn.PReLU(),
            nn.Linear(second, 2),
        )

    def forward(self, *told: Tensor) -> Tensor:
        """Of the history and the candidate of each owner, one owner after the other."""
        summed = [torch.stack(each).sum(0) for each in (told[::2], told[1::2])]
        logits: Tensor = self.layers(torch.cat(summed, 1))
        return logits


class DIN(nn.Module):
    """All of it in one place, in the order in which weights are drawn: bottoms, then top."""

    def __init__(self, parties: int, movies: int, genres: int) -> None:
        super().__init__()
        self.bottoms = nn.ModuleList(Bottom(movies, genres) for _ in range(parties))
        self.top = Top()

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Logits (B, 2) of each owner's input."""
        told = [each for bottom, x in zip(self.bottoms, inputs, strict=True) for each in bottom(x)]
        logits: Tensor = self.top(*told)
        return logits
