"use strict";
window.browseTiles = (channel) => {
  const byId = (id) => document.getElementById(id);
  const form = byId("filters");
  const numbers = new Intl.NumberFormat("en");
  let asked = 0;
  const ask = (what) => { channel.ask = JSON.stringify({ ...what, number: ++asked }); };

  // The form as a query; the two shares become one condition, empty fields are none.
  const queryOfForm = () => {
    const data = new FormData(form);
    const query = new URLSearchParams();
    for (const [name, value] of data) {
      if (value !== "" && name !== "low" && name !== "high") query.append(name, value);
    }
    const low = data.get("low") === "" ? 0 : Number(data.get("low"));
    const high = data.get("high") === "" ? 100 : Number(data.get("high"));
    if (low > 0 || high < 100) query.set("observed", `${low / 100}:${high / 100}`);
    return query.toString();
  };
  const formOfQuery = (text) => {
    const query = new URLSearchParams(text);
    for (const box of form.querySelectorAll("input[type=checkbox]")) {
      box.checked = query.getAll(box.name).includes(box.value);
    }
    for (const name of ["from", "to"]) form.elements[name].value = query.get(name) ?? "";
    const [low, high] = (query.get("observed") ?? "0:1").split(":").map(Number);
    form.elements.low.value = low > 0 ? String(Math.round(100 * low)) : "";
    form.elements.high.value = high < 1 ? String(Math.round(100 * high)) : "";
  };
  const send = () => { channel.query = queryOfForm(); };
  form.addEventListener("change", send);
  form.addEventListener("submit", (event) => { event.preventDefault(); send(); });
  form.addEventListener("reset", () => setTimeout(send));

  const fill = (facet, counts) => {
    const most = Math.max(1, ...counts);
    const rows = form.querySelectorAll(`[data-facet="${facet}"] .choice-row`);
    rows.forEach((row, number) => {
      row.querySelector(".tiles").textContent = numbers.format(counts[number]);
      row.style.setProperty("--share", counts[number] / most);
    });
  };
  const showSelection = () => {
    const found = JSON.parse(channel.selection);
    byId("count").textContent = `${numbers.format(found.count)} of ${numbers.format(found.total)} tiles`;
    for (const [facet, counts] of Object.entries(found.facets)) fill(facet, counts);
    fill("has", found.has);
    byId("ids").href = byId("ids").href.split("?")[0] + (found.query ? `?${found.query}` : "");
    byId("ids").textContent = `Download ids.txt (${numbers.format(found.count)})`;
    if (byId("command")) byId("command").textContent = found.command;
    if (found.query !== queryOfForm()) formOfQuery(found.query);
    history.replaceState(null, "", found.query ? `?${found.query}` : location.pathname);
  };

  const showTile = () => {
    const found = JSON.parse(channel.tile);
    if (found.id) byId("id").value = found.id;
    byId("tile").innerHTML = found.html;
  };
  const put = (id, html) => { if (byId(id)) byId(id).innerHTML = html; };
  const on = (name, act) => channel.properties[name].change.connect(act);
  on("selection", showSelection);
  on("tile", showTile);
  on("figure", () => put("figure", channel.figure));
  on("neighbours", () => put("neighbours", channel.neighbours));
  const showView = () => {
    const found = JSON.parse(channel.shown);
    byId("shown").textContent = found.text;
    byId("ramp").hidden = found.most === null;
    byId("ramp-low").textContent = "1";
    byId("ramp-high").textContent = numbers.format(found.most ?? 0);
  };
  on("shown", showView);

  byId("go").addEventListener("submit", (event) => { event.preventDefault(); ask({ id: byId("id").value }); });
  byId("next").addEventListener("click", () => ask({ step: 1 }));
  byId("previous").addEventListener("click", () => ask({ step: -1 }));
  const showColour = () => {
    for (const list of form.querySelectorAll("[data-facet]")) {
      list.toggleAttribute("data-coloured", list.dataset.facet === byId("colour").value);
    }
  };
  byId("colour").addEventListener("change", () => { channel.colour = byId("colour").value; showColour(); });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-tile]");
    if (button) ask({ id: button.dataset.tile });
  });
  byId("copy")?.addEventListener("click", async (event) => {
    await navigator.clipboard.writeText(byId("command").textContent);
    event.target.textContent = "Copied";
    setTimeout(() => { event.target.textContent = "Copy"; }, 1500);
  });
  const narrow = matchMedia("(max-width: 44rem)");
  const fold = () => { byId("filter-lists").open = !narrow.matches; };
  narrow.addEventListener("change", fold);
  fold();

  // Bokeh reads its colours from the style sheet when it draws: draw again when the scheme changes.
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const model of channel.document._all_models.values()) Bokeh.index.find_one(model)?.request_repaint?.();
  });

  showSelection();
  showView();
  document.documentElement.dataset.ready = "";
};
