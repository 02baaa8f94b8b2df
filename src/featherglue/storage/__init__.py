"""How tensors become bytes: quantized codes, packed or Huffman-coded, with zeros left out."""
