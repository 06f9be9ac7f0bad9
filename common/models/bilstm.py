"""A bidirectional LSTM that classifies texts, as published with the paper: five slices.

Shapes: B texts in a batch, T words of a text. The slices and their outputs:

    embedding    LSTM, two layers    linear, ReLU    mean over time    linear
    B,T,128      B,T,256             B,T,128         B,128             B,classes
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

VOCABULARY = 10_000
"""Numbers of words, with those of padding, beginning and unknown words among them."""
LENGTH = 200
"""Words of a text: longer ones are cut off, shorter ones padded."""
WIDTH = 128
"""Of a word's embedding, and of the LSTM in each direction."""


class Recurrent(nn.Module):
    """Two layers of LSTM in both directions: all their outputs, without the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, WIDTH, num_layers=2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, 2 D)."""
        outputs: Tensor = self.lstm(x)[0]
        return outputs


class Hidden(nn.Sequential):
    """Linear layer for each word, ReLU and, where asked for, dropout."""

    def __init__(self, dropout: float) -> None:
        layers: list[nn.Module] = [nn.Linear(2 * WIDTH, WIDTH), nn.ReLU()]
        super().__init__(*layers, *([nn.Dropout(dropout)] if dropout > 0 else []))


class MeanOverTime(nn.Module):
    """The mean of all words, padding included."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to (B, D)."""
        return torch.mean(x, 1)


class BiLSTM(nn.Sequential):
    """Texts as numbers of words (B, T), int64, to logits (B, classes)."""

    vocabulary: int = VOCABULARY
    """Numbers of words are below it: whoever makes an example for the model has to know."""

    def __init__(self, num_classes: int, dropout: float) -> None:
        layers: list[tuple[str, nn.Module]] = [
            ("embedding", nn.Embedding(VOCABULARY, WIDTH)),
            ("recurrent", Recurrent()),
            ("hidden", Hidden(dropout)),
            ("mean", MeanOverTime()),
            ("classifier", nn.Linear(WIDTH, num_classes)),
        ]
        super().__init__(OrderedDict(layers))
