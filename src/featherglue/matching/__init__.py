"""The pipeline of a match: keypoints, assignment, consensus and subpixel refinement."""
