"""Models that no library's list has: a recurrent classifier, and a decoder in the midst of generating."""

import torch
from torch import Tensor, nn

from tests.zoo.entry import Entry, Inputs, generator, library


class BiLSTM(nn.Module):
    """Classifies sequences of words (B, T) by the last state of an LSTM in each direction."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(64, 16)
        self.lstm = nn.LSTM(16, 24, num_layers=2, batch_first=True, bidirectional=True, dropout=0.2)
        self.out = nn.Sequential(nn.Dropout(0.5), nn.Linear(48, 32), nn.ReLU(inplace=True), nn.Linear(32, 2))

    def forward(self, x: Tensor) -> Tensor:
        _, (states, _) = self.lstm(self.words(x))
        logits: Tensor = self.out(torch.cat([states[-2], states[-1]], 1))
        return logits


def other_entries() -> list[Entry]:
    """The recurrent classifier, and GPT-2 at the fifth word with a cache of the first four."""
    return [
        Entry("bilstm", "other", "torch", BiLSTM, _reviews),
        Entry("gpt2-decoding", "other", "transformers", _gpt2, _fifth_word),
    ]


def _reviews(seed: int) -> Inputs:
    return (torch.randint(64, (4, 12), generator=generator(seed)),), {}


def _gpt2() -> nn.Module:
    transformers = library("transformers")
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, "vocab_size": 64}
    model: nn.Module = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=1, eos_token_id=2))
    return model


def _fifth_word(seed: int) -> Inputs:
    random = generator(seed)
    cache = library("transformers").DynamicCache()
    for layer in range(2):
        keys, values = (torch.randn(2, 4, 4, 8, generator=random) for _ in range(2))  # B, heads, T, D
        cache.update(keys, values, layer)
    return (), {"input_ids": torch.randint(3, 64, (2, 1), generator=random), "past_key_values": cache}
