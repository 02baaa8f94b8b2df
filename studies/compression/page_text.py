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
(weights get fewer bits), and fine-tuned the results on warped photographs. Pruning the channels of
SuperPoint and half of the weights of SuperGlue cost it {study_channel_loss:.0f} of a hundred points
of accuracy (AUC@5, defined below), linear quantization left an accuracy of zero, k-means
quantization was not finished, and nothing became faster on an ordinary processor.

This page repeats its experiments with {model}, and finds out why they failed. It is called *dense*
because no weight of it has been removed. Each compressed model is compared with its own dense
model, because the data and the evaluation of the study differ: it left out pairs with fewer than
12 matches, and counted only the bits of non-zero weights.
"""

TERMS = """\
Each pair is a photograph and its copy, warped by a homography, with changed light. RANSAC estimates
the homography from the matches of a model. The *corner error* is the mean distance between the
four image corners under the estimated and under the true homography. For each threshold up to 5 px,
take the fraction of pairs whose corner error is below it: *AUC@5* is the mean of this fraction, in
percent. *Precision* is the percentage of matches that are right, *recall* that of the possible
matches that are found ([metrics](reference/metrics.md)). A failed pair has an infinite error, and a
precision and recall of 0. Tables 1a and 1b are measured on {pairs} pairs, with up to 1024 keypoints
in an image; the other tables state their number. Times are those of 512 keypoints. Search over
rotation and scale, and guided matching, are off: they would replace some of the matches that a
model loses.
"""

GROWN = """\
The dense model was grown from smaller models ([training
log](experiments/training-balanced-dense.md)), so it may not use all of its capacity. A model
trained from scratch may be harder to compress.
"""

WHY_ZERO = """\
**Why did linear quantization leave an accuracy of zero?** Rounding the weights to 8 bits is not
the reason: in the simplest way, with one scale for each array from its smallest and largest value
and with normalization as layers of their own, it costs {folding_loss:.1f} points of AUC@5. Two
mistakes give zero, each alone: decoding codes without their zero points, the integers that stand
for 0.0 (AUC@5 {zero_points:.1f}), and quantizing everything to 4 bits with one scale for each array
({four_bits:.1f}). A third one, quantizing the variances of batch normalization, leaves a recall of
{variances_recall:.0f} % (AUC@5 {variances:.1f}). Either of the first two would explain the zero of
the study; which mistake it made is not known. [Details](#linear-quantization).
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

CALIBRATION = """\
Calibration photographs determine the importance of channels and weights (Taylor), the ranges of
activations, and new match thresholds.
"""

USE: Mapping[str, str] = {
    "fine-grained-superglue": "SuperPoint must stay as it is",
    "fine-grained-both": "as a step of a recipe",
    "channel-fine-grained": "never: structured pruning is smaller and faster",
    "linear-8": "a quarter of the size and twice as fast, except in PyTorch",
    "kmeans-8": "never: 8-bit integers are as small and faster",
    "kmeans-6": "a sixth of the size, with one codebook for each layer",
    "kmeans-5": "never: 4 bits with more codebooks are smaller",
    "kmeans-4": "an eighth of the size, same architecture",
    "prune-kmeans-huffman": "the smallest file of the same architecture",
    "macs-25": "faster in every runtime, little loss",
    "macs-10": "fastest with floating point",
    "macs-10-linear-8": "the smallest and fastest",
}

GLANCE = """\
*Fine-grained* pruning sets single weights to zero; *channel* pruning removes whole channels of
SuperPoint; *structured* pruning removes channels, attention heads and layers until the given part
of the multiply–accumulate operations (MACs) is left. *Linear* quantization stores integers with a
scale, *k-means* a codebook of few values; *Huffman* coding stores frequent values in fewer bits.
*Times faster* is the ratio of the times in ONNX Runtime, measured in one run.
"""

METHODS: Mapping[str, tuple[str, str]] = {
    "fine-grained": (
        "Fine-grained pruning",
        """\
*What it is.* The weights with the smallest magnitude become zero. The file stores the positions
and the values of the others. *The study* lost {study_a:.1f} points of AUC@5 with
{study_zeros:.0f} % of SuperGlue's weights at zero, and gained {study_gain:.1f} when it pruned both
networks, SuperGlue less. *Here* the same sparsities cost {ours_a:.1f} and {ours_b:.1f} points.
*Why less:* before fine-tuning, they cost only {before_a:.1f} and {before_b:.1f} points, because
the dense model has more weights than it needs, and because the positions of matches are refined on
the images. Fine-tuning with the dense model as teacher recovers a part. A pruned matcher is less
confident, so the recipe for SuperGlue chooses the match threshold again. A runtime for dense arrays
multiplies by zeros as by any number, so speed does not change.
""",
    ),
    "channels": (
        "Channel pruning",
        """\
*What it is.* Whole channels disappear, so that the arrays become smaller and every runtime
faster. *The study* lost {study_channel_loss:.0f} points of AUC@5; half of SuperGlue's weights
were zero as well. *Here* the same number of parameters costs {ours_c:.1f} points. *Why:* each
channel that disappears from the outputs of a layer must also disappear from the inputs of every
layer that reads it, and from its normalization. The table removes a fifth of the channels of
SuperPoint without fine-tuning. Those of the smallest Taylor importance, the effect of a channel on
the loss, cost {taylor_loss:.1f} points. {mistakes} The choice of channels matters as much: those of
the smallest L2 norm (AUC@5 {norm:.1f}) are the wrong ones to remove here, because this model was
grown from a smaller one, and its added channels have large weights but little effect.
""",
    ),
    "linear": (
        "Linear quantization",
        """\
*What it is.* Weights and activations become integers with a scale. Runtimes compute with 8-bit
integers, which is faster. *The study* was left with zero. *Here* 8 bits cost {ours_linear:.1f}
points of AUC@5. *Why:* the table makes the mistakes one after the other, without fine-tuning, and
then removes one simplification per row, down to the default of `featherglue quantize`. On so few
pairs, differences of AUC@5 of one or two points are chance. Recall shows the gain of a row: the
first and last layers must keep floating point, with which it rises from {recall_all:.0f} to
{recall_inner:.0f} %.
""",
    ),
    "kmeans": (
        "K-means quantization and Huffman coding",
        """\
*What it is.* All weights of a group of channels take one of 2^b values, a codebook. The file
stores b bits for each weight; Huffman coding stores frequent values in fewer bits, without loss.
*The study* did not finish it. *Here* 8, 6, 5 and 4 bits cost {k8:.1f}, {k6:.1f}, {k5:.1f} and
{k4:.1f} points of AUC@5. With 4 bits every channel of SuperPoint, and every 16 channels of
SuperGlue, have codebooks of their own, and the match threshold is chosen again; with 5 bits and
more a layer has one codebook, and the threshold stays. Pruning before k-means leaves few values
to store. Their positions are the lengths of the runs of zeros between them, and Huffman coding
compresses both: {huffman_ratio:.1f} times smaller at a loss of {huffman:.1f} points.
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
Figure 6 shows what one scale per tensor does. A grid has 2^b − 1 values between the largest and the
smallest weight. Where a few channels have much larger weights than the others, most weights of the
others lie within half a step of zero, and become zero. The *error* is the root mean square of the
rounding errors relative to that of the weights: in `{bad}` it is {bad_tensor:.0f} % in 4 bits, and
{bad_channel:.0f} % with one grid per channel. In `{good}`, whose channels have equal ranges, it is
{good_tensor:.0f} %. Folding batch normalization multiplies each channel by its own factor. That can
widen the ranges: the error of `{folded}` in 8 bits grows from {unfolded:.1f} % to {tensor8:.1f} %,
the largest increase; it grows in {num_grown} of {num_normalized} layers with normalization. One
grid per channel reduces it to {channel8:.1f} %, and every layer's to {most_channel8:.1f} % or less.
"""

VARIANCES = """\
The statistics of normalization are worse. The variances of `{norm}` range from {smallest:.2g} to
{largest:.2g}. With one scale in 8 bits, {zeros:.0f} % of them become zero, and the network
divides by their square root.
"""

SCAN = """\
Each layer alone is pruned by the magnitude of its weights, or quantized by k-means, without
fine-tuning, and the model is scored on {pairs} pairs with {keypoints} keypoints. The loss is that
of the mean of AUC@5, AUC@10, AUC@25, precision and recall. Bars are 95 % bootstrap intervals over
the pairs: a loss or gain whose bar includes zero may be chance. *Unrefined* matches are those of
the keypoints, *refined* ones have subpixel accuracy; refinement hides inaccurate keypoints, but
not missing ones. The figures in the order of the network and by level show unrefined matches.
*conv1a* to *conv4b* are the encoder of SuperPoint, *convPa* and *convPb* its detector, *convDa*
and *convDb* its descriptor; *kenc* is the encoder of the keypoints, and *gnn* a layer of
attention, with its projections of query, key and value, their *merge*, and its multilayer
perceptron *mlp*. {progress}
"""

FINDINGS = """\
**What the scan shows.** {prune} {codebook} The first layer sees the photograph itself, and the last
layer of the detector decides which pixels are keypoints: nothing after them can repair an error.
The many layers of SuperGlue add their results to those of the layers before, so each of them
matters less.
"""

ALLOCATION = """\
The scan gives a pruning ratio to each layer, so that the sum of the losses is smallest for a
given number of zeros. The table compares it with one ratio for all scanned layers, without
fine-tuning. It shows the loss of the mean score, in points, with its interval. {gain}
"""

RECIPES = """\
A recipe is a file that `featherglue compress` accepts. The step `finetune` trains on photographs
and keeps its runs in a folder; calibration takes 48 photographs here. The study also sets what
`studies/compression/finetune.toml` contains, and fine-tunes for the steps of Table 1c instead of
those of the recipe, so a recipe alone gives another model of the same size.

```bash
featherglue compress --model checkpoints/dense --recipe RECIPE.toml --images PHOTOS \
--runs runs/small --calibration-images PHOTOS --num-calibration-images 48 -o small/
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
keypoints, so it is measured once. That of SuperGlue grows faster than the number, because each
keypoint attends to all others. SIFT and XFeat are in both panels: their extraction, and their
matching by nearest neighbors. Figure 3 was measured {where}{fewer}.
"""
