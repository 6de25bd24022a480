"""Python that a reader of an exported folder can paste: from a raw picture or texts to the values, without mmkd."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmkd.formats.portable import Portable
from mmkd.formats.weights import state_of

PICTURE = """\
about = json.load(open("preprocessing.json"))["image"]
height, width = about["size"]
picture = Image.open("picture.png").convert("RGBA")
page = Image.new("RGB", picture.size, "white")  # what is transparent lies on white
page.paste(picture, mask=picture.getchannel("A"))
resize = about["resize"]
if isinstance(resize, int):  # the shorter side
    w, h = page.size
    resize = (int(resize * h / w), resize) if w <= h else (resize, int(resize * w / h))
page = page.resize(
    resize[::-1], Image.Resampling[about["interpolation"].upper()], reducing_gap=about.get("reducing_gap")
)
left, top = round((page.width - width) / 2), round((page.height - height) / 2)
pixels = numpy.asarray(page.crop((left, top, left + width, top + height)), dtype=numpy.float32) / 255
"""
NORMALIZED = 'pixels = (pixels - numpy.float32(about["mean"])) / numpy.float32(about["std"])\n'
STACKED = "image = numpy.ascontiguousarray(pixels.transpose(2, 0, 1)[None])  # [1, 3, H, W]\n"


def write_preprocessing(portable: Portable, folder: Path, *, normalize: bool) -> str:
    """Write `preprocessing.json` and the tokenizer's files; returns the code that makes `inputs` of raw data."""
    about: dict[str, Any] = {
        "inputs": {
            field: {"dtype": str(x.dtype).removeprefix("torch."), "shape": _shape(x.shape, varying)}
            for field, x, varying in zip(portable.fields, portable.example, portable.varying, strict=True)
        }
    }
    code = ""
    kinds = {field: field.rpartition(".")[2] for field in portable.fields}
    made: dict[str, str] = {}
    image = portable.encoder.preprocessing()
    if "image" in kinds.values() and image is not None:
        about["image"] = {k: v for k, v in image.items() if not (normalize and k in ("mean", "std"))}
        if {"size", "resize", "interpolation"} <= image.keys():
            code += PICTURE + ("" if normalize else NORMALIZED) + STACKED
            made |= {field: "image" for field, kind in kinds.items() if kind == "image"}
    if any(kind != "image" for kind in kinds.values()):
        tokens = portable.encoder.export_tokenizer(folder)
        if tokens is not None:
            code += f'texts = ["a sad cat"]\n{tokens}'
            made |= {field: f'tokens["{kind}"]' for field, kind in kinds.items() if kind != "image"}
    (folder / "preprocessing.json").write_text(json.dumps(about, indent=2) + "\n")
    for field in portable.fields:
        if field not in made:
            shape = tuple(1 if isinstance(n, str) else n for n in about["inputs"][field]["shape"])
            dtype = about["inputs"][field]["dtype"]
            made[field] = f'numpy.zeros({shape}, "{dtype}")'
            code += f"# {field}: put what your own transform makes in place of the zeros\n"
    return code + "inputs = {" + ", ".join(f'"{field}": {made[field]}' for field in portable.fields) + "}\n"


def torch_usage(portable: Portable, inputs: str) -> str:
    """Load `model.pt2`."""
    return _imports(inputs, "import torch") + inputs + (
        'program = torch.export.load("model.pt2").module()\n'
        "values = program(*(torch.from_numpy(x) for x in inputs.values()))\n"
    )  # fmt: skip


def onnx_usage(portable: Portable, inputs: str) -> str:
    """Run `model.onnx`."""
    return _imports(inputs, "import onnxruntime") + inputs + (
        'session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])\n'
        "names = [output.name for output in session.get_outputs()]\n"
        "values = dict(zip(names, session.run(names, inputs)))\n"
    )  # fmt: skip


def weights_usage(portable: Portable, inputs: str) -> str:
    """Load `model.safetensors` into a network of the reader's."""
    network = state_of(portable)
    code = (
        "from safetensors.torch import load_file\n\n"
        f"network = ...  # a {type(network).__module__}.{type(network).__name__} as it was built for training\n"
        'network.load_state_dict(load_file("model.safetensors"))\n'
        "network.eval()\n"
    )
    return code + "".join(
        f'# "{name}" is a {type(module).__name__}: load_file("projector.{name}.safetensors")\n'
        for name, module in zip(portable.projector_names, portable.projectors, strict=True)
    )


def _imports(inputs: str, library: str) -> str:
    plain = [f"import {name}" for name in ("json",) if f"{name}." in inputs]
    others = [line for line, used in (("import numpy", "numpy." in inputs), (library, True)) if used]
    picture = ["from PIL import Image"] if "Image." in inputs else []
    tokenizer = ["from tokenizers import Tokenizer"] if "Tokenizer." in inputs else []
    return "\n".join([*plain, *([""] if plain else []), *sorted(others), *picture, *tokenizer, "", ""])


def _shape(shape: Any, varying: tuple[int, ...]) -> list[int | str]:
    return ["batch" if d == 0 else f"length{d}" if d in varying else int(n) for d, n in enumerate(shape)]
