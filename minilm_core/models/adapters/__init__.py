"""One adapter per family of encoders: it finds the layers and computes the operands of their attention."""

from transformers import PreTrainedModel

from minilm_core.models.adapters.bert import BertAdapter, ElectraAdapter
from minilm_core.models.adapters.deberta import DebertaAdapter
from minilm_core.models.adapters.distilbert import DistilBertAdapter
from minilm_core.models.adapters.interface import Adapter, LayerRelations, RelationOperands, States, TokenIds, Trunk
from minilm_core.models.adapters.modernbert import ModernBertAdapter
from minilm_core.models.adapters.mpnet import MPNetAdapter

__all__ = ["Adapter", "LayerRelations", "RelationOperands", "States", "TokenIds", "Trunk", "adapter_of"]

_ADAPTERS: dict[str, Adapter] = {
    "bert": BertAdapter(),
    "roberta": BertAdapter(),
    "xlm-roberta": BertAdapter(),
    "camembert": BertAdapter(),
    "electra": ElectraAdapter(),
    "distilbert": DistilBertAdapter(),
    "mpnet": MPNetAdapter(),
    "deberta-v2": DebertaAdapter(),
    "modernbert": ModernBertAdapter(),
}


def adapter_of(encoder: PreTrainedModel) -> Adapter:
    """Returns the adapter of an encoder's family, which `families.check_model_type` must have accepted."""
    return _ADAPTERS[encoder.config.model_type]
