"use strict";
(() => {
  const element = (id) => document.getElementById(id);
  const data = JSON.parse(element("report-data").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const numbers = (kind, text) => new kind(bytes(text).buffer);
  const whole = new Intl.NumberFormat("en");
  const fields = data.fields.map((field) => ({ ...field, codes: bytes(field.codes), sample: bytes(field.sample) }));
  const count = numbers(Uint32Array, data.count);
  const point = numbers(Uint16Array, data.point);
  const at = Object.fromEntries(Object.entries(data.points).map(([axis, text]) => [axis, numbers(Float32Array, text)]));
  const panels = data.panels.map((panel) => ({ ...panel, shares: bytes(panel.shares) }));
  const state = { colour: fields[0]?.name, source: null };

  const make = (tag, attributes = {}, text = "") => {
    const svg = ["svg", "path", "title"].includes(tag) && attributes.inSvg !== false;
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.textContent = text;
    return made;
  };

  // Filters: within a group any of the checked values, between groups all; a group without a check passes everything.
  const allowed = () => fields.map((field) => {
    const checked = [...document.querySelectorAll(`input[name="${field.name}"]:checked`)].map((box) => Number(box.value));
    return checked.length ? field.values.map((_, code) => checked.includes(code)) : null;
  });
  const passing = (wanted, column, length) => {
    const keep = new Uint8Array(length).fill(1);
    wanted.forEach((values, k) => {
      if (values) for (let row = 0; row < length; row += 1) keep[row] &= values[fields[k][column][row]];
    });
    return keep;
  };

  const coordinates = (p) => {
    const [lat, lon] = [at.lat[p], at.lon[p]];
    const text = (degrees) => `${Math.abs(degrees).toFixed(data.digits)}°`;
    return `${text(lat)} ${lat < 0 ? "S" : "N"}, ${text(lon)} ${lon < 0 ? "W" : "E"}`;
  };
  const describe = (p, row, total) => {
    if (data.cells) return `${whole.format(total)} tiles around ${coordinates(p)}`;
    const values = fields.filter((field) => field.name !== "year").map((field) => field.values[field.codes[row]]).join(", ");
    return `Tile ${data.ids[row]}: ${[coordinates(p), data.dates[row], values].filter(Boolean).join(", ")}`;
  };

  // The map: a symbol per tile, or per cell with the look of its most frequent group.
  const columns = (keep) => {
    const field = fields.find((one) => one.name === state.colour);
    const groups = field ? field.values.length : 1;
    const totals = new Float64Array(at.x.length * groups);
    const rowOf = new Int32Array(at.x.length);
    for (let row = 0; row < keep.length; row += 1) {
      if (!keep[row]) continue;
      totals[point[row] * groups + (field ? field.codes[row] : 0)] += count[row];
      rowOf[point[row]] = row;
    }
    const found = { x: [], y: [], colour: [], marker: [], size: [], name: [], text: [] };
    const sums = [...at.x].map((_, p) => totals.subarray(p * groups, (p + 1) * groups).reduce((a, b) => a + b, 0));
    const most = Math.max(1, ...sums);
    const scale = document.querySelector("#map .plot").clientWidth < 450 ? 0.6 : 1;
    sums.forEach((total, p) => {
      if (!total) return;
      const own = totals.subarray(p * groups, (p + 1) * groups);
      const best = own.indexOf(Math.max(...own));
      found.x.push(at.x[p]);
      found.y.push(at.y[p]);
      found.colour.push(field ? field.colours[best] : shade(Math.log1p(total) / Math.log1p(most)));
      found.marker.push(field ? field.markers[best] : "circle");
      found.size.push(scale * (data.cells ? 3 + 6 * Math.sqrt(total / most) : at.x.length > 1000 ? 6 : 9));
      found.text.push(describe(p, rowOf[p], total));
      found.name.push(data.cells ? coordinates(p) : data.ids[rowOf[p]]);
    });
    return found;
  };
  const shade = (share) => `hsl(205 85% ${Math.round(75 - 45 * share)}%)`;

  const legend = (keep) => {
    const field = fields.find((one) => one.name === state.colour);
    const list = make("ul", { class: "legend" });
    field?.values.forEach((name, code) => {
      let total = 0;
      for (let row = 0; row < keep.length; row += 1) if (keep[row] && field.codes[row] === code) total += count[row];
      const item = make("li", total ? {} : { class: "none" });
      const svg = make("svg", { viewBox: "0 0 16 16", width: 14, height: 14, "aria-hidden": "true" });
      svg.append(make("path", { d: data.shapes[field.markers[code]], fill: field.colours[code], stroke: "var(--paper)", "stroke-width": 0.8 }));
      item.append(svg, `${name} `, make("b", {}, whole.format(total)));
      list.append(item);
    });
    element("map-legend").replaceChildren(list);
  };

  // Distributions: the mean of the tiles' shares, of all sampled tiles as a line, of those that pass filled.
  const mean = (panel, keep) => {
    const sums = new Float64Array(panel.bins);
    let tiles = 0;
    for (let tile = 0; tile < keep.length; tile += 1) {
      if (!keep[tile]) continue;
      let any = 0;
      for (let bin = 0; bin < panel.bins; bin += 1) any += panel.shares[tile * panel.bins + bin];
      if (!any) continue;
      tiles += 1;
      for (let bin = 0; bin < panel.bins; bin += 1) sums[bin] += panel.shares[tile * panel.bins + bin] / any;
    }
    return { tiles, shares: sums.map((sum) => (tiles ? sum / tiles : 0)) };
  };
  const outline = (shares, most, close) => {
    const steps = [...shares].map((share, bin) => {
      const y = (40 * (1 - share / most)).toFixed(2);
      return `${bin ? "L" : close ? "M0 40L" : "M"}${bin} ${y}L${bin + 1} ${y}`;
    });
    return steps.join("") + (close ? `L${shares.length} 40Z` : "");
  };
  const short = (value) => {
    const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 1 ? 1 : 3;
    return String(Number(value.toFixed(digits))).replace("-", "\u2212");
  };
  const histogram = (panel) => {
    const figure = make("figure", { class: "histogram" });
    const svg = make("svg", { viewBox: `0 0 ${panel.bins} 40`, preserveAspectRatio: "none", "aria-hidden": "true" });
    const [part, all] = [make("path", { class: "part" }), make("path", { class: "all" })];
    svg.append(part, all);
    const caption = make("figcaption");
    caption.append(make("b", {}, panel.label.replaceAll("_", " ")), ` ${short(panel.low)} to ${short(panel.high)} ${panel.unit}`);
    figure.append(svg, caption);
    const whole_ = mean(panel, new Uint8Array(panel.shares.length / panel.bins).fill(1));
    return [figure, (keep) => {
      const now = mean(panel, keep);
      const most = Math.max(1e-9, ...whole_.shares, ...now.shares);
      all.setAttribute("d", outline(whole_.shares, most, false));
      part.setAttribute("d", now.tiles ? outline(now.shares, most, true) : "");
    }];
  };
  const classes = (panel) => {
    const list = make("ul", { class: "shares" });
    const bars = panel.names.map((name) => {
      const item = make("li");
      const [bar, label] = [make("span", { class: "bar" }), make("span", {}, name)];
      const value = make("b");
      item.append(label, value, bar);
      list.append(item);
      return { bar, value };
    });
    return [list, (keep) => {
      const { shares } = mean(panel, keep);
      bars.forEach(({ bar, value }, k) => {
        bar.style.setProperty("--share", shares[k]);
        value.textContent = `${(100 * shares[k]).toFixed(1)} %`;
      });
    }];
  };
  const updates = [];
  const drawPanels = () => {
    const slot = element("panels");
    if (!slot) return;
    for (const modality of new Set(panels.map((panel) => panel.modality))) {
      const block = make("section", { class: "panel" });
      block.append(make("h3", {}, modality));
      const grid = make("div", { class: "histograms" });
      for (const panel of panels.filter((one) => one.modality === modality)) {
        const [shown, update] = panel.names.length ? classes(panel) : histogram(panel);
        (panel.names.length ? block : grid).append(shown);
        updates.push(update);
      }
      if (grid.children.length) block.append(grid);
      slot.append(block);
    }
  };

  const refresh = () => {
    const wanted = allowed();
    const keep = passing(wanted, "codes", count.length);
    const kept = count.reduce((total, tiles, row) => total + (keep[row] ? tiles : 0), 0);
    const status = element("count");
    if (status) {
      status.textContent = `${whole.format(kept)} of ${whole.format(data.tiles)} tiles`;
      element("clear").disabled = wanted.every((values) => values === null);
      legend(keep);
    }
    const sampled = fields[0]?.sample.length ?? 0;
    const keepSample = passing(wanted, "sample", sampled);
    for (const update of updates) update(keepSample);
    if (element("sampled")) {
      const passed = keepSample.reduce((total, one) => total + one, 0);
      element("sampled").textContent = `${whole.format(passed)} of ${whole.format(sampled)} sampled tiles`;
    }
    if (state.source) showPoints(columns(keep));
  };

  // The chosen point: clicked, named, or reached step by step in the order of the store.
  const form = element("finder");
  const say = (text) => { element("selected").textContent = text; };
  const chosen = () => state.source.selected.indices[0];
  const choose = (place) => { state.source.selected.indices = place < 0 ? [] : [place]; };
  const named = (name) => state.source.data.name.findIndex((one) => one.toLowerCase() === name?.trim().toLowerCase());
  const showPoints = (points) => {
    const name = state.source.data.name[chosen()];
    choose(-1);
    state.source.data = points;
    element("finder-names").replaceChildren(...points.name.map((value, k) => make("option", { value, label: points.text[k] })));
    choose(named(name));
  };
  const goTo = (place) => {
    choose(place);
    if (place < 0) return;
    [[state.map.x_range, "x"], [state.map.y_range, "y"]].forEach(([range, axis]) => {
      const [half, middle] = [(range.end - range.start) / 2, state.source.data[axis][place]];
      if (middle < range.start || middle > range.end) range.setv({ start: middle - half, end: middle + half });
    });
  };
  const step = (by) => {
    const points = state.source.data.name.length;
    const from = chosen() ?? (by > 0 ? -1 : points);
    if (points) goTo((from + by + points) % points);
  };
  const open = () => {
    const [name, text] = [state.source.data.name[chosen()], state.source.data.text[chosen()]];
    if (name === undefined) return say(`No ${data.cells ? "cell" : "tile"} is chosen; enter the complete name of one that passes the filters.`);
    if (data.cells) return say(text);
    const dialog = element(`mosaic-${name}`);
    if (dialog) return dialog.showModal();
    say(`${text}. This is not one of the example tiles. Draw it with: ${data.drawing} --tile ${name} --figure ${name}.png`);
  };
  const connectForm = () => {
    const field = form.elements.name;
    field.addEventListener("input", () => { if (named(field.value) >= 0) goTo(named(field.value)); });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (field.value && field.value !== state.source.data.name[chosen()]) goTo(named(field.value));
      open();
    });
    for (const button of form.querySelectorAll("[value]")) button.addEventListener("click", () => step(Number(button.value)));
    state.source.selected.properties.indices.change.connect(() => {
      const { name, text } = state.source.data;
      say(text[chosen()] ?? "");
      field.value = name[chosen()] ?? field.value;
    });
  };

  // Keys of the map: arrows pan, + and - zoom, 0 resets the view; n, p and Enter choose a point.
  const acts = { n: () => step(1), p: () => step(-1), Enter: open };
  const moves = { ArrowLeft: [-0.1, 0, 1], ArrowRight: [0.1, 0, 1], ArrowUp: [0, 0.1, 1], ArrowDown: [0, -0.1, 1], "+": [0, 0, 0.8], "=": [0, 0, 0.8], "-": [0, 0, 1.25] };
  const navigate = ({ x_range: x, y_range: y }) => {
    const frame = document.querySelector("#map .plot");
    const home = [x, y].map(({ start, end }) => ({ start, end }));
    frame.tabIndex = 0;
    frame.addEventListener("keydown", (event) => {
      const [move, act] = [moves[event.key], acts[event.key]];
      if (event.target !== frame || event.ctrlKey || event.metaKey || (!move && !act && event.key !== "0")) return;
      event.preventDefault();
      if (act) return void act();
      [x, y].forEach((range, axis) => {
        if (!move) return void range.setv(home[axis]);
        const [middle, span] = [(range.start + range.end) / 2, range.end - range.start];
        const centre = middle + move[axis] * span;
        range.setv({ start: centre - (move[2] * span) / 2, end: centre + (move[2] * span) / 2 });
      });
    });
  };

  const connect = () => {
    const source = Bokeh.documents[0]?.get_model_by_name("tiles");
    if (!source) return void setTimeout(connect, 30);
    state.source = source;
    state.map = Bokeh.documents[0].get_model_by_name("map");
    navigate(state.map);
    connectForm();
    refresh();
  };

  drawPanels();
  document.addEventListener("change", (event) => {
    if (event.target.matches(".filter input")) refresh();
    if (event.target.id === "colour") {
      state.colour = event.target.value;
      refresh();
    }
  });
  element("clear")?.addEventListener("click", () => {
    for (const box of document.querySelectorAll(".filter input:checked")) box.checked = false;
    refresh();
  });
  refresh();
  if (element("count") && typeof Bokeh !== "undefined") connect();
})();
