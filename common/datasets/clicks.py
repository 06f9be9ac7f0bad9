"""Samples of click prediction: will a user like a film, of which the last films that they liked tell?

Made from ratings, as published: each rating is a sample, its history the last ten films that the user had liked
before (more than three stars), in the order of time, empty places behind. The first 80 % of each user's ratings in time
are for training. Shapes: N samples, H = 10 positions, S genre slots.
"""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from common.datasets.movielens import GENRES, SLOTS, Numbers, Ratings

HISTORY = 10
_LIKED = 3.0  # more than these stars
_TRAINED = 0.8

Marks = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Clicks:
    """Samples, those for training and those that are held out."""

    name: str
    keys: Numbers
    """int64 (N, 3): user, film and time of the rating. What a sample is called among the parties."""
    history: Numbers
    """int64 (N, H), numbers of films; 0 is none."""
    labels: Numbers
    """int64 (N,), 1 where the user liked the film."""
    held_out: Marks
    """bool (N,)."""
    genres: Numbers
    """int64 (M, S), of each film."""
    chances: npt.NDArray[np.float64] | None = None
    """float64 (N,): of liking, where they are known (made-up samples)."""

    def taken(self, places: Numbers) -> "Clicks":
        """Some of the samples, in that order."""
        chances = None if self.chances is None else self.chances[places]
        return replace(
            self,
            keys=self.keys[places],
            history=self.history[places],
            labels=self.labels[places],
            held_out=self.held_out[places],
            chances=chances,
        )


def make_clicks(name: str, ratings: Ratings) -> Clicks:
    """The samples of all ratings, ordered by user and time."""
    order = np.lexsort((ratings.movies, ratings.times, ratings.users))
    users, movies, times = ratings.users[order], ratings.movies[order], ratings.times[order]
    liked = ratings.stars[order] > _LIKED
    count = np.arange(len(users))
    first = np.searchsorted(users, users, side="left")  # of the user's ratings
    number = np.searchsorted(users, users, side="right") - first
    # Liked films stand one behind the other in one list; a sample's history is a stretch of it.
    before: Numbers = np.cumsum(liked) - liked
    begin = np.maximum(before[first], before - HISTORY)
    places = begin[:, None] + np.arange(HISTORY)
    filled = places < before[:, None]
    films = np.append(movies[liked], 0)
    history = np.where(filled, films[np.minimum(places, len(films) - 1)], 0)
    held_out = count - first >= np.floor(_TRAINED * number)
    return Clicks(name, np.stack([users, movies, times], 1), history, liked.astype(np.int64), held_out, ratings.genres)


USERS, FILMS, EACH = 400, 300, 60
_GENRES_OF_USER = 3
_CLEARNESS = 3.0  # how much a taste decides


def make_synthetic_clicks(seed: int) -> Clicks:
    """Made-up users who like some genres and dislike the others, and rate films at random; all chances are known.

    A user's taste is +1 for three genres and -1 for the others; a film of genres G is liked with the chance
    1 / (1 + exp(-c * (mean taste of G + quality of the film))).
    """
    random = np.random.default_rng(seed)
    genres = np.zeros((FILMS + 1, SLOTS), np.int64)
    for film in range(1, FILMS + 1):
        some = random.choice(len(GENRES), random.integers(1, 4), replace=False)
        genres[film, : len(some)] = some + 1
    quality = np.append(0.0, random.normal(0.4, 0.4, FILMS))
    taste = -np.ones((USERS + 1, len(GENRES) + 1))
    for user in range(1, USERS + 1):
        taste[user, 1 + random.choice(len(GENRES), _GENRES_OF_USER, replace=False)] = 1.0
    taste[:, 0] = 0.0
    users = np.repeat(np.arange(1, USERS + 1), EACH)
    wanted = np.concatenate([_chosen(random, genres, taste[user]) for user in range(1, USERS + 1)])
    named = np.maximum((genres > 0).sum(1), 1)
    liking = taste[users[:, None], genres[wanted]].sum(1) / named[wanted] + quality[wanted]
    chances = 1 / (1 + np.exp(-_CLEARNESS * liking))
    stars = np.where(random.random(len(users)) < chances, 5.0, 1.0)
    times = 1_000_000_000 + np.tile(np.arange(EACH), USERS) * 3600
    ratings = Ratings(users, wanted, stars, times, genres)
    # In order of user and time already, as the samples will be.
    return replace(make_clicks("synthetic", ratings), chances=chances)


def _chosen(random: np.random.Generator, genres: Numbers, taste: npt.NDArray[np.float64]) -> Numbers:
    """Films that a user meets, each once: those of their taste more often."""
    weights = np.where((taste[genres[1:]] > 0).any(1), 3.0, 1.0)
    return 1 + random.choice(len(weights), EACH, replace=False, p=weights / weights.sum())
