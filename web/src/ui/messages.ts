/** The line that says what happens, and the one that says what went wrong. */
import { byId } from "./dom";

/** Say what happens; screen readers read it. */
export function status(text: string): void {
  byId("status", HTMLElement).textContent = text;
}

/** Show an error until it is closed or the next action succeeds. */
export function showError(error: unknown): void {
  const text = error instanceof Error ? error.message : String(error);
  byId("error-text", HTMLElement).textContent = text;
  byId("error", HTMLElement).hidden = false;
  status("");
}

export function clearError(): void {
  byId("error", HTMLElement).hidden = true;
}
