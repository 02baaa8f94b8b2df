"""Encodings of tensors: quantized (linear, codebook), sparse, bit-packed and Huffman-coded."""

from featherglue.artifact.encodings.codebook_tensor import CodebookTensor as CodebookTensor
from featherglue.artifact.encodings.encoding import Encoding as Encoding
from featherglue.artifact.encodings.encoding import Quantization as Quantization
from featherglue.artifact.encodings.linear_tensor import LinearTensor as LinearTensor
from featherglue.artifact.encodings.parts import FloatType as FloatType
from featherglue.artifact.encodings.parts import Parts as Parts
from featherglue.artifact.encodings.parts import group_of as group_of
