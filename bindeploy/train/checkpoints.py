"""Starting from full precision: a published checkpoint, or the weights of a RUN.

A binary network keeps the names and shapes of its full-precision twin, whose weights become its
latent ones. Reading a file runs nothing in it, and costs no more memory than its size.
"""

from __future__ import annotations

import math
import mmap
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as functional
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bindeploy.errors import BindeployError
from bindeploy.train import run as runs

NESTS = ("state_dict", "model", "net", "ema")
"""Under which names training scripts put the state dict, the first that is there counting."""

PREFIXES = ("module.", "model.", "network.", "backbone.", "_orig_mod.")
"""What wrappers (DataParallel, Lightning, torch.compile) put before every name."""

DEEPEST_NEST = 4
"""A pickled dictionary can hold itself."""

POSITIONS = ("pos_embed", "pos_embedding", "position_embeddings")
"""What transformers call the positions of their patches, [1, tokens, channels]."""

MOST_EXTRA_TOKENS = 2
"""A class token, and DeiT's distillation token, stand before the patches."""

COUNTER = "num_batches_tracked"
"""Of BatchNorm; older checkpoints have none, and nothing depends on it."""


@dataclass(frozen=True)
class Report:
    """What became of a checkpoint: names of tensors, those of the file in `ignored`.

    `loaded` were taken, `resized` are those of them that are positions of another image size,
    `fresh` stay as they were initialized, `ignored` are left over in the file.
    """

    path: Path
    loaded: tuple[str, ...]
    resized: tuple[str, ...]
    fresh: tuple[str, ...]
    ignored: tuple[str, ...]

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.fresh)
        parts = [f"`{self.path}` gives {len(self.loaded)} of {total} tensors"]
        parts += [f"resized {_names(self.resized)}"] if self.resized else []
        parts += [f"fresh {_names(self.fresh)}"] if self.fresh else []
        parts += [f"left over {_names(self.ignored)}"] if self.ignored else []
        return "; ".join(parts)


def initialize(network: nn.Module, path: Path, added: Collection[str] = ()) -> Report:
    """Fill `network`, binary or not, with the tensors of the checkpoint at `path`.

    `path` is a .safetensors file, a file of torch.save with a state dict in it (bare, or under one
    of `NESTS`), or the folder of a RUN: its full-precision twin where it has one, else its latent
    weights. Names may have `PREFIXES`. Numbers become the network's own type (float32 of float16);
    positions of a transformer for another image size are interpolated bicubically (ViT, 2021,
    section 3.2).

    Every tensor of the network must be there in its shape, but for those `added` by binarization
    and the last layer (with BatchNorm after it), whose number of classes may be another: they stay
    fresh. Anything else, a file that needs more than tensors, and numbers that are not finite raise
    BindeployError, and leave the network as it was.
    """
    file = _file(Path(path))
    tensors = read(file)
    state = {name: tensor for name, tensor in network.state_dict().items() if _counts(name, tensor)}
    sources = _sources(file, tensors, state)
    found = {name: tensors[source] for name, source in sources.items()}
    faults = {
        name: fault for name in state if (fault := _misfit(name, found.get(name), state[name]))
    }
    last = _last_layer(network)
    if any(name in faults for name in last):
        faults |= {name: "belongs to the last layer" for name in last}
    blocking = [name for name in faults if name not in last and name not in added]
    taken = [name for name in state if name not in faults]
    if blocking or not taken:
        raise _does_not_fit(file, blocking or list(faults), faults, taken, state, tensors)
    new = {name: _converted(found[name], state[name]) for name in taken}
    for name, tensor in new.items():
        if not tensor.isfinite().all():
            raise BindeployError(
                f"`{_shown(sources[name])}` in `{file}` holds numbers that are not finite:"
                " give another checkpoint"
            )
    network.load_state_dict({**network.state_dict(), **new})
    used = {sources[name] for name in taken}
    return Report(
        path=file,
        loaded=tuple(taken),
        resized=tuple(name for name in taken if found[name].shape != state[name].shape),
        fresh=tuple(name for name in state if name in faults),
        ignored=tuple(n for n in tensors if n not in used and not n.endswith(COUNTER)),
    )


def _does_not_fit(
    file: Path,
    blocking: list[str],
    faults: Mapping[str, str],
    taken: Collection[str],
    state: Collection[str],
    tensors: Collection[str],
) -> BindeployError:
    example = next(iter(tensors))
    return BindeployError(
        f"`{file}` fits {len(taken)} of {len(state)} tensors of the network: `{blocking[0]}`"
        f" {faults[blocking[0]]} (in the file: `{_shown(example)}`, ...):"
        " give a checkpoint of the same model"
    )


def _file(path: Path) -> Path:
    """The file with tensors that `path`, a file or the folder of a RUN, stands for."""
    if os.path.isdir(path):
        if not os.path.isfile(path / runs.DESCRIPTION):
            raise BindeployError(
                f"`{path}` is no run (it has no {runs.DESCRIPTION}): give a folder that train --out"
                " wrote, or a checkpoint file"
            )
        twin = path / runs.FLOAT
        path = twin if os.path.isfile(twin) else path / runs.MODEL
    if not os.path.isfile(path):
        raise BindeployError(
            f"`{path}` is no file: give a checkpoint (.safetensors, a torch state dict) or a RUN"
        )
    return path


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU; BindeployError where it has none.

    A tensor can be of any shape and type, and claim more numbers than it has (`_misfit` tells).
    """
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    for _ in range(DEEPEST_NEST):
        nests = [content[name] for name in NESTS if isinstance(content, dict) and name in content]
        nests = [nest for nest in nests if isinstance(nest, dict)]
        if not nests:
            break
        content = nests[0]
    pairs = content.items() if isinstance(content, dict) else ()
    tensors = {
        name: value for name, value in pairs if isinstance(name, str) and isinstance(value, Tensor)
    }
    if not tensors:
        raise BindeployError(f"`{path}` holds no tensors by name: save the state_dict of a network")
    return tensors


def _read_safetensors(path: Path) -> Any:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from None


def _read_torch(path: Path) -> Any:
    """What torch.save wrote, in either of its formats, as long as it is made of tensors."""
    try:
        _check_claims(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile file makes torch fail in any way
        if not isinstance(error, pickle.UnpicklingError) and "weights_only" not in str(error):
            raise _damaged(path, error) from None
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        what = f" (`{_shown(foreign[1])}`)" if foreign else ""
        raise BindeployError(
            f"`{path}` needs more than tensors{what} or is damaged, and nothing in a file is run:"
            " save the state_dict alone, torch.save(model.state_dict(), ...)"
        ) from None


def _check_claims(path: Path) -> None:
    """Raise ValueError for a file that makes torch.load fill more memory than the file has bytes.

    Two ways lead there: compressed members of the archive, and `bytearray(n)`, which the restricted
    unpickler lets through. torch.save writes neither.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(b"bytearray") >= 0:
            raise ValueError("it asks for memory that it does not fill")
        if content[:2] == b"PK":
            with zipfile.ZipFile(file) as archive:
                if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                    raise ValueError("its members are compressed")


def _damaged(path: Path, error: Exception) -> BindeployError:
    said = " ".join(str(error).split())[:200]
    reason = said if re.search("[a-z]", said) else f"{type(error).__name__} {said}".strip()
    return BindeployError(f"`{path}` is damaged or no checkpoint ({reason}): fetch it again")


def _counts(name: str, tensor: object) -> bool:
    return isinstance(tensor, Tensor) and not name.endswith(COUNTER)


def _sources(path: Path, tensors: Collection[str], state: Collection[str]) -> dict[str, str]:
    """Which name in the file each name of the network has: its own, or one with prefixes."""
    sources: dict[str, str] = {}
    for source in tensors:
        name = _without_prefixes(source, state)
        if name not in state:
            continue
        if name in sources:
            raise BindeployError(
                f"`{path}` holds `{_shown(sources[name])}` and `{_shown(source)}`, both of them"
                f" `{name}`: keep one"
            )
        sources[name] = source
    return sources


def _without_prefixes(name: str, state: Collection[str]) -> str:
    """`name` as the network has it, or without any prefix where it has it not."""
    while name not in state:
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
        if prefix is None:
            break
        name = name.removeprefix(prefix)
    return name


def _last_layer(network: nn.Module) -> list[str]:
    """Names of the tensors of the last layer, as registered, and of BatchNorm after it."""
    last: list[tuple[str, nn.Module]] = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            last = [(name, module)]
        elif isinstance(module, _BatchNorm) and last:
            last.append((name, module))
    return [
        name
        for prefix, module in last
        for name, tensor in module.state_dict(prefix=f"{prefix}." if prefix else "").items()
        if _counts(name, tensor)
    ]


def _misfit(name: str, tensor: Tensor | None, like: Tensor) -> str | None:
    """Why `tensor` cannot become the tensor `name` of the network, in words; None where it can."""
    if tensor is None:
        return "is missing"
    if not _is_ordinary(tensor):
        return "is no ordinary tensor"
    if tensor.dtype.is_floating_point != like.dtype.is_floating_point:
        return f"is {tensor.dtype}, not {like.dtype}"
    if tensor.shape != like.shape and _grids(name, tensor, like) is None:
        return f"is {list(tensor.shape)}, not {list(like.shape)}"
    return None


def _is_ordinary(tensor: Tensor) -> bool:
    """On the CPU, dense, and with as many numbers as it claims."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.device.type != "cpu":
        return False
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _converted(tensor: Tensor, like: Tensor) -> Tensor:
    """`tensor` in the type and shape of `like`."""
    converted = tensor.detach().to(like.dtype)
    return converted if tensor.shape == like.shape else _resized(converted, like)


def _grids(name: str, tensor: Tensor, like: Tensor) -> tuple[int, int, int] | None:
    """(extra tokens, old side, new side) of positions on square grids of patches, else None."""
    if name.rpartition(".")[2] not in POSITIONS or tensor.dim() != 3 or like.dim() != 3:
        return None
    if (tensor.shape[0], tensor.shape[2]) != (like.shape[0], like.shape[2]):
        return None
    for extra in range(MOST_EXTRA_TOKENS + 1):
        old, new = (math.isqrt(max(x.shape[1] - extra, 0)) for x in (tensor, like))
        if old and new and (old**2 + extra, new**2 + extra) == (tensor.shape[1], like.shape[1]):
            return extra, old, new
    return None


def _resized(tensor: Tensor, like: Tensor) -> Tensor:
    """Positions [1, tokens, channels] for as many patches as `like` has; extra tokens are kept."""
    grids = _grids(POSITIONS[0], tensor, like)
    assert grids is not None
    extra, old, new = grids
    image = tensor[:, extra:].unflatten(1, (old, old)).permute(0, 3, 1, 2)
    image = functional.interpolate(image, (new, new), mode="bicubic", align_corners=False)
    return torch.cat([tensor[:, :extra], image.permute(0, 2, 3, 1).flatten(1, 2)], 1)


def _shown(name: str) -> str:
    """A name out of a file, as any terminal prints it."""
    return ascii(name)[1:-1][:80]


def _names(names: tuple[str, ...], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"`{_shown(name)}`" for name in names[:most]) + more
