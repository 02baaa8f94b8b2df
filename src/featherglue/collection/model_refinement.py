"""The last bundle adjustment of a sparse model, with a robust loss.

COLMAP's mapper minimizes squared reprojection errors. A few wrong or inaccurate observations then
bend the whole model. Here the squares are replaced by Cauchy's loss, whose scale is the median
reprojection error of the points. Afterward the observations that contradict the model are removed.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from featherglue.io.pycolmap_ import require_pycolmap

_MIN_SCALE = 0.01  # px, of the loss
_MAX_REFINEMENTS = 3  # adjustments, each with new and without wrong observations
_MAX_CHANGE = 5e-4  # share of changed observations that ends the refinements
_MIN_LIMIT = 0.5  # of a reprojection error, as a fraction of the limit of the mapper, 4 px
_LIMIT_PER_ERROR = 3.0  # of a reprojection error, per median error
_LEAST_PROGRESS = 1e-4  # relative decrease of the loss that ends an adjustment


def refine_model(database: str | os.PathLike[str], model: Any, options: Any) -> None:
    """Refine all cameras and points of a model, in place.

    Args:
        database: that the model was made from.
        model: a `pycolmap.Reconstruction`.
        options: the `pycolmap.IncrementalPipelineOptions` that it was made with.
    """
    pycolmap = require_pycolmap()
    model.update_point_3d_errors()
    errors = [point.error for point in model.points3D.values()]
    if not errors:
        return
    adjustment = options.get_global_bundle_adjustment()
    adjustment.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    adjustment.ceres.loss_function_scale = max(float(np.median(errors)), _MIN_SCALE)
    adjustment.ceres.solver_options.function_tolerance = _LEAST_PROGRESS
    selected = pycolmap.DatabaseCacheOptions()
    selected.min_num_matches = options.min_num_matches
    with pycolmap.Database.open(database) as opened:
        cache = pycolmap.DatabaseCache.create(opened, selected)
    mapper = pycolmap.IncrementalMapper(cache)
    mapper.begin_reconstruction(model)
    mapper.iterative_global_refinement(
        _MAX_REFINEMENTS,
        _MAX_CHANGE,
        options.get_mapper(),
        adjustment,
        options.get_triangulation(),
    )
    mapper.end_reconstruction(False)
    _remove_wrong_observations(pycolmap, model, options.get_mapper())


def _remove_wrong_observations(pycolmap: Any, model: Any, options: Any) -> None:
    """Remove observations with large reprojection errors; cameras and other points stay.

    The mapper allows 4 px, of the shrunk images if features are from these. That is far from the
    errors of a model of sharp photographs, which the robust loss leaves as they are.
    """
    errors = [point.error for point in model.points3D.values()]
    if errors:
        most = options.filter_max_reproj_error
        limit = max(_MIN_LIMIT * most, _LIMIT_PER_ERROR * float(np.median(errors)))
        limit = min(limit, most)
        pycolmap.ObservationManager(model).filter_all_points3D(limit, options.filter_min_tri_angle)
    model.update_point_3d_errors()
