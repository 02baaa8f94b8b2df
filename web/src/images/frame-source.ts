/** Frames of a camera or of a video file. */

/** The message is for the user. */
export class VideoError extends Error {
  override name = "VideoError";
}

const CAMERA_ERRORS: Record<string, string> = {
  NotAllowedError:
    "The camera is not allowed. Allow it in the browser's settings for this page, or choose a video file.",
  NotFoundError: "No camera found. Connect one, or choose a video file.",
  OverconstrainedError: "No camera found. Connect one, or choose a video file.",
  NotReadableError: "The camera does not answer. Close other programs that use it.",
};
const STEP_SECONDS = 1 / 30;

export class FrameSource {
  /** Is called when the camera is disconnected. */
  onEnded: () => void = () => {};
  /** Number of frames that have been shown. */
  private shown = 0;
  private taken = 0;
  private wake: (() => void) | null = null;
  private closed = false;
  private canceled = false;

  private constructor(
    readonly video: HTMLVideoElement,
    private readonly stream: MediaStream | null,
    private readonly url: string | null,
  ) {
    this.watch();
    for (const track of stream?.getTracks() ?? []) {
      track.addEventListener("ended", () => this.onEnded());
    }
  }

  /** @throws VideoError: no camera, or not allowed */
  static async camera(): Promise<FrameSource> {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new VideoError("The camera needs a page over https or on localhost.");
    }
    let stream: MediaStream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({
        audio: false,
        video: {
          facingMode: "environment",
          width: { ideal: 640 },
          height: { ideal: 480 },
          frameRate: { ideal: 60 },
        },
      });
    } catch (error) {
      const { name, message } = error as DOMException;
      throw new VideoError(CAMERA_ERRORS[name] ?? `The camera cannot be used: ${message}`);
    }
    const video = newVideo();
    video.srcObject = stream;
    return FrameSource.start(video, stream, null);
  }

  /** @throws VideoError: the browser cannot play the file */
  static async file(file: File): Promise<FrameSource> {
    const url = URL.createObjectURL(file);
    const video = newVideo();
    video.loop = true;
    video.src = url;
    try {
      return await FrameSource.start(video, null, url);
    } catch {
      URL.revokeObjectURL(url);
      throw new VideoError(
        `${file.name}: not a video that this browser plays, or damaged. Use MP4 (H.264) or WebM.`,
      );
    }
  }

  private static async start(video: HTMLVideoElement, stream: MediaStream | null, url: string | null) {
    await video.play();
    return new FrameSource(video, stream, url);
  }

  get isFile(): boolean {
    return this.url !== null;
  }

  /** Whether a frame has been shown since the last one that was taken; takes it. */
  take(): boolean {
    const isNew = this.shown > this.taken && !this.closed;
    this.taken = this.shown;
    return isNew;
  }

  /** Wait for a frame that is newer than the last one; false if closed or canceled. */
  async next(): Promise<boolean> {
    this.canceled = false;
    while (!this.take()) {
      if (this.closed || this.canceled) return false;
      await new Promise<void>((wake) => (this.wake = wake));
    }
    return true;
  }

  /** End a wait in progress. */
  cancel(): void {
    this.canceled = true;
    this.wake?.();
  }

  /** Stop or continue a file; a camera goes on. */
  setPaused(paused: boolean): void {
    if (!this.isFile) return;
    if (paused) this.video.pause();
    else void this.video.play();
  }

  /** Show the next frame of a paused file. */
  async step(): Promise<void> {
    if (!this.isFile) return;
    const { video } = this;
    const sought = new Promise((done) => video.addEventListener("seeked", done, { once: true }));
    const next = video.currentTime + STEP_SECONDS;
    video.currentTime = next < video.duration ? next : 0;
    await sought;
    this.shown++;
  }

  close(): void {
    this.closed = true;
    this.video.pause();
    this.stream?.getTracks().forEach((track) => track.stop());
    if (this.url) URL.revokeObjectURL(this.url);
    this.wake?.();
  }

  private watch(): void {
    const { video } = this;
    const exact = typeof video.requestVideoFrameCallback === "function";
    let lastTime = -1;
    const wait = () => {
      if (exact) video.requestVideoFrameCallback(frame);
      else requestAnimationFrame(frame);
    };
    const frame = () => {
      if (this.closed) return;
      if (exact || video.currentTime !== lastTime) {
        lastTime = video.currentTime;
        this.shown++;
        this.wake?.();
      }
      wait();
    };
    wait();
  }
}

function newVideo(): HTMLVideoElement {
  const video = document.createElement("video");
  video.muted = true;
  video.playsInline = true;
  return video;
}
