/** A place for one photograph: drop, choose or paste. */
import { PhotoError, readPhoto, type Photo } from "../images/photo";

export class PhotoSlot {
  photo: Photo | null = null;
  private readonly input: HTMLInputElement;
  private readonly preview: HTMLElement;
  private readonly caption: HTMLElement;

  constructor(
    readonly element: HTMLElement,
    private readonly onPhoto: () => void,
    private readonly onError: (error: unknown) => void,
  ) {
    this.input = element.querySelector("input")!;
    this.preview = element.querySelector(".preview")!;
    this.caption = element.querySelector(".caption")!;
    this.input.addEventListener("change", () => {
      void this.read(this.input.files);
      this.input.value = ""; // the same file can be chosen again
    });
    element.addEventListener("dragover", (event) => {
      event.preventDefault();
      element.classList.add("over");
    });
    element.addEventListener("dragleave", () => element.classList.remove("over"));
    element.addEventListener("drop", (event) => {
      event.preventDefault();
      event.stopPropagation();
      element.classList.remove("over");
      void this.read(event.dataTransfer?.files ?? null);
    });
  }

  async read(files: ArrayLike<File> | null): Promise<void> {
    if (!files || files.length === 0) return;
    try {
      this.set(await readPhoto(files[0], files[0].name || "pasted image"));
      this.onPhoto();
    } catch (error) {
      this.onError(error);
    }
  }

  /** Show an image of the site, without a call of `onPhoto`. */
  async readUrl(url: string, name: string): Promise<void> {
    const response = await fetch(url);
    if (!response.ok) throw new PhotoError(`${name} cannot be loaded (${response.status}).`);
    this.set(await readPhoto(await response.blob(), name));
  }

  set(photo: Photo): void {
    this.photo = photo;
    this.preview.replaceChildren(photo.canvas);
    photo.canvas.setAttribute("role", "img");
    photo.canvas.setAttribute("aria-label", photo.name);
    this.caption.textContent = `${photo.name}, ${photo.width}×${photo.height} px`;
    this.element.classList.add("filled");
  }
}
