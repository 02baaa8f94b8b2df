"""Many images: lists of pairs, folders of frames, and reconstruction with COLMAP.

`reconstruction` calls the steps: `extraction`, `pair_selection`, `store_matching`, `adjustment`,
`colmap_export` and `mapping`.
"""
