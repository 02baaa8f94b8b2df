"""The pipeline of a match: keypoints, assignment, consensus, refinement and search."""
