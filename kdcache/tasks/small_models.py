"""Models that fit a phone: an embedding bag and a BiLSTM, as transformers models.

model_type kdcache_embedding_bag   mean of token embeddings -> one hidden layer -> classes; for a whole text
model_type kdcache_bilstm          embeddings -> bidirectional LSTM -> classes, of each token or of a text's maximum

Importing this module makes AutoModelForSequenceClassification and AutoModelForTokenClassification know them.

B examples, L tokens, D hidden width, C classes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput, TokenClassifierOutput

from kdcache.tasks.registry import register_student

__all__ = ["BiLSTMForSequenceClassification", "BiLSTMForTokenClassification", "EmbeddingBagForSequenceClassification"]


class EmbeddingBagConfig(PreTrainedConfig):
    model_type = "kdcache_embedding_bag"

    def __init__(
        self, vocab_size: int = 1000, embedding_size: int = 64, hidden_size: int = 64, dropout: float = 0.1, **rest: Any
    ) -> None:
        self.vocab_size, self.embedding_size = vocab_size, embedding_size
        self.hidden_size, self.dropout = hidden_size, dropout
        super().__init__(**rest)


class BiLSTMConfig(PreTrainedConfig):
    """hidden_size: of both directions together."""

    model_type = "kdcache_bilstm"

    def __init__(
        self,
        vocab_size: int = 1000,
        embedding_size: int = 64,
        hidden_size: int = 128,
        num_hidden_layers: int = 1,
        dropout: float = 0.1,
        **rest: Any,
    ) -> None:
        self.vocab_size, self.embedding_size, self.num_hidden_layers = vocab_size, embedding_size, num_hidden_layers
        self.hidden_size, self.dropout = hidden_size, dropout
        super().__init__(**rest)


class _Small(PreTrainedModel):
    """Embeddings, a head called classifier, and initialisation."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings

    def get_output_embeddings(self) -> None:
        return None

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.1)
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LSTM):
            for name, parameter in module.named_parameters():
                nn.init.orthogonal_(parameter) if "weight" in name else nn.init.zeros_(parameter)


class EmbeddingBagForSequenceClassification(_Small):
    config_class = EmbeddingBagConfig

    def __init__(self, config: EmbeddingBagConfig) -> None:
        super().__init__(config)
        self.hidden = nn.Linear(config.embedding_size, config.hidden_size)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> SequenceClassifierOutput:
        mask_BL1 = attention_mask[:, :, None].to(self.embeddings.weight.dtype)
        mean_BD = (self.embeddings(input_ids) * mask_BL1).sum(1) / mask_BL1.sum(1)
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(torch.relu(self.hidden(mean_BD)))))


class _BiLSTM(_Small):
    config_class = BiLSTMConfig

    def __init__(self, config: BiLSTMConfig) -> None:
        super().__init__(config)
        layers, between = config.num_hidden_layers, config.dropout if config.num_hidden_layers > 1 else 0.0
        self.lstm = nn.LSTM(
            config.embedding_size,
            config.hidden_size // 2,
            layers,
            batch_first=True,
            bidirectional=True,
            dropout=between,
        )
        self.post_init()

    def states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, L, D]; padding is not read, and is 0."""
        embedded = self.dropout(self.embeddings(input_ids))
        packed = nn.utils.rnn.pack_padded_sequence(
            embedded, attention_mask.sum(1).cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = self.lstm(packed)
        unpacked, _ = nn.utils.rnn.pad_packed_sequence(states, batch_first=True, total_length=input_ids.shape[1])
        return self.dropout(unpacked)


class BiLSTMForSequenceClassification(_BiLSTM):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> SequenceClassifierOutput:
        states_BLD = self.states(input_ids, attention_mask)
        largest_BD = states_BLD.masked_fill(attention_mask[:, :, None] == 0, -torch.inf).amax(1)
        return SequenceClassifierOutput(logits=self.classifier(largest_BD))


class BiLSTMForTokenClassification(_BiLSTM):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> TokenClassifierOutput:
        return TokenClassifierOutput(logits=self.classifier(self.states(input_ids, attention_mask)))


register_student(EmbeddingBagConfig, sequence_classification=EmbeddingBagForSequenceClassification)
register_student(
    BiLSTMConfig,
    sequence_classification=BiLSTMForSequenceClassification,
    token_classification=BiLSTMForTokenClassification,
)
