import type { TrackedFrame } from "./tracker";

const WINDOW_MS = 1000;

/** Mean times of the stages, once a second. */
export class FrameStatistics {
  private sums = new Array<number>(6).fill(0);
  private count = 0;
  private since: number | null = null;

  reset(): void {
    this.sums.fill(0);
    this.count = 0;
    this.since = null;
  }

  /**
   * Add a frame.
   *
   * @returns once a second: times of copy, gray, extraction, matching, homography and drawing in ms,
   *   and frames per second; otherwise null
   */
  add(now: number, { grabTime, result }: TrackedFrame, drawTime: number): number[] | null {
    if (this.since === null) {
      this.since = now; // the first frame starts the clock
      return null;
    }
    const times = result?.times ?? { gray: 0, extract: 0, match: 0, geometry: 0 };
    const { gray, extract, match, geometry } = times;
    [grabTime, gray, extract, match, geometry, drawTime].forEach((time, i) => (this.sums[i] += time));
    this.count++;
    const passed = now - this.since;
    if (passed < WINDOW_MS) return null;
    const mean = this.sums.map((sum) => sum / this.count);
    const rate = (1000 * this.count) / passed;
    this.reset();
    this.since = now;
    return [...mean, rate];
  }
}
