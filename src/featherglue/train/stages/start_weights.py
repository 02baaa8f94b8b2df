"""Start weights: copying a trained network into a new one of the same or a larger size."""

from __future__ import annotations

from torch import nn

from featherglue.artifact.folding import fold_batch_norm
from featherglue.errors import ConfigError, TrainingError
from featherglue.models.low_rank import narrow_heads
from featherglue.models.model import Model
from featherglue.models.net2net import grow_superglue, grow_superpoint
from featherglue.models.superglue import SuperGlue
from featherglue.models.superpoint import SuperPoint


def load_start_weights(network: nn.Module, folder: str) -> None:
    """Start a network from that of the model in `folder`; see `start_from`. "" does nothing."""
    if folder:
        start_from(network, Model.load(folder), folder)


def start_from(network: nn.Module, model: Model, folder: str) -> None:
    """Copy the weights of a model's network of the same kind.

    The heads of a matcher may be wider in the model. Otherwise a smaller network is grown to the
    new size (net2net), with its batch normalization folded if the new network has none.

    Args:
        network: SuperPoint or SuperGlue, changed in place.
        folder: folder of the model, for messages.

    Raises:
        TrainingError: the model lacks such a network, or it does not fit.
    """
    trained = _same_kind(network, model)
    if trained is None:
        raise TrainingError(f"{folder}: the model lacks the network to start from")
    if trained.config.batch_norm and not network.config.batch_norm:  # type: ignore[union-attr]
        trained = _same_kind(network, Model.from_artifact(fold_batch_norm(model.to_artifact())))
    try:
        if isinstance(network, SuperGlue) and isinstance(trained, SuperGlue):
            head_dims = {layer.head_dim for layer in network.config.layers}
            resized = narrow_heads(trained, head_dims.pop()) if len(head_dims) == 1 else trained
            if resized.config != network.config:
                resized = grow_superglue(trained, network.config)
            network.load_state_dict(resized.state_dict())
        elif isinstance(network, SuperPoint) and isinstance(trained, SuperPoint):
            if trained.config != network.config:
                trained = grow_superpoint(trained, network.config)
            network.load_state_dict(trained.state_dict())
    except ConfigError as error:
        raise TrainingError(
            f"{folder}: a model of another architecture, from which this one cannot grow ({error})"
        ) from None


def _same_kind(network: nn.Module, model: Model) -> SuperPoint | SuperGlue | None:
    return model.extractor if isinstance(network, SuperPoint) else model.matcher


def folded_extractor(model: Model) -> SuperPoint:
    """A frozen copy of a model's extractor with its batch normalization folded.

    Raises:
        TrainingError: the model has no extractor.
    """
    folded = Model.from_artifact(fold_batch_norm(model.to_artifact())).extractor
    if folded is None:
        raise TrainingError("a model without an extractor finds no keypoints")
    return folded.requires_grad_(False)
