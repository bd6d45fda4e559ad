"""Recognize common errors of torch, and say how to fix each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.core.types import Labels, Preds

FLOATS = "Features: x.float(), or as many bits as the net has (net.double() for float64 data)."
# a pattern in the text of an error, and its fix; the first that matches is taken
FAMILIES: list[tuple[str, str]] = [
    (r"must be Tensor, not numpy.ndarray",
     "Arrays of numbers in batches become tensors if the first batch holds such arrays; text, "
     "objects and masked arrays stay as they are: encode or fill them as numbers."),
    (r"expected np.ndarray \(got Tensor\)",
     "Arrays of numbers in batches are tensors already: leave out torch.from_numpy."),
    (r"missing \d+ required positional argument|must be Tensor, not (tuple|list)|"
     r"takes .*positional argument.* given|unexpected keyword argument",
     "A batch's features give forward its inputs: x one, a tuple (x1, x2) two, a dict by name. "
     "Several inputs with labels are ((x1, x2), y); another layout is for StepRunner.forward."),
    (r"same device|found at least two devices|"
     r"Input type \(torch\.(cuda|mps|xpu).*weight type|but found.*device",
     "Everything must be on one device. A tensor that forward makes: device=x.device. A constant "
     "of the net: register_buffer. Layers in a list or dict: nn.ModuleList or nn.ModuleDict."),
    (r"out of memory",
     "A smaller batch_size; with gradient_accumulation_steps, updates stay the same."),
    (r"device-side assert",
     "An index is out of range: a label that is no class, or a number that is no word. Run once "
     "with cpu=True, which says which."),
    (r"Expected more than 1 value per channel",
     "BatchNorm needs two samples in training: drop_last=True, or another batch_size."),
    (r"view size is not compatible", "Use .reshape(...) in place of .view(...)."),
    (r"invalid for input of size",
     "Flatten by samples, x.flatten(1) or x.reshape(len(x), -1), and give the next layer the size "
     "that this has."),
    (r"must be equal to input_size|running_mean should contain|normalized_shape|"
     r"expected .*num_features",
     "The layer was built for another number of features than it is given: compare its sizes with "
     "the input's."),
    (r"Output size is too small|Kernel size can't be greater",
     "The image is too small for so many convolutions and poolings: use larger ones, fewer layers "
     "or padding."),
    (r"[Ee]xpected \dD or \dD|[Ee]xpected input to be \dD|xpected \dD input|xpected \d-D",
     "The input has a dimension too many or too few: x[:, None] adds one behind the samples, "
     "x.squeeze(1) takes one away."),
    (r"must be Tensor, not (tuple|list|dict|NoneType)|"
     r"'(tuple|list|dict|NoneType)' object has no attribute",
     "A layer got a container in place of a tensor: let forward take it apart, or give the "
     "features as forward's arguments ((x1, x2) or a dict by name)."),
    (r"does not require grad",
     "Validation, evaluate and predict run without gradients: a net or loss that needs them takes "
     "them in `with torch.enable_grad():`. In training, nothing on the way may .detach() or be "
     "frozen."),
    (r"modified by an inplace operation|leaf Variable that requires grad",
     "Write x = x + ... in place of x += ..., and inplace=False."),
]


def likely_fix(error: BaseException, layer: object, given: object, preds: Preds,
               labels: Labels) -> str:
    """Return the likely fix for an error of torch; "" if its kind is not known."""
    text = str(error)
    for look in (explain_range, explain_linear, explain_convolution, explain_embedding,
                 explain_target, explain_dtypes, explain_sizes):
        if found := look(text, layer, first_tensor(given), preds, labels):
            return found
    return next((fix for pattern, fix in FAMILIES if re.search(pattern, text)), "")


def first_tensor(given: Any) -> Tensor | None:
    """Return the first tensor among the inputs of a layer."""
    values = given.values() if isinstance(given, Mapping) else given or ()
    return next((one for one in values if isinstance(one, Tensor)), None)


def explain_range(text: str, layer: object, x: Tensor | None, preds: Preds, labels: Labels) -> str:
    """Explain predictions or labels that a loss of probabilities does not take."""
    found = re.search(r"all elements of (input|target) should be between 0 and 1", text)
    if found is None:
        return ""
    of_input = found[1] == "input"
    value, what = (preds, "prediction") if of_input else (labels, "label")
    count = int(value.isnan().sum()) if isinstance(value, Tensor) else 0
    if count:
        return (f"{count} of the {value.numel()} {what}s are NaN: look for NaN in the features and "
                "in the weights of the net, or lower the learning rate.")
    return ("Probabilities are asked for: end the net with a sigmoid, or take the loss that takes "
            "logits." if of_input else "Labels are 0 and 1, or probabilities.")


def explain_linear(text: str, layer: object, x: Tensor | None, *_: object) -> str:
    """Explain a number of features that a linear layer does not take."""
    if "shapes cannot be multiplied" not in text and "size mismatch" not in text:
        return ""
    if not isinstance(layer, nn.Linear) or x is None or not x.dim():
        return "The inner sizes of a matrix product must be equal."
    flat = x[0].numel() if x.dim() > 1 and len(x) else 0
    if flat == layer.in_features:
        return f"Flatten each sample first: x.flatten(1) gives (N, {flat})."
    return (f"This layer takes {layer.in_features} features and the last dimension of its input is "
            f"{x.shape[-1]}: in_features={x.shape[-1]}, or other features.")


def explain_convolution(text: str, layer: object, x: Tensor | None, *_: object) -> str:
    """Explain images whose channels are in the wrong dimension, or missing."""
    wanted = getattr(layer, "in_channels", None)
    if not isinstance(wanted, int) or x is None or (
            "channels" not in text and "Expected" not in text):
        return ""
    if "unbatched" in text:
        return f"The input is (N, {wanted}, ...): x[:, None] adds a channel, x[None] a batch."
    if "channels" not in text:
        return ""
    if x.dim() > 2 and x.shape[-1] == wanted:
        order = ", ".join(map(str, (0, x.dim() - 1, *range(1, x.dim() - 1))))
        return f"Channels come second, (N, {wanted}, ...), and are last here: x.permute({order})."
    channels = x.shape[1] if x.dim() > 1 else 1
    has = x.shape[1] if x.dim() > 1 else "none"
    return (f"This layer takes {wanted} channels and the input has {has}: in_channels={channels}, "
            "or other images.")


def explain_embedding(text: str, layer: object, x: Tensor | None, *_: object) -> str:
    """Explain indices that are out of range, or not integers."""
    if "argument #1 'indices'" in text:
        return "Indices are whole numbers: x.long()."
    if "index out of range" not in text:
        return ""
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)) and x is not None and x.numel():
        low, high = int(x.min()), int(x.max())
        need = f"num_embeddings={high + 1}" if low >= 0 else "no index below 0"
        return (f"Indices go from 0 to {layer.num_embeddings - 1}, and these from {low} to {high}: "
                f"{need}.")
    return "An index is larger than what it chooses from."


def explain_target(text: str, layer: object, x: Tensor | None, preds: Preds, labels: Labels) -> str:
    """Explain labels that are not a class of the net."""
    found = re.search(r"Target (-?\d+) is out of bounds", text)
    if found is None:
        return ""
    classes = preds.shape[1] if isinstance(preds, Tensor) and preds.dim() > 1 else None
    if not classes:
        return "Classes count from 0 to one less than the net's outputs."
    return (f"Classes count from 0: the net has {classes} outputs, so labels go from 0 to "
            f"{classes - 1}.")


TYPES = (r"same dtype|expected scalar type|should be the same|not implemented for '|Found dtype|"
         r"can't be cast to|expected m1 and m2|Expected floating point|must be floating|"
         r"expected target.*dtype")


def explain_dtypes(text: str, layer: object, x: Tensor | None, preds: Preds, labels: Labels) -> str:
    """Explain inputs whose dtype differs from that of the weights or the loss."""
    if not re.search(TYPES, text) or "device" in text or (
            re.search(r"Input type \(torch\.(cuda|mps|xpu)", text)):
        return ""
    weights = layer.parameters() if isinstance(layer, nn.Module) else ()
    own = next((one.dtype for one in weights), None)
    if preds is not None and isinstance(labels, Tensor):
        return (f"Labels are {labels.dtype}: cross entropy takes class numbers, labels.long(); "
                "other losses take labels.float(). Numpy's int32 and float64: .astype('int64'), "
                ".astype('float32').")
    if own is not None and x is not None and x.dtype != own:
        change = {torch.float32: "x.float()", torch.float64: "x.double()"}.get(own, f"x.to({own})")
        more = ", or net.double()" if x.dtype == torch.float64 else ""
        return (f"The input is {x.dtype} and the layer's weights are {own}: {change} in the "
                f"data{more}.")
    return FLOATS


def explain_sizes(text: str, layer: object, x: Tensor | None, preds: Preds, labels: Labels) -> str:
    """Explain outputs and labels, or two tensors, whose sizes do not match."""
    batch = re.search(r"input batch_size \((\d+)\) to match target batch_size \((\d+)\)", text)
    if batch is not None:
        return (f"The net gives {batch[1]} outputs for {batch[2]} labels: keep the samples first "
                "all the way (x.flatten(1), not x.view(-1, n)); for sequences, preds are (N, "
                "classes, T).")
    sizes = r"must match the size|target size|size mismatch|multi-target|1D target|size of tensor"
    if not re.search(sizes, text):
        return ""
    if isinstance(preds, Tensor) and isinstance(labels, Tensor):
        return (f"The output is {tuple(preds.shape)} and labels are {tuple(labels.shape)}: "
                ".squeeze(-1) on the output, labels[:, None], or labels.squeeze(1) for a column of "
                "classes.")
    return "Print the shapes of both before this line: one of them has lost or gained a dimension."
