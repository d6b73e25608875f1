"""Models that fit a phone: an embedding bag and a BiLSTM, as transformers models.

model_type kdcache_embedding_bag   mean of token embeddings -> one hidden layer -> classes; for a whole text
model_type kdcache_bilstm          embeddings -> bidirectional LSTM -> classes, of each token or of a text's maximum

kdcache registers them with transformers' Auto classes (registry.py). A saved model takes a copy of this file with it,
named in its config's auto_map, so that whoever has the folder loads it with trust_remote_code=True and without kdcache:
hence nothing of kdcache is imported here.

B examples, L tokens, D hidden width, C classes.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput, TokenClassifierOutput

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
    """One nn.LSTM a layer and direction: on CPUs, packed sequences take three to four times as long."""

    config_class = BiLSTMConfig

    def __init__(self, config: BiLSTMConfig) -> None:
        super().__init__(config)
        widths = [config.embedding_size] + [config.hidden_size] * (config.num_hidden_layers - 1)
        self.forwards, self.backwards = (
            nn.ModuleList(nn.LSTM(width, config.hidden_size // 2, batch_first=True) for width in widths)
            for _ in range(2)
        )
        self.post_init()

    def states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, L, D]; padding stands at the right, is not read, and is 0."""
        position_L = torch.arange(input_ids.shape[1], device=input_ids.device)
        length_B1 = attention_mask.sum(1, keepdim=True)
        mirrored_BL = torch.where(position_L < length_B1, length_B1 - 1 - position_L, position_L)

        def mirror(states_BLD: Tensor) -> Tensor:
            return states_BLD.gather(1, mirrored_BL[:, :, None].expand(-1, -1, states_BLD.shape[-1]))

        states_BLD = self.embeddings(input_ids)
        for forward, backward in zip(self.forwards, self.backwards, strict=True):
            states_BLD = self.dropout(states_BLD)
            states_BLD = torch.cat([forward(states_BLD)[0], mirror(backward(mirror(states_BLD))[0])], -1)
        return self.dropout(states_BLD) * attention_mask[:, :, None].to(states_BLD.dtype)


class BiLSTMForSequenceClassification(_BiLSTM):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> SequenceClassifierOutput:
        states_BLD = self.states(input_ids, attention_mask)
        largest_BD = states_BLD.masked_fill(attention_mask[:, :, None] == 0, -torch.inf).amax(1)
        return SequenceClassifierOutput(logits=self.classifier(largest_BD))


class BiLSTMForTokenClassification(_BiLSTM):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> TokenClassifierOutput:
        return TokenClassifierOutput(logits=self.classifier(self.states(input_ids, attention_mask)))


EmbeddingBagConfig.register_for_auto_class()
BiLSTMConfig.register_for_auto_class()
EmbeddingBagForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
BiLSTMForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
BiLSTMForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")
