"""kdcache's own small models, against torch's layers for sequences of many lengths."""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from kdcache.models.small_models import BiLSTMConfig, BiLSTMForTokenClassification

LAYERS = 3


def bidirectional(model: BiLSTMForTokenClassification) -> nn.LSTM:
    """torch's LSTM of both directions, with the model's weights."""
    config = model.config
    lstm = nn.LSTM(config.embedding_size, config.hidden_size // 2, LAYERS, batch_first=True, bidirectional=True)
    for layer in range(LAYERS):
        for direction, suffix in ((model.forwards, ""), (model.backwards, "_reverse")):
            for name, parameter in direction[layer].named_parameters():
                getattr(lstm, name.replace("_l0", f"_l{layer}{suffix}")).data.copy_(parameter.data)
    return lstm


def test_the_bilstm_is_torchs_on_packed_sequences() -> None:
    torch.manual_seed(0)
    config = BiLSTMConfig(vocab_size=50, embedding_size=5, hidden_size=8, num_hidden_layers=LAYERS, num_labels=3)
    model = BiLSTMForTokenClassification(config).eval()
    length_B = torch.tensor([7, 1, 4, 9, 9])
    tokens = torch.randint(0, 50, (5, 10))
    mask = (torch.arange(10) < length_B[:, None]).long()
    packed = pack_padded_sequence(model.embeddings(tokens), length_B, batch_first=True, enforce_sorted=False)
    expected, _ = pad_packed_sequence(bidirectional(model)(packed)[0], batch_first=True, total_length=10)
    states = model.states(tokens, mask)
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-6)
    probe = torch.randn_like(states)
    mine, theirs = (
        torch.autograd.grad((given * probe).sum(), model.embeddings.weight, retain_graph=True)[0]
        for given in (states, expected)
    )
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    assert torch.equal(model.states(torch.where(mask == 1, tokens, 7), mask), model.states(tokens, mask))
