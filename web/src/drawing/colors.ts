/** Colors of confidences: blue (0), green, yellow, red (1); others are clipped. */
const STOPS = [
  [70, 107, 227],
  [40, 187, 236],
  [49, 242, 153],
  [162, 252, 60],
  [237, 208, 58],
  [251, 128, 34],
  [210, 49, 5],
];

export function confidenceColor(confidence: number): string {
  const place = Math.min(Math.max(confidence, 0), 1) * (STOPS.length - 1);
  const low = Math.min(Math.floor(place), STOPS.length - 2);
  const mixed = STOPS[low].map((value, i) =>
    Math.round(value + (place - low) * (STOPS[low + 1][i] - value)),
  );
  return `rgb(${mixed.join(" ")})`;
}
