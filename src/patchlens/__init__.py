"""patchlens reads what a vision-language model holds in its visual tokens, in words.

    image + prompt ──► load_model ──► capture ──► HiddenStates ─┐
                                                                ├─► LatentLens(bank).read ──► Readings ─► show
    corpus ─────────────────────────► build_bank ──► Bank ──────┘

Names are resolved on first use, so that importing the package stays fast and silent.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchlens import errors as errors
    from patchlens.bank.adding import add_to_bank as add_to_bank
    from patchlens.bank.bank import Bank as Bank
    from patchlens.bank.bank import open_bank as open_bank
    from patchlens.bank.build import build_bank as build_bank
    from patchlens.bank.build import plan_bank as plan_bank
    from patchlens.bank.hub import pull_bank as pull_bank
    from patchlens.bank.hub import push_bank as push_bank
    from patchlens.bank.importing import import_bank as import_bank
    from patchlens.bank.merge import merge_banks as merge_banks
    from patchlens.capture.capture import capture as capture
    from patchlens.capture.capture import capture_batch as capture_batch
    from patchlens.capture.capture import request_of as request_of
    from patchlens.capture.elsewhere import open_states as open_states
    from patchlens.capture.hidden_states import HiddenStates as HiddenStates
    from patchlens.evaluation.judges.endpoint import EndpointJudge as EndpointJudge
    from patchlens.evaluation.judges.model import ModelJudge as ModelJudge
    from patchlens.evaluation.judges.replay import ReplayJudge as ReplayJudge
    from patchlens.evaluation.judges.truth import TruthJudge as TruthJudge
    from patchlens.inputs.audio import open_audio as open_audio
    from patchlens.inputs.corpus import read_corpus as read_corpus
    from patchlens.inputs.image import open_image as open_image
    from patchlens.inputs.video import open_video as open_video
    from patchlens.lenses.embedding import EmbeddingLens as EmbeddingLens
    from patchlens.lenses.latent import LatentLens as LatentLens
    from patchlens.lenses.logit import LogitLens as LogitLens
    from patchlens.lenses.reading import Readings as Readings
    from patchlens.lenses.reading import open_readings as open_readings
    from patchlens.models.loading import load_model as load_model
    from patchlens.models.patch_grid import PatchGrid as PatchGrid
    from patchlens.models.tile import Tile as Tile
    from patchlens.models.token_map import TokenMap as TokenMap
    from patchlens.search.exact import ExactIndex as ExactIndex
    from patchlens.search.matches import Matches as Matches
    from patchlens.search.text import search_text as search_text
    from patchlens.study.config import open_study as open_study
    from patchlens.study.readings import judge_readings as judge_readings
    from patchlens.study.readings import plan_judging as plan_judging
    from patchlens.study.run import Study as Study
    from patchlens.views.page import write_page as write_page
    from patchlens.views.show import show as show

__version__ = "0.1.0"

_HOME = {
    "Bank": "patchlens.bank.bank",
    "EmbeddingLens": "patchlens.lenses.embedding",
    "EndpointJudge": "patchlens.evaluation.judges.endpoint",
    "ExactIndex": "patchlens.search.exact",
    "HiddenStates": "patchlens.capture.hidden_states",
    "LatentLens": "patchlens.lenses.latent",
    "LogitLens": "patchlens.lenses.logit",
    "Matches": "patchlens.search.matches",
    "ModelJudge": "patchlens.evaluation.judges.model",
    "PatchGrid": "patchlens.models.patch_grid",
    "Readings": "patchlens.lenses.reading",
    "ReplayJudge": "patchlens.evaluation.judges.replay",
    "Study": "patchlens.study.run",
    "Tile": "patchlens.models.tile",
    "TokenMap": "patchlens.models.token_map",
    "TruthJudge": "patchlens.evaluation.judges.truth",
    "add_to_bank": "patchlens.bank.adding",
    "build_bank": "patchlens.bank.build",
    "capture": "patchlens.capture.capture",
    "capture_batch": "patchlens.capture.capture",
    "import_bank": "patchlens.bank.importing",
    "judge_readings": "patchlens.study.readings",
    "load_model": "patchlens.models.loading",
    "merge_banks": "patchlens.bank.merge",
    "open_audio": "patchlens.inputs.audio",
    "open_bank": "patchlens.bank.bank",
    "open_image": "patchlens.inputs.image",
    "open_readings": "patchlens.lenses.reading",
    "open_states": "patchlens.capture.elsewhere",
    "open_study": "patchlens.study.config",
    "open_video": "patchlens.inputs.video",
    "plan_bank": "patchlens.bank.build",
    "plan_judging": "patchlens.study.readings",
    "pull_bank": "patchlens.bank.hub",
    "push_bank": "patchlens.bank.hub",
    "read_corpus": "patchlens.inputs.corpus",
    "request_of": "patchlens.capture.capture",
    "search_text": "patchlens.search.text",
    "show": "patchlens.views.show",
    "write_page": "patchlens.views.page",
}
"""Where each public name is made."""

__all__ = [
    "Bank",
    "EmbeddingLens",
    "EndpointJudge",
    "ExactIndex",
    "HiddenStates",
    "LatentLens",
    "LogitLens",
    "Matches",
    "ModelJudge",
    "PatchGrid",
    "Readings",
    "ReplayJudge",
    "Study",
    "Tile",
    "TokenMap",
    "TruthJudge",
    "__version__",
    "add_to_bank",
    "build_bank",
    "capture",
    "capture_batch",
    "errors",
    "import_bank",
    "judge_readings",
    "load_model",
    "merge_banks",
    "open_audio",
    "open_bank",
    "open_image",
    "open_readings",
    "open_states",
    "open_study",
    "open_video",
    "plan_bank",
    "plan_judging",
    "pull_bank",
    "push_bank",
    "read_corpus",
    "request_of",
    "search_text",
    "show",
    "write_page",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("patchlens.errors")
    if name not in _HOME:
        raise AttributeError(f"module 'patchlens' has no attribute '{name}'")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(__all__))
