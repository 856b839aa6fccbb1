"""The judges that a study names, ready to be asked."""

from collections.abc import Mapping
from typing import Any

from patchlens.errors import OptionError
from patchlens.evaluation.judge import Judge
from patchlens.evaluation.judges.endpoint import EndpointJudge
from patchlens.evaluation.judges.model import ModelJudge
from patchlens.evaluation.judges.replay import ReplayJudge
from patchlens.evaluation.judges.truth import TruthJudge
from patchlens.evaluation.truth import SceneTruth
from patchlens.models.loading import load_model
from patchlens.study.config import EndpointConfig, JudgeConfig, ModelJudgeConfig, ReplayConfig, TruthConfig

__all__ = ["budget_of", "make_judge"]


def make_judge(config: JudgeConfig, truths: Mapping[str, SceneTruth]) -> Judge:
    """The judge that a study describes. A vision-language model is loaded here.

    Args:
        config: One of the study's judges.
        truths: What is known of its pictures, by name.

    Raises:
        OptionError: Truth is to judge where none is known, or a value is out of its range.
        JudgeError: An endpoint's key is missing.
        ModelError: A model cannot be loaded.
    """
    match config:
        case TruthConfig():
            if not truths:
                raise OptionError(
                    f"The judge {config.label!r} goes by truth, and nothing is known of the study's pictures. Put a "
                    ".json with the truth beside each, or choose another judge."
                )
            return TruthJudge(truths, pieces=config.pieces)
        case EndpointConfig():
            given = _given(
                config,
                *("url", "model", "key_env", "label", "temperature", "timeout", "tries", "workers"),
                *("requests_per_minute", "input_price", "output_price", "image_tokens", "max_tokens", "options"),
            )
            return EndpointJudge(**given)
        case ModelJudgeConfig():
            model = load_model(config.model, dtype=config.dtype, device_map=config.device_map)
            return ModelJudge(model, **_given(config, "max_tokens", "label"))
        case ReplayConfig():
            return ReplayJudge(config.path, **_given(config, "label"))
    raise OptionError(f"The judge {config.label!r} is of a kind that no judge is made of here.")


def budget_of(config: JudgeConfig) -> float | None:
    """What all questions to a judge may cost; None for no limit."""
    return config.budget if isinstance(config, EndpointConfig) else None


def _given(config: JudgeConfig, *names: str) -> dict[str, Any]:
    """The values that a study gives; what it leaves out is the judge's own affair."""
    return {name: getattr(config, name) for name in names if getattr(config, name) is not None}
