"""Matching many images: lists of pairs and folders of frames."""
