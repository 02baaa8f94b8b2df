/** Tabs with arrow keys, as WAI-ARIA describes them; the address has the name of the tab. */
export function connectTabs(list: HTMLElement, onShow: (name: string) => void): void {
  const tabs = [...list.querySelectorAll<HTMLElement>("[role=tab]")];
  const nameOf = (tab: HTMLElement) => tab.id.replace(/^tab-/, "");
  const select = (tab: HTMLElement, focus: boolean) => {
    for (const other of tabs) {
      const chosen = other === tab;
      other.setAttribute("aria-selected", String(chosen));
      other.tabIndex = chosen ? 0 : -1;
      document.getElementById(`panel-${nameOf(other)}`)!.hidden = !chosen;
    }
    if (focus) tab.focus();
    history.replaceState(null, "", `#${nameOf(tab)}`);
    onShow(nameOf(tab));
  };
  list.addEventListener("click", (event) => {
    const tab = (event.target as HTMLElement).closest<HTMLElement>("[role=tab]");
    if (tab) select(tab, false);
  });
  list.addEventListener("keydown", (event) => {
    const at = tabs.indexOf(document.activeElement as HTMLElement);
    const targets: Record<string, number> = {
      ArrowRight: (at + 1) % tabs.length,
      ArrowLeft: (at - 1 + tabs.length) % tabs.length,
      Home: 0,
      End: tabs.length - 1,
    };
    if (at < 0 || !(event.key in targets)) return;
    event.preventDefault();
    select(tabs[targets[event.key]], true);
  });
  select(tabs.find((tab) => `#${nameOf(tab)}` === location.hash) ?? tabs[0], false);
}
