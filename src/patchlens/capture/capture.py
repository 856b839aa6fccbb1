"""Run a model once and keep the hidden states that were asked for; nothing else is computed."""

import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby, islice
from typing import Any

import torch
from torch import Tensor

from patchlens.capture.hidden_states import HiddenStates
from patchlens.capture.sites import Place, places
from patchlens.errors import ModelIncomplete, NonFiniteStates, OptionError, OutOfMemory, PatchlensError
from patchlens.inputs.audio import AudioLike, open_audio
from patchlens.inputs.image import ImageLike, open_image
from patchlens.inputs.prompt import Prompt, open_prompt
from patchlens.inputs.video import VideoLike, open_video
from patchlens.models.adapter import Prepared, PreparedPrompt, Request
from patchlens.models.model import Model
from patchlens.models.prepare import alike_by, check_length, prepare, room_after
from patchlens.models.source import first_line
from patchlens.models.token_map import TokenMap

__all__ = ["capture", "capture_batch", "request_of"]

Choose = Callable[[Request, TokenMap], Tensor]

_POSITIONS = ("visual", "text", "answer", "all")


def capture(
    model: Model,
    image: ImageLike | Sequence[ImageLike] | None = None,
    prompt: str | Sequence[Mapping[str, Any]] | None = None,
    *,
    audio: AudioLike | Sequence[AudioLike] | None = None,
    video: VideoLike | Sequence[VideoLike] | None = None,
    layers: str | int | Iterable[int] = "all",
    positions: str = "visual",
    answer: int | str = 0,
    raw: bool = False,
    site: str = "language",
) -> HiddenStates:
    """Take the hidden states of one prompt with its images and recordings.

    The head is never run (unless an answer is generated), nor any block above the deepest wanted layer.

    Args:
        model: From `load_model`.
        image: Anything `open_image` takes, or several of them; None for none.
        prompt: A line, which becomes a turn of the user where the model has a chat template, with the images before it;
            or a conversation, as chat templates take it (see `open_prompt`). A line that holds the model's own
            placeholders is taken as it is. None for "Describe this image.", or "recording" or "video" where there is
            no image.
        audio: Anything `open_audio` takes, or several.
        video: Anything `open_video` takes, or several. Each moment that the model makes of it is an image of its own in
            the result.
        layers: "all", a number, several, or text such as "0,4,8-12"; see `resolve_layers`. Layer 0 at visual
            tokens is the projector's output.
        positions: "visual" tokens (a recording's are meant too), "text" tokens (everything else), the tokens of the
            "answer", or "all"; several with commas between.
        answer: A number makes the model answer with at most so many tokens, greedily; a text is taken as its answer.
            Either way its tokens are captured with the prompt's, as far as the model has positions. A causal model's
            states at an answer's tokens are those that it had while it generated them.
        raw: Give the prompt to the tokenizer as it is, without chat template.
        site: "language" for the language model; "encoder" for the vision encoder's blocks, in the encoder's own order
            and without places; "projector input" and "projector output", which have layer 0 alone.

    Returns:
        The states of those tokens at those layers, on the CPU.

    Raises:
        OptionError: A layer, a site or a kind of position does not exist here.
        ImageError: An image or a video cannot be used; AudioError a recording.
        PromptError: The prompt does not fit the model.
        NonFiniteStates: The model computed NaN or infinity.
        OutOfMemory: The device is too small; the message says what would need less.

    Example:
        >>> states = capture(model, "kitchen.jpg", layers="0,8")  # doctest: +SKIP
        >>> states.at(8).shape  # doctest: +SKIP
        torch.Size([576, 4096])
    """
    request = request_of(image, prompt, audio=audio, video=video, raw=raw)
    return capture_batch(model, [request], layers=layers, positions=positions, answer=answer, site=site)[0]


def capture_batch(
    model: Model,
    requests: Iterable[Request],
    *,
    layers: str | int | Iterable[int] = "all",
    positions: str = "visual",
    answer: int | str = 0,
    site: str = "language",
    batch_size: int = 8,
    choose: Choose | None = None,
) -> list[HiddenStates]:
    """Take the hidden states of many prompts, several in one pass.

    The states of a prompt are those that it has alone, up to rounding.

    Args:
        model: From `load_model`.
        requests: From `request_of`.
        layers: As for `capture`.
        positions: As for `capture`.
        answer: As for `capture`; with an answer, and at other sites than "language", prompts run one at a time.
        site: As for `capture`.
        batch_size: Prompts in one pass.
        choose: Called with each request and what stands at its positions; gives the numbers, among those, of the tokens
            to keep, in the order in which they are wanted. Others take no memory. None keeps all.

    Raises:
        OptionError: As for `capture`; a batch of less than one.
    """
    if batch_size < 1:
        raise OptionError(f"Capturing in batches of {batch_size}. Expected at least 1.")
    if unknown := [kind for kind in positions.split(",") if kind not in _POSITIONS]:
        raise OptionError(f"Cannot capture positions {unknown[0]!r}. Choose among {', '.join(_POSITIONS)}.")
    if not isinstance(answer, str) and (not isinstance(answer, int) or answer < 0):
        raise OptionError(f"Cannot capture an answer of {answer!r} tokens. Give a number from 0 on, or a text.")
    place = places(model, site, positions)
    wanted = place.layers(layers)  # before anything is run, and once: an iterator would be used up
    single = model.adapter.beside_sequence or model.adapter.alone
    together = batch_size if not answer and site == "language" and not single else 1
    found: list[HiddenStates] = []
    for batch in _batches(model, requests, together):
        found += _captured(model, batch, place, wanted, positions, answer, site, choose)
    return found


def request_of(
    image: ImageLike | Sequence[ImageLike] | None = None,
    prompt: str | Sequence[Mapping[str, Any]] | None = None,
    *,
    audio: AudioLike | Sequence[AudioLike] | None = None,
    video: VideoLike | Sequence[VideoLike] | None = None,
    raw: bool = False,
) -> Request:
    """Open what a prompt comes with. What is given here fills those places of a conversation that bring nothing along.

    Args:
        image: As for `capture`.
        prompt: As for `capture`.
        audio: As for `capture`.
        video: As for `capture`.
        raw: As for `capture`.

    Raises:
        ImageError: An image cannot be used; AudioError a recording; PromptError the prompt.
    """
    given = {"image": image, "video": video, "recording": audio}
    shown = next((kind for kind, found in given.items() if found is not None), "image")
    opened: Prompt = open_prompt(f"Describe this {shown}." if prompt is None else prompt, raw=raw)
    images = [open_image(found) for found in _in_places(opened, "image", _several(image))]
    played = [open_audio(found) for found in _in_places(opened, "audio", _several(audio))]
    films = [open_video(found) for found in _in_places(opened, "video", _several(video))]
    names = _different([source.name for found in (images, played, films) for source in found])
    return Request(
        opened,
        tuple(replace(image, name=next(names)) for image in images),
        tuple(replace(recording, name=next(names)) for recording in played),
        tuple(replace(film, name=next(names)) for film in films),
    )


def _in_places(prompt: Prompt, kind: str, given: list[Any]) -> list[Any]:
    """What a conversation's places of a kind hold, in their order; what is left over comes last."""
    waiting = iter(given)
    held = [next(waiting, None) if found is None else found for what, found in prompt.given if what == kind]
    return [found for found in held if found is not None] + [*waiting]


def _several(given: Any) -> list[Any]:
    if given is None:
        return []
    alone = isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], numbers.Real)  # samples, their rate
    return list(given) if isinstance(given, list | tuple) and not alone else [given]


def _different(names: Sequence[str]) -> Iterator[str]:
    """Each name once: tables and pages know images by name, so the second of one name gets a number."""
    taken: set[str] = set()
    for plain in names:
        name, number = plain, 1
        while name in taken:
            number += 1
            name = f"{plain} ({number})"
        taken.add(name)
        yield name


def _batches(model: Model, requests: Iterable[Request], size: int) -> Iterator[list[Request]]:
    """Neighbours that can be prepared together, at most so many."""
    for (_, _, videos, _), alike in groupby(requests, key=lambda request: alike_by(model, request)):
        while batch := list(islice(alike, 1 if videos else size)):
            yield batch


def _captured(
    model: Model,
    requests: Sequence[Request],
    place: Place,
    wanted: tuple[int, ...],
    positions: str,
    answer: int | str,
    site: str,
    choose: Choose | None,
) -> list[HiddenStates]:
    prepared = prepare(model, requests)
    try:
        if answer:
            prepared = _answered(model, prepared, answer)
        chosen = [place.chosen(prepared, row, positions) for row in range(len(requests))]
        if choose is not None:
            chosen = [_fewer(found, request, choose) for found, request in zip(chosen, requests, strict=True)]
        kept = _run(model, place, prepared, wanted, [found and found[0] for found in chosen])
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(_too_much(model, prepared, wanted)) from error
    except PatchlensError:
        raise
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise ModelIncomplete(
            f"Running {model.name} failed: {type(error).__name__}: {first_line(error)} Its code cannot take this input "
            "(images and prompts of usual sizes ran when it was loaded), or its weights and config do not fit together."
        ) from error
    made = []
    for request, found, sequence, vectors in zip(requests, chosen, prepared.sequences, kept, strict=True):
        _check_finite(model, vectors, wanted)
        count = vectors.shape[1]
        rows, tokens = found or (torch.arange(count), TokenMap.without_places(count, len(sequence.sources)))
        made.append(
            HiddenStates(
                vectors=vectors,
                layers=wanted,
                positions=rows,
                token_ids=sequence.token_ids[rows] if place.on_sequence else torch.full_like(rows, -1),
                tokens=tokens,
                sources=sequence.sources,
                prompt=request.prompt.text,
                provenance=model.provenance(
                    "hidden states",
                    prompt=request.prompt.text,
                    raw=request.prompt.raw,
                    layers=list(wanted),
                    positions=positions,
                    answer=answer,
                    turns=[dict(turn) for turn in request.prompt.messages or ()],
                    site=site,
                    sources=[source.sha256 for source in sequence.sources],
                ),
                site=site,
            )
        )
    return made


def _fewer(found: tuple[Tensor, TokenMap] | None, request: Request, choose: Choose) -> tuple[Tensor, TokenMap] | None:
    if found is None:
        raise OptionError("Tokens can be chosen where they stand in the sequence, not inside the encoder.")
    rows, tokens = found
    wanted = choose(request, tokens)
    return rows[wanted], tokens.take(wanted)


def _answered(model: Model, prepared: Prepared, answer: int | str) -> Prepared:
    """The sequence with the model's own answer, or a given one, behind it."""
    (sequence,) = prepared.sequences
    length = len(sequence.token_ids)
    if isinstance(answer, str):
        ids = model.tokenizer(answer, add_special_tokens=False)["input_ids"]
        check_length(model, length + len(ids))
    else:
        check_length(model, length + 1)
        answer = min(answer, room_after(model, length))
        inputs = model.accepted(prepared.inputs)
        with torch.inference_mode():
            out = model.adapter.generate(model.network, inputs, answer)[0].tolist()
        start = inputs["input_ids"].shape[1]  # some families return the answer alone
        begins = out[:start] == prepared.inputs["input_ids"][0].tolist()
        ids = out[start:] if begins else out
    new = torch.tensor([ids], dtype=torch.long)
    longer = PreparedPrompt(
        torch.cat([sequence.token_ids, new[0]]), sequence.tokens.followed_by("answer", len(ids)), sequence.sources
    )
    return Prepared(model.adapter.continued(prepared.inputs, new), (longer,))


def _run(
    model: Model, place: Place, prepared: Prepared, layers: tuple[int, ...], rows: Sequence[Tensor | None]
) -> list[Tensor]:
    kept: list[Tensor | None] = [None] * len(rows)

    def keep(layer: int, state: Tensor) -> None:
        # Each wanted row goes to its place in memory at once; later in-place work of the model cannot reach it.
        for number, wanted in enumerate(rows):
            taken = place.rows(state, number, wanted).detach()
            if kept[number] is None:
                kept[number] = torch.empty((len(layers), *taken.shape), dtype=taken.dtype)
            kept[number][layers.index(layer)].copy_(taken)  # type: ignore[index]

    with torch.inference_mode(), place.observe(layers, keep):
        model.run(prepared.inputs)
    return [vectors.clone() if vectors.is_inference() else vectors for vectors in kept if vectors is not None]


def _too_much(model: Model, prepared: Prepared, layers: tuple[int, ...]) -> str:
    weights = sum(parameter.nbytes for parameter in model.network.parameters())
    length = prepared.inputs["input_ids"].shape[1]
    batch = len(prepared.sequences)
    fewer = f"Batches of {max(1, batch // 2)} would need half as much; " if batch > 1 else ""
    return (
        f"The device has too little memory to run {model.name} ({weights / 1e9:.1f} GB of weights) on {batch} × "
        f"{length} tokens. {fewer}smaller images or a shorter prompt need less, and so does dtype='bfloat16' or "
        "device_map='auto', which uses all devices. Fewer layers do not: states leave the device as they come."
    )


def _why_not_finite(dtype: torch.dtype) -> str:
    if dtype == torch.float32:
        return "Its weights are damaged; download or save the model again."
    return f"The numbers overflow in {dtype}, or the weights are damaged; load the model with dtype='float32'."


def _check_finite(model: Model, vectors: Tensor, layers: tuple[int, ...]) -> None:
    for layer, states in zip(layers, vectors, strict=True):
        bad = ~states.isfinite().all(dim=-1)
        if bad.any():
            raise NonFiniteStates(
                f"{model.name} computed NaN or infinity at layer {layer}, the first of those captured, for "
                f"{int(bad.sum())} of {len(bad)} tokens. {_why_not_finite(states.dtype)}"
            )
