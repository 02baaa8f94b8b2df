/** Records a canvas as a video file of the user. */
import { download } from "../ui/dom";

const FRAMES_PER_SECOND = 30;

export class Recorder {
  private recorder: MediaRecorder | null = null;

  get active(): boolean {
    return this.recorder !== null;
  }

  /** @throws Error: the browser cannot record */
  start(canvas: HTMLCanvasElement): void {
    if (typeof MediaRecorder === "undefined" || !("captureStream" in canvas)) {
      throw new Error("This browser cannot record a canvas.");
    }
    const parts: Blob[] = [];
    const recorder = new MediaRecorder(canvas.captureStream(FRAMES_PER_SECOND));
    recorder.ondataavailable = ({ data }) => parts.push(data);
    recorder.onstop = () => {
      const type = recorder.mimeType || "video/webm";
      download(new Blob(parts, { type }), `featherglue.${type.includes("mp4") ? "mp4" : "webm"}`, type);
    };
    recorder.start();
    this.recorder = recorder;
  }

  /** Stop, and save the file. */
  stop(): void {
    this.recorder?.stop();
    this.recorder = null;
  }
}
