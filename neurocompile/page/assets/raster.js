"use strict";
// Spike rasters: reference above candidate on the same steps and neurons, differences marked by shape.
(() => {
  const store = document.getElementById("exhibits");
  if (!store) return;
  const exhibits = JSON.parse(store.textContent);
  const at = (id) => document.getElementById(id);
  const [pairChoice, sampleChoice, layerChoice] = ["pair", "sample", "layer"].map((name) => at("raster-" + name));
  const place = at("raster-plot");
  let full = null;

  function bytesOf(text) {
    const raw = atob(text);
    const bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i += 1) bytes[i] = raw.charCodeAt(i);
    return bytes;
  }

  // Returns a function (row, step) -> spikes.
  function reader(layer, stage) {
    const bytes = bytesOf(layer.spikes[stage]);
    if (layer.graded) {
      const view = new DataView(bytes.buffer);
      return (row, step) => view.getInt16(2 * (row * layer.steps + step), true);
    }
    return (row, step) => {
      const bit = row * layer.steps + step;
      return (bytes[bit >> 3] >> (bit & 7)) & 1;
    };
  }

  const marks = () => ({ x: [], y: [], text: [] });

  function sorted(layer, pair) {
    const first = reader(layer, pair.reference), second = reader(layer, pair.candidate);
    const found = { both: marks(), missing: marks(), extra: marks(), other: marks(), list: [] };
    for (let row = 0; row < layer.rows.length; row += 1) {
      for (let step = 0; step < layer.steps; step += 1) {
        const a = first(row, step), b = second(row, step);
        if (a === 0 && b === 0) continue;
        const kind = a === b ? "both" : b === 0 ? "missing" : a === 0 ? "extra" : "other";
        const told = found[kind];
        told.x.push(step);
        told.y.push(row);
        told.text.push("step " + step + ", neuron " + layer.rows[row] + (layer.graded ? ": " + a + " / " + b : ""));
        if (kind !== "both") found.list.push([step, layer.rows[row], kind, a, b]);
      }
    }
    found.list.sort((p, q) => p[0] - q[0] || p[1] - q[1]);
    return found;
  }

  function trace(marks, name, panel, symbol, colour, size, shown, thick = 2) {
    return {
      type: "scatter", mode: "markers", name, x: marks.x, y: marks.y, text: marks.text,
      yaxis: panel, hoverinfo: "text+name", showlegend: shown, legendgroup: name,
      marker: { symbol, color: colour, size, line: { color: colour, width: /open/.test(symbol) ? thick : 0 } },
    };
  }

  function ticksOf(layer, low, high) {
    const from = Math.max(0, Math.ceil(Math.min(low, high)));
    const to = Math.min(layer.rows.length - 1, Math.floor(Math.max(low, high)));
    const each = Math.max(1, Math.ceil((to - from + 1) / 10));
    const rows = [];
    for (let row = from; row <= to; row += each) rows.push(row);
    return { tickmode: "array", tickvals: rows, ticktext: rows.map((row) => String(layer.rows[row])) };
  }

  const escaped = (name) => name.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const short = (name) => escaped(name.length > 24 ? name.slice(0, 11) + "…" + name.slice(-12) : name);

  const chosen = () => {
    const sample = exhibits.samples[Number(sampleChoice.value)];
    return {
      number: Number(pairChoice.value), pair: exhibits.pairs[Number(pairChoice.value)],
      sample, layer: sample.layers[Number(layerChoice.value)],
    };
  };

  const plural = (count, word) => count + " " + word + (count === 1 ? "" : "s");

  function say(found) {
    const { number, pair, sample, layer } = chosen();
    const counts = layer.counts[number];
    const hidden = layer.neurons - layer.rows.length;
    let told = "Sample " + sample.sample + ", layer " + layer.name + ", " + pair.reference + " above " + pair.candidate + ": ";
    told += counts[2] === 0 ? "no neuron differs. " : plural(counts[2], "neuron") + " differ, " + counts[0] + " missing and " + counts[1] + " extra spikes" + (counts[3] ? ", " + counts[3] + " other numbers of spikes" : "") + ". ";
    told += hidden > 0 ? layer.rows.length + " of " + layer.neurons + " neurons are shown, those that differ first; " + hidden + " are hidden. " : "All " + layer.neurons + " neurons are shown. ";
    if (layer.steps < layer.all_steps) told += "The first " + layer.steps + " of " + layer.all_steps + " steps are shown. ";
    const decided = Object.entries(sample.decisions).map(([stage, decision]) => stage + " " + decision);
    if (decided.length) told += "Decisions: " + decided.join(", ") + (sample.label === null ? "." : "; the label is " + sample.label + ".");
    at("raster-says").textContent = told;
    place.setAttribute("aria-label", told);
    const body = at("raster-list");
    body.replaceChildren();
    for (const [step, neuron, kind, a, b] of found.list.slice(0, exhibits.listed)) {
      const row = document.createElement("tr");
      for (const value of [step, neuron, kind === "other" ? "other number" : kind, a, b]) {
        const cell = document.createElement("td");
        cell.textContent = String(value);
        row.append(cell);
      }
      body.append(row);
    }
    const more = found.list.length - exhibits.listed;
    at("raster-more").textContent = more > 0 ? more + " differences more among the neurons shown." : found.list.length ? "" : "No differences.";
  }

  function show() {
    const { pair, layer } = chosen();
    const found = sorted(layer, pair);
    const rows = layer.rows.length;
    const height = Math.max(430, Math.min(1000, Math.round(190 + 2 * rows * 3.4)));
    const wide = Math.max(4, Math.min(44, Math.floor(Math.max(280, place.clientWidth) / layer.steps / 3)));
    const thick = Math.max(2, Math.min(9, Math.floor((height - 190) / 2 / rows * 0.7)));
    const big = Math.max(9, Math.min(13, thick + 5));
    const data = [
      trace(found.both, "both fired", "y", "line-ew-open", "@reference", wide, true, thick),
      trace(found.both, "both fired", "y2", "line-ew-open", "@reference", wide, false, thick),
      trace(found.missing, "missing: only the reference fired", "y", "triangle-down", "@missing", big, true),
      trace(found.missing, "missing: only the reference fired", "y2", "triangle-down-open", "@missing", big, false),
      trace(found.extra, "extra: only the candidate fired", "y", "circle-open", "@extra", big, false),
      trace(found.extra, "extra: only the candidate fired", "y2", "circle", "@extra", big, true),
    ];
    if (layer.graded) {
      data.push(trace(found.other, "other number", "y", "diamond-open", "@candidate", big, true));
      data.push(trace(found.other, "other number", "y2", "diamond-open", "@candidate", big, false));
    }
    full = { x: [-0.6, layer.steps - 0.4], y: [rows - 0.4, -0.6] };
    const vertical = (name, domain) => ({
      domain, range: full.y.slice(), title: { text: short(name) + "<br>neuron" }, fixedrange: false,
      zeroline: false, showgrid: rows <= 40, mirror: true, showline: true, ...ticksOf(layer, 0, rows - 1),
    });
    const layout = {
      height, dragmode: at("raster-drag").value,
      xaxis: { range: full.x.slice(), title: { text: "step" }, fixedrange: false, zeroline: false, anchor: "y2",
        dtick: layer.steps <= 20 ? 1 : null, showline: true },
      yaxis: vertical(pair.reference, [0.53, 1]),
      yaxis2: { ...vertical(pair.candidate, [0, 0.47]), matches: "y" },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", xanchor: "left" },
      margin: { t: 90 },
    };
    say(found);
    return page.draw(place, data, layout);
  }

  function move(change) {
    const layout = place._fullLayout;
    if (!layout || !full) return;
    const { x, y } = change(layout.xaxis.range.slice(), layout.yaxis.range.slice());
    relayout(x, y);
  }

  function relayout(x, y) {
    const ticks = ticksOf(chosen().layer, y[0], y[1]);
    const update = { "xaxis.range": x, "yaxis.range": y, "yaxis2.range": y };
    for (const axis of ["yaxis", "yaxis2"]) {
      update[axis + ".tickvals"] = ticks.tickvals;
      update[axis + ".ticktext"] = ticks.ticktext;
    }
    Plotly.relayout(place, update);
  }

  const scaled = (range, factor) => {
    const middle = (range[0] + range[1]) / 2, half = ((range[1] - range[0]) / 2) * factor;
    return [middle - half, middle + half];
  };
  const shifted = (range, share) => {
    const by = (range[1] - range[0]) * share;
    return [range[0] + by, range[1] + by];
  };
  const moves = {
    "in": (x, y) => ({ x: scaled(x, 0.5), y: scaled(y, 0.5) }),
    "out": (x, y) => ({ x: scaled(x, 2), y: scaled(y, 2) }),
    "left": (x, y) => ({ x: shifted(x, -0.25), y }),
    "right": (x, y) => ({ x: shifted(x, 0.25), y }),
    "up": (x, y) => ({ x, y: shifted(y, 0.25) }),
    "down": (x, y) => ({ x, y: shifted(y, -0.25) }),
    "reset": () => ({ x: full.x.slice(), y: full.y.slice() }),
  };
  const keys = { "+": "in", "=": "in", "-": "out", ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down", "0": "reset" };

  function option(choice, value, name) {
    const item = document.createElement("option");
    item.value = String(value);
    item.textContent = name;
    choice.append(item);
  }

  const differs = (layer, pair) => (layer.counts[pair] ? layer.counts[pair][2] : 0);

  function fillSamples() {
    const kept = sampleChoice.value;
    const pair = Number(pairChoice.value);
    sampleChoice.replaceChildren();
    exhibits.samples.forEach((sample, number) => {
      const count = sample.layers.reduce((sum, layer) => sum + differs(layer, pair), 0);
      option(sampleChoice, number, "sample " + sample.sample + ": " + (count ? plural(count, "neuron") + " differ" : "equal"));
    });
    if (kept !== "") sampleChoice.value = kept;
  }

  function fillLayers() {
    const kept = layerChoice.value;
    const pair = Number(pairChoice.value);
    layerChoice.replaceChildren();
    const layers = exhibits.samples[Number(sampleChoice.value)].layers;
    layers.forEach((layer, number) => {
      if (layer.counts[pair]) option(layerChoice, number, layer.name + ": " + (differs(layer, pair) ? plural(differs(layer, pair), "neuron") + " differ" : "equal"));
    });
    if (kept !== "" && [...layerChoice.options].some((item) => item.value === kept)) layerChoice.value = kept;
  }

  // The first sample and layer with a difference is what people look for.
  function choose() {
    fillSamples();
    const found = exhibits.samples.findIndex((sample) => sample.layers.some((layer) => differs(layer, 0)));
    sampleChoice.value = String(Math.max(0, found));
    fillLayers();
    const layers = exhibits.samples[Math.max(0, found)].layers;
    const layer = layers.findIndex((item) => differs(item, 0));
    if (layer >= 0) layerChoice.value = String(layer);
  }

  exhibits.pairs.forEach((pair, number) => option(pairChoice, number, pair.reference + " / " + pair.candidate));
  choose();
  pairChoice.addEventListener("change", () => { fillSamples(); fillLayers(); show(); });
  sampleChoice.addEventListener("change", () => { fillLayers(); show(); });
  layerChoice.addEventListener("change", show);
  at("raster-drag").addEventListener("change", () => Plotly.relayout(place, { dragmode: at("raster-drag").value }));
  document.querySelectorAll("[data-move]").forEach((button) => {
    button.addEventListener("click", () => move(moves[button.dataset.move]));
  });
  place.addEventListener("keydown", (event) => {
    const name = keys[event.key];
    if (!name || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    move(moves[name]);
  });
  Promise.resolve(show()).then(() => {
    if (!place.on) return;
    place.on("plotly_doubleclick", () => { move(moves.reset); return false; });
    place.on("plotly_relayout", (update) => {
      if ("yaxis.range[0]" in update) {
        const range = place._fullLayout.yaxis.range;
        const ticks = ticksOf(chosen().layer, range[0], range[1]);
        const next = {};
        for (const axis of ["yaxis", "yaxis2"]) {
          next[axis + ".tickvals"] = ticks.tickvals;
          next[axis + ".ticktext"] = ticks.ticktext;
        }
        Plotly.relayout(place, next);
      }
    });
  });
})();
