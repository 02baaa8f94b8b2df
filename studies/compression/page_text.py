"""Prose of the page. Fields in braces are filled from results.json."""

from __future__ import annotations

from collections.abc import Mapping

QUICK = """\
> **Quick form.** This page comes from `--quick`: {pairs} pairs, no fine-tuning, short measurements.
> Its numbers show that the commands work. They are too uncertain to compare methods.
"""

INTRODUCTION = """\
SuperPoint finds keypoints in an image and describes them. SuperGlue is a graph neural network
that matches the keypoints of two images. Together they have {parameters:.1f} million parameters,
take {mib:.1f} MiB, and need {gmacs:.0f} billion multiply–accumulate operations (GMACs) for a
frame of {width}×{height} pixels and its match. That is too large and too slow for many cameras,
phones and browsers.

A *reference study* compressed this pair by pruning (weights become zero) and by quantization
(weights get fewer bits), and fine-tuned the results on warped photographs. Channel pruning cost
it {study_channel_loss:.0f} points of AUC@5, linear quantization gave zero, k-means
quantization was not finished, and nothing became faster on an ordinary processor.

This page repeats its experiments with {model}, and finds out why they failed. Each model is
compared with its own dense model, because the data and the evaluation of the study differ: it
left out pairs with fewer than 12 matches, and counted only the bits of non-zero weights.
"""

TERMS = """\
*AUC@5* is the area under the curve of pairs whose corner error is below a threshold, up to 5 px,
in percent; *precision* is the percentage of matches that are right, *recall* that of the possible
matches that are found ([metrics](reference/metrics.md)). A failed pair has an infinite error, and
a precision and recall of 0. All accuracies are those of {pairs} pairs of photographs: the second
image of each is warped by a homography, and its light is changed. Sessions do not search, and
guided matching is off: it would replace some of the matches that a model loses.
"""

GROWN = """\
The dense model was grown from smaller models ([training
log](experiments/training-balanced-dense.md)), so it may not use all of its capacity. A model
trained from scratch may be harder to compress.
"""

WHY_ZERO = """\
**Why did linear quantization give zero?** Rounding the weights to 8 bits is not the reason: with
one scale per tensor, minimum–maximum ranges and unfolded normalization it costs
{folding_loss:.1f} points of AUC@5. Two mistakes give zero, each alone: decoding codes without
their zero points (AUC@5 {zero_points:.1f}), and quantizing everything to 4 bits with one scale
per tensor ({four_bits:.1f}). A third one, quantizing the variances of batch normalization, leaves
a recall of {variances_recall:.0f} % (AUC@5 {variances:.1f}). Either of the first two would
explain the zero of the study; which mistake it made is not known.
[Details](#linear-quantization).
"""

NO_SCAN = """\
**Which layers must not be pruned?** The sensitivity scan has not scored enough layers yet to say.
"""

PRUNE_ANSWER = """\
**Which layers must not be pruned?** {text} [Details](#sensitivity-of-each-layer).
"""

PHONE = """\
**Which recipe fits a phone with 2 MB?** {text} [Recipes](#recipes).
"""

USE: Mapping[str, str] = {
    "fine-grained-superglue": "SuperPoint must stay as it is",
    "fine-grained-both": "as a step of a recipe",
    "channel-fine-grained": "never: structured pruning is smaller and faster",
    "linear-8": "four times smaller and faster, except in PyTorch",
    "kmeans-8": "never: 8-bit integers are as small and faster",
    "kmeans-6": "the least loss below 8 bits",
    "kmeans-5": "never: 4 bits with a codebook per channel lose less",
    "kmeans-4": "an eighth of the size, same architecture",
    "prune-kmeans-huffman": "the smallest file of the same architecture",
    "macs-25": "faster in every runtime, little loss",
    "macs-10": "fastest with floating point",
    "macs-10-linear-8": "the smallest file with few operations",
}

METHODS: Mapping[str, tuple[str, str]] = {
    "fine-grained": (
        "Fine-grained pruning",
        """\
*What it is.* The weights with the smallest magnitude become zero. The file stores the positions
and the values of the others. *The study* lost {study_a:.1f} points of AUC@5 with
{study_zeros:.0f} % of SuperGlue's weights at zero, and gained when it pruned both networks less,
which is chance. *Here* the same sparsities cost {ours_a:.1f} and {ours_b:.1f} points. *Why less:*
the dense model is the teacher of the pruned one, and the recipe chooses the match threshold
again, because a pruned matcher is less confident. A runtime for dense arrays multiplies by zeros
as by any number, so speed does not change.
""",
    ),
    "channels": (
        "Channel pruning",
        """\
*What it is.* Whole channels disappear, so that the arrays become smaller and every runtime
faster. *The study* lost {study_channel_loss:.0f} points of AUC@5. *Here* the same number of
parameters costs {ours_c:.1f} points. *Why:* each channel that disappears from the outputs of a
layer must also disappear from the inputs of every layer that reads it, and from its
normalization. The table removes a fifth of the channels of SuperPoint without fine-tuning. A
single misalignment leaves no accuracy. Even with aligned inputs, the channels of the smallest L2
norm are the wrong ones to remove. Those of the smallest Taylor importance, the effect of a channel
on the loss, cost {taylor_loss:.1f} points.
""",
    ),
    "linear": (
        "Linear quantization",
        """\
*What it is.* Weights and activations become integers with a scale. Runtimes compute with 8-bit
integers, which is faster. *The study* got zero. *Here* 8 bits cost {ours_linear:.1f} points of
AUC@5. *Why:* the table makes the mistakes one after the other, without fine-tuning, and then
removes one simplification per row, down to the default of `featherglue quantize`.
""",
    ),
    "kmeans": (
        "K-means quantization and Huffman coding",
        """\
*What it is.* All weights of a group of channels take one of 2^b values, a codebook. The file
stores b bits for each weight; Huffman coding stores frequent values in fewer bits, without loss.
*The study* did not finish it. *Here* 8, 6, 5 and 4 bits cost {k8:.1f}, {k6:.1f}, {k5:.1f} and
{k4:.1f} points of AUC@5. *Why 4 bits lose less than 5:* at 4 bits every channel of SuperPoint,
and every 16 channels of SuperGlue, have codebooks of their own; at 5 bits a layer has one.
Pruning before k-means makes zero the most frequent value, which Huffman coding stores in about
one bit: {huffman_ratio:.1f} times smaller at a loss of {huffman:.1f} points.
""",
    ),
    "structured": (
        "Structured pruning to a number of operations",
        """\
*What it is.* Channels, attention heads and layers are removed, first those with the least
importance per operation, until the given part of the operations is left. *The study* has no such
model. *Here* 25 % of the operations cost {m25:.1f} points of AUC@5, and 10 % cost {m10:.1f}.
These models are smaller networks of the same kind, so every runtime gains.
""",
    ),
}

FIGURE_6 = """\
Figure 6 shows why one scale per tensor is not enough. A grid has 2^b − 1 values between the
largest and the smallest weight. Where a few channels have much larger weights than the others,
all weights of the others lie between two lines and are rounded to zero. The *error* is the root
mean square of the rounding errors relative to that of the weights: in `{bad}` it is
{bad_tensor:.0f} % in 4 bits, and {bad_channel:.0f} % with one grid per channel. In `{good}`,
whose channels have equal ranges, it is {good_tensor:.0f} %. Folding batch normalization
multiplies each channel by its own factor and widens the ranges: the error of `{folded}` in 8 bits
grows from {unfolded:.1f} % to {tensor8:.1f} %, and one grid per channel reduces it to
{channel8:.1f} %. So fold first, and then use one scale per channel.
"""

VARIANCES = """\
The statistics of normalization are worse. The variances of `{norm}` range from {smallest:.2g} to
{largest:.2g}. With one scale in 8 bits, {zeros:.0f} % of them become zero, and the network
divides by their square root.
"""

SCAN = """\
Each layer alone is pruned or quantized, without fine-tuning, and the model is scored on {pairs}
pairs with {keypoints} keypoints. The loss is that of the mean of AUC@5, AUC@10, AUC@25, precision
and recall. Bars are 95 % bootstrap intervals over the pairs: a gain whose bar reaches zero is
chance. *Unrefined* matches are those of the keypoints, *refined* ones have subpixel accuracy;
refinement hides a loss of accuracy of the keypoints. In the figures, *kenc* is the encoder of the
keypoints, and *gnn* a layer of attention, with its projections of query, key and value, their
*merge*, and its multilayer perceptron *mlp*. {progress}
"""

ALLOCATION = """\
The scan gives a pruning ratio to each layer, so that the sum of the losses is smallest for a
given number of zeros. The table compares it with one ratio for all scanned layers, without
fine-tuning. It shows the loss of the mean score with its interval.
"""

RECIPES = """\
A recipe is a file that `featherglue compress` accepts. Recipes with the step `finetune` need
photographs for training; calibration needs about 48 photographs.

```bash
featherglue compress --model checkpoints/dense --recipe RECIPE.toml \
--images PHOTOS --calibration-images PHOTOS -o small/
featherglue info --model small/ --baseline checkpoints/dense
```
"""

SPEED = """\
*GMACs* counts every multiplication of a frame and its match; *without zeros* leaves out those by
zero weights, which only special kernels can skip. *ms* is the time of a frame of {width}×{height}
pixels and its match with the previous frame, with 512 keypoints. All models of a runtime take
turns. The time depends on the architecture and on the bits that a runtime computes with, not on the
values of weights, so fine-tuning does not change it. PyTorch emulates 8-bit integers with floats,
which takes longer. {origins}
"""

FIGURE_3 = """\
In Figure 3, *SuperPoint* is the network without the choice of keypoints, and *SuperGlue* the
network without the iterations of Sinkhorn. The time of SuperPoint does not depend on the number of
keypoints. That of SuperGlue grows faster than the number, because each keypoint attends to all
others. Figure 3 was measured {where}; with 2048 keypoints in 2 turns, with 4096 in one.
"""
