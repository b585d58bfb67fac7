"""The model card of a package: README.md with the Hub's metadata, rendered from a template."""

from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from minilm_core.deployment.source import PackageSource, evaluations_by_split
from minilm_core.models.sentence_files import read_sentence_settings
from minilm_core.results.records import Evaluation
from minilm_core.runtimes.torch_model import EMBEDDING, head_of

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"
"""The card in jinja."""
HUB_METRICS = {
    "matthews": "matthews_correlation",
    "spearman": "spearmanr",
    "pearson": "pearsonr",
    "span_f1": "f1",
    "entity_f1": "f1",
    "cosine_spearman": "spearman_cosine",
    "subset_accuracy": "accuracy",
    "multilabel_micro_f1": "f1",
    "multilabel_macro_f1": "f1",
}
"""The Hub's names of the metrics that it names differently."""


def model_card(source: PackageSource, folder: Path) -> ModelCard:
    """Returns the card of a package whose model and exports lie in a folder."""
    head = head_of(folder)
    sentence = read_sentence_settings(folder) if head is EMBEDDING else None
    result = source.record.tasks[source.task]
    evaluations = [
        (name, task.metric, split, evaluation)
        for name, task in source.record.tasks.items()
        for split, evaluation in evaluations_by_split(task.of_kept_model).items()
    ]
    metadata = ModelCardData(
        model_name=source.title,
        base_model=source.base_model,
        license=source.licence,
        library_name="transformers" if sentence is None else "sentence-transformers",
        pipeline_tag=head.pipeline_tag,
        tags=["minilm", "distillation"],
        eval_results=[_hub_result(head.pipeline_tag, *evaluation) for evaluation in evaluations],
    )
    card: ModelCard = ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        title=source.title,
        source=source,
        record=source.record,
        evaluations=evaluations,
        model_class=head.model_class.__name__,
        is_question_answering=head.pipeline_tag == "question-answering",
        sentence=sentence,
        result=result,
        null_threshold=result.of_kept_model.null_threshold,
        onnx_files=sorted(path.name for path in folder.glob("onnx/*.onnx")),
        has_openvino=(folder / "openvino").is_dir(),
    )
    return card


def _hub_result(task_type: str, task: str, metric: str, split: str, evaluation: Evaluation) -> EvalResult:
    return EvalResult(
        task_type=task_type,
        dataset_type=task,
        dataset_name=task,
        dataset_split=split,
        metric_type=HUB_METRICS.get(metric, metric),
        metric_value=evaluation.value,
        metric_args={"interval": "95 % bootstrap over examples", "low": evaluation.low, "high": evaluation.high},
    )
