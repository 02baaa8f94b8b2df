/**
 * Solve a square linear system by Gaussian elimination with partial pivoting.
 *
 * @param a coefficients (n × n), row by row; overwritten
 * @param b right-hand side (n); overwritten by the solution
 * @returns false if the system is singular; `b` is then undefined
 */
export function solveInPlace(a: Float64Array, b: Float64Array): boolean {
  const n = b.length;
  for (let column = 0; column < n; column++) {
    let pivot = column;
    for (let row = column + 1; row < n; row++) {
      if (Math.abs(a[row * n + column]) > Math.abs(a[pivot * n + column])) pivot = row;
    }
    if (!(Math.abs(a[pivot * n + column]) > 1e-12)) return false; // also NaN
    if (pivot !== column) swapRows(a, b, pivot, column);
    const inverse = 1 / a[column * n + column];
    for (let row = column + 1; row < n; row++) {
      const factor = a[row * n + column] * inverse;
      if (factor === 0) continue;
      for (let k = column; k < n; k++) a[row * n + k] -= factor * a[column * n + k];
      b[row] -= factor * b[column];
    }
  }
  for (let row = n - 1; row >= 0; row--) {
    let sum = b[row];
    for (let k = row + 1; k < n; k++) sum -= a[row * n + k] * b[k];
    b[row] = sum / a[row * n + row];
  }
  return true;
}

function swapRows(a: Float64Array, b: Float64Array, first: number, second: number): void {
  const n = b.length;
  for (let k = 0; k < n; k++) {
    const value = a[first * n + k];
    a[first * n + k] = a[second * n + k];
    a[second * n + k] = value;
  }
  [b[first], b[second]] = [b[second], b[first]];
}
