"use strict";
(() => {
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];

  // Tables: clicking a heading sorts by its column, clicking it again reverses the order.
  const key = (cell) => (cell.dataset.key === undefined ? cell.textContent.trim() : Number(cell.dataset.key));
  const compare = (a, b) => {
    const numbers = typeof a === "number" && typeof b === "number";
    if (numbers) return a - b;
    return typeof a === typeof b ? a.localeCompare(b, "en", { numeric: true }) : typeof a === "number" ? -1 : 1;
  };
  for (const button of all("table.sortable .sort")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const body = head.closest("table").tBodies[0];
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      const rows = [...body.rows].sort((a, b) => sign * compare(key(a.cells[head.cellIndex]), key(b.cells[head.cellIndex])));
      for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      body.append(...rows);
    });
  }

  // Code: pages opened as local files may lack access to the clipboard API, hence the fallback.
  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  };
  for (const button of all(".copy")) {
    button.addEventListener("click", async () => {
      await copy(button.closest("figure").querySelector("code").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }

  // Galleries: one group at a time, details in a dialog.
  for (const button of all(".gallery .choice")) {
    button.addEventListener("click", () => {
      const gallery = button.closest(".gallery");
      for (const other of all(".choice", gallery)) other.setAttribute("aria-pressed", String(other === button));
      for (const item of all("[data-groups]", gallery)) {
        item.hidden = !item.dataset.groups.split(" ").includes(button.dataset.group);
      }
    });
  }
  for (const button of all("[data-dialog]")) {
    button.addEventListener("click", () => document.getElementById(button.dataset.dialog).showModal());
  }
  for (const dialog of all("dialog")) {
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  }

  // Side columns: open in a wide window, closed where they would push the rest down.
  const narrow = matchMedia("(max-width: 56rem)");
  const fold = () => { for (const side of all("details.side")) side.open = !narrow.matches; };
  narrow.addEventListener("change", fold);
  fold();

  // Contents: the section in view.
  const links = new Map(all(".contents a").map((link) => [link.hash.slice(1), link]));
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-10% 0px -80% 0px" });
  for (const section of all("main > section")) watcher.observe(section);

  // Bokeh reads its colours from the style sheet when it draws: draw again when the scheme changes.
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    if (typeof Bokeh === "undefined") return;
    for (const doc of Bokeh.documents) {
      for (const model of doc._all_models.values()) Bokeh.index.find_one(model)?.request_repaint?.();
    }
  });
})();
