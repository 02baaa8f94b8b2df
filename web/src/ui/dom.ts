/** The element of the page with an id. @throws Error: missing, or of another kind */
export function byId<T extends HTMLElement>(id: string, kind: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`The page has no ${kind.name} #${id}.`);
  return found;
}

/** Save bytes or text as a file of the user. */
export function download(content: BlobPart | Blob, name: string, type: string): void {
  const blob = content instanceof Blob ? content : new Blob([content], { type });
  const url = URL.createObjectURL(blob);
  const link = Object.assign(document.createElement("a"), { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** A slider whose value is shown beside it. */
export class Slider {
  private readonly input: HTMLInputElement;
  private readonly output: HTMLOutputElement;

  constructor(
    id: string,
    onChange: (value: number) => void,
    private readonly format: (value: number) => string = String,
    immediate = false,
  ) {
    this.input = byId(id, HTMLInputElement);
    this.output = byId(`${id}-value`, HTMLOutputElement);
    this.input.addEventListener("input", () => {
      this.print();
      if (immediate) onChange(this.value);
    });
    if (!immediate) this.input.addEventListener("change", () => onChange(this.value));
    this.print();
  }

  get value(): number {
    return Number(this.input.value);
  }

  set value(value: number) {
    this.input.value = String(value);
    this.print();
  }

  set max(value: number) {
    this.input.max = String(value);
    this.print();
  }

  private print(): void {
    const text = this.format(this.value);
    this.output.value = text;
    this.input.setAttribute("aria-valuetext", text);
  }
}

/** Buttons of one choice, marked by `aria-pressed`. */
export function choice(container: HTMLElement, onChoose: (value: string) => void): void {
  const buttons = [...container.querySelectorAll("button")];
  for (const button of buttons) {
    button.addEventListener("click", () => {
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      onChoose(button.value);
    });
  }
}

/** Fill a list of names, keeping its choice where possible. */
export function fillSelect(select: HTMLSelectElement, names: string[]): void {
  const chosen = select.value;
  select.replaceChildren(...names.map((name) => new Option(name, name)));
  if (names.includes(chosen)) select.value = chosen;
}

/** Show numbers in the only row of a table, with one decimal. */
export function fillRow(table: HTMLElement, values: number[]): void {
  const cells = values.map((value) => {
    const cell = document.createElement("td");
    cell.textContent = value.toFixed(1);
    return cell;
  });
  table.querySelector("tbody tr")?.replaceChildren(...cells);
}
