"""`training.feature_cache` of a recipe: features of a frozen encoder, computed once a clip and kept on disk while training.

`hf_sqa.blocks.feature_cache` keeps the features and finds them again. This module says where they lie; where the features of a clip
would change from epoch to epoch, it refuses the option before training and says what to change.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from hf_sqa.blocks.feature_cache import FeatureFolder, kept_features
from hf_sqa.blocks.speech_encoder import takes_spectra

#: The folder of a run's own features, and the value of `training.feature_cache` that asks for it.
IN_RUN, OF_RUN = "features", "run"


@contextlib.contextmanager
def features_of_run(trainer: Any, run_folder: Path, *, augments: bool) -> Iterator[FeatureFolder | None]:
    """Within the block, the trainer's clips have their features computed once, where its arguments ask for it.

    Features kept under the folder of the run serve a run that is resumed, and go when it ends well.

    Raises:
        ValueError: If the features of a clip would not be the same in every epoch, as with `augments`.
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
    """Refuse `training.feature_cache` where the encoder, or what it sees of a clip, changes from epoch to epoch."""
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
