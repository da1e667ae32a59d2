"""Compute the outputs of a model's frozen parts once per clip: those of its front kept in memory, an encoder's features on disk.

Outputs in memory are meant for ten epochs on a CPU. They are exact: a frozen module in evaluation mode returns the same output for
the same row, whatever else is in the batch. What does not fit into memory is computed as usual.
"""

import contextlib
import hashlib
import mmap
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from hf_sqa.blocks.feature_cache import FeatureFolder, kept_features
from hf_sqa.blocks.speech_encoder import takes_spectra
from hf_sqa.checkpoints import base_digest

DIGEST_BYTES = 16
#: Rows in one mapped piece of memory. An array per row would be placed in the gaps that large short-lived arrays leave, and the
#: heap would grow to several times what is kept.
ROWS_PER_PIECE = 64
#: The folder of features inside a run's folder, and the value of `training.feature_cache` that asks for it.
IN_RUN, OF_RUN = "features", "run"


class FrontMemory:
    """Outputs of frozen modules, by the digest of their input rows. One memory serves all folds of an evaluation.

    The outputs of the modules of Distill-MOS v7 that `hf-sqa finetune` freezes take 3.4 MB per window. With `weightless`, outputs
    of modules without weights are kept too.
    """

    def __init__(self, max_bytes: int = 2**30, weightless: bool = False):
        self.max_bytes, self.num_bytes, self.weightless = max_bytes, 0, weightless
        self.num_hits = self.num_computed = 0
        self._rows: dict[bytes, np.ndarray] = {}
        self._free: dict[tuple[int, ...], list[np.ndarray]] = {}  # unused rows of the pieces, by shape

    def attach(self, model: torch.nn.Module) -> list[str]:
        """Keep the outputs of the frozen modules before the first trained module, and return their names.

        Modules with different weights never share outputs. A module that is unfrozen later computes as usual.
        """
        names = []
        for name, module in _frozen_front(model, self.weightless):
            identity = f"{name} {base_digest(module)}"
            module.forward = self._remembering(identity, module, module.forward)  # type: ignore[method-assign]
            names.append(name)
        return names

    def _remembering(self, identity: str, module: torch.nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def remembered(*inputs: Any, **options: Any) -> Any:
            further = [*inputs[1:], *options.values()]
            rows = inputs[0] if inputs else None
            if (
                not isinstance(rows, torch.Tensor)
                or rows.requires_grad
                or rows.device.type != "cpu"
                or (module.training and any(True for _ in module.parameters()))
                or any(isinstance(value, torch.Tensor) for value in further)
                or any(parameter.requires_grad for parameter in module.parameters())
            ):
                return forward(*inputs, **options)
            described = f"{identity} {rows.dtype} {tuple(rows.shape[1:])} {further!r}".encode()
            contents = [row.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes() for row in rows]
            keys = [hashlib.blake2b(described + content, digest_size=DIGEST_BYTES).digest() for content in contents]
            missing = [index for index, key in enumerate(keys) if key not in self._rows]
            self.num_hits += len(keys) - len(missing)
            self.num_computed += len(missing)
            computed: dict[int, torch.Tensor] = {}
            if missing:
                with torch.no_grad():
                    outputs = forward(rows[missing], *inputs[1:], **options)
                if not isinstance(outputs, torch.Tensor) or len(outputs) != len(missing):
                    return outputs if len(missing) == len(keys) else forward(*inputs, **options)
                computed = dict(zip(missing, outputs, strict=True))
                for index, output in computed.items():
                    self._keep(keys[index], output)
            # Outputs are kept as NumPy arrays, because a tensor made in inference mode could not take part in training.
            return torch.stack([computed[i] if i in computed else torch.from_numpy(self._rows[key]) for i, key in enumerate(keys)])

        return remembered

    def _keep(self, key: bytes, output: torch.Tensor) -> None:
        size = output.numel() * output.element_size()
        if output.dtype != torch.float32 or self.num_bytes + size > self.max_bytes:
            return
        free = self._free.setdefault(tuple(output.shape), [])
        if not free:
            piece = np.frombuffer(mmap.mmap(-1, ROWS_PER_PIECE * size), np.float32)
            free += reversed(piece.reshape(ROWS_PER_PIECE, *output.shape))
        self._rows[key] = free.pop()
        self._rows[key][...] = output.detach().numpy()
        self.num_bytes += size


def _frozen_front(module: torch.nn.Module, weightless: bool, prefix: str = "") -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield the outermost modules without trained weights, in order, up to the first trained weight."""
    for name, child in module.named_children():
        trained = [parameter.requires_grad for parameter in child.parameters()]
        if isinstance(child, torch.nn.Dropout):
            continue
        if (trained or weightless) and not any(trained) and not isinstance(child, torch.nn.ModuleList | torch.nn.ModuleDict):
            yield f"{prefix}{name}", child
        elif trained:
            yield from _frozen_front(child, weightless, f"{prefix}{name}.")
            if any(trained):
                return


@contextlib.contextmanager
def features_of_run(trainer: Any, run_folder: Path, *, augments: bool) -> Iterator[FeatureFolder | None]:
    """Compute the features of a frozen encoder once per clip inside the `with` block, if the trainer's arguments ask for it.

    Features kept in the folder of the run are reused when it resumes, and deleted when it ends without an error.
    """
    asked = trainer.args.feature_cache
    if asked is None:
        yield None
        return
    check_features_stay(trainer, augments)
    path = run_folder / IN_RUN if asked == OF_RUN else Path(asked)
    with kept_features(path, round(trainer.args.feature_cache_gb * 1e9)) as folder:
        yield folder
    if asked == OF_RUN:
        trainer.accelerator.wait_for_everyone()
        if trainer.args.should_save:
            shutil.rmtree(path, ignore_errors=True)


def check_features_stay(trainer: Any, augments: bool) -> None:
    """Refuse `training.feature_cache` if the encoder, or the part of a clip that it sees, changes from epoch to epoch."""
    model, args, data = trainer.quality_model, trainer.args, trainer.train_dataset
    encoder: Any = getattr(model, "encoder", None)

    def refuse(got: str, remedy: str) -> NoReturn:
        raise ValueError(
            f"Expected training with `training.feature_cache` in which the features of a clip stay the same, got {got}; {remedy}, "
            "or leave `training.feature_cache` out."
        )

    if encoder is None:
        refuse(f"a {type(model).__name__} without a speech encoder", "train a model on an encoder (`model.encoder`)")
    if any(parameter.requires_grad for parameter in encoder.parameters()):
        refuse("an encoder that trains", "freeze it (`model.config.freeze_encoder=true`, or `model.freeze=[encoder]`)")
    if takes_spectra(encoder.config):
        refuse(f"a {encoder.config.model_type} encoder, whose features are not kept", "choose an encoder that takes waveforms")
    if getattr(encoder.config, "apply_spec_augment", False) and (
        getattr(encoder.config, "mask_time_prob", 0) > 0 or getattr(encoder.config, "mask_feature_prob", 0) > 0
    ):
        refuse("SpecAugment, which masks other frames in every step", "set `apply_spec_augment: false` in `model.encoder_options`")
    if augments:
        refuse("augmentation of the waveforms, which is drawn anew in every epoch", "remove the section `augmentation`")
    if trainer.batching in ("crop", "repeat"):
        by_itself = " (chosen by `auto`, since padding would change the scores of this encoder)" if args.batching == "auto" else ""
        refuse(
            f"`training.batching={trainer.batching}`{by_itself}, which cuts or repeats clips by their batch", "set it to `equal`"
        )
    if num_longer := data.num_longer():
        refuse(f"{num_longer} clips longer than `training.max_seconds`, cut at random in every epoch", "raise `max_seconds`")
