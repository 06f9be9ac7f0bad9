"""A BiLSTM of little work, so that one core trains it often: ``--model benchmarks/accuracy_bilstm.py:small``.

The five layers of BILSTM on the first 40 words of a text (a review's sentence has 20), 10,000 words. Outputs, B texts:

    embedding    LSTM, two layers    linear, ReLU    mean over time    linear
    B,40,64      B,40,64             B,40,64         B,64              B,classes
"""

from collections import OrderedDict

from torch import Tensor, nn

from common.models.bilstm import MeanOverTime

VOCABULARY = 10_000
INPUT_SHAPE = (40,)
WIDTH = 64


class Recurrent(nn.Module):
    """Two layers of LSTM in both directions, half the width each."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, WIDTH // 2, num_layers=2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to (B, T, D)."""
        outputs: Tensor = self.lstm(x)[0]
        return outputs


def small(num_classes: int) -> nn.Module:
    """Texts as numbers of words (B, T), int64, to logits (B, classes)."""
    layers: list[tuple[str, nn.Module]] = [
        ("embedding", nn.Embedding(VOCABULARY, WIDTH)),
        ("recurrent", Recurrent()),
        ("hidden", nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU())),
        ("mean", MeanOverTime()),
        ("classifier", nn.Linear(WIDTH, num_classes)),
    ]
    return nn.Sequential(OrderedDict(layers))
