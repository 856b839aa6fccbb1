"""`patchlens read`: what visual tokens of pictures say, or the tokens of recordings, or hidden states from files."""

import time
from pathlib import Path
from typing import Annotated

import typer

from patchlens.cli.options import DeviceMap, Dtype, Json, Model, Overwrite, Revision, TrustRemoteCode
from patchlens.cli.terminal import draw, progress, say, say_json

__all__ = ["read"]


def read(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE",
            help="Picture files; folders of frames, each a video; WAV files; .safetensors files of hidden states.",
            show_default=False,
        ),
    ],
    model: Model,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="DIR", help="Folder to make: page.html, readings.parquet and the pictures."
        ),
    ],
    bank: Annotated[
        str | None,
        typer.Option(
            "--bank",
            "-b",
            metavar="BANK",
            help="Bank folder or embedded name, for the latent lens. An embedded model has its own.",
        ),
    ] = None,
    lens: Annotated[str, typer.Option(metavar="NAMES", help="Lenses, with commas between.")] = "latent,logit,embedding",
    layers: Annotated[
        str, typer.Option(metavar="LAYERS", help="Layers to read: all, or numbers such as 0,4,8-12,-1.")
    ] = "all",
    k: Annotated[int, typer.Option(metavar="N", help="Candidates per visual token, layer and lens.")] = 5,
    prompt: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="What is said beside the picture; left out, that it be described.", show_default=False
        ),
    ] = None,
    raw: Annotated[
        bool,
        typer.Option("--raw", metavar="", help="Give the prompt to the tokenizer as it is, without chat template."),
    ] = False,
    positions: Annotated[
        str, typer.Option(metavar="KIND", help="Which tokens to read: visual, text, answer or all.")
    ] = "visual",
    answer: Annotated[
        int, typer.Option(metavar="N", min=0, help="Let the model answer with at most N tokens, and read those too.")
    ] = 0,
    allow_other_model: Annotated[
        bool,
        typer.Option("--allow-other-model", metavar="", help="Use a bank of another language model of the same width."),
    ] = False,
    overwrite: Overwrite = False,
    json: Json = False,
    revision: Revision = None,
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Read pictures (or recordings, or hidden states) with one or more lenses, and write a page to look at.

    The folder opens in Python with patchlens.open_readings(DIR).
    """
    began = time.monotonic()
    from patchlens.cli.road import MARKER, check_k, lens_names, open_all, read_all, save
    from patchlens.models.embedded import embedded
    from patchlens.models.loading import load_model
    from patchlens.storage import replacing_folder

    lenses = lens_names(lens)
    check_k(k)
    opened = open_all(images)
    if bank is None and embedded(model) is not None:
        bank = model
    with replacing_folder(out, overwrite=overwrite, marker=MARKER) as folder, progress() as report:
        result = read_all(
            opened,
            lambda: load_model(
                model,
                revision=revision,
                dtype=dtype,
                device_map=device_map,
                trust_remote_code=trust_remote_code,
            ),
            bank=bank,
            lenses=lenses,
            layers=layers,
            k=k,
            prompt=prompt,
            raw=raw,
            positions=positions,
            answer=answer,
            allow_other_model=allow_other_model,
            report=report,
        )
        save(result.readings, folder)
    where = out.resolve()
    if json:
        say_json(
            {
                "page": str(where / "page.html"),
                "readings": str(where),
                "bank": None if result.bank is None else str(result.bank.folder.resolve()),
                "images": list(result.readings.images),
                "lenses": list(result.readings.lenses),
                "layers": list(result.readings.layers),
                "seconds": round(time.monotonic() - began, 3),
            }
        )
        return
    from patchlens.views.terminal import table

    draw(table(result.readings))
    say(f"Page      {where / 'page.html'}")
    say(f"Readings  {where}")
