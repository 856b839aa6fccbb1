"""From prompts with images and recordings to a model's inputs, and to a map of what stands where.

The one road for all families: chat template, processor, positions, the count of placeholders compared with the
family's geometry. It asks the family's adapter for what is particular.
"""

import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from patchlens.axes import Int
from patchlens.errors import AudioError, ModelIncomplete, OptionError, PatchlensError, PromptError
from patchlens.inputs.image import ImageInput, open_image
from patchlens.inputs.prompt import Prompt
from patchlens.inputs.video import VideoInput
from patchlens.models.adapter import Adapter, Prepared, PreparedPrompt, Request
from patchlens.models.patch_grid import PatchGrid
from patchlens.models.quiet import quiet
from patchlens.models.tiling import whole
from patchlens.models.token_map import KINDS, Tile, TokenMap

if TYPE_CHECKING:
    import patchlens.models.model

__all__ = ["adds_special_tokens", "alike_by", "check_length", "encoded", "layout_of", "prepare", "room_after"]

_KIND = {kind: number for number, kind in enumerate(KINDS)}


def prepare(model: "patchlens.models.model.Model", requests: Sequence[Request]) -> Prepared:
    """Turn requests into one batch of inputs.

    Args:
        model: Its processor and tokenizer are used, its network is not run.
        requests: Such as are alike by `alike_by`.

    Returns:
        The inputs, and for each request what stands where.

    Raises:
        PromptError: A prompt does not fit the model, or its placeholders do not fit what came with it.
        OptionError: An image or a recording for a model that takes none.
        ModelIncomplete: The processor made other tokens than the family's geometry says, or refused.
    """
    kinds = {alike_by(model, request) for request in requests}
    texts = [_text(model, request) for request in requests]
    first = requests[0]
    if len(kinds) > 1:
        raise OptionError(
            "A batch needs images with all of its prompts, or with none, and one begin for all. Split it, or use "
            "capture_batch, which does."
        )
    if first.images or first.audio or first.videos:
        made = _processed(model, texts, requests)
    else:
        made = encoded(model, texts)
    inputs = {name: value for name, value in made.items() if isinstance(value, Tensor)}
    check_length(model, inputs["input_ids"].shape[1])
    sequences = []
    for row, request in enumerate(requests):
        token_ids = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
        tokens, moments = _map(model, token_ids, request, inputs)
        sequences.append(PreparedPrompt(token_ids, tokens, (*request.images, *request.audio, *moments)))
    return Prepared(inputs, tuple(sequences))


def alike_by(model: "patchlens.models.model.Model", request: Request) -> tuple[bool, bool, bool, bool]:
    """What must be equal for requests to share a batch: which of images, recordings, videos; who begins the text."""
    _check_modalities(model, request)
    begins = adds_special_tokens(model.tokenizer, _text(model, request))
    return bool(request.images), bool(request.audio), bool(request.videos), begins


def encoded(model: "patchlens.models.model.Model", texts: Sequence[str]) -> dict[str, Tensor]:
    """Tokenize texts alone to input ids and attention mask, each [text, position], padded to the right.

    Raises:
        PromptError: One gives no token, or more than the model has positions for.
    """
    rows = [
        model.tokenizer(text, add_special_tokens=adds_special_tokens(model.tokenizer, text))["input_ids"]
        for text in texts
    ]
    for row in rows:
        check_length(model, len(row))
    longest = max(map(len, rows))
    input_ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], dtype=torch.long)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], dtype=torch.long)
    return {"input_ids": input_ids, "attention_mask": mask}


def adds_special_tokens(tokenizer: Any, text: str) -> bool:
    """Say whether the tokenizer should add its own: not when a chat template has begun the text with them."""
    begin = tokenizer.bos_token
    return not (begin and text.startswith(begin))


def check_length(model: "patchlens.models.model.Model", length: int) -> None:
    """Refuse a sequence of `length` tokens that the model cannot take.

    Raises:
        PromptError: It is empty, or longer than the model has positions for.
    """
    if length == 0:
        raise PromptError(
            f"The prompt for {model.name} is empty: its tokenizer made no token of it. Give at least one word."
        )
    if room_after(model, length) < 0:
        limit = length + room_after(model, length)
        raise PromptError(
            f"The prompt for {model.name} has {length} tokens with the image's, but the model has {limit} "
            "positions. Shorten the prompt, or give fewer or smaller images."
        )


def room_after(model: "patchlens.models.model.Model", length: int) -> int:
    """How many tokens the model has positions for behind `length` of them."""
    limit: int | None = getattr(model.decoder.config, "max_position_embeddings", None)
    return sys.maxsize if limit is None else limit - length


def layout_of(
    adapter: Adapter, config: Any, processor: Any, sizes: Sequence[tuple[int, int]]
) -> list[tuple[Tile, ...] | None]:
    """The tiles of each image of a prompt; None for one of which no geometry is known.

    Raises:
        ImageError: An image that the processor would blow up or refuse.
        ModelIncomplete: Settings that patchlens cannot place on an image.
    """
    return [adapter.tiles(config, processor, size, len(sizes)) for size in sizes]


def _check_modalities(model: "patchlens.models.model.Model", request: Request) -> None:
    for kind, given in (("image", request.images), ("audio", request.audio), ("video", request.videos)):
        if given and kind not in model.adapter.modalities:
            takes = " and ".join(model.adapter.modalities)
            noun = {"image": "image", "audio": "recording", "video": "video"}[kind]
            verb = f"{'play' if kind == 'audio' else 'show'} the {noun}"
            what = "a text-only language model" if takes == "text" else f"a model of {takes}"
            raise OptionError(
                f"Cannot {verb} '{given[0].name}' to {model.name}: it is {what}. "
                f"Leave the {noun} out, or load a model that takes it."
            )
        if given and model.processor is None:
            raise OptionError(
                f"Cannot prepare '{given[0].name}' for {model.name}: it was given without its processor. Pass the "
                "processor beside the network."
            )


def _text(model: "patchlens.models.model.Model", request: Request) -> str:
    """The text that the tokenizer gets, with one placeholder per image and recording."""
    prompt, adapter, processor = request.prompt, model.adapter, model.processor
    if processor is None:
        if prompt.messages is None:
            return prompt.text
        return _templated(model, model.tokenizer, prompt.turns(0, 0))
    counts = {"image": len(request.images), "audio": len(request.audio), "video": len(request.videos)}
    marks = {kind: adapter.placeholder(processor, kind) for kind in counts if kind in adapter.modalities}
    given = {kind: prompt.text.count(mark) for kind, mark in marks.items()}
    if prompt.messages is not None:
        parts = [part["type"] for message in prompt.messages for part in message["content"]]
        given = {kind: parts.count(kind) for kind in marks}
    for kind, mark in marks.items():
        if given[kind] not in ({counts[kind]} if prompt.messages is not None else {0, counts[kind]}):
            raise PromptError(
                f"The prompt for {model.name} has {given[kind]} places for {_noun(kind)} ('{mark}'), but "
                f"{counts[kind]} came with it. {_leave_out(prompt.messages is not None)}"
            )
    if prompt.messages is None and (prompt.raw or any(given.values())):
        missing = [kind for kind in marks if counts[kind] and not given[kind]]
        return (
            adapter.raw_prompt(
                processor, prompt.text, *(counts[kind] if kind in missing else 0 for kind in ("image", "audio"))
            )
            if missing
            else prompt.text
        )
    for owner in (processor, model.tokenizer):
        if getattr(owner, "chat_template", None) is not None:
            return _templated(model, owner, prompt.turns(*counts.values()))
    if prompt.messages is not None:
        raise PromptError(
            f"A conversation was given, and {model.name} has no chat template to write it with. Give one line, or a "
            "raw prompt with the model's own marks."
        )
    shown = [adapter.placeholder(processor, "video") for _ in range(counts["video"])]
    return "\n".join([*shown, adapter.raw_prompt(processor, prompt.text, counts["image"], counts["audio"])])


def _noun(kind: str) -> str:
    return {"image": "images", "audio": "recordings", "video": "videos"}[kind]


def _leave_out(conversation: bool) -> str:
    if conversation:
        return "Give as many as the conversation has parts for them."
    return "Leave the placeholder out; it is added for you."


def _templated(model: "patchlens.models.model.Model", owner: Any, turns: list[dict[str, Any]]) -> str:
    try:
        with quiet():
            text: str = owner.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is a program, and refuses what it likes
        raise PromptError(
            f"The chat template of {model.name} refused the prompt: {_first_line(error)}. Give the turns in the order "
            "it expects, or a raw prompt."
        ) from error
    return text


def _processed(model: "patchlens.models.model.Model", texts: list[str], requests: Sequence[Request]) -> dict[str, Any]:
    try:
        for request in requests:
            _layout(model, request)  # refuses an image before the processor blows it up
        with quiet():
            return model.adapter.process(model, texts, requests)
    except PatchlensError:
        raise
    except Exception as error:
        given = [
            *(image.name for request in requests for image in request.images),
            *(audio.name for request in requests for audio in request.audio),
            *(video.name for request in requests for video in request.videos),
        ]
        names = ", ".join(f"'{name}'" for name in given)
        raise ModelIncomplete(
            f"The processor of {model.name} ({type(model.processor).__name__}) failed on {names}: "
            f"{type(error).__name__}: {_first_line(error)}. Its settings do not fit this input, or it belongs to "
            "another model."
        ) from error


def _map(
    model: "patchlens.models.model.Model",
    token_ids: Int[Tensor, " position"],
    request: Request,
    inputs: dict[str, Tensor],
) -> tuple[TokenMap, tuple[ImageInput, ...]]:
    """What stands where, and the moments of its videos as images of their own."""
    kinds = torch.zeros(len(token_ids), dtype=torch.long)
    kinds[torch.isin(token_ids, torch.tensor(_special_ids(model.tokenizer), dtype=torch.long))] = _KIND["special"]
    sources, tiles, cells = (torch.full_like(kinds, -1) for _ in range(3))
    seconds = torch.full((len(kinds), 2), torch.nan)
    layout: list[tuple[Tile, ...]] = []
    adapter, config, processor = model.adapter, model.config, model.processor
    if request.images:
        at = torch.nonzero(token_ids == adapter.image_token_id(config, processor))[:, 0]
        known = _layout(model, request)
        if not known or any(found is None for found in known):
            layout += [()] * len(request.images)
            kinds[at] = _KIND["filler" if adapter.beside_sequence else "query"]
            sources[at] = _shared_out(model, request, at)
            cells[at] = _numbered(sources[at])
        else:
            layout += [found for found in known if found is not None]
            _check_count(model, request, layout, len(at))
            cells[at] = torch.tensor([cell for found in layout for tile in found for cell in tile.cells()])
            numbers = [(s, t, len(tile)) for s, found in enumerate(layout) for t, tile in enumerate(found)]
            lengths = torch.tensor([length for *_, length in numbers])
            sources[at] = torch.tensor([source for source, *_ in numbers]).repeat_interleave(lengths)
            within = torch.tensor([tile for _, tile, _ in numbers]).repeat_interleave(lengths)
            tiles[at] = torch.where(cells[at] >= 0, within, -1)
            kinds[at] = torch.where(cells[at] >= 0, _KIND["patch"], _KIND["filler"])
        _mark_separators(model, token_ids, kinds, sources, len(request.images), first=0)
    if request.audio:
        at = torch.nonzero(token_ids == adapter.audio_token_id(config, processor))[:, 0]
        first = len(request.images)
        rate = adapter.sampling_rate(processor)
        known_spans = [adapter.spans(config, processor, len(audio.at_rate(rate))) for audio in request.audio]
        spans = [span for span in known_spans if span is not None]
        if not spans and len(request.audio) == 1:  # a family without a file of its own: tokens, without seconds
            spans = [torch.full((len(at), 2), torch.nan)]
        if len(spans) < len(request.audio):
            raise OptionError(
                f"{model.name} is of a family that patchlens does not know, and how many tokens each of several "
                "recordings has cannot be told. Give one recording per prompt."
            )
        for audio, span in zip(request.audio, spans, strict=True):
            if not len(span):
                raise AudioError(
                    f"Preparing '{audio.name}' of {1000 * audio.seconds:.0f} ms for {model.name}: it is too short to "
                    "become a token. Give a longer recording."
                )
        if sum(map(len, spans)) != len(at):
            raise ModelIncomplete(
                f"The processor of {model.name} made {len(at)} audio tokens, but its settings say "
                f"{' + '.join(str(len(span)) for span in spans)}. Its feature extractor and the model's config do not "
                "belong together; save the model's own processor beside the weights."
            )
        layout += [()] * len(request.audio)
        kinds[at] = _KIND["audio"]
        sources[at] = torch.cat([torch.full((len(span),), first + number) for number, span in enumerate(spans)])
        cells[at] = _numbered(sources[at])
        seconds[at] = torch.cat(spans).float()
        _mark_separators(model, token_ids, kinds, sources, len(request.audio), first=first)
    moments: list[ImageInput] = []
    if request.videos:
        at = torch.nonzero(token_ids == adapter.video_token_id(config, processor))[:, 0]
        first = len(layout)
        for number, video in enumerate(request.videos):
            grid = adapter.video_grid(config, inputs, number)
            frames, shown = _moments(video, grid)
            layout += [(frame,) for frame in frames]
            moments += shown
        sizes = torch.tensor([len(found[0]) for found in layout[first:]])
        if int(sizes.sum()) != len(at):
            raise ModelIncomplete(
                f"The processor of {model.name} made {len(at)} video tokens, but its own grids say {int(sizes.sum())}. "
                "They do not belong together; save the model's own processor beside the weights."
            )
        kinds[at] = _KIND["patch"]
        sources[at] = torch.arange(first, len(layout)).repeat_interleave(sizes)
        tiles[at] = 0
        cells[at] = _numbered(sources[at])
        _mark_separators(model, token_ids, kinds, sources, len(moments), first=first)
        _mark_between(kinds, sources, at)
    return TokenMap(kinds, sources, tiles, cells, seconds, tuple(layout)), tuple(moments)


def _moments(video: VideoInput, grid: tuple[int, int, int]) -> tuple[list[Tile], list[ImageInput]]:
    """A tile for each moment that a video became, and the first of its frames as its picture."""
    count, rows, columns = grid
    together = -(-len(video.frames) // count)
    tiles, shown = [], []
    for moment in range(count):
        begin, end = moment * together, min((moment + 1) * together, len(video.frames))
        time = (begin / video.fps, end / video.fps)
        tiles.append(Tile(PatchGrid(rows, columns, video.size, whole(video.size)), "frame", time=time))
        shown.append(open_image(video.frames[begin], name=f"{video.name} {time[0]:.2f} s"))
    return tiles, shown


def _special_ids(tokenizer: Any) -> list[int]:
    """Those that it has a name for, and those that tokenizer.json alone calls special: many marks around images."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return sorted({*tokenizer.all_special_ids, *(number for number, token in added.items() if token.special)})


def _layout(model: "patchlens.models.model.Model", request: Request) -> list[tuple[Tile, ...] | None]:
    """The tiles of a request's images; none where the images are beside the sequence."""
    if model.adapter.beside_sequence:
        return []
    return layout_of(model.adapter, model.config, model.processor, [image.size for image in request.images])


def _check_count(
    model: "patchlens.models.model.Model", request: Request, layout: Sequence[Sequence[Tile]], found: int
) -> None:
    expected = [sum(map(len, tiles)) for tiles in layout]
    if sum(expected) == found:
        return
    grids = "; ".join(
        f"'{image.name}' of {image.size[0]} × {image.size[1]} pixels: "
        + " + ".join(_grid_text(tile) for tile in tiles)
        + f" = {count}"
        for image, tiles, count in zip(request.images, layout, expected, strict=True)
    )
    raise ModelIncomplete(
        f"The processor of {model.name} made {found} visual tokens, but its settings and the model's config say "
        f"{sum(expected)} ({grids}). They do not belong together: save the model's own processor beside the weights, "
        "or "
        "correct processor_config.json."
    )


def _grid_text(tile: Tile) -> str:
    extra = len(tile) - len(tile.grid)
    return f"{tile.grid.rows} × {tile.grid.columns}" + (f" and {extra} fillers" if extra else "")


def _shared_out(model: "patchlens.models.model.Model", request: Request, at: Tensor) -> Tensor:
    """Which image each placeholder belongs to where no geometry says: as many as the image has by itself."""
    if len(request.images) == 1 or not len(at):
        return torch.zeros_like(at)
    adapter = model.adapter
    mark = adapter.image_token_id(model.config, model.processor)
    counts = []
    for image in request.images:
        alone = Request(Prompt(adapter.raw_prompt(model.processor, "", 1, 0), raw=True), (image,))
        counts.append(int((_processed(model, [alone.prompt.text], [alone])["input_ids"] == mark).sum()))
    if sum(counts) != len(at):
        raise OptionError(
            f"{model.name} is of a family whose geometry patchlens does not know, and its {len(at)} visual tokens "
            f"cannot be told apart by image (alone they have {' + '.join(map(str, counts))}). Give one image a prompt."
        )
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def _numbered(sources: Tensor) -> Tensor:
    """0, 1, 2 … within each source; sources stand in order."""
    first = torch.searchsorted(sources, sources)
    return torch.arange(len(sources)) - first


def _mark_separators(
    model: "patchlens.models.model.Model", token_ids: Tensor, kinds: Tensor, sources: Tensor, count: int, *, first: int
) -> None:
    """What stands between the placeholders of one source, and the special tokens that touch them, are separators.

    Not those that also occur away from all of them, as marks of turns do.
    """
    ends = {model.tokenizer.bos_token_id, model.tokenizer.eos_token_id, model.tokenizer.pad_token_id}
    ends |= _away(token_ids, kinds, sources)
    for source in range(first, first + count):
        at = torch.nonzero(sources == source)[:, 0]
        if not len(at):
            continue
        begin, last = int(at[0]), int(at[-1])
        end = last + 1
        while begin > 0 and kinds[begin - 1] == _KIND["special"] and int(token_ids[begin - 1]) not in ends:
            begin -= 1
        while end < len(kinds) and kinds[end] == _KIND["special"] and int(token_ids[end]) not in ends:
            end += 1
        if end < len(kinds) and sources[end] >= 0:  # the next source follows at once: half of the marks are its own
            end -= (end - last - 1) // 2
        between = torch.zeros_like(kinds, dtype=torch.bool)
        between[begin:end] = True
        between &= (kinds == _KIND["text"]) | (kinds == _KIND["special"])
        kinds[between] = _KIND["separator"]
        sources[between] = source


def _mark_between(kinds: Tensor, sources: Tensor, at: Tensor) -> None:
    """What a processor writes between the moments of a video (their time) belongs to the one that follows."""
    for before, after in pairwise(at.tolist()):
        if after > before + 1:
            between = torch.arange(before + 1, after)
            plain = between[(kinds[between] == _KIND["text"]) | (kinds[between] == _KIND["special"])]
            kinds[plain] = _KIND["separator"]
            sources[plain] = int(sources[after])


def _away(token_ids: Tensor, kinds: Tensor, sources: Tensor) -> set[int]:
    """Special tokens of runs that touch no source."""
    special = (kinds == _KIND["special"]).tolist()
    owned = (sources >= 0).tolist()
    found: set[int] = set()
    at = 0
    while at < len(special):
        end = at
        while end < len(special) and special[end]:
            end += 1
        touches = (at > 0 and owned[at - 1]) or (end < len(special) and owned[end])
        if end > at and not touches:
            found |= set(token_ids[at:end].tolist())
        at = max(end, at + 1)
    return found


def _first_line(error: Exception) -> str:
    return (next(iter(str(error).strip().splitlines()), "") or "no reason given").rstrip(".")
